"""Agreements, their revocations, drafts, and what the site allows."""

from __future__ import annotations

import sqlalchemy as sql

from unseen.node.store.schema import projects, revocations, versions
from unseen.trust.agreement import ProjectId


class ProjectRows:
    """Projects by name; envelopes as they came."""

    def __init__(self, connection: sql.Connection) -> None:
        self._connection = connection

    def all(self) -> tuple[ProjectId, ...]:
        """Return the names of all projects."""
        return tuple(map(ProjectId, self._connection.execute(sql.select(projects.c.name).order_by("name")).scalars()))

    def add_version(self, project: ProjectId, version: int, frame: bytes) -> None:
        """Keep an agreement that all have signed."""
        self._ensure(project)
        self._connection.execute(sql.insert(versions).values(project=project, version=version, frame=frame))

    def versions(self, project: ProjectId) -> tuple[bytes, ...]:
        """Return the agreements that all have signed, the first one first."""
        asked = sql.select(versions.c.frame).where(versions.c.project == project).order_by(versions.c.version)
        return tuple(map(bytes, self._connection.execute(asked).scalars()))

    def set_pending(self, project: ProjectId, frame: bytes | None) -> None:
        """Keep the agreement that not all have signed, or none."""
        self._set(project, pending=frame)

    def pending(self, project: ProjectId) -> bytes | None:
        """Return the agreement that not all have signed."""
        asked = sql.select(projects.c.pending).where(projects.c.name == project)
        frame = self._connection.execute(asked).scalar_one_or_none()
        return None if frame is None else bytes(frame)

    def add_revocation(self, project: ProjectId, frame: bytes) -> None:
        """Keep a revocation."""
        self._ensure(project)
        self._connection.execute(sql.insert(revocations).values(project=project, frame=frame))

    def revocations(self, project: ProjectId) -> tuple[bytes, ...]:
        """Return the revocations in the order in which they came."""
        asked = sql.select(revocations.c.frame).where(revocations.c.project == project).order_by(revocations.c.number)
        return tuple(map(bytes, self._connection.execute(asked).scalars()))

    def set_policy(self, project: ProjectId, policy: str | None) -> None:
        """Keep what the site lets a project do."""
        self._set(project, policy=policy)

    def policy(self, project: ProjectId) -> str | None:
        """Return what the site lets a project do."""
        asked = sql.select(projects.c.policy).where(projects.c.name == project)
        return self._connection.execute(asked).scalar_one_or_none()

    def _set(self, project: ProjectId, **values: object) -> None:
        self._ensure(project)
        self._connection.execute(sql.update(projects).where(projects.c.name == project).values(**values))

    def _ensure(self, project: ProjectId) -> None:
        known = sql.select(projects.c.name).where(projects.c.name == project)
        if self._connection.execute(known).one_or_none() is None:
            self._connection.execute(sql.insert(projects).values(name=project))
