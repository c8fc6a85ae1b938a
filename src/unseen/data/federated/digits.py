"""Scikit-learn's digits: 1,797 images of 8 × 8 pixels, read from its installed files without importing it.

It is the test part of E. Alpaydin and C. Kaynak's "Optical Recognition of Handwritten Digits" (UCI, 1998, CC BY 4.0).
"""

from __future__ import annotations

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from unseen.data.federated.clients import Labelled
from unseen.errors import DataError

FILE = "digits.csv.gz"
COUNT, SIDE, INK = 1797, 8, 16


def find_digits() -> Path:
    """Return where scikit-learn keeps the file.

    Raises:
        DataError: Scikit-learn is not installed, or has no such file.
    """
    spec = find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the set digits is read from scikit-learn, which is not installed: pip install scikit-learn, or give a "
            f"folder with its {FILE}"
        )
    path = Path(spec.submodule_search_locations[0], "datasets", "data", FILE)
    if not path.is_file():
        raise DataError(f"this scikit-learn has no {path}: install another version, or give a folder with {FILE}")
    return path


def read_digits(path: Path) -> Labelled:
    """Return images of shape (1797, 8, 8), 0 (paper) to 16 (ink) as bytes, and labels 0 to 9 as 64-bit integers.

    Raises:
        DataError: The file cannot be read, or holds something else.
    """
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", ndmin=2)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if table.shape != (COUNT, SIDE * SIDE + 1):
        raise DataError(f"{path} has shape {table.shape}, expected {(COUNT, SIDE * SIDE + 1)}")
    pixels, labels = table[:, :-1], table[:, -1]
    if not (np.isin(pixels, range(INK + 1)).all() and np.isin(labels, range(10)).all()):
        raise DataError(f"{path}: expected whole pixels from 0 to {INK} and labels from 0 to 9")
    return Labelled(pixels.astype(np.uint8).reshape(COUNT, SIDE, SIDE), labels.astype(np.int64))
