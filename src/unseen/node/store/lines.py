"""Append-only logs: trails, marks, ledgers."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sql

from unseen.node.store.schema import lines


class LineRows:
    """Lines by log, in order."""

    def __init__(self, connection: sql.Connection) -> None:
        self._connection = connection

    def append(self, log: str, line: bytes) -> None:
        """Add a line to a log."""
        self._connection.execute(sql.insert(lines).values(log=log, number=self.count(log) + 1, line=line))

    def read(self, log: str, after: int = 0) -> Iterator[bytes]:
        """Return the lines of a log, from number 1 on or after another one."""
        asked = sql.select(lines.c.line).where(lines.c.log == log, lines.c.number > after).order_by(lines.c.number)
        return iter(tuple(map(bytes, self._connection.execute(asked).scalars())))

    def last(self, log: str) -> bytes | None:
        """Return the last line of a log."""
        asked = sql.select(lines.c.line).where(lines.c.log == log).order_by(lines.c.number.desc()).limit(1)
        line = self._connection.execute(asked).scalar_one_or_none()
        return None if line is None else bytes(line)

    def count(self, log: str) -> int:
        """Return how many lines a log has."""
        asked = sql.select(sql.func.max(lines.c.number)).where(lines.c.log == log)
        return self._connection.execute(asked).scalar_one() or 0

    def drop(self, log: str) -> None:
        """Remove a log as a whole: what it was about is gone, too."""
        self._connection.execute(sql.delete(lines).where(lines.c.log == log))
