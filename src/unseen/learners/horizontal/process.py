"""A federated learning process: values that travel, and the parts that make up an algorithm.

A round is a pure function: from the server's state and what a *cohort* of clients sends, to the next state. An
algorithm is a ``Process``, a choice of five parts, each of which can be swapped alone (the composition of TensorFlow
Federated's learning processes, with the averaging of B. McMahan and others, "Communication-Efficient Learning of Deep
Networks from Decentralized Data", AISTATS 2017, as the plainest choice):

=================  =====================================================================  =======================
part               what it does                                                           runs at
=================  =====================================================================  =======================
``Distributor``    makes the ``Broadcast`` of a state                                     server
``Work``           trains: from broadcast, own examples and own memory to an ``Update``   every client of a cohort
``Postprocessor``  changes an update before it leaves (clip, noise, compress), in order   every client of a cohort
``Aggregator``     makes one ``Aggregate`` of all updates                                 server, or a protocol
``Finalizer``      makes the next state of the aggregate                                  server
=================  =====================================================================  =======================

All models are flat vectors of 32-bit floats; what the numbers mean is known to the ``Trainer`` alone. Randomness is an
argument: every draw belongs to the seed of the run, the round, the client and the purpose (``stream``), so that a run
is the same bit for bit whatever the number of workers, and after a resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

from unseen.errors import DataError, UsageError
from unseen.ids import ClientId

Vector = NDArray[np.float32]

LARGEST, HEAVIEST = 2.0**60, 2.0**40
"""No number of an update is larger in magnitude, and no weight is larger, or smaller than 1/``HEAVIEST``.

So squares as 32-bit floats, and weighted sums over all clients as 64-bit ones, are finite whatever a client sends.
"""

Memory = Mapping[str, Vector]
"""What a client keeps from one of its rounds to the next; it never leaves it. Empty at first."""


def _nothing() -> dict[str, Vector]:
    return {}


# --- values ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """What the server knows between two rounds; arrays are not changed once they are here."""

    round: int
    """How many rounds have been finished."""
    model: Vector
    extra: Mapping[str, Vector] = field(default_factory=_nothing)
    """What the algorithm needs beside the model: momentum, control variates, …"""


@dataclass(frozen=True, slots=True, eq=False)
class Broadcast:
    """What every client of a cohort gets."""

    round: int
    model: Vector
    extra: Mapping[str, Vector] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """What one client sends: how its model differs from the broadcast one."""

    delta: Vector
    weight: float
    """How much it counts in a weighted mean: usually its number of examples."""
    extra: Mapping[str, Vector] = field(default_factory=_nothing)
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Means over its examples, such as the loss in training."""


def beyond(update: Update) -> list[str]:
    """Return which parts of an update hold numbers that are not finite, or larger than ``LARGEST``."""
    vectors = {"delta": update.delta, **update.extra}
    # A maximum that is NaN is not below anything.
    found = [
        name
        for name, vector in vectors.items()
        if not (vector.max(initial=0) <= LARGEST and vector.min(initial=0) >= -LARGEST)
    ]
    return found + [name for name, value in update.metrics.items() if not abs(value) <= LARGEST]


@dataclass(frozen=True, slots=True, eq=False)
class Aggregate:
    """What the server learns of a whole cohort."""

    delta: Vector
    clients: int
    weight: float
    """Sum of the updates' weights."""
    extra: Mapping[str, Vector] = field(default_factory=_nothing)
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """A client's own examples: inputs of shape (n, …) and labels of shape (n,), as the trainer takes them."""

    inputs: NDArray[np.generic] = field(repr=False)
    labels: NDArray[np.generic] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)


def refuse_diverged(client: str, vector: NDArray[np.floating]) -> None:
    """Refuse a client's difference that is no vector of finite numbers any more.

    Raises:
        DataError: It is none.
    """
    # One sum of squares is quicker, and not finite if one of the numbers is not.
    if not np.isfinite(np.vdot(vector, vector)) and not np.isfinite(vector).all():
        raise DataError(
            f"the update of client {client} holds numbers that are not finite: its training diverged; lower the "
            "learning rate, or look for such values in its examples"
        )


