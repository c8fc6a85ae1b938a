"""Distributed differential privacy: every client adds a share of discrete Gaussian noise, and the server sees a sum.

A client clips its update, turns it by a public random rotation (so that no coordinate is much larger than others),
divides by the step of a grid, rounds at random to integers until they are not longer than a bound, adds its noise, and
takes the result modulo 2^bits: words for secure aggregation, whose sum is exact. The server, who learns the sum alone,
undoes all that. The noise of ``clients`` clients makes the stated ε; what those add who are lost, or lie, is not
counted.

Source: P. Kairouz, Z. Liu, T. Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure
Aggregation", ICML 2021, algorithms 1 and 2; conditional rounding and its bound: their definition 18 and proposition 22.

*Trust:* at least ``clients`` of those in the sum are honest, and the server learns the sum only. Words are 32-bit
floats that hold integers of at most 24 bits exactly, and travel as words modulo 2^bits under secure aggregation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.errors import PermissionDenied, RemoteProtocolError, UsageError
from unseen.learners.horizontal.private.clip import bare, check_bound, clipped, finite_or_nothing
from unseen.learners.horizontal.private.limit import answered, check_round, parts_of
from unseen.learners.horizontal.private.noise import Reals, fresh
from unseen.learners.horizontal.private.rotation import Rotation
from unseen.learners.horizontal.private.sampling import check_stated
from unseen.learners.horizontal.process import Aggregate, Assignment, Finalizer, Process, State, Update, Vector
from unseen.learners.horizontal.sums import SCHEMES, Layout, total_of
from unseen.privacy.epsilon import Meter
from unseen.privacy.events import DistributedGaussian, Everyone, Fixed, Relation, Spend, Unit
from unseen.privacy.mechanisms import discrete_gaussian
from unseen.protocols.secure_aggregation.port import MAX_CLIENTS, MIN_CONTRIBUTORS, Contribution, Words, word_type

Integers = NDArray[np.int64]

_MOST_BITS = 24
_ATTEMPTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """How updates become integers modulo 2^bits, and their sum becomes one update again.

    Raises:
        UsageError: A number is not what it has to be.
    """

    size: int
    """Numbers in an update: d."""
    bound: float
    """Clients clip to it: c."""
    step: float
    """Of the grid: γ."""
    deviation: float
    """Of one client's noise, in the unit of updates: σ; at least half a step."""
    clients: int
    """Whose noise is in a sum at least; sums of fewer are refused."""
    bits: int
    rotated: bool = True
    beta: float = math.exp(-0.5)
    """How often, at most, rounding is tried again."""

    def __post_init__(self) -> None:
        check_bound(self.bound)
        if not (self.step > 0 and 0 < self.beta < 1 and 2 <= self.bits <= _MOST_BITS):
            raise UsageError(
                f"a code has a step above 0, a beta between 0 and 1, and 2 to {_MOST_BITS} bits, found {self}"
            )
        self.mechanism()

    @property
    def norm(self) -> float:
        """The greatest L2 norm of the integers of a client before its noise, in steps.

        The lesser of c/γ + √d and √(c²/γ² + d/4 + √(2·ln(1/β))·(c/γ + √d/2)).
        """
        length, root = self.bound / self.step, math.sqrt(self.size)
        likely = length**2 + self.size / 4 + math.sqrt(-2 * math.log(self.beta)) * (length + root / 2)
        return min(length + root, math.sqrt(likely))

    def mechanism(self) -> DistributedGaussian:
        """Return what the noise of a sum is."""
        return DistributedGaussian(
            deviation=self.deviation / self.step, clients=self.clients, norm=self.norm, size=self.size
        )

    def encode(self, delta: Vector, rotation: Rotation | None, prg: Prg) -> Integers:
        """Return the integers, in [−2^(bits−1), 2^(bits−1)), of an update that is not longer than the bound."""
        turned = delta.astype(np.float64) if rotation is None else rotation.turn(delta)
        rounded = self._rounded(turned / self.step, prg)
        return self.wrapped(rounded + discrete_gaussian(prg, (self.deviation / self.step) ** 2, self.size))

    def decode(self, summed: Integers, rotation: Rotation | None) -> Reals:
        """Return the sum of updates that belongs to a sum of integers modulo 2^bits."""
        values = self.wrapped(summed).astype(np.float64) * self.step
        return values if rotation is None else rotation.back(values)

    def wrapped(self, values: Integers) -> Integers:
        """Return the representatives modulo 2^bits that lie around zero."""
        half = 1 << (self.bits - 1)
        return ((values + half) & ((1 << self.bits) - 1)) - half

    def _rounded(self, values: Reals, prg: Prg) -> Integers:
        """Return neighbouring integers, drawn so that they are the values in the mean, until they are short enough."""
        low = np.floor(values)
        part = values - low
        most = self.norm**2
        for _ in range(_ATTEMPTS):
            coins = prg.words(len(values)).astype(np.float64) * 2.0**-64
            rounded = (low + (coins < part)).astype(np.int64)
            # Exact: what the stated sensitivity rests on.
            if int(rounded @ rounded) <= most:
                return rounded
        raise UsageError(
            f"an update was rounded {_ATTEMPTS} times and was always longer than {self.norm:g} steps, which must not "
            f"happen at beta = {self.beta:g}: was it clipped to {self.bound:g}?"
        )


