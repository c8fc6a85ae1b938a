"""What an import found in a file: how many rows, which problems, where; and how that is said to people.

Reports stay with the owner of the data, since examples quote cells. The text of an error does not: it names causes,
counts and places only.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

MAX_PLACES = 10
_MAX_EXAMPLE = 60


class Cause(enum.StrEnum):
    """Why a file, a column or a row cannot be taken as it is."""

    EMPTY_FILE = "empty file"
    BAD_HEADER = "bad header"
    NOT_TEXT = "not UTF-8 text"
    ONE_CLASS_LABEL = "one-class label"
    UNSUPPORTED_TYPE = "unsupported type"
    DECIMAL_COMMA = "decimal comma"
    RAGGED_ROW = "ragged row"
    BAD_QUOTES = "bad quotes"
    BAD_ENCODING = "bad encoding"
    LONG_CELL = "long cell"
    MISSING_ID = "missing id"
    DUPLICATE_ID = "duplicate id"
    NOT_FINITE = "NaN or infinity"
    MIXED_TYPES = "mixed types"
    BAD_WEIGHT = "bad weight"


# Problems of these causes belong to the whole file: leaving out some rows does not cure them.
FILE_CAUSES = frozenset(
    {
        Cause.EMPTY_FILE,
        Cause.BAD_HEADER,
        Cause.NOT_TEXT,
        Cause.ONE_CLASS_LABEL,
        Cause.UNSUPPORTED_TYPE,
        Cause.DECIMAL_COMMA,
    }
)

ADVICE: Mapping[Cause, str] = {
    Cause.EMPTY_FILE: "provide a header line and at least one row",
    Cause.BAD_HEADER: "give every column a name of its own in the first line",
    Cause.NOT_TEXT: "save the file as CSV in UTF-8",
    Cause.ONE_CLASS_LABEL: "provide rows with at least two different label values, or leave the label column out",
    Cause.UNSUPPORTED_TYPE: "turn the column into numbers, text or truth values, or leave it out",
    Cause.DECIMAL_COMMA: "write numbers with a decimal point, or declare the column to be text",
    Cause.RAGGED_ROW: "give every row as many cells as the header has; quote cells that hold the separator",
    Cause.BAD_QUOTES: 'close every quote, and write a quote inside a quoted cell twice: ""',
    Cause.BAD_ENCODING: "save the file in UTF-8",
    Cause.LONG_CELL: "shorten the cell, or raise the limit max_cell_bytes",
    Cause.MISSING_ID: "give every row an id",
    Cause.DUPLICATE_ID: "keep one row for every id, or say that ids may repeat (repeated_ids)",
    Cause.NOT_FINITE: "leave the cell empty where a value is missing",
    Cause.MIXED_TYPES: "write numbers only (an empty cell is a missing value), or declare the column to be text",
    Cause.BAD_WEIGHT: "give every row a weight that is zero or more",
}


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line of a CSV file or a row of a Parquet file, both counted from 1, and a column; 0 and "" mean all of them."""

    line: int = 0
    column: str = ""
    word: str = "line"

    def __str__(self) -> str:
        parts = [f"{self.word} {self.line}"] if self.line else []
        return ", ".join([*parts, f"column {self.column}"] if self.column else parts) or "the file"


@dataclass(frozen=True, slots=True)
class Problem:
    """One cause: how often it occurs, the first places where, and what was found at the first of them."""

    cause: Cause
    count: int
    places: tuple[Place, ...]
    example: str

    def __str__(self) -> str:
        more = f" and {self.count - len(self.places)} more" if self.count > len(self.places) else ""
        places = "; ".join(str(place) for place in self.places)
        return f"{self.cause} ({self.count}): {places}{more}: {ADVICE[self.cause]}"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import read, kept and found; every row read was either kept or put into quarantine.

    ``missing`` counts missing values by column, where there are any. ``notes`` are remarks that need no action.
    """

    file: Path
    rows_read: int
    rows_kept: int
    problems: tuple[Problem, ...] = ()
    missing: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def rows_quarantined(self) -> int:
        """Rows that were read and not kept."""
        return self.rows_read - self.rows_kept

    @property
    def fatal(self) -> bool:
        """Whether a problem concerns the whole file."""
        return any(problem.cause in FILE_CAUSES for problem in self.problems)

    def __str__(self) -> str:
        head = f"{self.file}: {self.rows_read} rows read, {self.rows_kept} kept"
        missing = [f"missing values in column {name}: {count}" for name, count in self.missing]
        return "\n  ".join([head, *map(str, self.problems), *missing, *self.notes])


@dataclass(slots=True)
class Findings:
    """Problems and notes as they are found, before they are sorted and cut."""

    word: str = "line"
    notes: list[str] = field(default_factory=list)
    _places: dict[Cause, list[tuple[Place, str]]] = field(default_factory=dict)
    _counts: dict[Cause, int] = field(default_factory=dict)

    def add(self, cause: Cause, example: str = "", *, line: int = 0, column: str = "") -> None:
        """Note that a cause occurs here."""
        self.add_all(cause, 1, [(Place(line, column, self.word), example)])

    def add_all(self, cause: Cause, count: int, first: Iterable[tuple[Place, str]]) -> None:
        """Note ``count`` occurrences of a cause and the first places with what was found there."""
        self._counts[cause] = self._counts.get(cause, 0) + count
        places = self._places.setdefault(cause, [])
        places.extend(first)
        if len(places) > 8 * MAX_PLACES:
            self._places[cause] = sorted(places)[:MAX_PLACES]

    def problems(self) -> tuple[Problem, ...]:
        """Return all problems, in the order of their causes' declaration."""
        return tuple(self._problem(cause) for cause in Cause if cause in self._counts)

    def _problem(self, cause: Cause) -> Problem:
        places = sorted(self._places[cause])[:MAX_PLACES]
        example = places[0][1]
        shown = example if len(example) <= _MAX_EXAMPLE else example[:_MAX_EXAMPLE] + "…"
        return Problem(cause, self._counts[cause], tuple(place for place, _ in places), shown)
