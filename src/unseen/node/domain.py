"""What a node knows of its own people, tables, projects and jobs, and who of its people may do what.

Values and rules without I/O: ``store`` keeps them, ``usecases`` change them.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from unseen.data.schema import Role as ColumnRole
from unseen.ids import JobId, PartyId
from unseen.privacy.facts import TableId
from unseen.trust.agreement import ProjectId
from unseen.trust.grant import Snapshot

# --- people ----------------------------------------------------------------------------------------------------------


class Duty(enum.StrEnum):
    """What somebody of this organisation does at its node; one person may have several."""

    ADMIN = "admin"
    DATA_OWNER = "data-owner"
    ANALYST = "analyst"
    APPROVER = "approver"
    AUDITOR = "auditor"


class Right(enum.StrEnum):
    """One thing that somebody may do."""

    MANAGE_PEOPLE = "manage-people"
    SEE_TABLES = "see-tables"
    MANAGE_TABLES = "manage-tables"
    SEE_PROJECTS = "see-projects"
    DRAFT_AGREEMENTS = "draft-agreements"
    SIGN_AGREEMENTS = "sign-agreements"
    REVOKE_AGREEMENTS = "revoke-agreements"
    SET_POLICY = "set-policy"
    SEE_JOBS = "see-jobs"
    PROPOSE_JOBS = "propose-jobs"
    APPROVE_JOBS = "approve-jobs"
    CANCEL_JOBS = "cancel-jobs"
    SEE_RESULTS = "see-results"
    SEE_AUDIT = "see-audit"
    SEE_PARTNERS = "see-partners"
    MANAGE_PARTNERS = "manage-partners"


_SEES = frozenset({Right.SEE_TABLES, Right.SEE_PROJECTS, Right.SEE_JOBS, Right.SEE_PARTNERS})

RIGHTS: Mapping[Duty, frozenset[Right]] = MappingProxyType(
    {
        Duty.ADMIN: frozenset(
            {Right.MANAGE_PEOPLE, Right.MANAGE_PARTNERS, Right.SEE_PARTNERS, Right.SEE_JOBS, Right.CANCEL_JOBS}
        ),
        Duty.DATA_OWNER: _SEES
        | {Right.MANAGE_TABLES, Right.DRAFT_AGREEMENTS, Right.REVOKE_AGREEMENTS, Right.SET_POLICY, Right.CANCEL_JOBS},
        Duty.ANALYST: _SEES | {Right.DRAFT_AGREEMENTS, Right.PROPOSE_JOBS, Right.CANCEL_JOBS, Right.SEE_RESULTS},
        Duty.APPROVER: _SEES | {Right.SIGN_AGREEMENTS, Right.REVOKE_AGREEMENTS, Right.APPROVE_JOBS},
        Duty.AUDITOR: _SEES | {Right.SEE_AUDIT},
    }
)
"""Whoever manages people sees no data; whoever proposes does not approve; an auditor sees all but results."""


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who works at this node."""

    name: str
    duties: frozenset[Duty]
    created: datetime
    active: bool = True
    projects: frozenset[ProjectId] = frozenset()
    """Where an analyst works; who has another duty sees all projects of the organisation."""
    changed: datetime | None = None
    """When an admin last changed what they may do, or how they sign in."""

    def may(self, right: Right) -> bool:
        """Return whether this person may do that."""
        return self.active and any(right in RIGHTS[duty] for duty in self.duties)

    def may_in(self, right: Right, project: ProjectId) -> bool:
        """Return whether this person may do that in a project: an analyst in those that were assigned only."""
        everywhere = any(right in RIGHTS[duty] for duty in self.duties - {Duty.ANALYST})
        return self.may(right) and (everywhere or project in self.projects)


@dataclass(frozen=True, slots=True)
class Link:
    """As whom an identity provider knows somebody: its issuer, and the subject there, which it never gives anew."""

    issuer: str
    subject: str

    @property
    def digest(self) -> str:
        """SHA-256 of both."""
        return hashlib.sha256(f"{self.issuer}\n{self.subject}".encode()).hexdigest()


NO_LINK = Link("", "")
"""Takes a link away: the identity provider knows somebody as nobody."""


# --- tables ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table in the catalogue."""

    name: str
    kind: str
    role: ColumnRole | None
    """``None``: never used."""


@dataclass(frozen=True, slots=True)
class CatalogueTable:
    """One version of a table; another content is another version."""

    name: TableId
    version: int
    digest: str
    """SHA-256 of the content; names the stored file."""
    schema_digest: str
    rows: int
    columns: tuple[Column, ...]
    origin: str
    """Where it came from, in words: a file's name, a query."""
    by: str
    created: datetime
    retired: bool = False

    def snapshot(self, owner: PartyId) -> Snapshot:
        """Return how a grant names this version."""
        return Snapshot(owner=owner, name=self.name, digest=self.digest, rows=self.rows)


# --- jobs ------------------------------------------------------------------------------------------------------------


class JobState(enum.StrEnum):
    """Where a job stands at this node."""

    PROPOSED = "proposed"
    """This node has not answered: somebody has to approve."""
    GRANTED = "granted"
    """This node has given its grant; others have not yet."""
    READY = "ready"
    """All grants are here; it waits for a worker."""
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REFUSED = "refused"

    @property
    def is_over(self) -> bool:
        """Whether nothing can come after."""
        return self in _OVER


_OVER = frozenset({JobState.FINISHED, JobState.FAILED, JobState.CANCELLED, JobState.REFUSED})

COURSE: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.PROPOSED: frozenset({JobState.GRANTED, JobState.REFUSED, JobState.CANCELLED, JobState.FAILED}),
        JobState.GRANTED: frozenset({JobState.READY, JobState.REFUSED, JobState.CANCELLED, JobState.FAILED}),
        JobState.READY: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
        # Back to ready: its worker was lost, another one goes on.
        JobState.RUNNING: frozenset({JobState.READY, JobState.FINISHED, JobState.FAILED, JobState.CANCELLED}),
        **{state: frozenset() for state in _OVER},
    }
)
"""What may follow each state."""


@dataclass(frozen=True, slots=True)
class Pause:
    """A party's wish that nobody works on a job for a while."""

    party: PartyId
    reason: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Job:
    """A job as this node knows it."""

    job: JobId
    project: ProjectId
    initiator: PartyId
    flow: str
    """The canonical JSON of the flow's spec."""
    snapshots: tuple[Snapshot, ...]
    points: int
    epsilon: float
    delta: float
    valid_until: datetime
    created: datetime
    by: str
    """Who of this node proposed it; empty for a job of another party."""
    state: JobState = JobState.PROPOSED
    reason: str = ""
    """Why it is over, if it did not finish."""
    changed: datetime | None = None
    order: int = 0
    """Numbers jobs of this node in the order in which it heard of them; set by the store."""
    paused: tuple[Pause, ...] = ()
    """Who holds it now; nobody works on it as long as somebody does."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's right to drive a job until a time; ``fence`` only grows, so that a late one is told from a new one."""

    job: JobId
    worker: str
    fence: int
    until: datetime