class _Key(ISeedSequence):
    """A key for Philox; given as ``key``, NumPy would ask the system for randomness that nobody uses, each time."""

    def __init__(self, key: NDArray[np.uint64]) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: object = np.uint64) -> NDArray[np.uint64]:
        """Return the key, which has two words."""
        del n_words, dtype
        return self._key


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Return the generator that belongs to a run's seed and to names: round, client, purpose."""
    digest = hashlib.sha256("\0".join([str(seed), *map(str, names)]).encode()).digest()
    key = _Key(np.frombuffer(digest, "<u8", 2))
    return np.random.Generator(np.random.Philox(key))  # type: ignore[arg-type]  # NumPy documents ISeedSequence, too


# --- what trains a model -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """How a client trains: minibatch stochastic gradient descent over its own examples."""

    learning_rate: float = 0.1
    epochs: int = 1
    batch: int = 20
    momentum: float = 0.0
    weight_decay: float = 0.0
    steps: int | None = None
    """Stop after as many minibatches, whatever ``epochs`` says."""
    decay: float = 1.0
    """What the learning rate is multiplied by from one round to the next."""

    def at(self, round_number: int) -> LocalPlan:
        """Return the plan of one round: with its learning rate, and no more decay."""
        if self.decay == 1:
            return self
        return replace(self, learning_rate=self.learning_rate * self.decay**round_number, decay=1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """A change of every gradient g of a client that is at w: g + pull · (w − anchor) + drift.

    It covers the proximal term of FedProx, the control variates of SCAFFOLD and the regulariser of FedDyn.
    """

    pull: float = 0.0
    anchor: Vector | None = None
    drift: Vector | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """What a training did."""

    model: Vector
    steps: int
    """Minibatches."""
    loss: float
    """Mean over all examples seen, as they were seen."""


class Trainer(Protocol):
    """A model of some framework, as a function of a flat vector; the only part that knows the framework."""

    size: int
    """How many numbers a model has."""

    def settle(self) -> None:
        """Prepare the process that is going to train: one thread, results that do not depend on the machine's load."""
        ...

    def initial(self, seed: int) -> Vector:
        """Return a fresh model."""
        ...

    def fit(
        self, model: Vector, examples: Examples, plan: LocalPlan, rng: np.random.Generator, correction: Correction
    ) -> Fit:
        """Return ``model`` trained; neither it nor the examples are changed."""
        ...

    def gradient(self, model: Vector, examples: Examples) -> tuple[Vector, float]:
        """Return gradient and value of the mean loss over all examples."""
        ...

    def evaluate(self, model: Vector, examples: Examples) -> Mapping[str, float]:
        """Return ``loss`` and further metrics, means over all examples."""
        ...

    def part(self, *names: str) -> slice | NDArray[np.int64]:
        """Return where in the vector the parameters (and buffers) lie whose names begin with one of ``names``."""
        ...


@runtime_checkable
class GroupTrainer(Protocol):
    """What a trainer may do beside: train several clients at once, which pays for small models and on a GPU."""

    @property
    def group(self) -> int:
        """How many clients are best trained at once; 1 if one by one. It depends on model and device alone."""
        ...

    def fit_many(
        self, model: Vector, plan: LocalPlan, cohort: Sequence[tuple[Examples, np.random.Generator, Correction]]
    ) -> list[Fit]:
        """Return ``model`` trained by each of a group of clients; but for rounding, what ``fit`` makes of each."""
        ...


# --- the parts ---------------------------------------------------------------------------------------------------


class Distributor(Protocol):
    """Makes what a cohort gets."""

    def __call__(self, state: State) -> Broadcast:
        """Return the broadcast of a state."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """What one client works on in one round."""

    client: ClientId
    broadcast: Broadcast
    examples: Examples
    memory: Memory
    rng: np.random.Generator


class Work(Protocol):
    """What a client does in its round."""

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the update, and what the client keeps for its next round."""
        ...


@runtime_checkable
class GroupWork(Protocol):
    """Work that may be done for several clients of a round at once."""

    def many(self, trainer: GroupTrainer, assignments: Sequence[Assignment]) -> list[tuple[Update, Memory]]:
        """Return what a call returns for each; all assignments have the same broadcast."""
        ...


class Postprocessor(Protocol):
    """Changes an update at the client before it leaves."""

    def __call__(self, update: Update, assignment: Assignment) -> Update:
        """Return the changed update."""
        ...


class Aggregator(Protocol):
    """Makes one of many; the order of the updates, which is that of the cohort, must not matter but for rounding."""

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the aggregate of at least one update."""
        ...


@runtime_checkable
class UpdateRule(Protocol):
    """An aggregator that takes some updates only: with any other one it would refuse a whole cohort's."""

    def check_update(self, update: Update) -> None:
        """Accept what a client sends, if it can be aggregated with any others of its shape.

        Raises:
            RemoteProtocolError: It cannot.
        """
        ...


class Finalizer(Protocol):
    """Makes the next state."""

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round."""
        ...


@runtime_checkable
class CohortRule(Protocol):
    """A finalizer that is right for some cohorts only: one whose privacy rests on how they are drawn.

    All that are drawn and answer count: if the first few ended a round, one client more would push another one out, and
    a sum would change by two clients' updates where the accounting knows of one.
    """

    def check_cohort(self, cohort: object, population: int) -> None:
        """Accept what draws the cohorts of a run from ``population`` clients.

        Raises:
            UsageError: They are not drawn as the finalizer states.
        """
        ...


@dataclass(frozen=True, slots=True)
class Process:
    """One algorithm: its name, as papers call it, and its parts."""

    name: str
    distributor: Distributor
    work: Work
    aggregator: Aggregator
    finalizer: Finalizer
    postprocessors: tuple[Postprocessor, ...] = ()

    def start(self, model: Vector) -> State:
        """Return the state before the first round."""
        return State(0, model)

    def check_cohort(self, cohort: object, population: int, *, first_come: bool = False) -> None:
        """Accept what draws the cohorts of a run, before its first round.

        Args:
            cohort: Draws them.
            population: All clients.
            first_come: Whether a round ends with the first updates, however many clients were drawn.

        Raises:
            UsageError: The finalizer is right for others only (``CohortRule``).
        """
        if not isinstance(self.finalizer, CohortRule):
            return
        if first_come:
            raise UsageError(
                f"{self.name} states the privacy of cohorts that are drawn, and here whoever answers first is counted: "
                "that a client is there would push another one out; do without `enough`, and without buffers"
            )
        self.finalizer.check_cohort(cohort, population)

    def check_update(self, update: Update) -> None:
        """Accept what a client sends, before it is aggregated with others; raises as ``UpdateRule`` says."""
        if isinstance(self.aggregator, UpdateRule):
            self.aggregator.check_update(update)

    def client_round(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return what a client sends, and what it keeps."""
        update, memory = self.work(trainer, assignment)
        return self._postprocessed(update, assignment), memory

    def group(self, trainer: Trainer) -> int:
        """Return how many clients ``group_round`` should take at once; 1 if they are to be played one by one."""
        return trainer.group if isinstance(trainer, GroupTrainer) and isinstance(self.work, GroupWork) else 1

    def group_round(self, trainer: Trainer, assignments: Sequence[Assignment]) -> list[tuple[Update, Memory]]:
        """Return ``client_round`` of several clients of one round, trained at once.

        Raises:
            UsageError: The trainer or the work cannot do that: ``group`` is 1.
        """
        if not (isinstance(trainer, GroupTrainer) and isinstance(self.work, GroupWork)):
            raise UsageError(f"{self.name} with this trainer plays clients one by one: use client_round")
        found = self.work.many(trainer, assignments)
        return [
            (self._postprocessed(update, assignment), memory)
            for (update, memory), assignment in zip(found, assignments, strict=True)
        ]

    def _postprocessed(self, update: Update, assignment: Assignment) -> Update:
        for postprocess in self.postprocessors:
            update = postprocess(update, assignment)
        return update

    def next(self, state: State, updates: Sequence[Update]) -> tuple[State, Aggregate]:
        """Return the state after a round with these updates, and their aggregate.

        A round without any goes to the finalizer all the same, with an aggregate of nobody: under differential privacy
        it must not show that there was none.
        """
        aggregate = self.aggregate(state, updates)
        return self.finalizer(state, aggregate), aggregate

    def aggregate(self, state: State, updates: Sequence[Update]) -> Aggregate:
        """Return the aggregate of these updates, that of nobody if there are none."""
        return self.aggregator(updates) if updates else Aggregate(np.zeros_like(state.model), 0, 0.0)
