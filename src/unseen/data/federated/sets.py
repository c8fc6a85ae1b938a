"""Opens federated data by what people call it: the name of an image set, or the path of a file or folder."""

from __future__ import annotations

from pathlib import Path

from unseen.data.federated.clients import FederatedData, Labelled
from unseen.data.federated.hdf5_clients import read_hdf5
from unseen.data.federated.images import SETS, load_images
from unseen.data.federated.leaf import read_leaf
from unseen.data.federated.notation import parse_partitioner
from unseen.data.federated.partition import deal
from unseen.data.federated.sqlite_clients import read_sqlite
from unseen.errors import DataError, UsageError

SPLIT = "digits_only_train"
"""The part of a SQLite file that is read unless another one is asked for."""


def open_clients(source: str, split: str | None = None) -> FederatedData:
    """Return the clients that a file has by itself: LEAF's JSON (a file or a folder), TFF's HDF5 or SQLite.

    Args:
        source: Its path.
        split: Which part of a SQLite file.

    Raises:
        UsageError: It is a file of another kind, or has no such split.
        DataError: It is not there, or is not what its kind has to be.
    """
    path = Path(source)
    if not path.exists():
        raise DataError(f"{source} is neither an image set ({', '.join(SETS)}) nor a file or folder that is there")
    if split is not None and path.suffix not in {".sqlite", ".db"}:
        raise UsageError(f"only image sets and SQLite files have splits; {path} is not one of these")
    if path.is_dir() or path.suffix == ".json":
        return read_leaf(path)
    if path.suffix in {".h5", ".hdf5"}:
        return read_hdf5(path)
    if path.suffix in {".sqlite", ".db"}:
        return read_sqlite(path, split or SPLIT)
    raise UsageError(f"{path}: expected .json or a folder (LEAF), .h5 or .hdf5 (HDF5), .sqlite or .db (SQLite)")


def open_dealt(source: str, how: str, clients: int, *, seed: int = 0, split: str | None = None) -> FederatedData:
    """Return an image set, or all examples of a file, dealt out anew as ``how`` says (``dirichlet:0.5``).

    Raises:
        UsageError: There is no such way, or the numbers do not allow it.
        DataError: As ``open_clients``, or the image set is not found.
    """
    partitioner = parse_partitioner(how)
    return deal(_pooled(source, split), partitioner, clients, seed=seed, name=f"{source}, {how}")


def _pooled(source: str, split: str | None) -> Labelled:
    if source not in SETS:
        return open_clients(source, split).pooled()
    images = load_images(source)
    halves = {"train": images.train, "test": images.test}
    if (split or "train") not in halves:
        raise UsageError(f"the image set {source} has no split {split!r}; there are: train, test")
    return halves[split or "train"]
