"""One party's columns as the iterations of a linear model see them: whitened, in single precision, and in fixed point.

With the curvature c that all agreed on, X'X·c/n + l2·I is every party's own block of an approximate Hessian; F = (X −
mean)·C with C'(X'X·c/n + l2·I)C = I makes it the identity, so that only the correlation between parties is left for
iterations (``whitening`` has more on this). √c·F has columns of mean square at most 1: its rounded entries enter the
linear map. The active party has one more column, of constants, for the intercept.

Memory: 4 bytes a value for F, 2 or 4 for the fixed-point matrix; blocks of rows otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError
from unseen.kernels.blocks import in_parallel, pieces
from unseen.learners.vertical.whitening import check_features
from unseen.protocols.linear_map.matrices import DenseMatrix

Floats = NDArray[np.float64]

_NEGLIGIBLE = 1e-10
_ROWS_PER_BLOCK = 1 << 14
_SAMPLE = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """F and what it takes to get back: weights of the original columns are ``basis @ point``."""

    mean: Floats
    basis: Floats
    """d × r; with an intercept r counts it, and its column is zero."""
    values: NDArray[np.float32]
    """F', r × n."""
    penalty: Floats
    """r × r: the penalty is ½ u' penalty u."""
    curvature: float
    intercept: bool

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.values.shape[1])

    @property
    def width(self) -> int:
        """Number of whitened columns, the intercept's among them."""
        return len(self.values)

    def scores(self, point: Floats) -> Floats:
        """Return F·point, (n,)."""
        return (point.astype(np.float32) @ self.values).astype(np.float64)

    def sums(self, vector: Floats) -> Floats:
        """Return F'·vector, (r,), added up in double precision over blocks of rows."""
        out = np.zeros(self.width)
        for block in pieces(self.rows, _ROWS_PER_BLOCK):
            out += self.values[:, block] @ vector[block].astype(np.float32)
        return out

    def gram(self) -> Floats:
        """Return F'F, (r, r)."""
        out = np.zeros((self.width, self.width))
        for block in pieces(self.rows, _ROWS_PER_BLOCK):
            out += self.values[:, block] @ self.values[:, block].T
        return out

    def weights(self, point: Floats) -> Floats:
        """Return the weights of the original columns, (d,)."""
        return self.basis @ point

    def offset(self, point: Floats) -> float:
        """Return what to add to features · weights: the columns were centred, and the intercept is among them."""
        own = float(point[-1]) / math.sqrt(self.curvature) if self.intercept else 0.0
        return own - float(self.mean @ self.weights(point))

    def matrix(self, bits: int) -> DenseMatrix:
        """Return √c·F in fixed point."""
        scale = np.float32(math.sqrt(self.curvature) * 2.0**bits)
        largest = float(scale) * float(np.abs(self.values).max(initial=0.0))
        kind = np.int16 if largest < 2.0**15 - 1 else np.int32 if largest < 2.0**31 - 200 else np.int64
        out = np.empty(self.values.shape, kind)
        for block in pieces(self.rows, _ROWS_PER_BLOCK):
            out[:, block] = np.rint(self.values[:, block] * scale)
        return DenseMatrix(out)


def prepare(features: Floats, l2: float, curvature: float, *, intercept: bool, rotate: bool = True) -> Columns:
    """Return the whitened columns of features (n × d).

    Without ``rotate`` they are only centred and scaled, and constant columns are kept, as zeros.

    Raises:
        DataError: A value is missing or infinite, or there are fewer than two rows.
    """
    check_features(features)
    rows, width = features.shape
    if rows < 2:
        raise DataError(f"training needs at least two rows, found {rows}")
    mean, covariance = _moments(features)
    spread = np.sqrt(np.maximum(covariance.diagonal(), 0.0))
    # Columns that do not vary become zeros.
    spread = np.where(spread > 1e-12 * np.abs(mean), spread, np.inf)
    correlation = covariance / spread[:, None] / spread
    rotation = _rotation(correlation * curvature, l2 / np.square(spread)) if rotate else np.eye(width) / curvature**0.5
    count = rotation.shape[1]
    basis = np.zeros((width, count + intercept))
    basis[:, :count] = rotation / spread[:, None]
    values = np.empty((count + intercept, rows), np.float32)
    blocks = list(pieces(rows, _ROWS_PER_BLOCK))

    def rotate_block(index: int) -> None:
        block = blocks[index]
        values[:count, block] = basis[:, :count].T @ (features[block] - mean).T

    in_parallel(rotate_block, len(blocks))
    if intercept:
        values[-1] = 1 / math.sqrt(curvature)
    return Columns(mean, basis, values, l2 * basis.T @ basis, curvature, intercept)


def _moments(features: Floats) -> tuple[Floats, Floats]:
    """Return the means and the covariances of the columns, in one pass."""
    rows, width = features.shape
    # Shifted by about their means, sums of squares lose no digits; constant columns become exactly 0.
    sample = features[:: max(1, rows // _SAMPLE)]
    shift = sample[0] + (sample - sample[0]).mean(axis=0)
    blocks = list(pieces(rows, _ROWS_PER_BLOCK))
    grams, sums = np.empty((len(blocks), width, width)), np.empty((len(blocks), width))

    def add_up(index: int) -> None:
        shifted = features[blocks[index]] - shift
        grams[index], sums[index] = shifted.T @ shifted, np.ones(len(shifted)) @ shifted

    in_parallel(add_up, len(blocks))
    # The order of sums is that of the rows, whatever the number of threads.
    change = sums.sum(axis=0) / rows
    return shift + change, grams.sum(axis=0) / rows - np.outer(change, change)


def _rotation(hessian: Floats, ridge: Floats) -> Floats:
    sizes, directions = np.linalg.eigh(hessian + np.diag(ridge))
    kept = sizes > _NEGLIGIBLE * max(1.0, float(sizes.max(initial=0.0)))
    rotation: Floats = directions[:, kept] / np.sqrt(sizes[kept])
    return rotation
