"""A job as its initiator writes it down and as others read it."""

from __future__ import annotations

from datetime import datetime

from unseen.codec import shown
from unseen.errors import RemoteProtocolError, UnseenError, UsageError
from unseen.flow.spec import FlowSpec, canonical_json
from unseen.ids import JobId, PartyId
from unseen.node.books import Turn
from unseen.node.domain import Job
from unseen.node.letters import JobProposed, TableHeld, snapshot_of
from unseen.node.usecases.asking import held_tables
from unseen.node.usecases.endings import parties_of
from unseen.privacy.facts import MAX_ROWS, TableId
from unseen.trust.agreement import ProjectId
from unseen.trust.grant import Snapshot


def proposal(job: Job) -> JobProposed:
    """Return the letter that proposes a job."""
    tables = tuple(TableHeld(held.owner, held.name, held.digest, held.rows) for held in job.snapshots)
    until = job.valid_until.isoformat()
    return JobProposed(job.project, job.job, job.flow, tables, job.points, job.epsilon, job.delta, until)


def read_proposal(turn: Turn, peer: PartyId, project: ProjectId, letter: JobProposed) -> Job:
    """Return the job that a peer proposes.

    Raises:
        RemoteProtocolError: It is none, or not everybody in it takes part.
    """
    try:
        flow = FlowSpec.model_validate_json(letter.flow)
        job = Job(
            job=JobId(letter.job),
            project=project,
            initiator=peer,
            flow=canonical_json(flow.agreed()),
            snapshots=tuple(map(snapshot_of, letter.tables)),
            points=letter.points,
            epsilon=letter.epsilon,
            delta=letter.delta,
            valid_until=datetime.fromisoformat(letter.valid_until),
            created=turn.now,
            by="",
        )
    except (UnseenError, ValueError) as error:
        raise RemoteProtocolError(f"{peer}: proposes a job that is none: {shown(str(error), limit=300)}") from error
    sound = 0 <= job.points <= MAX_ROWS and 0 <= job.epsilon < 1e9 and 0 <= job.delta < 1
    if job.flow != letter.flow or not sound or job.valid_until.tzinfo is None:
        raise RemoteProtocolError(
            f"{peer}: proposes a job whose flow, numbers or time are not spelt as they have to be"
        )
    if {turn.me, peer} - set(parties_of(job)) or set(parties_of(job)) != set(flow.parties):
        raise RemoteProtocolError(f"{peer}: proposes a job in which not everybody named takes part")
    return job


def newest_table(turn: Turn, project: ProjectId, party: PartyId, table: str, version: int | None) -> Snapshot:
    """Return the version of a party's table that a job is to name.

    Raises:
        UsageError: It is not known.
    """
    if party != turn.me:
        held = held_tables(turn, project, party).get(table)
        if held is None:
            raise UsageError(f"{party} has not said that it holds a table {table} in {project}")
        return held
    entry = (
        turn.kept.tables.newest(TableId(table))
        if version is None
        else turn.kept.tables.version(TableId(table), version)
    )
    if entry is None:
        raise UsageError(f"this node has no table {table}{'' if version is None else f' in version {version}'}")
    return entry.snapshot(turn.me)
