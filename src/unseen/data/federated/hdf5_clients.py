"""Clients in an HDF5 file as earlier versions of TensorFlow Federated publish it, read one at a time.

A group ``examples`` has a group for each client with one array for each feature; here ``pixels`` of shape (n, 28, 28)
and ``label`` of shape (n,) or (n, 1), as in federated EMNIST. Needs h5py, which only this module uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from unseen.data.federated.clients import Array, FederatedData, Labelled, labelled
from unseen.errors import DataError, UsageError
from unseen.ids import ClientId

GROUP = "examples"


def read_hdf5(path: Path) -> FederatedData:
    """Return all clients of a file in ascending order of their ids.

    Raises:
        UsageError: h5py is not installed.
        DataError: The file cannot be read, or is not as TensorFlow Federated writes it.
    """
    source = Examples(path)
    with _opened(path) as clients:
        ids = tuple(ClientId(name) for name in sorted(clients))
        sizes = tuple(len(_array(clients, client, "label", path)) for client in ids)
    return FederatedData(path.stem, ids, sizes, source)


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Images and labels in such a file; it is open only while a client is read."""

    path: Path

    def read(self, client: ClientId) -> Labelled:
        """Return images of shape (n, 28, 28) as 32-bit floats, and labels as 64-bit integers.

        Raises:
            DataError: Arrays are missing or do not fit each other.
        """
        with _opened(self.path) as clients:
            pixels = _array(clients, client, "pixels", self.path)[()].astype(np.float32, copy=False)
            labels = self._labels(clients, client)
        return labelled(pixels, labels, where=f"{self.path}, client {client}")

    def labels(self, client: ClientId) -> Array:
        """Return its labels alone."""
        with _opened(self.path) as clients:
            return self._labels(clients, client)

    def _labels(self, clients: Any, client: ClientId) -> Array:
        """Return a client's labels; those of shape (n, 1) become (n,)."""
        labels = _array(clients, client, "label", self.path)[()]
        if labels.dtype.kind not in "iu":
            raise DataError(f"{self.path}: labels of client {client} are {labels.dtype}, expected integers")
        flat: Array = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        return flat.astype(np.int64, copy=False)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file, and give its group of clients."""
    try:
        h5py = import_module("h5py")
    except ImportError as error:
        raise UsageError(f"{path} is an HDF5 file, for which h5py is needed: pip install 'unseen[hdf5]'") from error
    try:
        with h5py.File(path, "r") as file:
            clients = file.get(GROUP)
            if not isinstance(clients, h5py.Group):
                raise DataError(f"{path} has no group {GROUP}; is it a client file of TFF?")
            yield clients
    except OSError as error:
        raise DataError(f"{path} cannot be read as an HDF5 file: {error}") from error


def _array(clients: Any, client: ClientId, name: str, path: Path) -> Any:
    """Return one array of a client, which stays in the file."""
    own = clients.get(client)
    found = None if own is None or not hasattr(own, "get") else own.get(name)
    if found is None or not hasattr(found, "dtype") or not found.ndim:
        raise DataError(f"{path}: client {client} has no array {name}")
    return found
