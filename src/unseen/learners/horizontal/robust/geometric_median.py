"""The geometric median: the point with the least sum of distances to all updates.

Source: K. Pillutla, S. Kakade, Z. Harchaoui, "Robust Aggregation for Federated Learning", IEEE Transactions on Signal
Processing 70 (2022), Algorithm 2 (the smoothed Weiszfeld algorithm): v ← Σ βᵢ·xᵢ / Σ βᵢ, βᵢ = 1/max(ν, ‖v − xᵢ‖). It
stands any f < n/2 byzantine clients, and every step is a weighted mean, which secure aggregation can take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unseen.errors import UsageError
from unseen.learners.horizontal.process import Aggregate, Update, Vector
from unseen.learners.horizontal.robust.rows import pieces, rows
from unseen.learners.horizontal.strategies.parts import combination


@dataclass(frozen=True, slots=True)
class GeometricMedian:
    """Approaches the geometric median until a step gains less than ``tolerance`` of the sum of distances.

    It begins at 0, no change of the model, since the mean may lie as far away as an attacker likes. The extra vectors
    of the updates are averaged with the weights that the updates have in the end.

    Raises:
        UsageError: A parameter is out of range.
    """

    smoothing: float = 1e-6
    """The distance ν, in the units of the model, below which a point attracts no more."""
    tolerance: float = 1e-4
    iterations: int = 50
    """At most."""

    def __post_init__(self) -> None:
        if not (0 < self.smoothing < np.inf and 0 <= self.tolerance < 1 and self.iterations >= 1):
            raise UsageError(
                "the geometric median needs a positive smoothing, a tolerance in [0, 1) and 1 or more iterations, "
                f"found {self.smoothing}, {self.tolerance} and {self.iterations}"
            )

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the aggregate."""
        usable = rows("the geometric median", updates, byzantine=(len(updates) - 1) // 2, needed=1)
        factors = self._factors(usable.deltas)
        return usable.aggregate(lambda vectors: combination(vectors, factors, sum(factors)))

    def _factors(self, vectors: Sequence[Vector]) -> list[float]:
        """Return the weights with which the mean is the geometric median."""
        centre, before = np.zeros_like(vectors[0]), np.inf
        factors: list[float] = []
        for _ in range(self.iterations):
            away = [distance(vector, centre) for vector in vectors]
            if sum(away) >= before * (1 - self.tolerance):
                break
            before = sum(away)
            factors = [1 / max(self.smoothing, length) for length in away]
            centre = combination(vectors, factors, sum(factors))
        return factors


def distance(x: Vector, y: Vector) -> float:
    """Return ‖x − y‖, computed in 64-bit floats."""
    total = 0.0
    for part in pieces(len(x), 2):
        difference = np.subtract(x[part], y[part], dtype=np.float64)
        total += float(difference @ difference)
    return float(np.sqrt(total))
