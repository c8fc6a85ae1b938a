"""Federated EMNIST as TensorFlow Federated publishes it: handwritten characters, one client for each writer.

Pixels are 32-bit floats of shape (28, 28), from 0.0 (ink) to 1.0 (paper), which is the inverse of MNIST's; labels 0–9
are digits, 10–35 capitals, 36–61 small letters. Digits alone: 3,383 writers, 341,873 examples to train on and 40,832 to
test on; all characters: 3,400 writers, 671,585 and 77,483. Both formats are read a writer at a time: the SQLite file of
today (``sqlite_clients``), and the HDF5 files of earlier versions (``hdf5_clients``).

Sources: S. Caldas and others, "LEAF: A Benchmark for Federated Settings" (2018); the documentation of
``tff.simulation.datasets.emnist.load_data``.
"""

from __future__ import annotations

from pathlib import Path

from unseen.data.federated.cache import Download, data_folders, find
from unseen.data.federated.clients import Halves
from unseen.data.federated.hdf5_clients import read_hdf5
from unseen.data.federated.sqlite_clients import read_sqlite

_SITE = "https://storage.googleapis.com/tff-datasets-public/"
SQLITE = Download(
    "emnist_all.sqlite.lzma",
    _SITE + "emnist_all.sqlite.lzma",
    170_507_172,
    "c3aaf91b4cf4e69d53d81627ad119eccdc878ff906f68e66063ff10f67faad48",
    "Unpacked at its first use, it takes 4.7 GB.",
)
HDF5 = {
    True: Download(
        "fed_emnist_digitsonly.tar.bz2",
        _SITE + "fed_emnist_digitsonly.tar.bz2",
        sha256="55333deb8546765427c385710ca5e7301e16f4ed8b60c1dc5ae224b42bd5b14b",
    ),
    False: Download(
        "fed_emnist.tar.bz2",
        _SITE + "fed_emnist.tar.bz2",
        sha256="fe1ed5a502cea3a952eb105920bff8cffb32836b5173cb18a57a32c3606f3ea0",
    ),
}
"""By whether they hold digits alone."""


def load_emnist(folder: Path | None = None, *, only_digits: bool = True) -> Halves:
    """Return all writers with their examples to train and to test on, from files that have been downloaded.

    HDF5 files are used where they are, the SQLite file otherwise.

    Args:
        folder: Where the files are; by default the variable ``UNSEEN_DATA`` and the user's cache are looked at.
        only_digits: Whether capitals and small letters are left out.

    Raises:
        DataError: The files are not there (it says how to get them), or not what was published.
    """
    folders, archive = data_folders(folder), HDF5[only_digits]
    stem = archive.name.removesuffix(".tar.bz2")
    files = (f"{stem}_train.h5", f"{stem}_test.h5")
    if any((place / name).is_file() for place in folders for name in (*files, archive.name)):
        train, test = (read_hdf5(find(file, archive, folders)) for file in files)
        return Halves(train, test)
    path = find("emnist_all.sqlite", SQLITE, folders)
    part = "digits_only" if only_digits else "all"
    return Halves(read_sqlite(path, f"{part}_train"), read_sqlite(path, f"{part}_test"))
