"""Own columns in coordinates where the own block of the Hessian is the identity, and these in fixed point.

For logistic regression X'X/4n + l2·I bounds the Hessian from above (Böhning, Ann. Inst. Statist. Math. 44, 1992).
Every party turns its own block of this bound into the identity: F = (X − mean) C with C'(X'X/4n + l2·I) C = I. What is
left for the iterations to overcome is the correlation between the parties' columns, not that within them; scales of
columns do not matter either. Nothing is sent for it.

F is also what enters the linear map: every column's mean square is at most 4, whatever the data, so that no bound
needs to be told, and the rounding to fixed point is of equal size in all directions, however collinear the columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.data.fixed_point import to_fixed
from unseen.errors import DataError, UsageError
from unseen.protocols.linear_map.port import Bounds, LinearMap

Floats = NDArray[np.float64]

# Directions with less variance than this share of a standardised column carry rounding errors only.
_NEGLIGIBLE = 1e-10
# Fractional bits of the matrix that are tried, best first, each with so many more bits for the vectors.
_MATRIX_BITS = range(20, 3, -1)
_EXTRA_BITS = (3, 2, 1, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """One party's columns in whitened coordinates: weights of the columns are ``basis @ u``."""

    mean: Floats
    basis: Floats
    """d × r; r is the number of whitened columns, d less what is constant or (without l2) collinear."""
    columns: Floats
    """F, n × r."""
    penalty: Floats
    """r × r: the penalty is ½ u' penalty u."""

    def weights(self, point: Floats) -> Floats:
        """Return the weights of the party's own columns, shape (d,)."""
        return self.basis @ point

    def offset(self, point: Floats) -> float:
        """Return what to add to features · weights, since the columns were centred."""
        return float(-self.mean @ self.weights(point))


def check_features(features: NDArray[np.float64]) -> None:
    """Raise ``DataError`` unless ``features`` is a float64 matrix of finite numbers."""
    if features.ndim != 2 or features.dtype != np.float64:
        raise DataError(f"expected features as float64 rows × columns, found {features.dtype} {features.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        # NaN and infinities carry over to sums, for which nothing of the size of the features is needed.
        if np.isfinite(features.sum()):
            return
    bad = np.argwhere(~np.isfinite(features))
    if len(bad):
        row, column = bad[0]
        raise DataError(f"feature column {column}, row {row} is {features[row, column]}: scale and impute first")


def whiten(features: NDArray[np.float64], l2: float) -> Block:
    """Return the whitened block of features (n × d).

    Raises:
        DataError: A value is missing or infinite, or there are fewer than two rows.
    """
    check_features(features)
    rows, width = features.shape
    if rows < 2:
        raise DataError(f"training needs at least two rows, found {rows}")
    mean = features.mean(axis=0)
    centred = features - mean
    spread = np.sqrt(np.square(centred).mean(axis=0))
    varies = spread > 1e-12 * np.abs(features).max(axis=0, initial=0.0)
    spread = spread[varies]
    scaled = centred[:, varies] / spread
    bound = scaled.T @ scaled / (4 * rows) + np.diag(l2 / np.square(spread))
    sizes, directions = np.linalg.eigh(bound)
    kept = sizes > _NEGLIGIBLE
    rotation = directions[:, kept] / np.sqrt(sizes[kept])
    basis = np.zeros((width, int(kept.sum())))
    basis[varies] = rotation / spread[:, None]
    return Block(mean, basis, scaled @ rotation, l2 * basis.T @ basis)


@dataclass(frozen=True, slots=True)
class Precision:
    """Fractional bits of the whitened columns, and of vectors relative to their root mean square."""

    matrix_bits: int
    vector_bits: int

    def bounds(self, rows: int, columns: int) -> Bounds:
        """Return the public bounds of a linear map with this precision; ½ an entry is for the rounding."""
        column_norm = np.sqrt(rows) * (2.0 ** (self.matrix_bits + 1) + 1)
        return Bounds(rows, columns, column_norm, np.sqrt(rows) * (2.0**self.vector_bits + 1))

    def matrix(self, block: Block) -> NDArray[np.int64]:
        """Return the whitened columns in fixed point."""
        return to_fixed(block.columns, self.matrix_bits)

    def vector(self, values: Floats) -> tuple[NDArray[np.int64], int]:
        """Return a vector in fixed point and its exponent e: values ≈ integers · 2^-e."""
        size = np.sqrt(np.square(values).mean())
        if size == 0:
            return np.zeros(len(values), np.int64), 0
        # frexp gives size < 2^power, so the scaled root mean square is below 2^vector_bits.
        exponent = self.vector_bits - int(np.frexp(size)[1])
        return to_fixed(values, exponent), exponent


def choose_precision(scheme: LinearMap, rows: int, columns: int) -> Precision:
    """Return the best precision that ``scheme`` carries exactly; both sides find the same one from public facts.

    The errors of single entries are independent and average out over the rows, so ten bits or so are plenty.

    Raises:
        UsageError: Even four fractional bits do not fit.
    """
    reason = ""
    for bits in _MATRIX_BITS:
        for extra in _EXTRA_BITS:
            precision = Precision(bits, bits + extra)
            try:
                scheme.check(precision.bounds(rows, columns))
            except UsageError as error:
                reason = str(error)
            else:
                return precision
    raise UsageError(
        f"scheme {scheme.name} cannot carry {rows} rows × {columns} columns with 4 fractional bits: {reason}"
    )
