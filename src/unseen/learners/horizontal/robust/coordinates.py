"""Coordinate-wise median and trimmed mean.

Source: D. Yin, Y. Chen, K. Ramchandran, P. Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018, definitions 1 and 2. Both stand any f < n/2 byzantine clients; their error grows with
the spread of the honest ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unseen.errors import UsageError
from unseen.learners.horizontal.process import Aggregate, Update, Vector
from unseen.learners.horizontal.robust.rows import Floats, Matrix, by_coordinate, rows
from unseen.learners.horizontal.strategies.parts import WeightedMean


@dataclass(frozen=True, slots=True)
class Median:
    """Takes the median of every coordinate, the mean of both middle ones for an even number."""

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the aggregate."""
        usable = rows("the median", updates, byzantine=(len(updates) - 1) // 2, needed=1)
        return usable.aggregate(lambda vectors: by_coordinate(vectors, median))


def median(matrix: Matrix) -> Floats:
    """Return the median of every column; the matrix is sorted on the way."""
    matrix.sort(axis=0)
    low, high = (len(matrix) - 1) // 2, len(matrix) // 2
    middle: Floats = (matrix[low].astype(np.float64) + matrix[high]) / 2
    return middle


@dataclass(frozen=True, slots=True)
class TrimmedMean:
    """Leaves out the ``byzantine`` least and greatest numbers of every coordinate, and takes the mean of the others.

    With ``byzantine`` 0 it is the mean with equal weights bit for bit.

    Raises:
        UsageError: ``byzantine`` is negative, or a cohort is smaller than 2f + 1.
    """

    byzantine: int

    def __post_init__(self) -> None:
        if self.byzantine < 0:
            raise UsageError(f"a number of byzantine clients is not negative, found {self.byzantine}")

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the aggregate."""
        if not self.byzantine:
            return WeightedMean(equal=True)(updates)
        needed = 2 * self.byzantine + 1
        usable = rows("the trimmed mean", updates, byzantine=self.byzantine, needed=needed)
        return usable.aggregate(lambda vectors: trimmed_mean(vectors, usable.byzantine))


def trimmed_mean(vectors: Sequence[Vector], trim: int) -> Vector:
    """Return the mean of every coordinate without its ``trim`` least and greatest numbers."""

    def rule(matrix: Matrix) -> Floats:
        matrix.sort(axis=0)
        kept: Floats = matrix[trim : len(matrix) - trim].mean(axis=0, dtype=np.float64)
        return kept

    return by_coordinate(vectors, rule)
