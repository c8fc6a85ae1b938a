"""A node's database: one transaction at a time, values of the domain in and out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from unseen.node.store.engine import open_engine
from unseen.node.store.jobs import JobRows
from unseen.node.store.lines import LineRows
from unseen.node.store.mail import MailRows
from unseen.node.store.people import PeopleRows
from unseen.node.store.projects import ProjectRows
from unseen.node.store.tables import TableRows


@dataclass(frozen=True, slots=True)
class Kept:
    """All that is kept, within one transaction."""

    people: PeopleRows
    tables: TableRows
    projects: ProjectRows
    jobs: JobRows
    mail: MailRows
    lines: LineRows


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
        """One transaction: what the block does is there as a whole, durably, or after an error not at all."""
        with self._engine.begin() as at:
            yield Kept(PeopleRows(at), TableRows(at), ProjectRows(at), JobRows(at), MailRows(at), LineRows(at))

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()


__all__ = ["Kept", "Store"]
