"""Files to tables: every row is kept or accounted for, every fault is named with its place.

``read_table`` is strict: any problem is an error that lists all of them. Given a quarantine file it is lenient: bad
rows go there together with their cause, and the others make the table; problems of the file as a whole are errors all
the same. All rows that share an id are bad, since nothing says which of them is right, unless ids are meant to repeat.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unseen.data.atomic import whole_file
from unseen.data.cells import Cells, Limits, Span, header_fault
from unseen.data.import_report import MAX_PLACES, Cause, Findings, ImportReport, Place
from unseen.data.inference import Typed, type_column, type_text
from unseen.data.parquet import read_frame, read_height, read_names
from unseen.data.readers_csv import original_lines, parse_csv
from unseen.data.schema import Column, Kind, Role, Schema
from unseen.data.table import Table, may_repeat, noted_schema
from unseen.errors import DataError, UsageError

DEFAULT_NAMES: Mapping[Role, tuple[str, ...]] = {
    Role.ID: ("id",),
    Role.LABEL: ("y", "label"),
    Role.WEIGHT: ("weight",),
}
_PARQUET_MAGIC = b"PAR1"
_CELL_BYTES = 8
_ALWAYS_BYTES = 256 << 20
"""Of memory, that any file may take."""


def read_table(
    path: Path,
    roles: Mapping[str, Role] | None = None,
    *,
    kinds: Mapping[str, Kind] | None = None,
    repeated_ids: bool = False,
    quarantine: Path | None = None,
    limits: Limits | None = None,
) -> tuple[Table, ImportReport]:
    """Return the table in a CSV or Parquet file, and the report of its import.

    Args:
        path: The file; its first bytes tell which format it has.
        roles: Roles of some columns by name. A role that is not given here goes to the column named ``id``, ``y`` or
            ``label``, or ``weight``; all other columns are features. A table that Unseen wrote has its own.
        kinds: Kinds of some columns by name; the others are found from the cells.
        repeated_ids: Whether several rows may share an id.
        quarantine: CSV file for bad rows: first line, causes, original text. It is written even if there are none.
            Without one, any problem is an error.
        limits: Sizes beyond which a file is refused.

    Raises:
        DataError: The file is absent or cannot be read, a limit is exceeded, or there are problems as described.
        UsageError: The roles or kinds do not fit the columns, or the quarantine file is the file to be read.
    """
    if quarantine is not None and quarantine.resolve() == path.resolve():
        raise UsageError(f"{quarantine} is the file to be read: put bad rows into another one")
    reading = _read(path, _wanted(path, roles, kinds, repeated_ids), limits or Limits())
    report = reading.report
    if reading.table is None or report.fatal or (quarantine is None and report.problems):
        raise DataError(_refusal(report))
    if quarantine is not None:
        _write_quarantine(quarantine, path, reading.cells, reading.bad)
    return reading.table, report


def inspect_file(
    path: Path,
    roles: Mapping[str, Role] | None = None,
    *,
    kinds: Mapping[str, Kind] | None = None,
    repeated_ids: bool = False,
    limits: Limits | None = None,
) -> ImportReport:
    """Return what an import of this file would find, without importing it; arguments as in ``read_table``.

    Raises:
        DataError: The file is absent or cannot be read, or a limit is exceeded.
        UsageError: The roles or kinds do not fit the columns.
    """
    return _read(path, _wanted(path, roles, kinds, repeated_ids), limits or Limits()).report


def assign_roles(names: Sequence[str], roles: Mapping[str, Role]) -> dict[str, Role]:
    """Return the role of every column: the given one, else the one its name stands for, else feature.

    Raises:
        UsageError: A role is given to a column that does not exist, two columns could have it, or none is the id.
    """
    _refuse_unknown(roles, names)
    assigned = {name: roles.get(name, Role.FEATURE) for name in names}
    for role, usual in DEFAULT_NAMES.items():
        candidates = [name for name in usual if name in names and name not in roles]
        if role in roles.values() or not candidates:
            continue
        if len(candidates) > 1:
            raise UsageError(
                f"columns {' and '.join(candidates)} could both be the {role}: say which by roles "
                "(in read_table: columns)"
            )
        assigned[candidates[0]] = role
    if Role.ID not in assigned.values():
        raise UsageError(
            f"no column is called id: say by roles (in read_table: columns) which of "
            f"{', '.join(names)} identifies people"
        )
    return assigned


def _refuse_unknown(wanted: Iterable[str], names: Sequence[str]) -> None:
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise UsageError(f"there is no column {', '.join(unknown)}: the columns are {', '.join(names)}")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the reader is told of the columns."""

    roles: Mapping[str, Role]
    kinds: Mapping[str, Kind]
    repeated_ids: bool


