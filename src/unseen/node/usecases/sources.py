"""Tables from the organisation's own databases and buckets: found by name, fetched, imported like uploads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from unseen.data.import_report import ImportReport
from unseen.errors import UsageError
from unseen.node.domain import CatalogueTable, Person
from unseen.node.sources.port import Columns, Source
from unseen.node.usecases.catalogue import Catalogue, Import


class Sources:
    """What data owners can import from.

    Args:
        catalogue: Keeps what is imported.
        sources: By name, as whoever runs the node has configured them.
    """

    def __init__(self, catalogue: Catalogue, sources: Mapping[str, Source]) -> None:
        self._catalogue, self._sources = catalogue, dict(sources)

    def all(self) -> Mapping[str, Source]:
        """Return all sources by name."""
        return self._sources

    def tables(self, source: str) -> tuple[str, ...]:
        """Return the names of a source's tables.

        Raises:
            UsageError: There is no such source, or it refuses.
        """
        return self._get(source).tables()

    def add(self, name: str, source: str, table: str, how: Import, by: Person) -> tuple[CatalogueTable, ImportReport]:
        """Import a table of a source as the next version of a table here; its origin says which.

        Raises:
            UsageError: There is no such source, table or column, or the source refuses.
            DataError: The table is not what it has to be, or larger than allowed.
        """
        found = self._get(source)
        with self._catalogue.room() as folder:
            path, left = found.fetch(table, Columns(how.only, how.leave_out), folder)
            rest = replace(how, origin=f"{source}: {table}"[:200], only=left.only, leave_out=left.leave_out)
            return self._catalogue.add(name, path, rest, by)

    def _get(self, name: str) -> Source:
        if name not in self._sources:
            raise UsageError(f"there is no source called {name[:64]!r} here: unseen source list")
        return self._sources[name]
