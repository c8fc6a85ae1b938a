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
            DataError: The matrix has another number of columns, or holds an infinite value or one far too large.
        """
        _check(matrix, self.names)
        with np.errstate(over="ignore"):  # what overflows is infinite, which is refused below
            scaled: NDArray[np.float64] = (matrix - np.array(self.means)) / np.array(self.scales)
        _refuse_infinite(scaled, self.names, "too far from the training rows' mean to be scaled; correct the value")
        scaled[np.isnan(scaled)] = 0.0
        return scaled


def fit(matrix: NDArray[np.float64], names: Sequence[str]) -> Standardiser:
    """Return the standardiser of training rows (rows × columns, NaN where missing).

    Raises:
        DataError: There are no rows, a column has no value at all, a value is infinite, or names and columns differ.
    """
    _check(matrix, names)
    if not len(matrix):
        raise DataError("there are no training rows to learn means and scales from: provide some")
    present = ~np.isnan(matrix)
    counts = present.sum(axis=0)
    if len(names) and counts.min() == 0:
        raise DataError(f"column {names[int(counts.argmin())]}: no training row has a value; drop the column")
    filled = np.where(present, matrix, 0.0)
    # Powers of two change no digit, and keep the squares of very large and very small values in range.
    exponents = np.frexp(np.abs(filled).max(axis=0, initial=0.0))[1]
    filled = np.ldexp(filled, -exponents)
    # Shifting by a value of the column first keeps the digits of columns that vary little around a large mean.
    shift = filled[present.argmax(axis=0), np.arange(len(names))]
    means = shift + np.where(present, filled - shift, 0.0).sum(axis=0) / counts
    deviations = np.where(present, filled - means, 0.0)
    spreads = np.sqrt(np.square(deviations).mean(axis=0))
    constant = spreads <= _RELATIVE_SPREAD * np.abs(filled).max(axis=0, initial=0.0)
    return Standardiser(
        tuple(names),
        tuple(np.ldexp(means, exponents).tolist()),
        tuple(np.where(constant, 1.0, np.ldexp(spreads, exponents)).tolist()),
        tuple((len(matrix) - counts).tolist()),
        tuple(name for name, flat in zip(names, constant, strict=True) if flat),
    )


def _check(matrix: NDArray[np.float64], names: Sequence[str]) -> None:
    if matrix.ndim != 2 or matrix.shape[1] != len(names):
        raise DataError(f"expected rows of {len(names)} columns ({', '.join(names)}), found shape {matrix.shape}")
    _refuse_infinite(matrix, names, "infinite; mark missing values as NaN")


def _refuse_infinite(matrix: NDArray[np.float64], names: Sequence[str], fault: str) -> None:
    infinite = np.argwhere(np.isinf(matrix))
    if len(infinite):
        row, column = infinite[0]
        raise DataError(f"column {names[column]}, row {row}: {fault}")
