"""What a source can do, and how much is taken from it at most."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from unseen.clock import Clock
from unseen.errors import DataError
from unseen.node.sources.config import SourceKind


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns somebody wants; all of them, if nothing is said."""

    only: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one import may take at most."""

    max_bytes: int = 4 << 30
    """Of rows as they are in memory, or of an object."""
    seconds: float = 3600.0
    """In all; no single answer takes longer than a minute."""


class Allowance:
    """Bounds that are being used up by one import."""

    def __init__(self, source: str, bounds: Bounds, clock: Clock) -> None:
        self._source, self._bounds, self._clock = source, bounds, clock
        self._bytes, self._until = 0, clock.monotonic() + bounds.seconds

    def take(self, count: int) -> None:
        """Use up so many bytes.

        Raises:
            DataError: They, or the time, are more than is allowed.
        """
        self._bytes += count
        if self._bytes > self._bounds.max_bytes:
            raise DataError(
                f"source {self._source}: more than {self._bounds.max_bytes} bytes: name fewer columns, or import a view"
            )
        if self._clock.monotonic() > self._until:
            raise DataError(
                f"source {self._source}: took longer than {self._bounds.seconds:.0f} s: import a smaller part"
            )


class Source(Protocol):
    """Tables of the organisation, somewhere else."""

    @property
    def kind(self) -> SourceKind:
        """What it is."""
        ...

    def tables(self) -> tuple[str, ...]:
        """Return the names of all tables that may be imported.

        Raises:
            UsageError: It cannot be reached, or does not let this node in.
        """
        ...

    def fetch(self, table: str, wanted: Columns, folder: Path) -> tuple[Path, Columns]:
        """Write a table to a CSV or Parquet file in a folder; return the file, and what of the wish is left to do.

        Raises:
            UsageError: There is no such table or column here, or the source cannot be reached.
            DataError: The table holds what cannot be imported, or more than is allowed.
        """
        ...
