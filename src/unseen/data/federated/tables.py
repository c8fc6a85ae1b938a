"""Tables of clients that have the same columns and different rows: frames, or CSV and Parquet files, one per client.

Features are numbers or truth values; empty cells are missing values (NaN). Every client has the same features, in any
order; whoever has others, or text where there should be numbers, is told by client and column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from unseen.data.cells import Limits
from unseen.data.federated.clients import FederatedData, Labelled
from unseen.data.inference import type_text
from unseen.data.parquet import read_frame
from unseen.data.readers_csv import parse_csv
from unseen.data.schema import Role
from unseen.errors import DataError, UsageError

_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True, slots=True, eq=False)
class ClientTables:
    """Clients with rows of one kind: inputs (rows, columns) and labels (rows,) are 64-bit floats."""

    columns: tuple[str, ...]
    """Names of the features, in the order of the inputs."""
    data: FederatedData


def tables_from_frames(
    frames: Mapping[str, pl.DataFrame], *, label: str, columns: Sequence[str] | None = None, name: str = "tables"
) -> ClientTables:
    """Return the clients of a mapping from their ids to frames.

    Args:
        frames: One frame a client.
        label: The column to be predicted.
        columns: The features; all columns but the label of the first frame if ``None``. Then every client has to have
            exactly these; if they are given, further columns are passed over.
        name: What the data are, for messages.

    Raises:
        DataError: There is no client, or a client's columns are not what they have to be.
    """
    if not frames:
        raise DataError(f"{name}: there are no clients")
    first = next(iter(frames.values()))
    chosen = tuple(columns) if columns is not None else tuple(own for own in first.columns if own != label)
    found = {
        client: frame_rows(frame, chosen, label, client=client, exact=columns is None)
        for client, frame in frames.items()
    }
    return ClientTables(chosen, FederatedData.of(name, found))


def read_tables(where: Path | Mapping[str, Path], *, label: str, columns: Sequence[str] | None = None) -> ClientTables:
    """Return the clients of a folder of CSV and Parquet files, each named after its client, or of files by client.

    Raises:
        DataError: As ``tables_from_frames``, or a file cannot be read.
        UsageError: The folder holds two files of one client.
    """
    paths = _found(where) if isinstance(where, Path) else where
    frames = {client: read_rows(path) for client, path in paths.items()}
    return tables_from_frames(
        frames, label=label, columns=columns, name=str(where) if isinstance(where, Path) else "tables"
    )


def frame_rows(
    frame: pl.DataFrame, columns: Sequence[str], label: str, *, client: str, exact: bool = False
) -> Labelled:
    """Return one client's inputs (rows, columns) and labels (rows,): what a deployed client trains on.

    Raises:
        DataError: A column is missing, or holds anything but numbers, or (``exact``) there is one more.
    """
    wanted = [*columns, label]
    missing = [name for name in wanted if name not in frame.columns]
    further = [name for name in frame.columns if name not in wanted]
    if missing or (exact and further):
        what = f"has no column {', '.join(missing)}" if missing else f"has a further column {', '.join(further)}"
        raise DataError(
            f"client {client} {what}: all clients need the same columns, {', '.join(columns)} and the label {label}; "
            "name the features with `columns` if some are to be left out"
        )
    numbers = [_numbers(frame[name], client) for name in wanted]
    labels = numbers.pop()
    absent = np.flatnonzero(np.isnan(labels))
    if len(absent):
        raise DataError(
            f"client {client}, column {label}, row {absent[0] + 1}: the label is missing; leave the row out"
        )
    inputs = np.column_stack(numbers) if numbers else np.empty((frame.height, 0))
    return Labelled(inputs, labels)


def read_rows(path: Path, limits: Limits | None = None) -> pl.DataFrame:
    """Return the columns of a CSV or Parquet file, those of a CSV file as the numbers, truth values or text they hold.

    Raises:
        DataError: There is no such file, it is damaged, or a row of it is.
    """
    if path.suffix.lower() == ".parquet":
        return read_frame(path)
    try:
        cells = parse_csv(path, limits or Limits())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if problems := cells.findings.problems():
        raise DataError(f"{path}: {'; '.join(str(problem) for problem in problems)}")
    columns = []
    for column in cells.frame:
        typed = type_text(column, Role.FEATURE)
        for cause, wrong in typed.wrong.items():
            if wrong.any():
                line = int(cells.first[int(wrong.arg_max() or 0)])
                raise DataError(f"{path}, line {line}, column {column.name}: {cause}, expected {typed.kind}")
        columns.append(typed.values.alias(column.name))
    return pl.DataFrame(columns)


def _numbers(column: pl.Series, client: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    nothing = column.dtype == pl.String and column.null_count() == len(column)
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null) or nothing):
        raise DataError(
            f"client {client}, column {column.name}: expected numbers, found {column.dtype}; make numbers of it, the "
            "same ones at every client, or leave it out"
        )
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy().astype(np.float64)


def _found(folder: Path) -> dict[str, Path]:
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
    clients = {path.stem: path for path in paths}
    if len(clients) != len(paths):
        twice = next(path for path in paths if clients[path.stem] != path)
        raise UsageError(f"{folder}: two files are called {twice.stem}; each client has one, {' or '.join(_SUFFIXES)}")
    if not clients:
        raise DataError(f"{folder} holds no files *.csv or *.parquet: put one there for each client")
    return clients
