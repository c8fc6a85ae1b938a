"""DP-FTRL: noise from a binary tree on the sums of all rounds so far, private without any sampling.

After round t the server knows the sum of all updates up to t plus the noise of the nodes that make up [1, t], at most
⌊log2 t⌋ + 1 of them, instead of the t independent noises of a server that adds some in each round. Only that a client
takes part at most once in a tree matters, not who does when: nobody has to keep cohorts secret.

Here a round hands the *difference* of two such sums to another finalizer, which is post-processing: with plain server
steps the model is x_0 + η·(S_t + noise_t), as in follow-the-regularised-leader.

Source: P. Kairouz and others, "Practical and Private (Deep) Learning without Sampling or Shuffling", ICML 2021,
algorithm 1 and appendix B, without the variance reduction of J. Honaker; a tree ends after ``steps`` rounds and a new
one begins (restarts). The mechanism is that of C. Dwork and others, STOC 2010, and of T. Chan, E. Shi, D. Song, ICALP
2010.

Nothing is kept of the tree but the digests that its noise is keyed by: noise is drawn again when its node is left.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.private.clip import check_bound
from unseen.learners.horizontal.private.noise import Reals, total
from unseen.learners.horizontal.private.sampling import EpochCohort
from unseen.learners.horizontal.process import Aggregate, Finalizer, State
from unseen.privacy.epsilon import Meter
from unseen.privacy.events import Everyone, Relation, Spend, Tree, Unit
from unseen.privacy.mechanisms import gaussian, on_grid

DIGESTS = "dp/tree"
"""An extra of states: digests of 32 bytes, a float for each byte; the first of all sums so far, then one a level."""
_LEVELS, _BYTES = 32, 32
Digests = NDArray[np.uint8]
"""Shape (33, 32)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TreePlan:
    """What noise a run has, and what it states about it.

    Raises:
        UsageError: A number is not what it has to be.
    """

    clip: float
    """The bound that clients clip to."""
    noise_multiplier: float
    """The noise of a node has this many times the bound as its deviation."""
    steps: int
    """Rounds of a tree, in which no client comes twice (``EpochCohort.rounds``)."""
    expected: float
    """Clients in a cohort."""
    run: str
    about: str
    relation: Relation = Relation.ZERO_OUT

    def __post_init__(self) -> None:
        check_bound(self.clip)
        self.spend(1)
        if self.steps.bit_length() > _LEVELS:
            raise UsageError(f"run {self.run}: a tree has fewer than 2^{_LEVELS} steps, found {self.steps}")
        if not self.expected > 0:
            raise UsageError(f"run {self.run}: expected clients are {self.expected}, which is not a number above 0")

    def spend(self, rounds: int) -> Spend:
        """Return the fact that covers all trees of the first ``rounds`` rounds; one that is begun counts whole."""
        return Spend(
            run=self.run,
            about=self.about,
            mechanism=Tree(noise_multiplier=self.noise_multiplier, steps=self.steps),
            sampling=Everyone(),
            rounds=-(-rounds // self.steps),
            unit=Unit.CLIENT,
            relation=self.relation,
        )


@dataclass(frozen=True, slots=True)
class Ftrl:
    """A finalizer: what a round adds to the noisy sum of all, over expected clients, then another finalizer.

    Raises:
        PermissionDenied: A new tree would pass the budget; nothing is released.
    """

    inner: Finalizer
    plan: TreePlan
    meter: Meter
    prg: Prg = field(repr=False)
    """The server's secret; it is never sent or shown, and a run keeps it until it ends."""

    def check_cohort(self, cohort: object, population: int) -> None:
        """Accept cohorts in which no client comes twice in a tree.

        Raises:
            UsageError: One may.
        """
        if not isinstance(cohort, EpochCohort) or self.plan.steps > cohort.rounds(population):
            raise UsageError(
                f"in the {self.plan.steps} rounds of a tree no client may come twice, cohorts are drawn by {cohort!r} "
                f"from {population} clients: draw them by private.sampling.EpochCohort, and let trees have its rounds"
            )

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round."""
        self.meter.spend(self.plan.spend(state.round + 1))
        tree, done = divmod(state.round, self.plan.steps)
        summed = total(aggregate)
        digests = _digests(state) if done else np.zeros((_LEVELS + 1, _BYTES), np.uint8)
        left = self._left(tree, done, digests, len(summed))
        self._advance(digests, done + 1, summed)
        change = on_grid(summed + self._ending(tree, done + 1, digests, len(summed)) - left, self._deviation)
        mean = (change / self.plan.expected).astype(np.float32)
        after = self.inner(state, Aggregate(mean, aggregate.clients, self.plan.expected))
        return replace(after, extra={**after.extra, DIGESTS: digests.reshape(-1).astype(np.float32)})

    @property
    def _deviation(self) -> float:
        return self.plan.noise_multiplier * self.plan.clip

    def _ending(self, tree: int, step: int, digests: Digests, size: int) -> Reals:
        """Return the noise of the node that comes into the sum with a step: the largest that ends there."""
        return self._node(tree, _lowest(step), step, digests, size)

    def _left(self, tree: int, done: int, digests: Digests, size: int) -> Reals:
        """Return the noise of the nodes whose place the next step's node takes: they make up its range but for one."""
        noise = np.zeros(size)
        for level in range(_lowest(done + 1)):
            noise += self._node(tree, level, done >> level << level, digests, size)
        return noise

    def _node(self, tree: int, level: int, end: int, digests: Digests, size: int) -> Reals:
        """Return the noise of the node of 2^level steps up to ``end``."""
        place = [str(part).encode() for part in (self.plan.run, tree, level, end)]
        noise = gaussian(self.prg.derive("dp/tree", *place, digests[level + 1].tobytes()), size)
        noise *= self._deviation
        return noise

    def _advance(self, digests: Digests, step: int, summed: Reals) -> None:
        """Take a step's sum into the digest of all, and give that to the node that ends with the step."""
        # Keyed: whoever sees a state cannot try out which sums it may come from.
        key = self.prg.derive("dp/tree/digest").bytes(_BYTES)
        digests[0] = np.frombuffer(hmac.digest(key, digests[0].tobytes() + summed.tobytes(), "sha256"), np.uint8)
        digests[_lowest(step) + 1] = digests[0]


def _lowest(step: int) -> int:
    """Return the place of the lowest bit that is set."""
    return (step & -step).bit_length() - 1


def _digests(state: State) -> Digests:
    kept = state.extra.get(DIGESTS)
    if kept is None or kept.shape != ((_LEVELS + 1) * _BYTES,):
        raise DataError(
            f"the state after round {state.round} lacks {DIGESTS}, without which its tree cannot go on: start from a "
            "state of this process, or begin a new run"
        )
    return kept.astype(np.uint8).reshape(_LEVELS + 1, _BYTES)
