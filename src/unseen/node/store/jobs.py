"""Jobs, their grants, steps and leases."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime

import sqlalchemy as sql

from unseen.errors import LocalProtocolError
from unseen.ids import JobId, PartyId
from unseen.node.domain import COURSE, Job, JobState, Lease, Pause
from unseen.node.store.schema import Moment, grants, jobs, pauses, steps
from unseen.privacy.facts import TableId
from unseen.trust.agreement import ProjectId
from unseen.trust.grant import Snapshot


class JobRows:
    """Jobs by name, in the order in which this node heard of them."""

    def __init__(self, connection: sql.Connection) -> None:
        self._connection = connection

    def add(self, job: Job) -> None:
        """Add a job."""
        self._connection.execute(
            sql.insert(jobs).values(
                job=job.job,
                project=job.project,
                initiator=job.initiator,
                flow=job.flow,
                snapshots=[[one.owner, one.name, one.digest, one.rows] for one in job.snapshots],
                points=job.points,
                epsilon=job.epsilon,
                delta=job.delta,
                valid_until=job.valid_until,
                created=job.created,
                person=job.by,
                state=job.state,
                reason=job.reason,
                changed=job.changed,
                fence=0,
            )
        )

    def get(self, job: JobId) -> Job | None:
        """Return a job."""
        row = self._connection.execute(sql.select(jobs).where(jobs.c.job == job)).one_or_none()
        return None if row is None else _job(row, self._pauses(job))

    def all(
        self,
        project: ProjectId | None = None,
        states: Collection[JobState] | None = None,
        before_order: int | None = None,
        limit: int = 100,
    ) -> tuple[Job, ...]:
        """Return the newest jobs first, those before ``before_order``."""
        asked = sql.select(jobs).order_by(jobs.c.number.desc()).limit(limit)
        if project is not None:
            asked = asked.where(jobs.c.project == project)
        if states is not None:
            asked = asked.where(jobs.c.state.in_(states))
        if before_order is not None:
            asked = asked.where(jobs.c.number < before_order)
        held = self._pauses()
        return tuple(_job(row, held) for row in self._connection.execute(asked))

    def count(self, states: Collection[JobState]) -> int:
        """Return how many jobs are in these states."""
        asked = sql.select(sql.func.count()).select_from(jobs).where(jobs.c.state.in_(states))
        return self._connection.execute(asked).scalar_one()

    def move(self, job: JobId, to: JobState, reason: str = "", now: datetime | None = None) -> None:
        """Put a job into another state.

        Raises:
            LocalProtocolError: There is no such job, or the state cannot follow.
        """
        found = self.get(job)
        if found is None or to not in COURSE[found.state]:
            raise LocalProtocolError(f"job {job} cannot become {to}: it is {found.state if found else 'not here'}")
        self._set(job, state=to, reason=reason, changed=now)
        if to.is_over:
            self._connection.execute(sql.delete(pauses).where(pauses.c.job == job))

    def forget(self, before: datetime) -> tuple[JobId, ...]:
        """Remove the jobs that were over before a time, with their grants and steps; return which those were."""
        over = sql.select(jobs.c.job).where(
            jobs.c.state.in_([state for state in JobState if state.is_over]),
            sql.func.coalesce(jobs.c.changed, jobs.c.created, type_=Moment) < before,
        )
        found = tuple(self._connection.execute(over.order_by(jobs.c.number)).scalars())
        for table in (grants, steps, pauses, jobs):  # the jobs last: they say which
            self._connection.execute(sql.delete(table).where(table.c.job.in_(over)))
        return tuple(map(JobId, found))

    # --- pauses

    def pause(self, job: JobId, held: Pause) -> None:
        """Let nobody work on a job until this party lets it go on.

        Raises:
            LocalProtocolError: It holds the job already, or there is none.
        """
        self._connection.execute(
            sql.insert(pauses).values(job=job, party=held.party, reason=held.reason, since=held.since)
        )

    def resume(self, job: JobId, party: PartyId) -> None:
        """End the pause of one party."""
        self._connection.execute(sql.delete(pauses).where(pauses.c.job == job, pauses.c.party == party))

    def _pauses(self, job: JobId | None = None) -> Mapping[str, tuple[Pause, ...]]:
        """Return the pauses of one job, or of all: few, since those of jobs that are over are gone."""
        asked = sql.select(pauses).order_by(pauses.c.party)
        found: dict[str, tuple[Pause, ...]] = {}
        for row in self._connection.execute(asked if job is None else asked.where(pauses.c.job == job)):
            found[row.job] = (*found.get(row.job, ()), Pause(PartyId(row.party), row.reason, row.since))
        return found

    # --- grants and steps

    def keep_grant(self, job: JobId, issuer: PartyId, frame: bytes) -> None:
        """Keep an owner's grant."""
        self._connection.execute(sql.delete(grants).where(grants.c.job == job, grants.c.issuer == issuer))
        self._connection.execute(sql.insert(grants).values(job=job, issuer=issuer, frame=frame))

    def grants(self, job: JobId) -> Mapping[PartyId, bytes]:
        """Return the grants of a job by issuer."""
        rows = self._connection.execute(sql.select(grants).where(grants.c.job == job).order_by(grants.c.issuer))
        return {PartyId(row.issuer): bytes(row.frame) for row in rows}

    def note_step(self, job: JobId, step: str, state: str, facts: str) -> None:
        """Note where a step stands; ``facts`` is JSON."""
        self._connection.execute(sql.delete(steps).where(steps.c.job == job, steps.c.step == step))
        self._connection.execute(sql.insert(steps).values(job=job, step=step, state=state, facts=facts))

    def steps(self, job: JobId) -> tuple[tuple[str, str, str], ...]:
        """Return step, state and facts of the steps of a job."""
        rows = self._connection.execute(sql.select(steps).where(steps.c.job == job).order_by(steps.c.step))
        return tuple((row.step, row.state, row.facts) for row in rows)

    # --- leases

    def lease(self, worker: str, now: datetime, until: datetime) -> Lease | None:
        """Return a right to drive the oldest job that waits, or whose worker was lost, and that nobody holds."""
        lost = sql.and_(
            jobs.c.state == JobState.RUNNING, sql.or_(jobs.c.leased_until.is_(None), jobs.c.leased_until <= now)
        )
        free = sql.or_(jobs.c.state == JobState.READY, lost)
        held = sql.exists().where(pauses.c.job == jobs.c.job)
        asked = sql.select(jobs).where(free, ~held).order_by(jobs.c.number).limit(1)
        row = self._connection.execute(asked).one_or_none()
        if row is None:
            return None
        lease = Lease(JobId(row.job), worker, row.fence + 1, until)
        self._set(lease.job, state=JobState.RUNNING, changed=now, worker=worker, fence=lease.fence, leased_until=until)
        return lease

    def renew(self, lease: Lease, until: datetime) -> bool:
        """Let a lease last longer; return whether it is still good."""
        return self._under(lease, leased_until=until)

    def release(self, lease: Lease) -> bool:
        """Give a lease back; the job can be leased at once. Return whether it was still good."""
        return self._under(lease, worker=None, leased_until=None)

    def fence(self, job: JobId) -> int:
        """Return the number of the newest lease of a job."""
        return int(self._connection.execute(sql.select(jobs.c.fence).where(jobs.c.job == job)).scalar_one())

    def _under(self, lease: Lease, **values: object) -> bool:
        mine = (jobs.c.job == lease.job, jobs.c.fence == lease.fence, jobs.c.state == JobState.RUNNING)
        return self._connection.execute(sql.update(jobs).where(*mine).values(**values)).rowcount == 1

    def _set(self, job: JobId, **values: object) -> None:
        self._connection.execute(sql.update(jobs).where(jobs.c.job == job).values(**values))


def _job(row: sql.Row[tuple[object, ...]], held: Mapping[str, tuple[Pause, ...]]) -> Job:
    snapshots = tuple(
        Snapshot(owner=PartyId(owner), name=TableId(name), digest=digest, rows=rows)
        for owner, name, digest, rows in row.snapshots
    )
    job = Job(
        job=JobId(row.job),
        project=ProjectId(row.project),
        initiator=PartyId(row.initiator),
        flow=row.flow,
        snapshots=snapshots,
        points=row.points,
        epsilon=row.epsilon,
        delta=row.delta,
        valid_until=row.valid_until,
        created=row.created,
        by=row.person,
    )
    return replace(
        job,
        state=JobState(row.state),
        reason=row.reason,
        changed=row.changed,
        order=row.number,
        paused=held.get(row.job, ()),
    )
