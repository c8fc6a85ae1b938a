"""FedAvgM: FedAvg with momentum at the server.

Source: T.-M. H. Hsu, H. Qi, M. Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
Classification", 2019 (arXiv 1909.06335), section 4.3: v ← β·v + Δ, w ← w + v.
"""

from __future__ import annotations

from dataclasses import dataclass

from unseen.learners.horizontal.process import Aggregate, Process, State
from unseen.learners.horizontal.strategies.parameters import PLAN, Decay, Plan, Positive, validated
from unseen.learners.horizontal.strategies.parts import LocalTraining, SendModel, WeightedMean, named, stepped


@dataclass(frozen=True, slots=True)
class MomentumStep:
    """Moves the model by the velocity, which decays by β and gains the aggregated update."""

    beta: float
    learning_rate: float

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round, with its ``velocity``."""
        velocity = stepped(aggregate.delta, self.beta, named(state.extra, "velocity", len(state.model)))
        model = stepped(state.model, self.learning_rate, velocity)
        return State(state.round + 1, model, {"velocity": velocity})


@validated
def fed_avg_m(plan: Plan = PLAN, *, beta: Decay = 0.9, server_learning_rate: Positive = 1.0) -> Process:
    """Return FedAvgM; β = 0 is FedAvg bit for bit. Steps add up to 1/(1 − β) times those of FedAvg."""
    step = MomentumStep(beta, server_learning_rate)
    return Process("FedAvgM", SendModel(), LocalTraining(plan), WeightedMean(), step)
