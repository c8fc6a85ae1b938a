"""Clients in a SQLite file as TensorFlow Federated writes it, read one at a time.

A table ``examples`` has ``split_name``, ``client_id`` and ``serialized_example_proto``, a ``tf.train.Example``; a table
``client_metadata`` has ``client_id``, ``split_name`` and ``num_examples``. Here an example is an image with a label, as
in federated EMNIST: ``pixels``, 784 floats, and ``label``, one integer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unseen.data.federated.clients import Array, FederatedData, Labelled, Rows
from unseen.data.federated.tf_example import Feature, parse_example
from unseen.errors import DataError, UsageError
from unseen.ids import ClientId

SHAPE = (28, 28)
COLUMNS = {
    "examples": {"split_name", "client_id", "serialized_example_proto"},
    "client_metadata": {"split_name", "client_id", "num_examples"},
}
_AT_ONCE = 500
"""Rows asked for in one query."""


def read_sqlite(path: Path, split: str) -> FederatedData:
    """Return the clients of a split, such as ``digits_only_train``, in ascending order of their ids.

    The places of all examples are looked up once; whether the file has an index makes no difference after that.

    Raises:
        UsageError: There is no such split.
        DataError: The file cannot be read, or is not as TensorFlow Federated writes it.
    """
    with _opened(path) as database:
        _check_columns(database, path)
        rows = _rows(database, split)
        if not rows:
            splits = [name for (name,) in database.execute("SELECT DISTINCT split_name FROM client_metadata")]
            raise UsageError(f"{path} has no split {split!r}; there are: {', '.join(sorted(splits))}")
        _check_counts(database, path, split, rows)
    sizes = tuple(len(own) for own in rows.values())
    return FederatedData(f"{path.stem}, {split}", tuple(rows), sizes, Examples(path, rows))


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Images and labels in such a file; it is open only while a client is read."""

    path: Path
    rows: Mapping[ClientId, Rows]
    """Row ids in the table ``examples``."""

    def read(self, client: ClientId) -> Labelled:
        """Return images of shape (n, 28, 28) as 32-bit floats, and labels as 64-bit integers.

        Raises:
            DataError: An example is not an image with a label.
        """
        size = len(self.rows[client])
        pixels, labels = np.empty((size, *SHAPE), np.float32), np.empty(size, np.int64)
        for number, content in enumerate(self._contents(client)):
            try:
                pixels[number], labels[number] = _image(parse_example(content))
            except DataError as error:
                raise DataError(f"{self.path}, client {client}, example {number + 1}: {error}") from error
        return Labelled(pixels, labels)

    def labels(self, client: ClientId) -> Array:
        """Return its labels; they lie inside the examples, so all of these are read."""
        return self.read(client).labels

    def _contents(self, client: ClientId) -> list[bytes]:
        rows = self.rows[client].tolist()
        query = "SELECT serialized_example_proto FROM examples WHERE rowid IN ({}) ORDER BY rowid"
        found: list[bytes] = []
        with _opened(self.path) as database:
            for begin in range(0, len(rows), _AT_ONCE):
                part = rows[begin : begin + _AT_ONCE]
                found += [content for (content,) in database.execute(query.format(", ".join("?" * len(part))), part)]
        if len(found) != len(rows) or not all(isinstance(content, bytes) for content in found):
            raise DataError(f"{self.path}: examples of client {client} have changed, or are no BLOBs")
        return found


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            yield database
    except sqlite3.Error as error:
        raise DataError(f"{path} cannot be read as a SQLite file: {error}") from error


def _check_columns(database: sqlite3.Connection, path: Path) -> None:
    for table, expected in COLUMNS.items():
        found = {name for (name,) in database.execute("SELECT name FROM pragma_table_info(?)", (table,))}
        if missing := sorted(expected - found):
            raise DataError(f"{path}: table {table} has no {', '.join(missing)}; is it a client file of TFF?")


def _rows(database: sqlite3.Connection, split: str) -> dict[ClientId, Rows]:
    """Return the row ids of every client's examples, both in ascending order."""
    query = "SELECT client_id, rowid FROM examples WHERE split_name = ? ORDER BY client_id, rowid"
    found: dict[ClientId, list[int]] = {}
    for client, row in database.execute(query, (split,)):
        found.setdefault(ClientId(client), []).append(row)
    return {client: np.array(rows, np.int64) for client, rows in found.items()}


def _check_counts(database: sqlite3.Connection, path: Path, split: str, rows: Mapping[ClientId, Rows]) -> None:
    query = "SELECT client_id, num_examples FROM client_metadata WHERE split_name = ?"
    told = {client: count for client, count in database.execute(query, (split,)) if count}
    for client in sorted(told.keys() | rows.keys()):
        found = len(rows.get(ClientId(client), ()))
        if told.get(client, 0) != found:
            raise DataError(
                f"{path}, {split}: client {client} has {found} examples, but client_metadata says "
                f"{told.get(client, 0)}; the file is damaged, get it again"
            )


def _image(features: Mapping[str, Feature]) -> tuple[Array, int]:
    pixels, label = features.get("pixels"), features.get("label")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.float32 or pixels.size != SHAPE[0] * SHAPE[1]:
        raise DataError(f"expected a feature pixels of {SHAPE[0] * SHAPE[1]} floats, found {_told(features)}")
    if not isinstance(label, np.ndarray) or label.dtype != np.int64 or label.size != 1:
        raise DataError(f"expected a feature label of one integer, found {_told(features)}")
    return pixels.reshape(SHAPE), int(label[0])


def _told(features: Mapping[str, Feature]) -> str:
    """Return which features there are."""
    kinds = {name: value.dtype if isinstance(value, np.ndarray) else "texts" for name, value in features.items()}
    return ", ".join(f"{name} ({len(features[name])} {kind})" for name, kind in kinds.items()) or "none"
