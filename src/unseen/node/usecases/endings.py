"""How jobs end at this node, whoever brought it about: state, trail, budgets, and letters in one turn."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from unseen.errors import DataError
from unseen.ids import PartyId
from unseen.node.books import Turn
from unseen.node.domain import COURSE, Job, JobState
from unseen.node.letters import HeadSigned, JobEnded
from unseen.node.usecases.charging import LIVE, settle_sessions
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import Code, Event
from unseen.trust.envelope import seal

_log = logging.getLogger(__name__)

MAX_REASON = 500
_REFUSALS = frozenset({Code.SITE, Code.BUDGET, Code.SIGNATURE})


def end_job(
    turn: Turn, job: Job, code: Code, reason: str, *, by: PartyId | None = None, told: str | None = None
) -> None:
    """End a job that is not over; tell the initiator, or, at the initiator, everybody else.

    ``by`` is who brought it about, this node if nobody is named; who said it is not told. ``told`` is what others may
    know of the reason, if not all of it.
    """
    who = by or turn.me
    _over(turn, job, code, reason)
    letter = JobEnded(job.project, job.job, who, code, (reason if told is None else told)[:MAX_REASON])
    for peer in _told(turn, job):
        if peer != by:
            turn.post(peer, letter)
    sign_head(turn, job.project)


def end_jobs(turn: Turn, project: ProjectId, code: Code, reason: str) -> None:
    """End all jobs of a project at this node; the other nodes do that by themselves."""
    for job in turn.kept.jobs.all(project=project, states=LIVE, limit=1_000_000):
        _over(turn, job, code, reason)


def _over(turn: Turn, job: Job, code: Code, reason: str) -> None:
    state = _state(job, code)
    turn.kept.jobs.move(job.job, state, reason=reason[:MAX_REASON], now=turn.now)
    turn.ended.append((job, state))
    turn.gate(job.project).end(job.job, code)
    try:
        settle_sessions(turn, job)
    except DataError as error:
        # Nothing is charged or released in a ledger that is damaged. It must not keep jobs running: not this one, nor
        # those of a project that is revoked.
        _log.error("what became of the sessions of job %s cannot be noted: %s", job.job, error)


def sign_head(turn: Turn, project: ProjectId) -> None:
    """Give the other members a head of the project's trail as it is now."""
    gate = turn.gate(project)
    gate.note(Event.HEAD_SIGNED, project=project)
    envelope = seal(gate.trail.head(turn.me, turn.now), turn.owner.key)
    for member in gate.project.current.members:
        if member.party != turn.me:
            turn.post(member.party, HeadSigned(project, envelope.to_bytes()))


def parties_of(job: Job) -> tuple[PartyId, ...]:
    """Return who takes part in a job: whose tables it names."""
    return tuple(sorted({snapshot.owner for snapshot in job.snapshots} | {job.initiator}))


def _told(turn: Turn, job: Job) -> Iterable[PartyId]:
    if job.initiator != turn.me:
        return (job.initiator,)
    return [party for party in parties_of(job) if party != turn.me]


def _state(job: Job, code: Code) -> JobState:
    """Return the state in which a job ends; what is refused once it is ready has failed."""
    if code is Code.DONE:
        return JobState.FINISHED
    if code is Code.CANCELLED:
        return JobState.CANCELLED
    refused = code in _REFUSALS and JobState.REFUSED in COURSE[job.state]
    return JobState.REFUSED if refused else JobState.FAILED
