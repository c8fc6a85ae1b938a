"""CSV files, block by block: separators, quotes, encoding and shape are checked here, values are not.

Lines are read and decoded one at a time, so that each fault has its line number, and rows are turned into columns of
text in blocks, so that Python objects exist for one block only. Quotes follow RFC 4180; the separator is the one of
comma, semicolon and tab that is most frequent in the first line.
"""

from __future__ import annotations

import csv
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl

from unseen.data.cells import Cells, Limits, Span, header_fault
from unseen.data.import_report import Cause, Findings
from unseen.errors import DataError

BLOCK_ROWS = 1 << 14
BLOCK_BYTES = 1 << 26
SEPARATORS = ",;\t"
_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")


def parse_csv(path: Path, limits: Limits) -> Cells:
    """Return the cells of a CSV file as text, with what is wrong with its shape.

    Raises:
        DataError: A limit is exceeded.
    """
    findings = Findings()
    with path.open("rb") as file:
        start = file.read(len(_BOM))
        if not start:
            findings.add(Cause.EMPTY_FILE)
            return Cells.unreadable(findings)
        if start.startswith(_WIDE_BOMS):
            findings.add(Cause.NOT_TEXT, "the file starts like UTF-16")
            return Cells.unreadable(findings)
        file.seek(len(_BOM) if start == _BOM else 0)
        parser = _Parser(path, file, limits, findings)
        return parser.parse()


def original_lines(path: Path, spans: Iterable[Span]) -> Iterator[str]:
    """Yield the lines of each span (ascending, disjoint) as they are in the file; bytes that are no text escaped."""
    number = 0
    with path.open("rb") as file:
        for span in spans:
            lines = []
            while number < span.last:
                raw = file.readline()
                number += 1
                if number >= span.first:
                    lines.append(raw)
            text = b"".join(lines).decode(errors="backslashreplace")
            yield text.removeprefix("\ufeff").removesuffix("\n").removesuffix("\r")


class _Lines:
    """The decoded lines of a file, and the size and soundness of those that the row in progress is made of."""

    def __init__(self, path: Path, file: IO[bytes], limits: Limits) -> None:
        self._path, self._file, self._limit = path, file, limits.max_line_bytes
        self._again: deque[bytes] = deque()
        self.number = 0
        self.begin_row()

    def begin_row(self) -> None:
        self._row: list[bytes] = []
        self.row_bytes, self.sound = 0, True

    def give_back(self) -> None:
        """Read all lines of the row in progress once more, except its first."""
        self.number -= len(self._row) - 1
        self._again.extendleft(reversed(self._row[1:]))

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        raw = self._again.popleft() if self._again else self._file.readline(self._limit + 1)
        if not raw:
            raise StopIteration
        self._row.append(raw)
        self.number += 1
        self.row_bytes += len(raw)
        if self.row_bytes > self._limit:
            raise DataError(
                f"{self._path}, line {self.number}: the row that ends here has more than {self._limit} bytes: "
                f"close the quote that may be open before it, or raise the limit max_line_bytes"
            )
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self.sound = False
            return raw.decode(errors="backslashreplace")


