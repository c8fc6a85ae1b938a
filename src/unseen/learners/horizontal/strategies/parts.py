"""Parts that many strategies share: the model as it is sent, plain local training, the weighted mean, one step.

Strategies differ in one or two of these. Sums are taken in 64-bit floats in the order of the cohort and rounded once,
so that they do not depend on who computed what.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.kernels.jit import compiled
from unseen.learners.horizontal.process import (
    Aggregate,
    Assignment,
    Broadcast,
    Correction,
    Fit,
    GroupTrainer,
    LocalPlan,
    Memory,
    Process,
    State,
    Trainer,
    Update,
    Vector,
)

UNCORRECTED = Correction()
_CHUNK = 1 << 14
"""Numbers added up at a time: two chunks of doubles stay in the second-level cache."""


def named(vectors: Mapping[str, Vector], name: str, size: int) -> Vector:
    """Return one of the named vectors, or zeros of ``size`` as long as there is none.

    Raises:
        RemoteProtocolError: It has another length.
    """
    found = vectors.get(name)
    if found is not None and len(found) != size:
        raise RemoteProtocolError(f"expected {size} numbers called {name}, found {len(found)}")
    return np.zeros(size, np.float32) if found is None else found


def number(value: float) -> Vector:
    """Return a number as a vector, for ``extra``."""
    return np.array([value], np.float32)


# --- distributor -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SendModel:
    """Sends the model and, of what the server keeps beside it, the vectors named in ``extra``, as long as a model."""

    extra: tuple[str, ...] = ()

    def __call__(self, state: State) -> Broadcast:
        """Return the broadcast of a state."""
        extra = {name: named(state.extra, name, len(state.model)) for name in self.extra}
        return Broadcast(state.round, state.model, extra)


# --- work --------------------------------------------------------------------------------------------------------


def trained(
    trainer: Trainer,
    assignment: Assignment,
    plan: LocalPlan,
    correction: Correction = UNCORRECTED,
    start: Vector | None = None,
) -> Fit:
    """Return the training of ``start``, by default the broadcast model, by the plan of its round.

    Raises:
        DataError: The client has no examples.
    """
    if not len(assignment.examples):
        raise DataError(f"client {assignment.client} has no examples to train on: leave it out of the cohort")
    model = assignment.broadcast.model if start is None else start
    return trainer.fit(model, assignment.examples, plan.at(assignment.broadcast.round), assignment.rng, correction)


def towards(anchor: Vector, pull: float) -> Correction:
    """Return the correction by the gradient of pull/2 · ‖w − anchor‖²; none at all for pull = 0."""
    return Correction(pull=pull, anchor=anchor) if pull else UNCORRECTED


@dataclass(frozen=True, slots=True)
class LocalTraining:
    """Trains the broadcast model, and sends the difference; it counts as much as it has examples.

    With ``pull`` μ, μ/2 · ‖w − broadcast model‖² is added to the loss.
    """

    plan: LocalPlan
    pull: float = 0.0

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the update, and nothing to keep."""
        model = assignment.broadcast.model
        return self._update(assignment, trained(trainer, assignment, self.plan, towards(model, self.pull))), {}

    def many(self, trainer: GroupTrainer, assignments: Sequence[Assignment]) -> list[tuple[Update, Memory]]:
        """Return the update of each client of a group, trained at once, and nothing to keep."""
        broadcast = assignments[0].broadcast
        correction = towards(broadcast.model, self.pull)
        members = [(assignment.examples, assignment.rng, correction) for assignment in assignments]
        fits = trainer.fit_many(broadcast.model, self.plan.at(broadcast.round), members)
        return [(self._update(assignment, fit), {}) for assignment, fit in zip(assignments, fits, strict=True)]

    @staticmethod
    def _update(assignment: Assignment, fit: Fit) -> Update:
        return Update(fit.model - assignment.broadcast.model, len(assignment.examples), {}, {"loss": fit.loss})


def gradient_weight(plan: LocalPlan, steps: int, pull: float = 0.0) -> float:
    """Return how much of a constant gradient a local training adds up: (anchor − w) / (learning rate · gradient).

    It is ‖a‖₁ of Wang et al., NeurIPS 2020, section 3: the number of steps for plain gradient descent, more with
    momentum, less with a pull to the anchor.
    """
    moved, velocity, shrink = 0.0, 0.0, plan.learning_rate * pull
    for _ in range(steps):
        velocity = plan.momentum * velocity + 1.0 - shrink * moved
        moved += velocity
    return moved


@runtime_checkable
class Personal(Protocol):
    """Work of a strategy that leaves every client with a model of its own."""

    def personal(self, trainer: Trainer, assignment: Assignment) -> Vector:
        """Return the model that the client uses; the broadcast and its memory may be of different rounds."""
        ...


def personal_model(process: Process, trainer: Trainer, assignment: Assignment) -> Vector:
    """Return the model that a client uses for its own: that of everyone, unless the strategy is a personal one."""
    work = process.work
    return work.personal(trainer, assignment) if isinstance(work, Personal) else assignment.broadcast.model


def own_part(trainer: Trainer, names: tuple[str, ...]) -> slice | NDArray[np.int64]:
    """Return where the parameters of these names lie.

    Raises:
        UsageError: There are none.
    """
    place = trainer.part(*names)
    if not len(np.arange(trainer.size)[place]):
        raise UsageError(f"the model has no parameters whose names begin with {' or '.join(names)}")
    return place


