"""Krum and multi-Krum: the update, or the mean of those updates, that has the nearest neighbours.

Source: P. Blanchard, E. M. El Mhamdi, R. Guerraoui, J. Stainer, "Machine Learning with Adversaries: Byzantine Tolerant
Gradient Descent", NeurIPS 2017, section 4: the score of an update is the sum of the squared distances to its n − f − 2
nearest others; 2f + 2 < n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unseen.errors import UsageError
from unseen.learners.horizontal.process import Aggregate, Update
from unseen.learners.horizontal.robust.rows import Floats, Rows, rows, squared_distances
from unseen.learners.horizontal.strategies.parts import combination


def scores(distances: Floats, byzantine: int) -> Floats:
    """Return the score of each of n vectors from their squared distances, shape (n, n): low is good."""
    others = np.sort(distances + np.diag(np.full(len(distances), np.inf)), axis=1)
    near: Floats = others[:, : max(1, len(distances) - byzantine - 2)].sum(axis=1)
    return near


@dataclass(frozen=True, slots=True)
class Krum:
    """Takes the mean of the ``select`` updates with the lowest scores; 1 is Krum, more is multi-Krum.

    Raises:
        UsageError: A parameter is out of range, or a cohort is smaller than 2f + 3 or has too few to select.
    """

    byzantine: int
    select: int = 1

    def __post_init__(self) -> None:
        if self.byzantine < 0 or self.select < 1:
            raise UsageError(
                f"Krum expects 0 or more byzantine clients and selects 1 or more updates, found {self.byzantine} and "
                f"{self.select}"
            )

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the aggregate."""
        # Of n − f − 2 neighbours of an honest update, or fewer, most are honest.
        needed = max(2 * self.byzantine + 3, self.byzantine + 2 + self.select)
        usable = rows("Krum" if self.select == 1 else "multi-Krum", updates, byzantine=self.byzantine, needed=needed)
        found = scores(squared_distances(usable.deltas), usable.byzantine)
        return mean_of(usable, np.sort(np.argsort(found, kind="stable")[: self.select]).tolist())


def mean_of(usable: Rows, places: Sequence[int]) -> Aggregate:
    """Return the aggregate that is the plain mean of the rows at these places."""
    ones = [1.0] * len(places)
    return usable.aggregate(lambda vectors: combination([vectors[place] for place in places], ones, len(places)))
