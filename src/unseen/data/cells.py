"""Rows as a file gives them, before anybody knows what their columns hold; common to all file formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unseen.data.import_report import Cause, Findings
from unseen.data.schema import name_fault
from unseen.errors import UsageError

# The csv module keeps a bound of its own, for the whole process, that we leave alone.
CSV_CELL_BOUND = 131_072


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes beyond which a file is refused, so that a wrong file cannot exhaust the memory.

    Raises:
        UsageError: A limit is not positive, or cells may be longer than the csv module can read.
    """

    max_columns: int = 20_000
    max_cell_bytes: int = 65_536
    max_line_bytes: int = 8 << 20
    max_expansion: int = 200
    """Of a Parquet file: bytes of its cells, eight for each, for one byte of the file. A column of one value takes
    next to nothing in a file, however many rows it has."""

    def __post_init__(self) -> None:
        if min(self.max_columns, self.max_cell_bytes, self.max_line_bytes, self.max_expansion) < 1:
            raise UsageError(f"limits are positive, found {self}")
        if self.max_cell_bytes > CSV_CELL_BOUND:
            raise UsageError(f"max_cell_bytes is at most {CSV_CELL_BOUND}, found {self.max_cell_bytes}")


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The first and last line of one row that cannot be kept, and why."""

    first: int
    last: int
    causes: tuple[Cause, ...]


@dataclass(frozen=True, slots=True)
class Cells:
    """The well-formed rows of a file, the lines they stand on, and the rows that are malformed.

    ``typed`` says whether the file format tells what columns hold; if not, all of them are text.
    """

    typed: bool
    frame: pl.DataFrame
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    findings: Findings
    malformed: list[Span] = field(default_factory=list)

    @classmethod
    def unreadable(cls, findings: Findings) -> Self:
        """Return no rows at all, for a file whose problems do not let us read any."""
        none = np.empty(0, np.int64)
        return cls(False, pl.DataFrame(), none, none, findings)


def header_fault(names: Sequence[str]) -> tuple[str, str] | None:
    """Return which of a file's columns is wrongly named, if it is a single one, and why; or ``None``."""
    if not any(names):
        return "", "the first line is blank"
    if all(_is_number(name) for name in names):
        return "", "the first line holds numbers, expected names"
    seen: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        earlier = seen.setdefault(name, position)
        taken = f"column number {earlier} has this name too" if earlier < position else None
        fault = name_fault(name) or taken
        if fault:
            return f"number {position}", f"it cannot be called {name!r}: {fault}"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
