"""Which sessions are so much alike that their results, taken together, tell about a few people.

Two counts over lists that differ by one person tell whether that person is in the table; two sums tell the person's
number. X. Guo and others, "Birds of a Feather Flock Together: How Set Bias Helps to Deanonymize You via Revealed
Intersection Sizes" (USENIX Security 2022) classify people by few hundred such counts.

While the partner keeps one key, the owner sees which blinded points repeat (``near_lists``). **A partner that cheats
takes a new key**, and nothing repeats. Then only the numbers of points and of hits are left (``near_sizes``), and the
partner chooses both: it adds points that cannot hit, or drops members that it knows. Both are tripwires that catch
those who do not hide. What holds against those who do is the budget of points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from unseen.errors import UsageError

FINGERPRINT_BYTES = 8
"""Among 10⁷ points, two fall together with probability 3·10⁻⁶."""


def fingerprints(points: NDArray[np.uint8]) -> bytes:
    """Return the fingerprints of blinded points, shape (n, bytes a point): their first 8 bytes, sorted, each once.

    Raises:
        UsageError: The points are shorter than that.
    """
    if points.ndim != 2 or points.shape[1] < FINGERPRINT_BYTES:
        raise UsageError(f"expected points of {FINGERPRINT_BYTES} bytes or more, found an array of {points.shape}")
    heads = np.ascontiguousarray(points[:, :FINGERPRINT_BYTES]).reshape(-1).view("<u8")
    return np.unique(heads).astype("<u8").tobytes()


def differing(left: bytes, right: bytes) -> tuple[int, int]:
    """Return how many fingerprints are on the left only, and how many on the right only."""
    mine, other = np.frombuffer(left, "<u8"), np.frombuffer(right, "<u8")
    shared = np.intersect1d(mine, other, assume_unique=True).size
    return mine.size - shared, other.size - shared


def near_lists(left: bytes, right: bytes, points: int) -> bool:
    """Return whether two lists differ, by no more than ``points`` on either side."""
    if abs(len(left) - len(right)) > points * FINGERPRINT_BYTES:
        return False
    return 0 < max(differing(left, right)) <= points


@dataclass(frozen=True, slots=True)
class Measured:
    """How many points a session had, and how many of them are shared."""

    rows: int
    size: int

    def __add__(self, other: Measured) -> Measured:
        return Measured(self.rows + other.rows, self.size + other.size)

    def near(self, other: Measured, points: int) -> bool:
        """Return whether both numbers are what lists that differ by ``points`` on either side would give."""
        return abs(self.rows - other.rows) <= points and abs(self.size - other.size) <= points


def near_sizes(new: Measured, earlier: Sequence[Measured], points: int) -> tuple[int, ...]:
    """Return which earlier sessions ``new`` may isolate a few people against: one, two, or none.

    One that is as large; two of which ``new`` is as large as both together, or as their difference. Lists that differ
    by few points always give such numbers; that others do so by chance is rare.
    """
    for index, one in enumerate(earlier):
        if new.near(one, points):
            return (index,)
    for first, second in combinations(range(len(earlier)), 2):
        one, two = earlier[first], earlier[second]
        if new.near(one + two, points) or one.near(new + two, points) or two.near(new + one, points):
            return first, second
    return ()