def step_for(bits: int, bound: float, size: int, clients: int, deviation: float) -> float:
    """Return the finest grid on which a sum of ``clients`` updates wraps around in a coordinate once in some 16,000.

    Four deviations fit into half of the range: 2^bits·γ/2 = 4·√(n²c²/d + n·(σ² + γ²/4)), where n²c²/d is what n equal
    updates may have after a rotation (Kairouz, Liu, Steinke, section 5 and theorem 3).

    Raises:
        UsageError: So few bits cannot hold a sum of so many.
    """
    half = 2.0 ** (bits - 1) / 4
    room = half**2 - clients / 4
    if room <= 0:
        raise UsageError(f"{bits} bits cannot hold a sum of {clients} clients: use more bits")
    return math.sqrt(clients * (clients * bound**2 / size + deviation**2) / room)


# --- the parts of a process --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Encode:
    """A postprocessor: clips, encodes, adds noise, and takes off whatever else the update says about its client."""

    code: Code
    seed: int
    """Of the rotations; public."""
    rounds: int
    """How many answers a client's ε allows: no round beyond so many is answered, and a deployed client counts its
    answers whatever the server calls the rounds (``rounds.answered``)."""
    prg: Prg = field(repr=False)
    """The client's own secret; a simulation has one for all, and each client a stream of it."""

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise UsageError(f"clients answer in at least one round, found {self.rounds}")

    @property
    def answers(self) -> int:
        """How many the client's ε allows."""
        return self.rounds

    def spend(self, run: str, client: str, rounds: int) -> Spend:
        """Return the fact that a client has been in ``rounds`` sums, against those who know that it was."""
        return answered(self.code.mechanism(), run, client, rounds)

    def __call__(self, update: Update, assignment: Assignment) -> Update:
        """Return the update whose ``delta`` holds the client's integers; of a training that diverged, noise alone.

        Raises:
            PermissionDenied: The round is beyond those that the client's ε allows.
        """
        check_round(assignment, self.rounds)
        client, number = assignment.client, assignment.broadcast.round
        delta, _ = clipped(finite_or_nothing(update.delta), self.code.bound, client)
        prg = fresh(self.prg, "dp/distributed", (client, number), delta)
        integers = self.code.encode(delta, _rotation(self.code, self.seed, number), prg)
        return bare(update, integers.astype(np.float32), client)


def check_summed(process: Process) -> None:
    """Pass if what clients encode is seen in a sum alone: a client's own share of the noise hides little.

    Raises:
        UsageError: The aggregator is another one.
    """
    by = process.aggregator
    for part in parts_of(process):
        if isinstance(part, Encode) and not (isinstance(by, ModularSum) and by.code == part.code):
            raise UsageError(
                f"{process.name}: each client's noise is a share of what hides it, and {type(by).__name__} "
                "does not take the sum that it is for: take ModularSum with the same code, over secure rounds or peers"
            )


