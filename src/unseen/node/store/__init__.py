"""A node's database: one transaction at a time, values of the domain in and out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from unseen.errors import DataError, LocalProtocolError, UnseenError
from unseen.node.store.engine import open_engine, reading, shown
from unseen.node.store.jobs import JobRows
from unseen.node.store.lines import LineRows
from unseen.node.store.mail import MailRows
from unseen.node.store.people import PeopleRows
from unseen.node.store.projects import ProjectRows
from unseen.node.store.recovery import RecoveryRows
from unseen.node.store.tables import TableRows

_SIZES = {
    "sqlite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
    "postgresql": "SELECT pg_database_size(current_database())",
}


@dataclass(frozen=True, slots=True)
class Kept:
    """All that is kept, within one transaction."""

    people: PeopleRows
    tables: TableRows
    projects: ProjectRows
    jobs: JobRows
    mail: MailRows
    lines: LineRows
    recovery: RecoveryRows


class Store:
    """A node's database.

    Args:
        url: ``sqlite:///PATH`` or ``postgresql://…``; its schema is brought up to date.

    Raises:
        UsageError: It cannot be reached.
        DataError: It is damaged, or newer than this version.
    """

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)

    @contextmanager
    def begin(self) -> Iterator[Kept]:
        """One transaction: what the block does is there as a whole, durably, or after an error not at all.

        Raises:
            LocalProtocolError: Something is there already, or what it belongs to is not.
            DataError: The database is out of reach, full, locked for too long, or damaged.
        """
        with self._told(), self._engine.begin() as at:
            yield _kept(at)

    @contextmanager
    def read(self) -> Iterator[Kept]:
        """Look at one moment of the database, in which nothing can be changed; others go on meanwhile.

        Raises:
            DataError: The database is out of reach or damaged, or the block changes something.
        """
        with self.snapshot() as at:
            yield _kept(at)

    def size(self) -> int:
        """Return how many bytes the database takes.

        Raises:
            DataError: The database is out of reach or damaged.
        """
        with self.snapshot() as at:
            return int(at.exec_driver_sql(_SIZES[at.dialect.name]).scalar_one())

    @contextmanager
    def snapshot(self) -> Iterator[sql.Connection]:
        """Yield a connection that sees one moment of the database and cannot write; others go on meanwhile.

        Raises:
            DataError: The database is out of reach or damaged.
        """
        with self._told(), reading(self._engine) as connection:
            yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell a database's errors in ours; only their first line, since others may show what is kept."""
        try:
            yield
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            if isinstance(cause, UnseenError):
                raise cause from None
            line = next(iter(str(cause).splitlines()), type(cause).__name__)
            if isinstance(error, IntegrityError):
                raise LocalProtocolError(f"the database {self} refuses what does not fit: {line}") from error
            raise DataError(f"the database {self} fails: {line}") from error

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    def __str__(self) -> str:
        return shown(self._engine.url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()


def _kept(at: sql.Connection) -> Kept:
    return Kept(
        PeopleRows(at), TableRows(at), ProjectRows(at), JobRows(at), MailRows(at), LineRows(at), RecoveryRows(at)
    )


__all__ = ["Kept", "Store"]
