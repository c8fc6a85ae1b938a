"""SCAFFOLD: control variates take out of local steps what makes clients drift apart.

Source: S. P. Karimireddy, S. Kale, M. Mohri, S. Reddi, S. Stich, A. T. Suresh, "SCAFFOLD: Stochastic Controlled
Averaging for Federated Learning", ICML 2020, Algorithm 1, option II. A client's control variate cᵢ estimates its
gradient, the server's c their mean; local gradients become g − cᵢ + c. As in the paper every client counts the same.

With momentum K·η in option II becomes η times the gradients that the training has added up, so that cᵢ stays an
estimate of one gradient: dividing by the number of steps alone makes it 1/(1 − momentum) times too large, and diverge.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unseen.learners.horizontal.process import (
    Aggregate,
    Assignment,
    Correction,
    LocalPlan,
    Memory,
    Process,
    State,
    Trainer,
    Update,
)
from unseen.learners.horizontal.strategies.parameters import PLAN, Count, Plan, Positive, validated
from unseen.learners.horizontal.strategies.parts import (
    SendModel,
    WeightedMean,
    gradient_weight,
    named,
    stepped,
    trained,
)


@dataclass(frozen=True, slots=True)
class ControlledTraining:
    """Trains with the drift c − cᵢ; sends the change of cᵢ beside that of the model, and keeps cᵢ."""

    plan: LocalPlan

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the update with ``control``, and the client's control variate."""
        model, ours = assignment.broadcast.model, assignment.broadcast.extra["control"]
        mine = named(assignment.memory, "control", len(model))
        plan = self.plan.at(assignment.broadcast.round)
        fit = trained(trainer, assignment, plan, Correction(drift=ours - mine))
        delta = fit.model - model
        added = np.float32(plan.learning_rate * gradient_weight(plan, fit.steps))
        change = -ours - delta / added
        return Update(delta, 1.0, {"control": change}, {"loss": fit.loss}), {"control": mine + change}


@dataclass(frozen=True, slots=True)
class ControlStep:
    """Moves the model by the mean update, and c by the mean change times the cohort's share of all ``clients``."""

    clients: int
    learning_rate: float

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round, with ``control``."""
        share, before = min(1.0, aggregate.clients / self.clients), named(state.extra, "control", len(state.model))
        control = stepped(before, share, named(aggregate.extra, "control", len(state.model)))
        model = stepped(state.model, self.learning_rate, aggregate.delta)
        return State(state.round + 1, model, {"control": control})


@validated
def scaffold(plan: Plan = PLAN, *, clients: Count, server_learning_rate: Positive = 1.0) -> Process:
    """Return SCAFFOLD for a federation of ``clients``.

    It reaches the optimum of the mean loss of all clients whatever the number of local steps, at twice the bytes of
    FedAvg in either direction.
    """
    step = ControlStep(clients, server_learning_rate)
    return Process("SCAFFOLD", SendModel(("control",)), ControlledTraining(plan), WeightedMean(), step)
