"""What a node lets go of after some time: jobs that are over, and the content of table versions taken out of use.

Trails, marks, ledgers, receipts and agreements stay for ever: they are what budgets and audits stand on. So does the
catalogue's entry of a version whose content is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from unseen.ids import JobId
from unseen.node.artifacts import Artifacts
from unseen.node.domain import JobState
from unseen.node.store import Kept, Store

JOB_LOGS = ("approved", "events", "done", "sizes")
"""Logs about one job, named ``LOG/JOB``."""
_LIVE = tuple(state for state in JobState if not state.is_over)
_MOST_JOBS = 1_000_000


@dataclass(frozen=True, slots=True)
class Purged:
    """What is gone."""

    jobs: tuple[JobId, ...]
    artifacts: tuple[str, ...]
    """Digests of table versions."""
    sessions: int


def purge(store: Store, artifacts: Artifacts, before: datetime, now: datetime) -> Purged:
    """Remove what was over or out of use before a time, and sessions that ran out; may be run while the node runs."""
    with store.begin() as kept:
        forgotten = kept.jobs.forget(before)
        for job in forgotten:
            for log in JOB_LOGS:
                kept.lines.drop(f"{log}/{job}")
        sessions = kept.people.forget_sessions(now)
        unused = _unused(kept, before)
        # In the transaction, so that whoever adds an entry in another one sees whether its content is still there.
        gone = tuple(digest for digest in unused if artifacts.has(digest))
        for digest in gone:
            artifacts.delete(digest)
    return Purged(forgotten, gone, sessions)


def _unused(kept: Kept, before: datetime) -> list[str]:
    """Return the contents of which every version is old and out of use, and that no job goes on with."""
    entries = kept.tables.all()
    live = kept.jobs.all(states=_LIVE, limit=_MOST_JOBS)
    used = {entry.digest for entry in entries if not entry.retired or entry.created >= before}
    used |= {snapshot.digest for job in live for snapshot in job.snapshots}
    return sorted({entry.digest for entry in entries} - used)
