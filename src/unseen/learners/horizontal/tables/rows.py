"""A client's examples as rows of a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError
from unseen.learners.horizontal.process import Examples

Floats = NDArray[np.float64]


def client_rows(examples: Examples, columns: Sequence[str], who: str) -> tuple[Floats, Floats]:
    """Return inputs (rows, columns), NaN where missing, and labels (rows,), as 64-bit floats.

    Raises:
        DataError: They are not numbers, or there is another number of columns; the message begins with ``who``.
    """
    inputs, labels = examples.inputs, examples.labels
    if inputs.ndim != 2 or inputs.shape[1] != len(columns):
        raise DataError(
            f"{who}: expected rows of {len(columns)} columns ({', '.join(columns)}), found inputs of shape "
            f"{inputs.shape}"
        )
    for what, values in (("inputs", inputs), ("labels", labels)):
        if values.dtype.kind not in "biuf":
            raise DataError(f"{who}: expected numbers, found {what} of type {values.dtype}")
    return inputs.astype(np.float64, copy=False), labels.astype(np.float64, copy=False)