@dataclass(frozen=True, slots=True)
class _Reading:
    table: Table | None
    report: ImportReport
    cells: Cells
    bad: list[Span]


def _wanted(
    path: Path, roles: Mapping[str, Role] | None, kinds: Mapping[str, Kind] | None, repeated_ids: bool
) -> _Wanted:
    """Return what is known of the columns: what the caller says, then what the file records, if Unseen wrote it."""
    noted = noted_schema(path) if _is_parquet(path) else None
    columns = noted.columns if noted else ()
    known = with_recorded(roles or {}, {column.name: column.role for column in columns})
    recorded = {column.name: column.kind for column in columns if known.get(column.name) is column.role}
    return _Wanted(known, {**recorded, **(kinds or {})}, repeated_ids)


def with_recorded(roles: Mapping[str, Role], recorded: Mapping[str, Role]) -> dict[str, Role]:
    """Return roles as somebody gives them, and for other columns as the table records them."""
    known = dict(roles)
    for name, role in recorded.items():
        # A role that is given to another column is not this one's any more.
        if role is Role.FEATURE or role not in known.values():
            known.setdefault(name, role)
    return known


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}: check the path") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(path: Path, wanted: _Wanted, limits: Limits) -> _Reading:
    """Return the table of the rows that have no problem, unless the file as a whole has one."""
    cells = _parse(path, limits)
    findings = cells.findings
    rows_read = cells.frame.height + len(cells.malformed)
    if not cells.frame.width:
        return _Reading(None, ImportReport(path, rows_read, 0, findings.problems()), cells, [])
    try:
        schema, frame, marks = _type_columns(cells, wanted)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    bad = _bad_rows(cells, marks)
    kept = frame.filter(~_any(marks, frame.height))
    _check_kept(kept, schema, findings)
    report = ImportReport(path, rows_read, kept.height, findings.problems(), _missing(kept), tuple(findings.notes))
    return _Reading(None if report.fatal else Table.from_frame(kept, schema), report, cells, bad)


def _parse(path: Path, limits: Limits) -> Cells:
    try:
        return _parse_parquet(path, limits) if _is_parquet(path) else parse_csv(path, limits)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _parse_parquet(path: Path, limits: Limits) -> Cells:
    findings = Findings(word="row")
    names = read_names(path)
    if len(names) > limits.max_columns:
        raise DataError(
            f"{path} has {len(names)} columns, allowed are {limits.max_columns}: "
            f"leave some out, or raise the limit max_columns"
        )
    fault = header_fault(names)
    if fault:
        findings.add(Cause.BAD_HEADER, fault[1], column=fault[0])
        return Cells.unreadable(findings)
    _limit_expansion(path, read_height(path) * len(names), limits)
    frame = read_frame(path)
    _limit_cells(path, frame, limits)
    rows = np.arange(1, frame.height + 1)
    return Cells(True, frame, rows, rows, findings)


def _limit_expansion(path: Path, cells: int, limits: Limits) -> None:
    size, needed = path.stat().st_size, cells * _CELL_BYTES
    if needed > max(_ALWAYS_BYTES, limits.max_expansion * size):
        raise DataError(
            f"{path} has {cells} cells in {size} bytes and would take {needed / size:.0f} times as much memory, "
            f"allowed is {limits.max_expansion} times: leave out what is the same in all rows, "
            f"or raise the limit max_expansion"
        )


def _limit_cells(path: Path, frame: pl.DataFrame, limits: Limits) -> None:
    for column in frame.select(pl.col(pl.String)):
        longest = column.str.len_bytes().max()
        if isinstance(longest, int) and longest > limits.max_cell_bytes:
            raise DataError(
                f"{path}, column {column.name}: a cell has {longest} bytes, allowed are {limits.max_cell_bytes}: "
                f"shorten it, or raise the limit max_cell_bytes"
            )


# --- columns -----------------------------------------------------------------------------------------------------

_Marks = dict[Cause, NDArray[np.bool_]]


def _type_columns(cells: Cells, wanted: _Wanted) -> tuple[Schema, pl.DataFrame, _Marks]:
    """Return what the columns are and hold, and which rows have a problem, by cause."""
    frame, kinds = cells.frame, wanted.kinds
    assigned = assign_roles(frame.columns, wanted.roles)
    _refuse_unknown(kinds, frame.columns)
    for name, kind in kinds.items():
        Column(name, assigned[name], kind)  # refuses a kind that the role cannot have
    infer = type_column if cells.typed else type_text
    columns, values, marks = [], [], _Marks()
    for name, role in assigned.items():
        typed = infer(frame[name], role, kinds.get(name))
        columns.append(Column(name, role, typed.kind))
        values.append(typed.values.alias(name))
        for cause, wrong in _wrong(typed, role).items():
            if cause is Cause.DUPLICATE_ID and wanted.repeated_ids:
                _note_repeated(cells, wrong)
            else:
                _mark(cells, marks, cause, wrong, name)
        if typed.fault:
            cells.findings.add(typed.fault[0], typed.fault[1], column=name)
        cells.findings.notes.extend(typed.notes)
    return Schema(tuple(columns)), pl.DataFrame(values), marks


