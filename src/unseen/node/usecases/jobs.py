"""Jobs: proposed by one party, granted by all, charged, run, ended; each step one turn with its letters."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from unseen.codec import read_json, shown
from unseen.errors import PermissionDenied, RemoteProtocolError, UsageError
from unseen.flow.spec import FlowSpec, canonical_json
from unseen.ids import JobId, PartyId
from unseen.node.books import Books, Turn
from unseen.node.domain import Job, JobState, Person, Right
from unseen.node.letters import (
    Acknowledged,
    JobDone,
    JobEnded,
    JobGranted,
    JobPaused,
    JobProposed,
    JobRefused,
    JobResumed,
    ReceiptsAsked,
    ReceiptsHeld,
    ReceiptsShown,
)
from unseen.node.usecases.asking import ask_of, graph_of, points_needed
from unseen.node.usecases.charging import LIVE, take_acknowledgement, take_receipts
from unseen.node.usecases.deciding import (
    all_go_on,
    consider,
    done_at,
    found_job,
    go_on,
    issue,
    known_job,
    note_done,
    others,
    pass_on,
    refuse,
)
from unseen.node.usecases.endings import end_job, parties_of
from unseen.node.usecases.pausing import pause, resume, take_pause, take_resumption
from unseen.node.usecases.proposals import newest_table, proposal, read_proposal
from unseen.node.usecases.rights import colleague, demand
from unseen.node.usecases.signatures import membership
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import Code, Event
from unseen.trust.checks import grant_times
from unseen.trust.envelope import read_envelope, read_statement
from unseen.trust.grant import Grant
from unseen.trust.policy import tables_of

_MOST_OPEN = 100
"""Jobs of one initiator that are not over, at most."""
_ADMITTED = (JobState.GRANTED, JobState.READY, JobState.RUNNING)


class Jobs:
    """What people and partners do with jobs."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._asked: set[PartyId] = set()

    # --- looking -----------------------------------------------------------------------------------------------------

    def get(self, job: JobId) -> Job:
        """Return a job.

        Raises:
            UsageError: There is none of this name.
        """
        with self._books.look() as kept:
            return found_job(kept, job)

    def all(
        self,
        project: ProjectId | None = None,
        states: Iterable[JobState] | None = None,
        before_order: int | None = None,
        limit: int = 100,
    ) -> tuple[Job, ...]:
        """Return jobs, the newest first."""
        wanted = None if states is None else frozenset(states)
        with self._books.look() as kept:
            return tuple(kept.jobs.all(project=project, states=wanted, before_order=before_order, limit=limit))

    def events(self, job: JobId, after: int = 0) -> tuple[tuple[int, Mapping[str, object]], ...]:
        """Return what was told of a job's progress, numbered from 1, after a number."""
        return self.news(job, after)[1]

    def news(self, job: JobId, after: int) -> tuple[Job, tuple[tuple[int, Mapping[str, object]], ...]]:
        """Return a job and what was told of its progress after a number, both of one moment.

        Raises:
            UsageError: There is none of this name.
        """
        with self._books.look() as kept:
            found, lines = found_job(kept, job), kept.lines.read(f"events/{job}", after)
            return found, tuple((number, read_json(line)) for number, line in enumerate(lines, after + 1))

    # --- what people do ----------------------------------------------------------------------------------------------

    def propose(  # noqa: PLR0913, PLR0917  # what a grant names
        self,
        project: ProjectId,
        flow: FlowSpec,
        tables: Mapping[str, int | None],
        points: int | None,
        epsilon: float,
        delta: float,
        valid_until: datetime,
        by: Person,
    ) -> JobId:
        """Ask all owners for a job; return its name.

        Args:
            project: Under whose agreement.
            flow: What is to be done.
            tables: Own tables whose version is not the newest one → their version.
            points: How many ids of one partner an owner may evaluate; as many as the tables have, if ``None``.
            epsilon: How much noise may be spent.
            delta: With which δ.
            valid_until: When the job has to be over.
            by: Who asks.

        Raises:
            UsageError: The flow cannot run, or a table is not known.
            PermissionDenied: This node itself refuses; the message lists all reasons.
        """
        demand(by, Right.PROPOSE_JOBS, project)
        with self._books.turn() as turn:
            graph = graph_of(flow)
            if turn.me not in flow.parties:
                raise UsageError(f"{turn.me} takes no part in the flow, so that it cannot propose it")
            snapshots = tuple(
                newest_table(turn, project, party, table, tables.get(table))
                for table in sorted(tables_of(graph))
                for party in sorted(flow.parties)
            )
            job = Job(
                job=JobId(f"job-{secrets.token_hex(8)}"),
                project=project,
                initiator=turn.me,
                flow=canonical_json(flow.agreed()),
                snapshots=snapshots,
                points=0 if points is None else points,
                epsilon=epsilon,
                delta=delta,
                valid_until=valid_until,
                created=turn.now,
                by=by.name,
            )
            if points is None:
                job = replace(job, points=points_needed(ask_of(job)))
            turn.gate(project)
            turn.kept.jobs.add(job)
            for peer in others(turn, job):
                turn.post(peer, proposal(job))
            consider(turn, job)
            made = known_job(turn, job.job)
        if made.state is JobState.REFUSED:
            raise PermissionDenied(made.reason)
        return made.job

    def approve(self, job: JobId, by: Person) -> Job:
        """Let this node give its grant, if its gate still has nothing against it; return what became of the job.

        Raises:
            UsageError: The job does not wait for that.
            PermissionDenied: Nobody approves what they proposed themselves.
        """
        with self._books.turn() as turn:
            waiting = _waiting(turn, job)
            demand(by, Right.APPROVE_JOBS, waiting.project)
            if by.name == waiting.by:
                raise PermissionDenied(f"job {job}: {by.name} proposed it, and somebody else has to approve it")
            turn.kept.lines.append(f"approved/{job}", by.name.encode())
            turn.note(Event.JOB_APPROVED, project=waiting.project, job=job, person=colleague(by))
            issue(turn, waiting)
            return known_job(turn, job)

    def refuse(self, job: JobId, reason: str, by: Person) -> None:
        """Refuse a job that waits for approval.

        Raises:
            UsageError: It does not.
        """
        with self._books.turn() as turn:
            waiting = _waiting(turn, job)
            demand(by, Right.APPROVE_JOBS, waiting.project)
            refuse(turn, waiting, Code.SITE, [f"{turn.me} refused: {shown(reason, limit=400)}"])

    def cancel(self, job: JobId, reason: str, by: Person) -> None:
        """End a job at all parties.

        Raises:
            UsageError: It is over.
        """
        with self._books.turn() as turn:
            live = known_job(turn, job)
            demand(by, Right.CANCEL_JOBS, live.project)
            if live.state.is_over:
                raise UsageError(f"job {job} is over: {live.state}")
            end_job(turn, live, Code.CANCELLED, f"{turn.me} cancelled it: {shown(reason, limit=400)}")

    def pause(self, job: JobId, reason: str, by: Person) -> Job:
        """Let nobody work on a job, at no party, until this node lets it go on; its time runs on.

        Raises:
            UsageError: It is over, or paused by this node already.
        """
        with self._books.turn() as turn:
            live = known_job(turn, job)
            demand(by, Right.CANCEL_JOBS, live.project)
            pause(turn, live, reason)
            return known_job(turn, job)

    def resume(self, job: JobId, by: Person) -> Job:
        """Let a job go on that this node paused; return it, since others may still hold it.

        Raises:
            UsageError: This node did not pause it.
        """
        with self._books.turn() as turn:
            held = known_job(turn, job)
            demand(by, Right.CANCEL_JOBS, held.project)
            resume(turn, held)
            return known_job(turn, job)

    # --- what time and revocation do ---------------------------------------------------------------------------------

    def expire(self) -> None:
        """End the jobs whose time is over."""
        with self._books.turn() as turn:
            for job in turn.kept.jobs.all(states=LIVE, limit=1_000_000):
                if job.valid_until <= turn.now:
                    end_job(turn, job, Code.TIME, f"it was not over by {job.valid_until.isoformat()} ({job.state})")

    def ask_what_was_lost(self) -> None:
        """After this node was put back from a backup, ask partners for the receipts that it may have lost, once."""
        with self._books.turn() as turn:
            for peer in turn.kept.recovery.open():
                if peer not in self._asked:
                    turn.post(peer, ReceiptsAsked())
                    self._asked.add(peer)

    def admits(self, peer: PartyId, job: JobId) -> bool:
        """Return whether messages of a job may pass between this node and a peer now."""
        with self._books.turn() as turn:
            known = turn.kept.jobs.get(job)
            # Granted is enough: a partner that is ready first may wait here, and meets no worker before this node is.
            if known is None or known.state not in _ADMITTED or peer not in parties_of(known):
                return False
            of = turn.project(known.project)
            frame = turn.kept.jobs.grants(job).get(turn.me)
            member = of.current.member(peer) if of is not None else None
            if of is None or frame is None or member is None or turn.root(peer) != member.certificate:
                return False
            grant = read_statement(read_envelope(frame, sender="store"), Grant, sender="store")
            return not any(grant_times(grant, of, turn.now))

    # --- what partners say; each of these is called within the turn that takes the letter ----------------------------

    def take_proposal(self, turn: Turn, peer: PartyId, letter: JobProposed) -> None:
        """Consider a job that a partner asks for; what stands against it is answered.

        Raises:
            RemoteProtocolError: The letter is malformed, the peer takes no part, or asks for too much at once.
        """
        project = membership(turn, peer, letter.project).current.project
        job = read_proposal(turn, peer, project, letter)
        if turn.kept.jobs.get(job.job) is not None:
            raise RemoteProtocolError(f"{peer}: proposes job {job.job}, which is known already")
        open_jobs = turn.kept.jobs.all(project=project, states=LIVE, limit=1_000_000)
        if sum(other.initiator == peer for other in open_jobs) >= _MOST_OPEN:
            raise RemoteProtocolError(f"{peer}: {_MOST_OPEN} of its jobs are not over: it may propose no more")
        turn.kept.jobs.add(job)
        consider(turn, known_job(turn, job.job))

    def take_grant(self, turn: Turn, peer: PartyId, letter: JobGranted) -> None:
        """Take an owner's grant; the last one makes the job ready, once the budgets are settled.

        Raises:
            RemoteProtocolError: The peer has no say in the job.
        """
        job = _concerning(turn, peer, letter.project, letter.job)
        issuer = PartyId(letter.issuer)
        if issuer not in parties_of(job) or peer not in (issuer, job.initiator):
            raise RemoteProtocolError(f"{peer}: brings a grant of {issuer} for job {job.job}, which it may not")
        if job.state.is_over:
            return
        try:
            turn.gate(job.project).take(letter.frame, issuer, ask_of(job))
        except PermissionDenied as error:
            end_job(turn, job, Code.SIGNATURE, f"the grant of {issuer} is not good: {error}")
            return
        turn.kept.jobs.keep_grant(job.job, issuer, letter.frame)
        if job.initiator == turn.me:
            pass_on(turn, job, issuer, letter.frame)
        go_on(turn, job.job)

    def take_refusal(self, turn: Turn, peer: PartyId, letter: JobRefused) -> None:
        """End a job that an owner refuses.

        Raises:
            RemoteProtocolError: The peer has no say in the job, or it is another party's job.
        """
        job = _concerning(turn, peer, letter.project, letter.job)
        if job.initiator != turn.me:
            raise RemoteProtocolError(f"{peer}: refuses job {job.job} of {job.initiator} to {turn.me}")
        if not job.state.is_over:
            reasons = "; ".join(shown(reason, limit=400) for reason in letter.reasons[:20])
            end_job(turn, job, Code.SITE, f"refused by {peer}: {reasons}", by=peer)

    def take_end(self, turn: Turn, peer: PartyId, letter: JobEnded) -> None:
        """End a job on another party's word: the initiator's, or, at the initiator, any party's.

        Raises:
            RemoteProtocolError: The peer has no say in the job, or calls it done before this node is.
        """
        job = _concerning(turn, peer, letter.project, letter.job)
        if turn.me != job.initiator != peer or letter.code not in set(Code):
            raise RemoteProtocolError(f"{peer}: ends job {job.job}, which it may not")
        if job.state.is_over:
            return
        code = Code(letter.code)
        if code is Code.DONE and (peer != job.initiator or turn.me not in done_at(turn, job)):
            raise RemoteProtocolError(f"{peer}: says that job {job.job} is done, which it is not at {turn.me}")
        end_job(turn, job, code, shown(letter.reason, limit=500), by=peer)

    def take_pause(self, turn: Turn, peer: PartyId, letter: JobPaused) -> None:
        """Hold a job on a party's word.

        Raises:
            RemoteProtocolError: The peer has no say in the job, or speaks for somebody else.
        """
        take_pause(turn, peer, _concerning(turn, peer, letter.project, letter.job), letter)

    def take_resumption(self, turn: Turn, peer: PartyId, letter: JobResumed) -> None:
        """Let a job go on as far as a party held it.

        Raises:
            RemoteProtocolError: The peer has no say in the job, or speaks for somebody else.
        """
        take_resumption(turn, peer, _concerning(turn, peer, letter.project, letter.job), letter)

    def take_done(self, turn: Turn, peer: PartyId, letter: JobDone) -> None:
        """Note that a party has all its results; once all have, the job is finished everywhere.

        Raises:
            RemoteProtocolError: The peer has no say in the job, or this node is not its initiator.
        """
        job = _concerning(turn, peer, letter.project, letter.job)
        if job.initiator != turn.me:
            raise RemoteProtocolError(f"{peer}: tells {turn.me} how far job {job.job} of {job.initiator} is")
        if not job.state.is_over:
            note_done(turn, job, peer)

    def take_acknowledgement(self, turn: Turn, peer: PartyId, letter: Acknowledged) -> None:
        """Note that a partner has countersigned a receipt; jobs that waited for it go on.

        Raises:
            RemoteProtocolError: It is not the next one.
        """
        take_acknowledgement(turn, peer, letter)
        all_go_on(turn, ProjectId(letter.project))

    def take_comparison(self, turn: Turn, peer: PartyId, letter: ReceiptsShown) -> None:
        """Note that a partner has shown all that this node had lost with its database; jobs with it may be charged."""
        del letter
        turn.kept.recovery.compared(peer)
        for project in turn.kept.projects.all():
            all_go_on(turn, project)

    def take_receipts(self, turn: Turn, peer: PartyId, letter: ReceiptsHeld) -> None:
        """Put charges back that this node's ledger has lost; jobs that were charged in their place are charged anew.

        Raises:
            RemoteProtocolError: They are not this node's own, or contradict what the partner has countersigned.
        """
        take_receipts(turn, peer, letter)
        all_go_on(turn, ProjectId(letter.project))


def _concerning(turn: Turn, peer: PartyId, project: str, name: str) -> Job:
    """Return the job that a letter is about, if its sender takes part in it."""
    membership(turn, peer, project)
    job = turn.kept.jobs.get(JobId(name)) if JobId.pattern.fullmatch(name) else None
    if job is None or job.project != project or peer not in parties_of(job):
        raise RemoteProtocolError(f"{peer} takes no part in job {shown(name)} of {shown(project)} here")
    return job


def _waiting(turn: Turn, job: JobId) -> Job:
    waiting = known_job(turn, job)
    if waiting.state is not JobState.PROPOSED:
        raise UsageError(f"job {job} does not wait for approval: it is {waiting.state}")
    return waiting
