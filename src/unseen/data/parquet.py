"""Parquet files as frames; whatever goes wrong in a file is one kind of error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from unseen.errors import DataError


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"there is no file {path}: check the path") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or first_line(error)}") from error
    # Polars panics, rather than raising its errors, on some damaged files.
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"{path} is no Parquet file, or a damaged one: {first_line(error)}") from error


def read_frame(path: Path) -> pl.DataFrame:
    """Return all rows and columns of a Parquet file.

    Raises:
        DataError: The file is absent, no Parquet file, or damaged.
    """
    with _translated(path):
        return pl.read_parquet(path, glob=False, hive_partitioning=False)


def read_names(path: Path) -> list[str]:
    """Return the names of the columns of a Parquet file, without reading its rows.

    Raises:
        DataError: As ``read_frame``.
    """
    with _translated(path):
        return list(pl.read_parquet_schema(path))


def read_height(path: Path) -> int:
    """Return how many rows a Parquet file says it has, without reading them.

    Raises:
        DataError: As ``read_frame``.
    """
    with _translated(path):
        return int(pl.scan_parquet(path, glob=False, hive_partitioning=False).select(pl.len()).collect().item())


def read_note(path: Path, key: str) -> str | None:
    """Return what a Parquet file's metadata hold under ``key``, if anything.

    Raises:
        DataError: As ``read_frame``.
    """
    with _translated(path):
        return pl.read_parquet_metadata(path).get(key)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).splitlines() or [type(error).__name__])[0]
