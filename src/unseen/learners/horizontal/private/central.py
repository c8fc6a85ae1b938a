"""Central differential privacy: a trusted server adds Gaussian noise to the sum of clipped updates.

Source: B. McMahan and others, "Learning Differentially Private Recurrent Language Models", ICLR 2018, algorithm 1 with
the estimator of a fixed denominator: the sum is divided by how many clients are *expected*, q·N, never by how many
came, since that number is about people as well.

*Trust:* the server sees every update and draws the noise; what it publishes, the models after all rounds, is private.
How many clients came, their metrics, and a run's checkpoints are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from unseen.crypto.prg import Prg
from unseen.errors import RemoteProtocolError, UsageError
from unseen.learners.horizontal.private.clip import CLIP, WITHIN, Quantile, check_bound
from unseen.learners.horizontal.private.noise import LOW, Reals, fresh, split, total
from unseen.learners.horizontal.private.sampling import check_stated
from unseen.learners.horizontal.process import Aggregate, Finalizer, State, Update
from unseen.privacy.epsilon import Meter
from unseen.privacy.events import Gaussian, Relation, Sampling, Spend, Unit
from unseen.privacy.mechanisms import noisy

_NO_BIT = np.zeros(1, np.float32)


@dataclass(frozen=True, slots=True)
class Sum:
    """An aggregator: the plain sum of updates of weight 1, in 64 bits, metrics left out.

    Raises:
        UsageError: An update weighs something else: it has not been clipped.
    """

    def check_update(self, update: Update) -> None:
        """Accept what a clipped update consists of; raises as ``UpdateRule`` says."""
        bits = update.extra.get(WITHIN, _NO_BIT)
        if update.weight != 1 or update.metrics or update.extra.keys() - {WITHIN} or len(bits) != len(_NO_BIT):
            raise RemoteProtocolError(
                "its update has a weight other than 1, or more beside the model's change than a bit: it has not been "
                "clipped; both sides need the same process"
            )

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the sum over a cohort."""
        if any(update.weight != 1 or update.metrics for update in updates):
            raise UsageError(
                "an update has a weight other than 1, or metrics, and would tell them without noise: clip updates with "
                "Clip or AdaptiveClip, as the last of the postprocessors"
            )
        sums = np.zeros(len(updates[0].delta))
        for update in updates:
            sums += update.delta
        high, low = split(sums)
        bits = [update.extra[WITHIN] for update in updates if WITHIN in update.extra]
        extra = {LOW: low} | ({WITHIN: np.sum(bits, axis=0, dtype=np.float32)} if bits else {})
        return Aggregate(high, len(updates), float(len(updates)), extra)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What noise a run has, and what it states about it.

    Raises:
        UsageError: A number is not what it has to be, or ``sampling`` and ``relation`` do not go together.
    """

    clip: float | Quantile
    """The bound that clients clip to."""
    noise_multiplier: float
    """The noise on the sum has ``noise_multiplier`` times the bound as its deviation."""
    expected: float
    """Clients in a cohort, in expectation: what sums are divided by."""
    sampling: Sampling
    run: str
    about: str
    """The population of clients."""
    relation: Relation = Relation.ADD_OR_REMOVE

    def __post_init__(self) -> None:
        self.spend(1)
        if not self.expected > 0:
            raise UsageError(f"run {self.run}: expected clients are {self.expected}, which is not a number above 0")
        if isinstance(self.clip, Quantile):
            self.clip.left_for_sums(self.noise_multiplier)
        else:
            check_bound(self.clip)

    def spend(self, rounds: int) -> Spend:
        """Return the fact that covers the first ``rounds`` rounds."""
        return Spend(
            run=self.run,
            about=self.about,
            mechanism=Gaussian(noise_multiplier=self.noise_multiplier),
            sampling=self.sampling,
            rounds=rounds,
            unit=Unit.CLIENT,
            relation=self.relation,
        )


@dataclass(frozen=True, slots=True)
class Central:
    """A finalizer: noise on the sum, the mean over expected clients, then another finalizer.

    A round in which nobody came is finalised like any other, with a sum of zero: that it was empty is not to be seen.

    Raises:
        PermissionDenied: The round would pass the budget; nothing is released.
    """

    inner: Finalizer
    plan: Plan
    meter: Meter
    prg: Prg = field(repr=False)
    """The server's secret; it is never sent or shown, and a run keeps it until it ends."""

    def check_cohort(self, cohort: object, population: int) -> None:
        """Accept cohorts that are drawn as the plan states; raises ``UsageError`` else."""
        check_stated(self.plan.sampling, cohort, population)

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round."""
        self.meter.spend(self.plan.spend(state.round + 1))
        if isinstance(self.plan.clip, Quantile):
            return self._adaptive(state, aggregate, self.plan.clip)
        deviation = self.plan.noise_multiplier * self.plan.clip
        return self.inner(state, self._mean(state, aggregate, deviation))

    def _adaptive(self, state: State, aggregate: Aggregate, quantile: Quantile) -> State:
        bound = quantile.bound(state)
        deviation = quantile.left_for_sums(self.plan.noise_multiplier) * bound
        after = self.inner(state, self._mean(state, aggregate, deviation))
        bits = aggregate.extra.get(WITHIN, _NO_BIT).astype(np.float64)
        surplus = self._noisy(state, "dp/central/bits", bits, quantile.deviation)
        bound = quantile.next(bound, float(surplus[0]), self.plan.expected)
        return replace(after, extra={**after.extra, CLIP: np.array([bound], np.float32)})

    def _mean(self, state: State, aggregate: Aggregate, deviation: float) -> Aggregate:
        summed = self._noisy(state, "dp/central/sum", total(aggregate), deviation)
        mean = (summed / self.plan.expected).astype(np.float32)
        return Aggregate(mean, aggregate.clients, self.plan.expected)

    def _noisy(self, state: State, purpose: str, values: Reals, deviation: float) -> Reals:
        return noisy(values, deviation, fresh(self.prg, purpose, (self.plan.run, state.round), values))