def with_own(model: Vector, place: slice | NDArray[np.int64], memory: Memory) -> Vector:
    """Return ``model`` with a client's own numbers at ``place``, once it has any."""
    joined = model.copy()
    if "own" in memory:
        joined[place] = memory["own"]
    return joined


# --- aggregator --------------------------------------------------------------------------------------------------


def combination(vectors: Sequence[Vector], factors: Sequence[float], divisor: float = 1.0) -> Vector:
    """Return Σ factorᵢ·vectorᵢ / divisor, added in order as 64-bit floats and rounded once.

    Raises:
        UsageError: The vectors differ in length.
    """
    size = len(vectors[0])
    if any(len(vector) != size for vector in vectors):
        raise UsageError(f"vectors to combine have one length, found {sorted({len(vector) for vector in vectors})}")
    out = np.empty(size, np.float32)
    for start in range(0, size, _CHUNK):
        part = slice(start, start + _CHUNK)
        total = np.zeros(len(out[part]))
        for vector, factor in zip(vectors, factors, strict=True):
            _add(total, vector[part], float(factor))
        out[part] = total / divisor
    return out


@compiled
def _add(total: NDArray[np.float64], vector: Vector, factor: float) -> None:
    """Add factor · vector to ``total``."""
    for place in range(len(total)):
        total[place] += factor * np.float64(vector[place])


def same_shapes(updates: Sequence[Update]) -> None:
    """Refuse updates that cannot belong to one round.

    Raises:
        UsageError: There is none.
        RemoteProtocolError: Two differ in length or in their extra vectors.
    """
    if not updates:
        raise UsageError("there is no update to aggregate: a round needs at least one client")
    first = _shape(updates[0])
    for place, update in enumerate(updates, 1):
        if _shape(update) != first:
            raise RemoteProtocolError(
                f"update {place} of {len(updates)}: expected vectors of the lengths {first}, as in update 1, found "
                f"{_shape(update)}: both clients need the same model and strategy"
            )


def checked(updates: Sequence[Update]) -> None:
    """Refuse updates that cannot be added up.

    Raises:
        UsageError: There is none.
        RemoteProtocolError: Two differ in length or in their extra vectors, or a weight is no number above 0.
    """
    same_shapes(updates)
    for place, update in enumerate(updates, 1):
        if not 0 < update.weight < math.inf:
            raise RemoteProtocolError(
                f"update {place} of {len(updates)}: expected a positive weight, found {update.weight}"
            )


def _shape(update: Update) -> dict[str, int]:
    return {"delta": len(update.delta), **{name: len(update.extra[name]) for name in sorted(update.extra)}}


def refuse_not_finite(aggregate: Aggregate, updates: Sequence[Update]) -> None:
    """Refuse a mean that one client has made infinite or not a number.

    Raises:
        RemoteProtocolError: It is; the message says which updates are to blame.
    """
    if np.isfinite(aggregate.delta).all():
        return
    places = [str(place) for place, update in enumerate(updates, 1) if not np.isfinite(update.delta).all()]
    raise RemoteProtocolError(
        f"update {', '.join(places) or 'sum'} of {len(updates)} holds numbers that are not finite: leave that client "
        "out, or use a robust aggregator, which does so"
    )


def combined(updates: Sequence[Update], factors: Sequence[float], divisor: float) -> Aggregate:
    """Return the aggregate whose vectors are Σ factorᵢ·vectorᵢ / divisor; metrics are means with the same factors."""
    total = math.fsum(factors)
    extra = {
        name: combination([update.extra[name] for update in updates], factors, divisor) for name in updates[0].extra
    }
    shared = set.intersection(*(set(update.metrics) for update in updates))
    metrics = {
        name: math.fsum(f * update.metrics[name] for f, update in zip(factors, updates, strict=True)) / total
        for name in sorted(shared)
    }
    delta = combination([update.delta for update in updates], factors, divisor)
    return Aggregate(delta, len(updates), math.fsum(update.weight for update in updates), extra, metrics)


@dataclass(frozen=True, slots=True)
class WeightedMean:
    """Σ weightᵢ·updateᵢ / Σ weightᵢ, or with ``equal`` the plain mean, whatever weight a client claims.

    A sum over clients is all that it needs: secure aggregation can take its place.
    """

    equal: bool = False

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the mean.

        Raises:
            RemoteProtocolError: The updates do not fit each other, or one holds numbers that are not finite.
        """
        checked(updates)
        weights = [1.0 if self.equal else update.weight for update in updates]
        aggregate = combined(updates, weights, math.fsum(weights))
        refuse_not_finite(aggregate, updates)
        return aggregate


# --- finalizer ---------------------------------------------------------------------------------------------------


def stepped(model: Vector, rate: float, direction: Vector) -> Vector:
    """Return model + rate·direction as 32-bit floats."""
    moved: Vector = model + np.float32(rate) * direction
    return moved


@dataclass(frozen=True, slots=True)
class ServerStep:
    """Moves the model by ``learning_rate`` times the aggregated update."""

    learning_rate: float = 1.0

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round."""
        model = stepped(state.model, self.learning_rate, aggregate.delta)
        return State(state.round + 1, model, state.extra)
