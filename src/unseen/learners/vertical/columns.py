"""One party's columns as the iterations of a linear model see them: whitened, in single precision, and in fixed point.

With the curvature c that all agreed on, X'X·c/n + l2·I is every party's own block of an approximate Hessian; F = (X −
mean)·C with C'(X'X·c/n + l2·I)C = I makes it the identity, so that only the correlation between parties is left for
iterations (``whitening`` has more on this). √c·F has columns of mean square at most 1: its rounded entries enter the
linear map. The active party has one more column, of constants, for the intercept.

Memory: 4 bytes a value for F, 2 or 4 for the fixed-point matrix; blocks of rows otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError
from unseen.learners.vertical.whitening import check_features
from unseen.protocols.linear_map.matrices import DenseMatrix

Floats = NDArray[np.float64]

_NEGLIGIBLE = 1e-10
_ROWS_PER_BLOCK = 1 << 15


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
        for block in _blocks(self.rows):
            out += self.values[:, block] @ vector[block].astype(np.float32)
        return out

    def gram(self) -> Floats:
        """Return F'F, (r, r)."""
        out = np.zeros((self.width, self.width))
        for block in _blocks(self.rows):
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
        for block in _blocks(self.rows):
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
    mean, spread = features.mean(axis=0), _spread(features)
    gram = np.zeros((width, width))
    for block in _blocks(rows):
        scaled = (features[block] - mean) / spread
        gram += scaled.T @ scaled
    rotation = _rotation(gram * curvature / rows, l2 / np.square(spread)) if rotate else np.eye(width) / curvature**0.5
    count = rotation.shape[1]
    values = np.empty((count + intercept, rows), np.float32)
    for block in _blocks(rows):
        values[:count, block] = rotation.T @ ((features[block] - mean) / spread).T
    basis = np.zeros((width, count + intercept))
    basis[:, :count] = rotation / spread[:, None]
    if intercept:
        values[-1] = 1 / math.sqrt(curvature)
    return Columns(mean, basis, values, l2 * basis.T @ basis, curvature, intercept)


def _spread(features: Floats) -> Floats:
    """Return standard deviations; infinity for columns that do not vary, which become zeros."""
    mean = features.mean(axis=0)
    squares = np.zeros(features.shape[1])
    for block in _blocks(len(features)):
        squares += np.square(features[block] - mean).sum(axis=0)
    spread = np.sqrt(squares / len(features))
    return np.where(spread > 1e-12 * np.abs(features).max(axis=0, initial=0.0), spread, np.inf)


def _rotation(hessian: Floats, ridge: Floats) -> Floats:
    sizes, directions = np.linalg.eigh(hessian + np.diag(ridge))
    kept = sizes > _NEGLIGIBLE * max(1.0, float(sizes.max(initial=0.0)))
    rotation: Floats = directions[:, kept] / np.sqrt(sizes[kept])
    return rotation


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + _ROWS_PER_BLOCK, rows)) for start in range(0, rows, _ROWS_PER_BLOCK))
