"""The node's own tables: imported once, typed, named by their content, in versions that never change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from unseen.clock import Clock
from unseen.data.cells import Limits
from unseen.data.import_report import ImportReport
from unseen.data.schema import Kind, Role, Schema
from unseen.data.table import Table
from unseen.errors import DataError, UsageError
from unseen.flow.spec import canonical_json
from unseen.node.artifacts import Artifacts
from unseen.node.domain import CatalogueTable, Column, Person
from unseen.node.importing import Apart, Importer, Made, Task
from unseen.node.store import Store
from unseen.privacy.facts import TableId


@dataclass(frozen=True, slots=True)
class Import:
    """How a file becomes a table; the readers say what is found where nothing is said."""

    origin: str
    """Where it comes from, in words."""
    roles: Mapping[str, Role]
    kinds: Mapping[str, Kind]
    leave_out: tuple[str, ...] = ()
    """Columns that are not kept at all."""
    repeated_ids: bool = False
    lenient: bool = False
    """Leave bad rows out, which the report counts, instead of refusing the file."""
    only: tuple[str, ...] = ()
    """Columns that are kept, if not all of them."""


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """Figures of a column, for the owner's eyes; of numbers, least and greatest are cells of the table."""

    name: str
    role: Role
    kind: Kind
    missing: int
    distinct: int
    least: float | None
    quarter: float | None
    """Of all values that are there, a quarter is at most this."""
    median: float | None
    three_quarters: float | None
    greatest: float | None
    mean: float | None
    deviation: float | None


class Catalogue:
    """This node's tables.

    Args:
        store: Keeps what is known of them.
        artifacts: Keeps their content.
        clock: What time it is.
        importer: Makes tables of files; in a process of its own, if nothing is said.
        limits: Sizes beyond which a file is refused.
    """

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        clock: Clock,
        importer: Importer | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._store, self._artifacts, self._clock = store, artifacts, clock
        self._importer, self._limits = importer or Apart(), limits or Limits()

    def room(self) -> AbstractContextManager[Path]:
        """Lend an empty folder for files that are to be imported: plain content lies nowhere else."""
        return self._artifacts.room()

    def add(self, name: str, source: Path, how: Import, by: Person) -> tuple[CatalogueTable, ImportReport]:
        """Import a CSV or Parquet file as the next version; the same content again is the version that is there.

        Raises:
            DataError: The file is not what it has to be; the message counts causes.
            UsageError: The name is none, or roles, kinds or columns to be left out do not fit.
        """
        table_name = TableId(name)
        with self.room() as folder:
            made = self._import(source, folder, how)
            digest = self._artifacts.put(folder / "table.parquet")
        with self._store.begin() as kept:
            newest = kept.tables.newest(table_name)
            if newest is not None and newest.digest == digest:
                return newest, made.report
            entry = CatalogueTable(
                name=table_name,
                version=kept.tables.last_number(table_name) + 1,
                digest=digest,
                schema_digest=schema_digest(made.schema),
                rows=made.rows,
                columns=tuple(Column(column.name, column.kind.value, column.role) for column in made.schema.columns),
                origin=how.origin,
                by=by.name,
                created=self._clock.now(),
            )
            if not self._artifacts.has(digest):
                raise DataError(f"{how.origin}: its content was purged while it was imported: import it again")
            kept.tables.add(entry)
        return entry, made.report

    def _import(self, source: Path, folder: Path, how: Import) -> Made:
        task = Task(
            source=source,
            target=folder / "table.parquet",
            roles=dict(how.roles),
            kinds=dict(how.kinds),
            leave_out=how.leave_out,
            only=how.only,
            repeated_ids=how.repeated_ids,
            quarantine=folder / "quarantine.csv" if how.lenient else None,
            limits=self._limits,
        )
        try:
            return self._importer(task)
        except (DataError, UsageError) as error:
            # Where the file lies here says nothing to whoever sent it.
            raise type(error)(str(error).replace(str(source), how.origin)) from error

    def all(self) -> tuple[CatalogueTable, ...]:
        """Return all versions of all tables."""
        with self._store.read() as kept:
            return tuple(kept.tables.all())

    def version(self, name: str, version: int) -> CatalogueTable | None:
        """Return a version of a table, ``None`` if there is none."""
        with self._store.read() as kept:
            return kept.tables.version(name, version)

    def get(self, name: str, version: int | None = None) -> CatalogueTable:
        """Return a version of a table, the newest one if none is named.

        Raises:
            UsageError: There is none.
        """
        with self._store.read() as kept:
            table_name = TableId(name)
            found = kept.tables.newest(table_name) if version is None else kept.tables.version(table_name, version)
        if found is None:
            which = "table" if version is None else f"version {version} of a table"
            raise UsageError(f"there is no {which} called {name} here")
        return found

    def retire(self, name: str, version: int) -> CatalogueTable:
        """Take a version out of use: no job starts with it any more. Its content stays until the node is purged.

        Raises:
            UsageError: There is no such version.
        """
        self.get(name, version)
        with self._store.begin() as kept:
            kept.tables.retire(TableId(name), version)
        return self.get(name, version)

    @contextmanager
    def open(self, table: CatalogueTable) -> Iterator[Path]:
        """Lend the content as a Parquet file."""
        with self._artifacts.open(table.digest) as path:
            yield path

    def profile(self, table: CatalogueTable) -> tuple[ColumnProfile, ...]:
        """Return figures of the columns."""
        with self.open(table) as path:
            content = Table.read(path)
        frame = content.frame()
        return tuple(_profiled(content.schema, name, frame[name]) for name in content.schema.names)


def schema_digest(schema: Schema) -> str:
    """Return the SHA-256 of names, roles and kinds of all columns in order, as agreements state it."""
    text = canonical_json([[column.name, column.role.value, column.kind.value] for column in schema.columns])
    return hashlib.sha256(b"unseen/schema/1\n" + text.encode()).hexdigest()


def _profiled(schema: Schema, name: str, values: pl.Series) -> ColumnProfile:
    column = schema.column(name)
    numeric = column.role is not Role.ID and column.kind in (Kind.INTEGER, Kind.REAL)
    numbers = values.cast(pl.Float64) if numeric else pl.Series(dtype=pl.Float64)
    least, quarter, median, three_quarters, greatest = (
        _figure(numbers.quantile(share, "linear")) for share in (0.0, 0.25, 0.5, 0.75, 1.0)
    )
    return ColumnProfile(
        name=name,
        role=column.role,
        kind=column.kind,
        missing=values.null_count(),
        distinct=values.drop_nulls().n_unique(),
        least=least,
        quarter=quarter,
        median=median,
        three_quarters=three_quarters,
        greatest=greatest,
        mean=_figure(numbers.mean()),
        deviation=_figure(numbers.std()),
    )


def _figure(value: object) -> float | None:
    return value if isinstance(value, float) else None
