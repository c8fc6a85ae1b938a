"""Clipping: no client's update is longer than a bound, fixed or learnt; the bound is what noise is measured by.

Source: B. McMahan and others, "Learning Differentially Private Recurrent Language Models", ICLR 2018 (flat clipping of
a client's whole update); G. Andrew and others, "Differentially Private Learning with Adaptive Clipping", NeurIPS 2021
(a bound that follows a quantile of the updates' norms, at a negligible cost of privacy).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from unseen.errors import UsageError
from unseen.learners.horizontal.process import (
    Assignment,
    Broadcast,
    Distributor,
    State,
    Update,
    Vector,
    refuse_diverged,
)

CLIP = "dp/clip"
"""The bound of a round: an extra of states and broadcasts, shape (1,)."""
WITHIN = "dp/within"
"""½ of a client whose update was not clipped, −½ of one whose was: an extra of updates, shape (1,)."""
_MARGIN = 1 - 2.0**-20
"""Keeps rounding, of an update to 32 bits and of sums over up to 2^16 clients, below the bound."""


def clipped(delta: Vector, bound: float, who: str) -> tuple[Vector, bool]:
    """Return an update that is at most ``bound`` long in L2, and whether it was so before.

    Raises:
        DataError: It holds numbers that are not finite; ``who`` names its client.
    """
    refuse_diverged(who, delta)
    length = float(np.linalg.norm(delta.astype(np.float64)))
    if length <= bound * _MARGIN:
        return delta, True
    return (delta * (bound * _MARGIN / length)).astype(np.float32), length <= bound


def finite_or_nothing(delta: Vector) -> Vector:
    """Return an update, or zeros if it holds numbers that are not finite.

    For noise that a client adds against the server itself: that it answers nothing would tell what noise hides, and a
    server can send a model whose training diverges for some examples only.
    """
    return delta if np.isfinite(delta).all() else np.zeros_like(delta)


def bare(update: Update, delta: Vector, who: str) -> Update:
    """Return an update of which nothing but ``delta`` leaves: every client weighs 1, and metrics stay at home.

    Raises:
        UsageError: It has extras, which would leave without noise.
    """
    if update.extra:
        raise UsageError(
            f"the update of client {who} carries {', '.join(sorted(update.extra))} beside the model's change, which "
            "nothing here protects: take an algorithm that sends the change alone, such as FedAvg or FedProx"
        )
    return Update(delta, 1.0)


@dataclass(frozen=True, slots=True)
class Clip:
    """A postprocessor: clips to a fixed bound, and takes off the update whatever else it says about its client.

    Raises:
        UsageError: ``bound`` is not positive.
    """

    bound: float

    def __post_init__(self) -> None:
        check_bound(self.bound)

    def __call__(self, update: Update, assignment: Assignment) -> Update:
        """Return the clipped update, of weight 1 and without metrics."""
        delta, _ = clipped(update.delta, self.bound, assignment.client)
        return bare(update, delta, assignment.client)


@dataclass(frozen=True, slots=True)
class AdaptiveClip:
    """A postprocessor: clips to the bound of the broadcast, and tells by a bit whether that changed the update."""

    def __call__(self, update: Update, assignment: Assignment) -> Update:
        """Return the clipped update with its bit.

        Raises:
            UsageError: The broadcast has no bound.
        """
        bound = assignment.broadcast.extra.get(CLIP)
        if bound is None:
            raise UsageError(
                f"round {assignment.broadcast.round}, client {assignment.client}: the broadcast names no bound for "
                "adaptive clipping: put Announce around the distributor"
            )
        delta, within = clipped(update.delta, float(bound[0]), assignment.client)
        bit = np.array([0.5 if within else -0.5], np.float32)
        return replace(bare(update, delta, assignment.client), extra={WITHIN: bit})


@dataclass(frozen=True, slots=True)
class Quantile:
    """How a bound follows a quantile of the norms; the defaults are those of Andrew and others, section 3.

    Raises:
        UsageError: A number is not what it has to be.
    """

    initial: float = 0.1
    target: float = 0.5
    """Which share of the updates is not to be clipped."""
    rate: float = 0.2
    """How fast: η of C ← C·exp(−η·(share − target))."""
    deviation: float = 5.0
    """Of the noise on the count of updates that were not clipped, in clients; a twentieth of a cohort is common."""

    def __post_init__(self) -> None:
        check_bound(self.initial)
        if not (0 < self.target < 1 and self.rate > 0 and self.deviation > 0):
            raise UsageError(
                f"adaptive clipping has a target between 0 and 1, a rate and a deviation above 0, found {self}"
            )

    def bound(self, state: State) -> float:
        """Return the bound of the coming round."""
        known = state.extra.get(CLIP)
        return self.initial if known is None else float(known[0])

    def next(self, bound: float, surplus: float, expected: float) -> float:
        """Return the next bound, after a noisy sum ``surplus`` of bits ±½ over ``expected`` clients."""
        share = surplus / expected + 0.5
        return float(np.float32(bound * math.exp(-self.rate * (min(1.0, max(0.0, share)) - self.target))))

    def left_for_sums(self, noise_multiplier: float) -> float:
        """Return the noise multiplier of the updates for which count and updates together spend as much as one of them.

        z_Δ = (z^−2 − (2σ)^−2)^−½ (Andrew and others, theorem 1).

        Raises:
            UsageError: The count alone spends more.
        """
        rest = noise_multiplier**-2 - (2 * self.deviation) ** -2
        if rest <= 0:
            raise UsageError(
                f"a count of clipped updates with noise of deviation {self.deviation} spends more than a noise "
                f"multiplier of {noise_multiplier} allows: set the deviation above {noise_multiplier / 2:g}"
            )
        return float(rest**-0.5)


@dataclass(frozen=True, slots=True)
class Announce:
    """A distributor: another one's broadcast, with the bound of the round."""

    inner: Distributor
    quantile: Quantile

    def __call__(self, state: State) -> Broadcast:
        """Return the broadcast of a state."""
        broadcast = self.inner(state)
        bound = np.array([self.quantile.bound(state)], np.float32)
        return replace(broadcast, extra={**broadcast.extra, CLIP: bound})


def check_bound(bound: float) -> None:
    """Refuse a bound that bounds nothing.

    Raises:
        UsageError: It is not a number above 0.
    """
    if not (bound > 0 and math.isfinite(bound)):
        raise UsageError(f"the bound on an update's length is {bound}, expected a number above 0")
