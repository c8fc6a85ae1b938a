"""Immutable tables of typed columns, identified by the SHA-256 digest of their content.

Values have one form only: 64-bit integers, finite 64-bit floats without negative zero, UTF-8 text, truth values, and
missing. Whatever else means "missing" or "the same number" in a file is brought into this form on the way in, so that
equal tables have equal digests whatever file, chunking or compression they come from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from unseen.codec import read_json
from unseen.data.atomic import whole_file
from unseen.data.parquet import first_line, read_frame, read_note
from unseen.data.schema import Column, Kind, Role, Schema
from unseen.errors import DataError, UsageError

BLOCK_ROWS = 1 << 18
DTYPES = {Kind.INTEGER: pl.Int64(), Kind.REAL: pl.Float64(), Kind.TEXT: pl.String(), Kind.BOOLEAN: pl.Boolean()}
ROW = "row"
"""What the column of row numbers is called that takes the place of ids."""
_METADATA = "unseen.table"
_FORMAT = 1


class Table:
    """Typed columns about people, one row each; never changes. Two tables are equal if their content is."""

    __slots__ = ("_digest", "_frame", "_schema")

    def __init__(self, schema: Schema, frame: pl.DataFrame) -> None:
        """Wrap a frame that is already canonical; ``from_frame`` makes any frame so."""
        self._schema = schema
        self._frame = frame
        self._digest: str | None = None

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, schema: Schema) -> Table:
        """Return the table of the columns that ``schema`` names, taken from ``frame`` and brought into canonical form.

        Raises:
            DataError: A column is absent, holds infinite values or such as its kind forbids, or an id is missing.
        """
        absent = [name for name in schema.names if name not in frame.columns]
        if absent:
            raise DataError(f"the data lacks column {', '.join(absent)}: it has {', '.join(frame.columns)}")
        table = cls(schema, pl.DataFrame([_canonical(frame[column.name], column) for column in schema.columns]))
        nameless = table._frame[schema.id.name].null_count()
        if nameless:
            raise DataError(
                f"column {schema.id.name}: {nameless} of {table.rows} rows have no id; remove or complete them"
            )
        return table

    @property
    def schema(self) -> Schema:
        """Names, roles and kinds of the columns."""
        return self._schema

    @property
    def rows(self) -> int:
        """Number of rows."""
        return self._frame.height

    @property
    def digest(self) -> str:
        """SHA-256 of schema and values, as 64 hexadecimal digits; the order of rows and columns counts."""
        if self._digest is None:
            self._digest = _digest(self._schema, self._frame)
        return self._digest

    def frame(self) -> pl.DataFrame:
        """Return the columns for reading; changing the returned frame does not change the table."""
        return self._frame.clone()

    def take(self, indices: NDArray[np.int64]) -> Table:
        """Return the rows at ``indices``, in their order; an index may occur more than once.

        Raises:
            UsageError: An index is negative or not below ``rows``.
        """
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self.rows:
            raise UsageError(f"rows are numbered 0 to {self.rows - 1}, found {indices.min()} to {indices.max()}")
        return Table(self._schema, self._frame[pl.Series(indices, dtype=pl.Int64)])

    def spread(self, indices: NDArray[np.int64]) -> Table:
        """Return the rows at ``indices``; at −1 stands a row without values. Row numbers take the place of the id.

        Raises:
            UsageError: An index is below −1 or not below ``rows``.
        """
        if len(indices) and not -1 <= int(indices.min()) <= int(indices.max()) < self.rows:
            raise UsageError(f"rows are numbered 0 to {self.rows - 1}, found {indices.min()} to {indices.max()}")
        places = pl.Series(indices, dtype=pl.Int64)
        places = places.set(places < 0, None)
        return Table(self._schema, self._frame.select(pl.all().gather(places))).numbered()

    def numbered(self) -> Table:
        """Return the table with the numbers of its rows, from 0, in place of its ids; their column is called row.

        If another column has that name, underscores are appended.
        """
        name, old = ROW, self._schema.id
        while any(column.name == name for column in self._schema.columns if column is not old):
            name += "_"
        number = Column(name, Role.ID, Kind.INTEGER)
        schema = Schema(tuple(number if column is old else column for column in self._schema.columns))
        numbers = pl.Series(name, np.arange(self.rows))
        columns = [numbers if column is old else self._frame[column.name] for column in self._schema.columns]
        return Table(schema, pl.DataFrame(columns))

    def select(self, features: Sequence[str]) -> Table:
        """Return the table with only these features, in the table's order, beside its id, label and weight.

        Raises:
            UsageError: One of them is not a feature.
        """
        for column in self._schema.pick(features):
            if column.role is not Role.FEATURE:
                raise UsageError(f"column {column.name} is the {column.role}, not a feature")
        others = [column.name for column in self._schema.columns if column.role is not Role.FEATURE]
        return self._keep(self._schema.keep([*others, *features]))

    def leave_out(self, names: Iterable[str]) -> Table:
        """Return the table without some of its features; names of other columns change nothing.

        Raises:
            UsageError: There is no such column.
        """
        left_out = {self._schema.column(name).name for name in names}
        return self.select([name for name in self._schema.feature_names if name not in left_out])

    def without(self, role: Role) -> Table:
        """Return the table without the columns of this role.

        Raises:
            UsageError: The role is the id, without which no table can be.
        """
        return self._keep(self._schema.keep(column.name for column in self._schema.columns if column.role is not role))

    def with_features(self, matrix: NDArray[np.float64], names: Sequence[str]) -> Table:
        """Return the table with its features replaced by the columns of ``matrix`` (rows × names); NaN is missing.

        Raises:
            UsageError: The shape does not fit, or a name is taken.
            DataError: The matrix holds infinite values.
        """
        if matrix.shape != (self.rows, len(names)):
            raise UsageError(f"expected a matrix of {self.rows} rows × {len(names)} columns, found {matrix.shape}")
        kept = self.without(Role.FEATURE)
        schema = Schema((*kept.schema.columns, *(Column(name, Role.FEATURE, Kind.REAL) for name in names)))
        features = [pl.Series(name, values) for name, values in zip(names, matrix.T, strict=True)]
        return Table.from_frame(kept._frame.with_columns(features), schema)

    def matrix(self, columns: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Return the features, or ``columns``, as float64, shape (rows, columns); missing is NaN, true is 1.

        Integers beyond 2^53 are rounded.

        Raises:
            UsageError: There is no such column, or it holds text.
        """
        picked = self._schema.features if columns is None else self._schema.pick(columns)
        result = np.empty((self.rows, len(picked)))
        for position, column in enumerate(picked):
            result[:, position] = self._numbers(column)
        return result

    def integers(self, columns: Sequence[str]) -> NDArray[np.int64]:
        """Return ``columns`` of integers or truth values as they are, shape (rows, columns); true is 1.

        Raises:
            UsageError: There is no such column, or it holds something else.
            DataError: A value is missing.
        """
        for column in self._schema.pick(columns):
            if column.kind not in (Kind.INTEGER, Kind.BOOLEAN):
                raise UsageError(
                    f"column {column.name} holds {column.kind}, expected integers or truth values: "
                    "write amounts in cents, for instance"
                )
            lacking = self._frame[column.name].null_count()
            if lacking:
                raise DataError(f"column {column.name}: {lacking} of {self.rows} values are missing; complete them")
        return self._frame.select(pl.col(columns).cast(pl.Int64)).to_numpy()

    def ids(self) -> list[bytes]:
        """Return the ids as UTF-8 text, integers in decimal, so that 17 here matches "17" at another party.

        Nothing else is unified: not case, nor blanks, nor Unicode forms.
        """
        return [text.encode() for text in self.texts(self._schema.id.name).to_list()]

    def id_buffer(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return what ``ids`` gives in bulk: the bytes of all ids, one after the other, and their rows + 1 offsets."""
        return text_buffer(self.texts(self._schema.id.name))

    def texts(self, column: str) -> pl.Series:
        """Return a column of text or integers as text, integers in decimal; missing values are null.

        Raises:
            UsageError: There is no such column, or it holds something else.
        """
        kind = self._schema.column(column).kind
        if kind not in (Kind.TEXT, Kind.INTEGER):
            raise UsageError(f"column {column} holds {kind}, expected text or integer")
        return self._frame[column].cast(pl.String)

    def label(self) -> NDArray[np.float64]:
        """Return the label as float64, shape (rows,); missing is NaN, true is 1.

        Raises:
            UsageError: The table has no label, or a label of text.
        """
        return self._numbers(self._label_column())

    def label_missing(self) -> NDArray[np.bool_]:
        """Return for every row whether its label is missing.

        Raises:
            UsageError: The table has no label.
        """
        return self._frame[self._label_column().name].is_null().to_numpy()

    def weights(self) -> NDArray[np.float64]:
        """Return the weight of every row, shape (rows,); all ones if the table has no weight column."""
        return np.ones(self.rows) if self._schema.weight is None else self._numbers(self._schema.weight)

    def write(self, path: Path) -> None:
        """Write the table to ``path`` as Parquet (zstd) with schema and digest; there is never half a file there.

        Raises:
            DataError: The file cannot be written.
        """
        note = json.dumps({"format": _FORMAT, "schema": self._schema.to_json(), "digest": self.digest})
        with whole_file(path) as file:
            try:
                self._frame.write_parquet(
                    file, compression="zstd", row_group_size=BLOCK_ROWS, metadata={_METADATA: note}
                )
            except pl.exceptions.PolarsError as error:  # in which polars hides the system's own, such as a full disk
                raise DataError(f"{path} cannot be written: {first_line(error)}") from error

    @classmethod
    def read(cls, path: Path) -> Table:
        """Return the table that ``write`` put at ``path``.

        Raises:
            DataError: There is no such file, it was not written by ``write``, or its content was changed since.
        """
        schema, digest = _parse_note(path, read_note(path, _METADATA))
        frame = read_frame(path)
        table = cls.from_frame(frame, schema)
        if table.digest != digest:
            raise DataError(
                f"{path}: the content has SHA-256 {table.digest}, recorded is {digest}: "
                f"the file was changed or damaged; import the data again"
            )
        return table

    def _keep(self, schema: Schema) -> Table:
        return Table(schema, self._frame.select(schema.names))

    def _label_column(self) -> Column:
        if self._schema.label is None:
            raise UsageError(f"the table has no label: its columns are {', '.join(self._schema.names)}")
        return self._schema.label

    def _numbers(self, column: Column) -> NDArray[np.float64]:
        if column.kind is Kind.TEXT:
            raise UsageError(
                f"column {column.name} holds text, expected numbers: encode it as numbers first, or leave it out"
            )
        return self._frame[column.name].cast(pl.Float64).to_numpy()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __len__(self) -> int:
        return self.rows

    def __repr__(self) -> str:
        return f"Table({self.rows} rows, columns {', '.join(self._schema.names)})"


# --- canonical form ----------------------------------------------------------------------------------------------


def _canonical(values: pl.Series, column: Column) -> pl.Series:
    """Return values in the one form that tables hold."""
    try:
        made = values.cast(DTYPES[column.kind])
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"column {column.name}: expected {column.kind}, found {values.dtype}: {first_line(error)}"
        ) from error
    # Such a cast would cut off fractions, and take any number for true.
    lossy = values.dtype.is_numeric() and column.kind in (Kind.INTEGER, Kind.BOOLEAN)
    if lossy and (made.cast(pl.Float64) != values.cast(pl.Float64)).any():
        raise DataError(f"column {column.name}: expected {column.kind}, found other numbers: declare it real")
    if column.kind is not Kind.REAL:
        return made.rechunk()
    if made.is_infinite().any():
        raise DataError(f"column {column.name} holds infinite values: make them missing or finite")
    made = made.fill_nan(None)
    # Negative zero equals zero, and so has to have its bytes.
    return made.set((made == 0.0).fill_null(False), 0.0).alias(column.name).rechunk()


def _digest(schema: Schema, frame: pl.DataFrame) -> str:
    """Return the SHA-256 of the canonical bytes: the schema, the number of rows, then blocks of rows, column by column.

    A column's block is the packed bits that tell which values are present, then the values, absent ones as zero; text
    is given by its byte lengths (64 bits) and its bytes. All numbers are little-endian.
    """
    state = hashlib.sha256(b"unseen/table/1\0")
    head = schema.to_json().encode()
    state.update(len(head).to_bytes(8, "little") + head + frame.height.to_bytes(8, "little"))
    for block in frame.iter_slices(BLOCK_ROWS):
        for column in schema.columns:
            for part in _block_bytes(block[column.name], column.kind):
                state.update(part)
    return state.hexdigest()


def _block_bytes(values: pl.Series, kind: Kind) -> tuple[bytes, bytes, bytes]:
    present = np.packbits(values.is_not_null().to_numpy(), bitorder="little").tobytes()
    match kind:
        case Kind.TEXT:
            lengths = values.str.len_bytes().fill_null(0).to_numpy().astype("<u8")
            return present, lengths.tobytes(), _joined(values)
        case Kind.BOOLEAN:
            return present, np.packbits(values.fill_null(False).to_numpy(), bitorder="little").tobytes(), b""
        case Kind.INTEGER:
            return present, values.fill_null(0).to_numpy().astype("<i8", copy=False).tobytes(), b""
        case Kind.REAL:
            return present, values.fill_null(0.0).to_numpy().astype("<f8", copy=False).tobytes(), b""


def _joined(texts: pl.Series) -> bytes:
    """Return the bytes of all texts that are present, one after the other."""
    joined = texts.str.join("", ignore_nulls=True).item()
    return str(joined or "").encode()


def may_repeat(values: pl.Series) -> bool:
    """Return whether two values have one hash; that takes a tenth of the time of finding equal ones."""
    hashes = np.sort(values.hash().to_numpy())
    return bool((hashes[1:] == hashes[:-1]).any())


def text_buffer(texts: pl.Series) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the UTF-8 bytes of all texts, one after the other, and where each begins; one more than there are texts.

    Absent texts count as empty. Takes 10 ns for a text of 16 bytes.
    """
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(texts.str.len_bytes().fill_null(0).to_numpy(), out=offsets[1:])
    content = np.empty(offsets[-1], np.uint8)
    # In blocks, since Python's text between both takes up to four bytes for a character.
    for start in range(0, len(texts), BLOCK_ROWS):
        block = texts.slice(start, BLOCK_ROWS)
        content[offsets[start] : offsets[start + len(block)]] = np.frombuffer(_joined(block), np.uint8)
    return content, offsets


# --- files -------------------------------------------------------------------------------------------------------


def noted_schema(path: Path) -> Schema | None:
    """Return the schema in a Parquet file that ``Table.write`` made; ``None`` if somebody else did.

    Raises:
        DataError: The file cannot be read, or its record is damaged.
    """
    note = read_note(path, _METADATA)
    return None if note is None else _parse_note(path, note)[0]


def _parse_note(path: Path, note: str | None) -> tuple[Schema, str]:
    """Return the schema and the digest that ``write`` recorded."""
    if note is None:
        raise DataError(f"{path} is a Parquet file, but not a table of Unseen: import it with read_table")
    try:
        record = read_json(note)
        form, schema, digest = record["format"], record["schema"], str(record["digest"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: the record of the table's schema is damaged; import the data again") from error
    if form != _FORMAT:
        raise DataError(
            f"{path} is a table of format {form}, this version reads {_FORMAT}: upgrade, or import it again"
        )
    return Schema.from_json(schema), digest
