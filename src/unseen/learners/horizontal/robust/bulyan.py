"""Bulyan: Krum selects updates one after another, then every coordinate is the mean of those nearest to the median.

Source: E. M. El Mhamdi, R. Guerraoui, S. Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium", ICML
2018, section 4: θ = n − 2f updates are selected, the β = θ − 2f numbers nearest to their median are averaged in every
coordinate; n ≥ 4f + 3. An attacker that hides a large change of one coordinate among many passes Krum, but not this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unseen.errors import UsageError
from unseen.learners.horizontal.process import Aggregate, Update
from unseen.learners.horizontal.robust.krum import scores
from unseen.learners.horizontal.robust.rows import Floats, Matrix, by_coordinate, rows, squared_distances


@dataclass(frozen=True, slots=True)
class Bulyan:
    """Bulyan over Krum.

    Raises:
        UsageError: ``byzantine`` is negative, or a cohort is smaller than 4f + 3.
    """

    byzantine: int

    def __post_init__(self) -> None:
        if self.byzantine < 0:
            raise UsageError(f"a number of byzantine clients is not negative, found {self.byzantine}")

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the aggregate."""
        usable = rows("Bulyan", updates, byzantine=self.byzantine, needed=4 * self.byzantine + 3)
        count = len(usable.updates) - 2 * usable.byzantine
        places = selected(squared_distances(usable.deltas), usable.byzantine, count)
        kept = count - 2 * usable.byzantine
        return usable.aggregate(
            lambda vectors: by_coordinate(
                [vectors[place] for place in places], lambda matrix: mean_near_median(matrix, kept)
            )
        )


def selected(distances: Floats, byzantine: int, count: int) -> list[int]:
    """Return the places of ``count`` vectors, ascending, each the one that Krum takes of those that are left."""
    left, taken = list(range(len(distances))), list[int]()
    while len(taken) < count:
        best = int(np.argmin(scores(distances[np.ix_(left, left)], byzantine))) if len(left) > 1 else 0
        taken.append(left.pop(best))
    return sorted(taken)


def mean_near_median(matrix: Matrix, kept: int) -> Floats:
    """Return for every column the mean of the ``kept`` numbers nearest to its median."""
    matrix.sort(axis=0)
    count, width = matrix.shape
    middle = (matrix[(count - 1) // 2].astype(np.float64) + matrix[count // 2]) / 2
    # The nearest numbers of a sorted column lie together: what is sought is where they begin.
    start, best = np.zeros(width, np.intp), np.full(width, np.inf)
    for first in range(count - kept + 1):
        reach = np.maximum(middle - matrix[first], matrix[first + kept - 1] - middle)
        closer = reach < best
        start[closer], best[closer] = first, reach[closer]
    total = np.zeros(width)
    for step in range(kept):
        total += np.take_along_axis(matrix, (start + step)[None, :], axis=0)[0]
    mean: Floats = total / kept
    return mean
