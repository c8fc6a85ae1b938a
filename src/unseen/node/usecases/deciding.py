"""How this node answers a job, and what follows: refused, or granted, charged, ready, done."""

from __future__ import annotations

import secrets

from unseen.errors import PermissionDenied, UnseenError, UsageError
from unseen.ids import JobId, PartyId
from unseen.node.books import Turn
from unseen.node.domain import Job, JobState
from unseen.node.letters import JobDone, JobGranted, JobRefused
from unseen.node.store import Kept
from unseen.node.usecases.asking import ask_of, left_of, uses_of
from unseen.node.usecases.charging import charge, is_settled
from unseen.node.usecases.endings import end_job, parties_of
from unseen.node.usecases.projects import site_policy
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import Code
from unseen.trust.policy import Ask, Refused, Site, SitePolicy, decide

_SIGHT = "0" * 32
_MAX_REASONS = 20_000
"""Characters of what stands against a job, in a letter."""


def consider(turn: Turn, job: Job) -> None:
    """Refuse or grant a job, or leave it to a person, as the site's policy says."""
    policy = site_policy(turn, job.project)
    if policy is not None and not policy.automatic and not _objections(turn, job):
        return
    issue(turn, job)


def _objections(turn: Turn, job: Job) -> bool:
    """Return whether a job would be refused as things are."""
    try:
        ask = ask_of(job)
        site = _site(turn, job, ask)
    except UnseenError:
        return True
    return isinstance(decide(ask, turn.project(job.project), site, _SIGHT), Refused)


def issue(turn: Turn, job: Job) -> None:
    """Issue this node's grant, or refuse; both are told to whom it concerns."""
    gate = turn.gate(job.project)
    try:
        ask = ask_of(job)
        site = _site(turn, job, ask)
        envelope = gate.issue(ask, site.policy, site.tables, site.left, secrets.token_hex(16))
    except (PermissionDenied, UsageError) as error:
        refuse(turn, job, Code.SITE, [str(error)])
        return
    turn.kept.jobs.keep_grant(job.job, turn.me, envelope.to_bytes())
    turn.kept.jobs.move(job.job, JobState.GRANTED, now=turn.now)
    pass_on(turn, job, turn.me, envelope.to_bytes())
    go_on(turn, job.job)


def _site(turn: Turn, job: Job, ask: Ask) -> Site:
    own = site_policy(turn, job.project)
    policy = None if own is None else SitePolicy(projects={job.project: own})
    agreement = turn.gate(job.project).project.current
    return Site(turn.me, policy, uses_of(turn, ask), left_of(turn, ask, agreement), turn.now)


def pass_on(turn: Turn, job: Job, issuer: PartyId, frame: bytes) -> None:
    """Give a grant to the initiator, or, at the initiator, to everybody else; the own one goes to all through it."""
    peers = others(turn, job) if job.initiator == turn.me else [job.initiator]
    for peer in peers:
        if peer != issuer:
            turn.post(peer, JobGranted(job.project, job.job, issuer, frame))


def refuse(turn: Turn, job: Job, code: Code, reasons: list[str]) -> None:
    """Refuse a job: its initiator is told all reasons, and tells the others."""
    reasons = [reason[:_MAX_REASONS] for reason in reasons]
    if job.initiator != turn.me:
        turn.post(job.initiator, JobRefused(job.project, job.job, tuple(reasons)))
        end_job(turn, job, code, f"refused by {turn.me}: {'; '.join(reasons)}", by=job.initiator)
    else:
        end_job(turn, job, code, f"refused by {turn.me}: {'; '.join(reasons)}")


def note_done(turn: Turn, job: Job, party: PartyId) -> None:
    """Note that a party has all its results of a job."""
    done = done_at(turn, job)
    if party not in done:
        turn.kept.lines.append(f"done/{job.job}", party.encode())
    if turn.me != job.initiator:
        turn.post(job.initiator, JobDone(job.project, job.job))
    elif {*done, party} >= set(parties_of(job)):
        end_job(turn, job, Code.DONE, "")


def go_on(turn: Turn, name: JobId) -> None:
    """Charge a job that all have granted, and make it ready once the partners have countersigned."""
    job = known_job(turn, name)
    if job.state is not JobState.GRANTED or set(turn.kept.jobs.grants(name)) < set(parties_of(job)):
        return
    if not set(turn.kept.recovery.open()).isdisjoint(parties_of(job)):
        return  # what was charged before this node was put back is not known yet
    try:
        charge(turn, job)
    except (PermissionDenied, UsageError) as error:
        refuse(turn, job, Code.BUDGET, [str(error)])
        return
    if is_settled(turn, job):
        turn.kept.jobs.move(name, JobState.READY, now=turn.now)
        turn.ready = True


def all_go_on(turn: Turn, project: ProjectId) -> None:
    """Let the jobs of a project go on that waited for something."""
    for job in turn.kept.jobs.all(project=project, states=(JobState.GRANTED,), limit=1_000_000):
        go_on(turn, job.job)


def done_at(turn: Turn, job: Job) -> frozenset[str]:
    """Return who has all results of a job."""
    return frozenset(line.decode() for line in turn.kept.lines.read(f"done/{job.job}"))


def others(turn: Turn, job: Job) -> list[PartyId]:
    """Return the other parties of a job."""
    return [party for party in parties_of(job) if party != turn.me]


def known_job(turn: Turn, job: JobId) -> Job:
    """Return a job.

    Raises:
        UsageError: There is none of this name.
    """
    return found_job(turn.kept, job)


def found_job(kept: Kept, job: JobId) -> Job:
    """Return a job.

    Raises:
        UsageError: There is none of this name.
    """
    known = kept.jobs.get(job)
    if known is None:
        raise UsageError(f"there is no job {job}")
    return known
