"""What robust aggregators share: the updates that can be used, their distances, rules by coordinate in bounded memory.

Of a cohort of n, up to f clients may send anything (*byzantine* clients). No rule believes a client's weight, and one
that sends numbers that are not finite, or no positive weight, has given itself away: it is left out and counted among
the f. Metrics are
medians over the cohort, since they may be lies, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from unseen.errors import UsageError
from unseen.learners.horizontal.process import Aggregate, Update, Vector
from unseen.learners.horizontal.strategies.parts import same_shapes

Matrix = NDArray[np.float32]
Floats = NDArray[np.float64]
Rule: TypeAlias = Callable[[Matrix], NDArray[np.floating]]
"""Makes one number a column of a matrix with one row a client; it may change the matrix."""

_NUMBERS = 1 << 18
"""Numbers of all rows that are looked at together: one to two megabytes."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The updates that can be used, and how many of them may still be byzantine."""

    updates: tuple[Update, ...]
    byzantine: int
    refused: int

    @property
    def deltas(self) -> list[Vector]:
        """Return the differences of the models."""
        return [update.delta for update in self.updates]

    def aggregate(self, combine: Callable[[Sequence[Vector]], Vector]) -> Aggregate:
        """Return the aggregate whose vectors are what ``combine`` makes of those of all rows."""
        extra = {name: combine([update.extra[name] for update in self.updates]) for name in self.updates[0].extra}
        weight = float(sum(update.weight for update in self.updates))
        metrics = {**_medians(self.updates), "refused": float(self.refused)}
        return Aggregate(combine(self.deltas), len(self.updates), weight, extra, metrics)


def rows(rule: str, updates: Sequence[Update], *, byzantine: int, needed: int) -> Rows:
    """Return the updates that a rule can use, of which there must have been ``needed`` to stand ``byzantine`` ones.

    Raises:
        RemoteProtocolError: Updates differ in length.
        UsageError: There are fewer, or more than ``byzantine`` of them are not finite.
    """
    if len(updates) < needed:
        raise UsageError(
            f"{rule} against {byzantine} byzantine clients needs at least {needed} updates, found {len(updates)}: "
            "enlarge the cohort, or expect fewer byzantine clients"
        )
    same_shapes(updates)
    usable = tuple(update for update in updates if _usable(update))
    refused = len(updates) - len(usable)
    if refused > byzantine or not usable:
        raise UsageError(
            f"{rule}: {refused} of {len(updates)} updates hold numbers that are not finite, or no positive weight; "
            f"{byzantine} byzantine clients were expected: find out what these clients do, or expect more"
        )
    return Rows(usable, byzantine - refused, refused)


def _usable(update: Update) -> bool:
    vectors = (update.delta, *update.extra.values())
    return 0 < update.weight < math.inf and all(bool(np.isfinite(vector).all()) for vector in vectors)


def _medians(updates: Sequence[Update]) -> dict[str, float]:
    shared = set.intersection(*(set(update.metrics) for update in updates))
    return {name: float(np.median([update.metrics[name] for update in updates])) for name in sorted(shared)}


def scaled(update: Update, factor: float) -> Update:
    """Return an update whose difference is ``factor`` times as large."""
    return replace(update, delta=update.delta * np.float32(factor))


def by_coordinate(vectors: Sequence[Vector], rule: Rule) -> Vector:
    """Return what a rule makes of every coordinate of all vectors; memory beside them is bounded."""
    out = np.empty(len(vectors[0]), np.float32)
    for part in pieces(len(out), len(vectors)):
        out[part] = rule(np.stack([vector[part] for vector in vectors]))
    return out


def pieces(size: int, count: int) -> list[slice]:
    """Return the ranges of coordinates at which ``count`` vectors of ``size`` are looked at together."""
    width = max(1, _NUMBERS // count)
    return [slice(start, min(start + width, size)) for start in range(0, size, width)]


def norm(vector: Vector) -> float:
    """Return the Euclidean norm, computed in 64-bit floats."""
    total = 0.0
    for part in pieces(len(vector), 1):
        piece = vector[part].astype(np.float64)
        total += float(piece @ piece)
    return float(np.sqrt(total))


def squared_distances(vectors: Sequence[Vector]) -> Floats:
    """Return ‖vectorᵢ − vectorⱼ‖² for all pairs, shape (n, n), by inner products of 64-bit floats.

    Relative to the larger of both squared norms the error is about 1e-15, so that vectors are told apart unless they
    agree in seven digits, which is what their 32-bit floats have.
    """
    count = len(vectors)
    inner = np.zeros((count, count))
    for part in pieces(len(vectors[0]), 2 * count):
        piece = np.stack([vector[part] for vector in vectors]).astype(np.float64)
        inner += piece @ piece.T
    squares = np.diag(inner)
    distances: Floats = np.maximum(squares[:, None] + squares[None, :] - 2 * inner, 0.0)
    return distances
