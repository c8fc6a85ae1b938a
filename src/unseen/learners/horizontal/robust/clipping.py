"""Norm clipping: no update moves the model further than a limit; and what is clipped may be averaged, or judged.

Source: Z. Sun, P. Kairouz, A. T. Suresh, B. McMahan, "Can You Really Backdoor Federated Learning?", 2019 (arXiv
1911.07963), section 4: Δ ← Δ · min(1, limit/‖Δ‖₂). A client clips for privacy (``ClipNorm``), but only a server's
clipping (``Clipped``) binds a byzantine client. It bounds the harm of n·limit; it does not find attackers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from unseen.errors import UsageError
from unseen.learners.horizontal.process import Aggregate, Aggregator, Assignment, Update
from unseen.learners.horizontal.robust.rows import norm, rows, scaled
from unseen.learners.horizontal.strategies.parts import WeightedMean


def _check(limit: float) -> None:
    if not 0 < limit < np.inf:
        raise UsageError(f"the limit of a norm has to be a positive number, found {limit}")


def clipped(update: Update, limit: float) -> tuple[Update, bool]:
    """Return an update whose difference has at most the norm ``limit``, and whether it was longer."""
    length = norm(update.delta)
    return (scaled(update, limit / length), True) if length > limit else (update, False)


@dataclass(frozen=True, slots=True)
class ClipNorm:
    """Clips at the client, before the update leaves; adds the metric ``clipped``, 1 or 0.

    Raises:
        UsageError: ``limit`` is not positive.
    """

    limit: float

    def __post_init__(self) -> None:
        _check(self.limit)

    def __call__(self, update: Update, _assignment: Assignment) -> Update:
        """Return the clipped update."""
        short, was_longer = clipped(update, self.limit)
        return replace(short, metrics={**update.metrics, "clipped": float(was_longer)})


@dataclass(frozen=True, slots=True)
class Clipped:
    """Clips at the server, then lets ``then`` aggregate; without a limit, at the median norm of the cohort.

    Raises:
        UsageError: ``limit`` is not positive.
    """

    limit: float | None = None
    then: Aggregator = field(default_factory=lambda: WeightedMean(equal=True))

    def __post_init__(self) -> None:
        if self.limit is not None:
            _check(self.limit)

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the aggregate of the clipped updates; those that are not finite are left out."""
        usable = rows("norm clipping", updates, byzantine=len(updates), needed=1)
        limit = self.limit or float(np.median([norm(delta) for delta in usable.deltas]))
        cut = [clipped(update, limit) for update in usable.updates]
        found = self.then([update for update, _ in cut])
        share = sum(was_longer for _, was_longer in cut) / len(cut)
        return replace(found, metrics={**found.metrics, "clipped": share, "refused": float(usable.refused)})
