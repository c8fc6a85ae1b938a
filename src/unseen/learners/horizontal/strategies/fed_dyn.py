"""FedDyn: every client's loss gets a term that moves its own optimum to that of all.

Source: D. A. E. Acar, Y. Zhao, R. Matas Navarro, M. Mattina, P. N. Whatmough, V. Saligrama, "Federated Learning Based
on Dynamic Regularization", ICLR 2021, Algorithm 1. A client trains F(w) − ⟨gᵢ, w⟩ + α/2 · ‖w − broadcast model‖² and
keeps gᵢ ← gᵢ − α·Δᵢ; the server keeps h ← h − α/m · Σ Δᵢ over all m clients, and takes the mean model less h/α. As in
the paper every client counts the same.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from unseen.learners.horizontal.strategies.parts import SendModel, WeightedMean, named, stepped, trained


@dataclass(frozen=True, slots=True)
class DynamicTraining:
    """Trains the regularised loss, and keeps the estimate gᵢ of the client's gradient."""

    plan: LocalPlan
    alpha: float

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the update, and the client's ``gradient``."""
        model = assignment.broadcast.model
        gradient = named(assignment.memory, "gradient", len(model))
        fit = trained(trainer, assignment, self.plan, Correction(self.alpha, model, -gradient))
        delta = fit.model - model
        return Update(delta, 1.0, {}, {"loss": fit.loss}), {"gradient": stepped(gradient, -self.alpha, delta)}


@dataclass(frozen=True, slots=True)
class DynamicStep:
    """Takes the mean of the cohort's models less h/α, where h sums up what clients have moved by."""

    clients: int
    alpha: float

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round, with ``h``."""
        share = self.alpha * aggregate.clients / self.clients
        h = stepped(named(state.extra, "h", len(state.model)), -share, aggregate.delta)
        model = stepped(stepped(state.model, 1.0, aggregate.delta), -1 / self.alpha, h)
        return State(state.round + 1, model, {"h": h})


@validated
def fed_dyn(plan: Plan = PLAN, *, clients: Count, alpha: Positive = 0.1) -> Process:
    """Return FedDyn for a federation of ``clients``.

    It reaches the optimum of the mean loss of all clients at the bytes of FedAvg. α has to be weighed against the
    curvature of the loss: too small a value diverges where clients train for long.
    """
    return Process("FedDyn", SendModel(), DynamicTraining(plan, alpha), WeightedMean(), DynamicStep(clients, alpha))
