"""Standardisation of one party's own columns: nothing is sent, since mean and variance of a column stay with its owner.

Missing values (NaN) are replaced by the column's mean over the rows where it is present, so they become 0.
A constant column is kept with scale 1: after the transformation it is 0 everywhere on the training rows, and no
linear learner gives it any weight. ``Standardiser.constant`` names such columns, for a notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError

# A column whose spread is below this share of its largest magnitude varies by rounding errors only.
_RELATIVE_SPREAD = 1e-12


@dataclass(frozen=True, slots=True)
class Standardiser:
    """Means and scales learned from the training rows, one per column; all fields can be written as JSON."""

    names: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    """Standard deviation (of the population, ddof 0) after imputation; 1 for constant columns."""
    missing: tuple[int, ...]
    """How many training values were missing."""
    constant: tuple[str, ...]
    """Names of columns without variation on the training rows."""

    def transform(self, matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the columns with mean 0 and standard deviation 1 on the training rows; missing values become 0.

        Raises:
            DataError: The matrix has another number of columns, or holds an infinite value.
        """
        _check(matrix, self.names)
        scaled: NDArray[np.float64] = (matrix - np.array(self.means)) / np.array(self.scales)
        scaled[np.isnan(scaled)] = 0.0
        return scaled


def fit(matrix: NDArray[np.float64], names: Sequence[str]) -> Standardiser:
    """Return the standardiser of training rows (rows × columns, NaN where missing).

    Raises:
        DataError: There are no rows, a column has no value at all, a value is infinite, or names and columns differ.
    """
    _check(matrix, names)
    present = ~np.isnan(matrix)
    counts = present.sum(axis=0)
    if len(names) and counts.min() == 0:
        raise DataError(f"column {names[int(counts.argmin())]}: no training row has a value; drop the column")
    filled = np.where(present, matrix, 0.0)
    # Shifting by a value of the column first keeps the digits of columns that vary little around a large mean.
    shift = filled[present.argmax(axis=0), np.arange(len(names))]
    means = shift + np.where(present, matrix - shift, 0.0).sum(axis=0) / np.maximum(counts, 1)
    deviations = np.where(present, matrix - means, 0.0)
    spreads = np.sqrt(np.square(deviations).mean(axis=0)) if len(matrix) else np.zeros(len(names))
    constant = spreads <= _RELATIVE_SPREAD * np.abs(filled).max(axis=0, initial=0.0)
    return Standardiser(
        tuple(names),
        tuple(means.tolist()),
        tuple(np.where(constant, 1.0, spreads).tolist()),
        tuple((len(matrix) - counts).tolist()),
        tuple(name for name, flat in zip(names, constant, strict=True) if flat),
    )


def _check(matrix: NDArray[np.float64], names: Sequence[str]) -> None:
    if matrix.ndim != 2 or matrix.shape[1] != len(names):
        raise DataError(f"expected rows of {len(names)} columns ({', '.join(names)}), found shape {matrix.shape}")
    infinite = np.argwhere(np.isinf(matrix))
    if len(infinite):
        row, column = infinite[0]
        raise DataError(f"column {names[column]}, row {row}: infinite; mark missing values as NaN")