def _wrong(typed: Typed, role: Role) -> dict[Cause, pl.Series]:
    """Return the wrong cells of a column, those included that only its role forbids."""
    wrong = dict(typed.wrong)
    if role is Role.ID:
        wrong[Cause.DUPLICATE_ID] = _repeated(typed.values)
    if role is Role.WEIGHT:
        unusable = typed.values.is_null() | (typed.values < 0).fill_null(False)
        wrong[Cause.BAD_WEIGHT] = reduce(lambda left, mask: left & ~mask, typed.wrong.values(), unusable)
    return wrong


def _repeated(ids: pl.Series) -> pl.Series:
    """Return of which ids there are several."""
    if not may_repeat(ids.drop_nulls()):
        return pl.repeat(False, len(ids), eager=True)
    return ids.is_duplicated() & ids.is_not_null()


def _note_repeated(cells: Cells, repeated: pl.Series) -> None:
    if repeated.any():
        cells.findings.notes.append(f"rows that share their id with another one: {repeated.sum()}")


def _mark(cells: Cells, marks: _Marks, cause: Cause, wrong: pl.Series, name: str) -> None:
    rows = np.flatnonzero(wrong.to_numpy())
    if not len(rows):
        return
    marks.setdefault(cause, np.zeros(cells.frame.height, np.bool_))[rows] = True
    column, word = cells.frame[name], cells.findings.word
    first = [(Place(int(cells.first[row]), name, word), str(column[int(row)])) for row in rows[:MAX_PLACES]]
    cells.findings.add_all(cause, len(rows), first)


def _any(marks: _Marks, rows: int) -> pl.Series:
    return pl.Series(np.logical_or.reduce([np.zeros(rows, np.bool_), *marks.values()]))


def _bad_rows(cells: Cells, marks: _Marks) -> list[Span]:
    """Return all rows that cannot be kept, in the order of the file."""
    found = list(cells.malformed)
    for row in np.flatnonzero(_any(marks, cells.frame.height).to_numpy()):
        causes = tuple(cause for cause in Cause if cause in marks and marks[cause][row])
        found.append(Span(int(cells.first[row]), int(cells.last[row]), causes))
    return sorted(found)


def _check_kept(kept: pl.DataFrame, schema: Schema, findings: Findings) -> None:
    """Note what is wrong or remarkable with the rows that are left."""
    if not kept.height:
        findings.add(Cause.EMPTY_FILE, "no row can be kept")
        return
    if schema.label is None:
        return
    values = kept[schema.label.name].drop_nulls().unique().sort()
    if len(values) < 2:
        found = f"all are {values[0]}" if len(values) else "all are missing"
        findings.add(Cause.ONE_CLASS_LABEL, found, column=schema.label.name)
    elif schema.label.kind is not Kind.BOOLEAN and values.to_list() != [0, 1]:
        kinds = f"{schema.label.kind}, {len(values)} different values"
        findings.notes.append(f"label {schema.label.name} is not 0 or 1: {kinds}")


def _missing(kept: pl.DataFrame) -> tuple[tuple[str, int], ...]:
    return tuple((series.name, series.null_count()) for series in kept if series.null_count())


# --- what people get ---------------------------------------------------------------------------------------------


def _refusal(report: ImportReport) -> str:
    """Return the text of the error: all problems, without any cell."""
    lines = [f"{report.file}: nothing was imported; rows read: {report.rows_read}, problems: {len(report.problems)}"]
    lines += [f"  {problem}" for problem in report.problems]
    if not report.fatal:
        lines.append(f"  or read it leniently: {report.rows_kept} rows are kept, the others go into a quarantine file")
    return "\n".join(lines)


def _write_quarantine(target: Path, source: Path, cells: Cells, bad: list[Span]) -> None:
    """Write the first line, the causes and the original text of all bad rows."""
    originals = _original_rows(source, bad) if cells.typed else original_lines(source, bad)
    with whole_file(target) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        # RFC 4180, section 2; only then are fields quoted that hold a carriage return.
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow([cells.findings.word, "causes", "text"])
        for span, original in zip(bad, originals, strict=True):
            writer.writerow([span.first, "; ".join(span.causes), original])
        text.detach()  # flushes, and leaves the file open for the one who opened it


def _original_rows(path: Path, spans: Iterable[Span]) -> Iterator[str]:
    """Yield rows of a Parquet file as JSON."""
    frame = read_frame(path)
    for span in spans:
        yield frame[span.first - 1].write_ndjson().removesuffix("\n")
