"""FedNova: updates count per local step, so that clients that take more steps do not count more.

Source: J. Wang, Q. Liu, H. Liang, G. Joshi, H. V. Poor, "Tackling the Objective Inconsistency Problem in Heterogeneous
Federated Optimization", NeurIPS 2020, section 4 and equation 7: w ← w + τ_eff · Σ pᵢ·Δᵢ/‖aᵢ‖₁ with τ_eff = Σ pᵢ·‖aᵢ‖₁.
‖aᵢ‖₁ is the number of steps, or what momentum and a proximal term make of it. Clients divide their own updates, so that
the server needs sums alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from unseen.learners.horizontal.process import (
    Aggregate,
    Assignment,
    LocalPlan,
    Memory,
    Process,
    State,
    Trainer,
    Update,
)
from unseen.learners.horizontal.strategies.parameters import PLAN, NotNegative, Plan, Positive, validated
from unseen.learners.horizontal.strategies.parts import (
    SendModel,
    WeightedMean,
    gradient_weight,
    named,
    number,
    stepped,
    towards,
    trained,
)


@dataclass(frozen=True, slots=True)
class NormalisedTraining:
    """Sends the update per step, and the number of steps, as local training weighs them."""

    plan: LocalPlan
    pull: float

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the update with ``steps``, and nothing to keep."""
        model = assignment.broadcast.model
        plan = self.plan.at(assignment.broadcast.round)
        fit = trained(trainer, assignment, plan, towards(model, self.pull))
        steps = number(gradient_weight(plan, fit.steps, self.pull))
        delta = (fit.model - model) / steps
        return Update(delta, len(assignment.examples), {"steps": steps}, {"loss": fit.loss}), {}


@dataclass(frozen=True, slots=True)
class NormalisedStep:
    """Moves the model by the mean update per step times the mean number of steps."""

    learning_rate: float

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round."""
        moved = named(aggregate.extra, "steps", 1) * aggregate.delta
        return State(state.round + 1, stepped(state.model, self.learning_rate, moved))


@validated
def fed_nova(plan: Plan = PLAN, *, mu: NotNegative = 0.0, server_learning_rate: Positive = 1.0) -> Process:
    """Return FedNova, with a proximal term μ as in FedProx; the momentum is that of ``plan``.

    Where all clients take the same number of steps it is FedAvg but for rounding: bit for bit if that is a power of 2.
    """
    work, step = NormalisedTraining(plan, mu), NormalisedStep(server_learning_rate)
    return Process("FedNova", SendModel(), work, WeightedMean(), step)
