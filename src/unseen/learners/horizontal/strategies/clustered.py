"""IFCA: several models; every client trains the one that fits it best, and so finds others of its kind.

Source: A. Ghosh, J. Chung, D. Yin, K. Ramchandran, "An Efficient Framework for Clustered Federated Learning", NeurIPS
2020, Algorithm 1, option II (model averaging). Models have to begin apart: all but the first are the initial model plus
normal noise of standard deviation ``spread``. A client gets all models and tells the server which one it took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from unseen.errors import RemoteProtocolError
from unseen.learners.horizontal.process import (
    Aggregate,
    Assignment,
    Broadcast,
    LocalPlan,
    Memory,
    Process,
    State,
    Trainer,
    Update,
    Vector,
    stream,
)
from unseen.learners.horizontal.strategies.parameters import PLAN, Count, Plan, Positive, validated
from unseen.learners.horizontal.strategies.parts import WeightedMean, number, stepped, trained


def models_of(value: State | Broadcast) -> list[Vector]:
    """Return the models of all clusters; the first is ``model``, the others lie in ``extra``."""
    return [value.model, *(value.extra[_name(place)] for place in range(1, len(value.extra) + 1))]


def _name(place: int) -> str:
    return f"cluster {place}"


@dataclass(frozen=True, slots=True)
class Beginnings:
    """Where the models of clusters begin."""

    clusters: int
    spread: float
    seed: int

    def others(self, state: State) -> Mapping[str, Vector]:
        """Return all models but the first."""
        return state.extra or {_name(place): self._begin(state.model, place) for place in range(1, self.clusters)}

    def _begin(self, model: Vector, place: int) -> Vector:
        noise = stream(self.seed, "cluster", place).standard_normal(len(model), np.float32)
        return stepped(model, self.spread, noise)


@dataclass(frozen=True, slots=True)
class SendAll:
    """Sends the models of all clusters."""

    beginnings: Beginnings

    def __call__(self, state: State) -> Broadcast:
        """Return the broadcast of a state."""
        return Broadcast(state.round, state.model, self.beginnings.others(state))


@dataclass(frozen=True, slots=True)
class TrainBest:
    """Trains the model whose loss on the client's examples is least; says which, and keeps it."""

    plan: LocalPlan

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the update with the place of its ``cluster`` as ones and zeros, and that place."""
        models = models_of(assignment.broadcast)
        place = _best(trainer, assignment, models)
        fit = trained(trainer, assignment, self.plan, start=models[place])
        extra = {"cluster": np.eye(len(models), dtype=np.float32)[place]}
        update = Update(fit.model - models[place], len(assignment.examples), extra, {"loss": fit.loss})
        return update, {"cluster": number(place)}

    def personal(self, trainer: Trainer, assignment: Assignment) -> Vector:
        """Return the model of the client's cluster; broadcasts without clusters have one."""
        models = models_of(assignment.broadcast)
        return models[_best(trainer, assignment, models)]


def _best(trainer: Trainer, assignment: Assignment, models: Sequence[Vector]) -> int:
    return int(np.argmin([trainer.evaluate(model, assignment.examples)["loss"] for model in models]))


@dataclass(frozen=True, slots=True)
class MeansOfClusters:
    """The weighted mean of every cluster's updates; those of all but the first in ``extra``."""

    clusters: int

    def check_update(self, update: Update) -> None:
        """Accept an update that says which cluster it belongs to; raises as ``UpdateRule`` says."""
        self._cluster(update)

    def __call__(self, updates: Sequence[Update]) -> Aggregate:
        """Return the means; clusters that nobody has chosen have none, the first one zeros."""
        mean, chosen = WeightedMean(), [self._cluster(update) for update in updates]
        bare = [replace(update, extra={}) for update in updates]
        means = {
            place: mean([update for update, taken in zip(bare, chosen, strict=True) if taken == place]).delta
            for place in sorted(set(chosen))
        }
        extra = {_name(place): delta for place, delta in means.items() if place}
        return replace(mean(bare), delta=means.get(0, np.zeros_like(updates[0].delta)), extra=extra)

    def _cluster(self, update: Update) -> int:
        found = update.extra.get("cluster")
        if found is None or len(found) != self.clusters:
            raise RemoteProtocolError(f"an update does not say which of the {self.clusters} clusters it belongs to")
        return int(np.argmax(found))


@dataclass(frozen=True, slots=True)
class StepOfClusters:
    """Moves every cluster's model by the mean of its updates."""

    beginnings: Beginnings
    learning_rate: float

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round."""
        rate, moved = self.learning_rate, aggregate.extra
        extra = {
            name: stepped(model, rate, moved[name]) if name in moved else model
            for name, model in self.beginnings.others(state).items()
        }
        return State(state.round + 1, stepped(state.model, rate, aggregate.delta), extra)


@validated
def clustered(
    plan: Plan = PLAN,
    *,
    clusters: Count = 2,
    spread: Positive = 0.1,
    seed: int = 0,
    server_learning_rate: Positive = 1.0,
) -> Process:
    """Return IFCA with so many ``clusters``; one cluster is FedAvg bit for bit."""
    begin = Beginnings(clusters, spread, seed)
    step = StepOfClusters(begin, server_learning_rate)
    return Process("IFCA", SendAll(begin), TrainBest(plan), MeansOfClusters(clusters), step)