class _Parser:
    """One pass over one file."""

    def __init__(self, path: Path, file: IO[bytes], limits: Limits, findings: Findings) -> None:
        self._path, self._limits, self._findings = path, limits, findings
        self._lines = _Lines(path, file, limits)
        self._reader = csv.reader(self._lines, delimiter=_separator(file, limits), strict=True)
        self._names: list[str] = []
        self._frames: list[pl.DataFrame] = []
        self._first = array("q")
        self._last = array("q")
        self._malformed: list[Span] = []
        self._blank = 0

    def parse(self) -> Cells:
        if not self._read_header():
            return Cells.unreadable(self._findings)
        block: list[list[str]] = []
        size = 0
        for row in self._rows():
            block.append(row)
            size += self._lines.row_bytes
            if len(block) == BLOCK_ROWS or size > BLOCK_BYTES:
                self._flush(block)
                block, size = [], 0
        self._flush(block)
        if self._blank:
            self._findings.notes.append(f"blank lines passed over: {self._blank}")
        return Cells(
            False,
            pl.concat(self._frames),
            np.frombuffer(self._first, np.int64),
            np.frombuffer(self._last, np.int64),
            self._findings,
            self._malformed,
        )

    def _read_header(self) -> bool:
        """Take the names of the columns from the first row; return whether it has any that can be used."""
        try:
            self._names = [name.strip() for name in next(self._reader)]
        except csv.Error as error:
            self._findings.add(Cause.BAD_HEADER, str(error), line=1)
            return False
        if len(self._names) > self._limits.max_columns:
            raise DataError(
                f"{self._path}, line 1: the header has {len(self._names)} columns, allowed are "
                f"{self._limits.max_columns}: leave some out, or raise the limit max_columns"
            )
        if not self._lines.sound:
            self._findings.add(Cause.NOT_TEXT, "the first line holds bytes that are no text", line=1)
            return False
        fault = header_fault(self._names)
        if fault:
            self._findings.add(Cause.BAD_HEADER, fault[1], line=1, column=fault[0])
        return fault is None

    def _rows(self) -> Iterator[list[str]]:
        """Yield the rows that are well-formed, and note on which lines each of them stands."""
        width = len(self._names)
        while True:
            first = self._lines.number + 1
            self._lines.begin_row()
            try:
                row = next(self._reader)
            except StopIteration:
                return
            except csv.Error as error:
                # A quote left open makes one bad line, not a bad rest of the file.
                several = self._lines.number > first
                self._lines.give_back()
                self._refuse(first, *_quoting_fault(str(error), several=several))
                continue
            if len(row) == width and self._lines.sound and self._lines.row_bytes <= self._limits.max_cell_bytes:
                self._first.append(first)
                self._last.append(self._lines.number)
                yield row
            elif row:
                yield from self._judge(row, first)
            else:
                self._blank += 1

    def _judge(self, row: list[str], first: int) -> Iterator[list[str]]:
        """Yield a row that is merely long; refuse any other."""
        longest = max(len(cell.encode()) for cell in row)
        if not self._lines.sound:
            self._refuse(first, Cause.BAD_ENCODING, " ".join(row))
        elif len(row) != len(self._names):
            self._refuse(first, Cause.RAGGED_ROW, f"{len(row)} cells, expected {len(self._names)}")
        elif longest > self._limits.max_cell_bytes:
            self._refuse(first, Cause.LONG_CELL, f"{longest} bytes, allowed are {self._limits.max_cell_bytes}")
        else:
            self._first.append(first)
            self._last.append(self._lines.number)
            yield row

    def _refuse(self, first: int, cause: Cause, example: str) -> None:
        self._findings.add(cause, example, line=first)
        self._malformed.append(Span(first, self._lines.number, (cause,)))

    def _flush(self, block: list[list[str]]) -> None:
        """Turn rows of text into columns of text."""
        columns = list(zip(*block, strict=True)) if block else [()] * len(self._names)
        self._frames.append(
            pl.DataFrame(
                [pl.Series(name, cells, dtype=pl.String) for name, cells in zip(self._names, columns, strict=True)]
            )
        )


def _separator(file: IO[bytes], limits: Limits) -> str:
    """Return the separator that is most frequent in the first line outside quotes; leave the file where it was."""
    here = file.tell()
    line = file.readline(limits.max_line_bytes)
    file.seek(here)
    unquoted = b"".join(line.split(b'"')[::2])
    return max(SEPARATORS, key=lambda mark: unquoted.count(mark.encode()))


def _quoting_fault(error: str, *, several: bool) -> tuple[Cause, str]:
    """Return the cause behind an error of the csv module, and what it said."""
    if error.startswith("field larger") and not several:
        return Cause.LONG_CELL, error
    return Cause.BAD_QUOTES, error
