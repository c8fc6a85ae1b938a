"""Points of jobs: charged before anything is evaluated, countersigned by the partner, and what became of them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from unseen.codec import read_json
from unseen.errors import PermissionDenied, RemoteProtocolError
from unseen.ids import PartyId, StepId
from unseen.node.books import Turn
from unseen.node.domain import Job, JobState
from unseen.node.letters import Acknowledged, Charged, ReceiptsAsked, ReceiptsHeld, ReceiptsShown
from unseen.node.usecases.asking import ask_of, session_id, sessions_of
from unseen.node.usecases.signatures import membership
from unseen.privacy.decisions import Freeze, Refuse, Release, Result, Withhold
from unseen.privacy.facts import Began, Ended, Request, SessionId
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import Code, Event
from unseen.trust.budgets import Noted, Receipt, points_of
from unseen.trust.envelope import read_envelope, read_statement, seal
from unseen.trust.grant import Grant

LIVE = tuple(state for state in JobState if not state.is_over)
_ALL = 1_000_000
_SHOWN_AT_ONCE = 100
_MOST_WAITING = 64
_RELEASES = {
    Release: (Event.RELEASED, Code.DONE),
    Withhold: (Event.WITHHELD, Code.BUDGET),
    Freeze: (Event.WITHHELD, Code.REVOKED),
}


def charge(turn: Turn, job: Job) -> None:
    """Charge all sessions of a job that are not charged yet, and ask the partners to countersign.

    Raises:
        PermissionDenied: A budget, a tripwire or the grant says no; what was charged before stays charged.
        UsageError: It cannot be told which points a step evaluates.
    """
    grant, agreement = _own_grant(turn, job), turn.gate(job.project).project.current
    limits = points_of(agreement, turn.me)
    computed = set[tuple[PartyId, str]]()
    for session in sessions_of(turn, ask_of(job)):
        request, partner = session.request, session.request.partner
        ledger = turn.ledger(job.project, partner)
        if (partner, session.method) in computed:
            continue  # an earlier step of this job computes it, and the executor takes its result
        computed.add((partner, session.method))
        if any(isinstance(fact, Request) and fact.session == request.session for fact in ledger.facts):
            continue
        same = _sessions_by(turn, job.project, session.method)
        decision, entries = ledger.charge_points(request, limits, grant, turn.owner.key, same)
        if isinstance(decision, Refuse):
            raise PermissionDenied(f"job {job.job}: step {session.step}: {decision.message}")
        for entry in entries:
            turn.enter(job.project, partner, entry)
            turn.kept.lines.append(f"methods/{job.project}", json.dumps([request.session, session.method]).encode())
            turn.gate(job.project).note(
                Event.CHARGED,
                party=partner,
                project=job.project,
                job=job.job,
                step=session.step,
                subject=grant.digest,
                count=request.partner_rows,
            )
            turn.post(partner, Charged(job.project, entry.envelope))


def _sessions_by(turn: Turn, project: ProjectId, method: str) -> frozenset[SessionId]:
    """Return the sessions that were charged for what has this method."""
    lines = (read_json(line) for line in turn.kept.lines.read(f"methods/{project}"))
    return frozenset(SessionId(session) for session, made in lines if made == method)


def is_settled(turn: Turn, job: Job) -> bool:
    """Return whether the other parties of a job have countersigned all that they were charged."""
    return all(turn.ledger(job.project, partner).settled for partner in _partners(turn, job))


def settle_sessions(turn: Turn, job: Job) -> None:
    """Note what became of each session that was charged for a job which is over."""
    sizes = _sizes(turn, job)
    for _, request in _open_sessions(turn, job):
        _settle(turn, job, request, sizes)


def _open_sessions(turn: Turn, job: Job) -> list[tuple[PartyId, Request]]:
    """Return the sessions that were charged for a job and are not over."""
    grant, found = _grant_digest(turn, job), list[tuple[PartyId, Request]]()
    for partner in _partners(turn, job):
        ledger = turn.ledger(job.project, partner)
        over = {fact.session for fact in ledger.noted}
        for receipt in ledger.receipts:
            request = receipt.charge
            if receipt.grant == grant and isinstance(request, Request) and request.session not in over:
                found.append((partner, request))
    return found


def judge(turn: Turn, job: Job, step: StepId, shared: int | None) -> str | None:
    """Keep how many rows a finished step has found to be shared, and judge its sessions that are not judged yet.

    Returns:
        Why the job may not go on, for the owner only, since it tells sizes; ``None`` if it may.
    """
    turn.kept.lines.append(f"sizes/{job.job}", json.dumps([step, shared]).encode())
    reasons = []
    for partner, request in _open_sessions(turn, job):
        if request.session == session_id(job.job, step, partner):
            reasons.append(_settle(turn, job, request, {step: shared}))
    return next((reason for reason in reasons if reason is not None), None)


def _settle(turn: Turn, job: Job, request: Request, sizes: Mapping[str, int | None]) -> str | None:
    """Note what became of a session; return why its result is withheld, if it is."""
    ledger, gate = turn.ledger(job.project, request.partner), turn.gate(job.project)
    step = next((step for step in sizes if session_id(job.job, StepId(step), request.partner) == request.session), None)
    if step is None or not ledger.has_settled(request):
        failed = Ended(partner=request.partner, session=request.session, at=turn.now, how="failed")
        turn.enter(job.project, request.partner, Noted(fact=failed))
        return None
    size = sizes[step]
    if size is not None and not 0 <= size <= min(request.own_rows, request.partner_rows):
        size = None  # what cannot be is as good as not known
    found = Result(at=turn.now, size=size)
    decision = ledger.release(request, found, points_of(gate.project.current, turn.me))
    for fact in decision.records:
        if not isinstance(fact, Request | Began):
            turn.enter(job.project, request.partner, Noted(fact=fact))
    event, code = _RELEASES[type(decision)]
    gate.note(event, code=code, party=request.partner, project=job.project, job=job.job, step=StepId(step))
    return None if isinstance(decision, Release) else decision.message


def _sizes(turn: Turn, job: Job) -> dict[str, int | None]:
    return dict(read_json(line) for line in turn.kept.lines.read(f"sizes/{job.job}"))


def _own_grant(turn: Turn, job: Job) -> Grant:
    frame = turn.kept.jobs.grants(job.job)[turn.me]
    return read_statement(read_envelope(frame, sender="store"), Grant, sender="store")


def _partners(turn: Turn, job: Job) -> list[PartyId]:
    return sorted({snapshot.owner for snapshot in job.snapshots} - {turn.me})


# --- letters about receipts -----------------------------------------------------------------------------------------


def take_charge(turn: Turn, peer: PartyId, letter: Charged) -> None:
    """Countersign a partner's receipt; show it what it has lost, if it comes from an old ledger.

    Raises:
        RemoteProtocolError: It is no receipt of its own for this node, or its ledger has two histories.
    """
    project = membership(turn, peer, letter.project).current.project
    envelope = read_envelope(letter.frame, sender=peer)
    receipt = read_statement(envelope, Receipt, sender=peer)
    held = turn.receipts(project, peer).envelopes
    try:
        signed = turn.countersign(project, peer, envelope)
    except RemoteProtocolError:
        if receipt.number > len(held):
            raise
        lost = held[receipt.number - 1 :]
        turn.post(peer, ReceiptsHeld(project, tuple(entry.to_bytes() for entry in lost)))
        turn.reject(peer, Code.REPLAY, project)
        return
    turn.post(peer, Acknowledged(project, signed.to_bytes()))


def take_acknowledgement(turn: Turn, peer: PartyId, letter: Acknowledged) -> None:
    """Note that a partner has countersigned a receipt.

    Raises:
        RemoteProtocolError: It is not the next one.
    """
    project = membership(turn, peer, letter.project).current.project
    _acknowledge(turn, project, peer, letter.frame)


def take_receipts(turn: Turn, peer: PartyId, letter: ReceiptsHeld) -> None:
    """Put charges back that this node's ledger has lost.

    Raises:
        RemoteProtocolError: They are not this node's own, or contradict what the partner has countersigned.
    """
    project = membership(turn, peer, letter.project).current.project
    envelopes = [read_envelope(frame, sender=peer) for frame in letter.frames]
    for entry in turn.ledger(project, peer).missing(envelopes):
        turn.enter(project, peer, entry)
    for frame in letter.frames:
        _acknowledge(turn, project, peer, frame)
    _end_orphans(turn, project, peer)


def take_question(turn: Turn, peer: PartyId, letter: ReceiptsAsked) -> None:
    """Show a partner that was put back from a backup what it has charged, and been charged, in projects of both."""
    del letter
    if len(turn.kept.mail.waiting(peer, limit=_MOST_WAITING)) == _MOST_WAITING:
        raise RemoteProtocolError(f"{peer}: asks again before it has taken what it was sent")
    for project in turn.kept.projects.all():
        of = turn.project(project)
        member = of.current.member(peer) if of is not None else None
        if member is None or turn.root(peer) != member.certificate:
            continue
        frames = [envelope.to_bytes() for envelope in turn.receipts(project, peer).envelopes]
        for start in range(0, len(frames), _SHOWN_AT_ONCE):
            turn.post(peer, ReceiptsHeld(project, tuple(frames[start : start + _SHOWN_AT_ONCE])))
        for receipt in turn.ledger(project, peer).receipts:
            # The same bytes as before: signatures of one key are.
            turn.post(peer, Charged(project, seal(receipt, turn.owner.key).to_bytes()))
    turn.post(peer, ReceiptsShown())


def _end_orphans(turn: Turn, project: ProjectId, partner: PartyId) -> None:
    """Note the end of sessions whose job is over, or was lost with what became of it; they stay charged."""
    ledger = turn.ledger(project, partner)
    live = {grant for job in turn.kept.jobs.all(project, LIVE, limit=_ALL) if (grant := _grant_digest(turn, job))}
    over = {fact.session for fact in ledger.noted}
    for receipt in ledger.receipts:
        request = receipt.charge
        if isinstance(request, Request) and request.session not in over and receipt.grant not in live:
            failed = Ended(partner=partner, session=request.session, at=turn.now, how="failed")
            turn.enter(project, partner, Noted(fact=failed))


def _grant_digest(turn: Turn, job: Job) -> str | None:
    frame = turn.kept.jobs.grants(job.job).get(turn.me)
    return None if frame is None else read_envelope(frame, sender="store").digest


def _acknowledge(turn: Turn, project: ProjectId, peer: PartyId, frame: bytes) -> None:
    ledger = turn.ledger(project, peer)
    envelope = read_envelope(frame, sender=peer)
    known = {receipt.digest for receipt in ledger.receipts[: ledger.acknowledged]}
    if envelope.digest not in known:
        turn.enter(project, peer, ledger.acknowledgement(envelope))
