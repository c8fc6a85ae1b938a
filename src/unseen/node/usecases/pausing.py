"""Pauses: a party holds a job for a while, and nobody works on it until it lets the job go on.

Each party's pause is its own: only that party lifts it, so that a job that two have paused waits for both. What was
finished stays finished; the job's time runs on, and whoever may cancel it still may. As everything that concerns one
job, pauses go through its initiator.
"""

from __future__ import annotations

from unseen.codec import shown
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.node.books import Turn
from unseen.node.domain import Job, Pause
from unseen.node.letters import JobPaused, JobResumed
from unseen.node.usecases.deciding import others
from unseen.node.usecases.endings import parties_of

_LONGEST_REASON = 400


def pause(turn: Turn, job: Job, reason: str) -> None:
    """Hold a job at all parties.

    Raises:
        UsageError: It is over, or this node holds it already.
    """
    if job.state.is_over:
        raise UsageError(f"job {job.job} is over: {job.state}")
    if _held_by(job, turn.me):
        raise UsageError(f"job {job.job} is paused by {turn.me} already: let it go on with `unseen job resume`")
    _hold(turn, job, turn.me, shown(reason, limit=_LONGEST_REASON))


def resume(turn: Turn, job: Job) -> None:
    """Let a job go on that this node holds; it does once nobody else holds it.

    Raises:
        UsageError: This node does not hold it.
    """
    if not _held_by(job, turn.me):
        holders = ", ".join(held.party for held in job.paused)
        by = f"{holders} paused it, and has to let it go on" if holders else f"it is {job.state}, and nobody paused it"
        raise UsageError(f"job {job.job} is not paused by {turn.me}: {by}")
    _let_go(turn, job, turn.me)


def take_pause(turn: Turn, peer: PartyId, job: Job, letter: JobPaused) -> None:
    """Hold a job on a party's word.

    Raises:
        RemoteProtocolError: The peer may not speak for that party.
    """
    party = _speaker(turn, peer, job, letter.party)
    if not job.state.is_over and not _held_by(job, party):
        _hold(turn, job, party, shown(letter.reason, limit=_LONGEST_REASON))


def take_resumption(turn: Turn, peer: PartyId, job: Job, letter: JobResumed) -> None:
    """Let a job go on as far as a party held it.

    Raises:
        RemoteProtocolError: The peer may not speak for that party.
    """
    party = _speaker(turn, peer, job, letter.party)
    if not job.state.is_over and _held_by(job, party):
        _let_go(turn, job, party)


def _hold(turn: Turn, job: Job, party: PartyId, reason: str) -> None:
    turn.kept.jobs.pause(job.job, Pause(party, reason, turn.now))
    turn.ready = True  # the supervisor has to stop a worker
    _tell(turn, job, party, JobPaused(job.project, job.job, party, reason))


def _let_go(turn: Turn, job: Job, party: PartyId) -> None:
    turn.kept.jobs.resume(job.job, party)
    turn.ready = True
    _tell(turn, job, party, JobResumed(job.project, job.job, party))


def _held_by(job: Job, party: PartyId) -> bool:
    return any(held.party == party for held in job.paused)


def _speaker(turn: Turn, peer: PartyId, job: Job, name: str) -> PartyId:
    """Return the party that a letter speaks for: at the initiator its sender, elsewhere any other, by the initiator."""
    if name == turn.me or name not in parties_of(job):
        raise RemoteProtocolError(f"{peer}: speaks for {shown(name)} about job {job.job}, which is not another party's")
    if peer != (name if turn.me == job.initiator else job.initiator):
        raise RemoteProtocolError(f"{peer}: speaks for {name} about job {job.job}, which it may not")
    return PartyId(name)


def _tell(turn: Turn, job: Job, party: PartyId, letter: JobPaused | JobResumed) -> None:
    """Tell the initiator, or, at the initiator, everybody else."""
    if job.initiator != turn.me:
        told = [job.initiator] if party == turn.me else []
    else:
        told = [peer for peer in others(turn, job) if peer != party]
    for peer in told:
        turn.post(peer, letter)
