"""Versions of the node's own tables."""

from __future__ import annotations

import sqlalchemy as sql

from unseen.data.schema import Role
from unseen.node.domain import CatalogueTable, Column
from unseen.node.store.schema import tables
from unseen.privacy.facts import TableId


class TableRows:
    """What the catalogue knows; the content lies elsewhere."""

    def __init__(self, connection: sql.Connection) -> None:
        self._connection = connection

    def add(self, entry: CatalogueTable) -> None:
        """Add a version."""
        columns = [[column.name, column.kind, column.role] for column in entry.columns]
        self._connection.execute(
            sql.insert(tables).values(
                name=entry.name,
                version=entry.version,
                digest=entry.digest,
                schema_digest=entry.schema_digest,
                rows=entry.rows,
                columns=columns,
                origin=entry.origin,
                person=entry.by,
                created=entry.created,
                retired=entry.retired,
            )
        )

    def newest(self, name: str) -> CatalogueTable | None:
        """Return the newest version that is in use."""
        asked = sql.select(tables).where(tables.c.name == name, tables.c.retired.is_(False))
        return self._first(asked.order_by(tables.c.version.desc()).limit(1))

    def last_number(self, name: str) -> int:
        """Return the number of the newest version, retired or not; 0 if there is none."""
        asked = sql.select(sql.func.max(tables.c.version)).where(tables.c.name == name)
        return self._connection.execute(asked).scalar_one() or 0

    def version(self, name: str, version: int) -> CatalogueTable | None:
        """Return a version."""
        return self._first(sql.select(tables).where(tables.c.name == name, tables.c.version == version))

    def by_digest(self, digest: str) -> CatalogueTable | None:
        """Return a version by its content."""
        return self._first(sql.select(tables).where(tables.c.digest == digest).order_by(tables.c.version).limit(1))

    def all(self) -> tuple[CatalogueTable, ...]:
        """Return all versions of all tables."""
        rows = self._connection.execute(sql.select(tables).order_by(tables.c.name, tables.c.version))
        return tuple(map(_table, rows))

    def retire(self, name: str, version: int) -> None:
        """Take a version out of use."""
        chosen = sql.update(tables).where(tables.c.name == name, tables.c.version == version)
        self._connection.execute(chosen.values(retired=True))

    def _first(self, asked: sql.Select[tuple[object, ...]]) -> CatalogueTable | None:
        row = self._connection.execute(asked).one_or_none()
        return None if row is None else _table(row)


def _table(row: sql.Row[tuple[object, ...]]) -> CatalogueTable:
    return CatalogueTable(
        name=TableId(row.name),
        version=row.version,
        digest=row.digest,
        schema_digest=row.schema_digest,
        rows=row.rows,
        columns=tuple(Column(name, kind, None if role is None else Role(role)) for name, kind, role in row.columns),
        origin=row.origin,
        by=row.person,
        created=row.created,
        retired=row.retired,
    )