@dataclass(frozen=True, slots=True)
class ModularSum:
    """An aggregator: the sum of integers modulo 2^bits, which secure aggregation takes; a ``SumAggregator``.

    Fewer clients than the noise is meant for are no sum: a protocol gives up before it reveals one.
    """

    code: Code
    scheme: str = SCHEMES[0]

    @property
    def bits(self) -> int:
        """Those of the code."""
        return self.code.bits

    @property
    def fewest(self) -> int:
        """Whose noise is enough; 3 at least."""
        return max(MIN_CONTRIBUTORS, self.code.clients)

    @property
    def most(self) -> int:
        """As many as a protocol takes: more make a wrap likelier, and the noise stronger."""
        return MAX_CLIENTS

    def encode(self, update: Update, prg: Prg) -> Contribution:
        """Return the integers as words; nothing is drawn.

        Raises:
            UsageError: The update has not been encoded, or says more about its client than its integers.
        """
        del prg
        if update.extra or update.metrics or update.weight != 1 or (update.delta % 1).any():
            raise UsageError(
                "an update holds more than the integers of Encode: put Encode last among the postprocessors"
            )
        words = (update.delta.astype(np.int64) & ((1 << self.bits) - 1)).astype(word_type(self.bits))
        return Contribution(words)

    def decode(self, words: Words, weight: int, clients: int, layout: Layout) -> Aggregate:
        """Return the sum.

        Raises:
            RemoteProtocolError: The weights are not one each.
        """
        if weight != clients or layout != Layout(self.code.size):
            raise RemoteProtocolError(
                f"{clients} clients have weights of {weight} in all, expected 1 each and integers alone: one of them "
                "runs another process"
            )
        return Aggregate(self.code.wrapped(words.astype(np.int64)).astype(np.float32), clients, float(clients))

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the sum over a cohort.

        Raises:
            PermissionDenied: Fewer clients came than the noise is meant for.
        """
        if len(updates) < self.fewest:
            raise PermissionDenied(
                f"{len(updates)} clients came, and their noise is enough from {self.fewest} on: wait for more, or give "
                "each more noise"
            )
        return total_of(self, updates)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistributedPlan:
    """What a run states about its noise.

    With ``Fixed`` sampling the relation is ``replace``; with ``Everyone`` it may be ``zero-out``. ``Fixed`` holds
    against those alone who see nothing but the models: a simulation may state it, a deployed run is refused, since the
    server and all members of a cohort know who is in it.
    """

    code: Code
    seed: int
    """Of the rotations; public."""
    sampling: Everyone | Fixed
    run: str
    about: str
    relation: Relation = Relation.REPLACE

    def __post_init__(self) -> None:
        self.spend(1)

    def spend(self, rounds: int) -> Spend:
        """Return the fact that covers the first ``rounds`` rounds."""
        return Spend(
            run=self.run,
            about=self.about,
            mechanism=self.code.mechanism(),
            sampling=self.sampling,
            rounds=rounds,
            unit=Unit.CLIENT,
            relation=self.relation,
        )


@dataclass(frozen=True, slots=True)
class Decode:
    """A finalizer: the mean update that a sum of integers stands for, then another finalizer.

    Raises:
        PermissionDenied: The round would pass the budget, or the sum has the noise of too few; nothing is released.
    """

    inner: Finalizer
    plan: DistributedPlan
    meter: Meter

    def check_cohort(self, cohort: object, population: int) -> None:
        """Accept cohorts that are drawn as the plan states; raises ``UsageError`` else."""
        check_stated(self.plan.sampling, cohort, population)

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round."""
        code = self.plan.code
        if aggregate.clients < code.clients:
            raise PermissionDenied(
                f"round {state.round + 1} has the noise of {aggregate.clients} clients, and that of {code.clients} is "
                "stated: wait for more, or give each more noise"
            )
        self.meter.spend(self.plan.spend(state.round + 1))
        summed = code.decode(aggregate.delta.astype(np.int64), _rotation(code, self.plan.seed, state.round))
        mean = (summed / aggregate.clients).astype(np.float32)
        return self.inner(state, Aggregate(mean, aggregate.clients, float(aggregate.clients)))


def _rotation(code: Code, seed: int, round_number: int) -> Rotation | None:
    return Rotation.of(code.size, seed, round_number) if code.rotated else None
