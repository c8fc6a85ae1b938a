"""The adaptive step of a server: every coordinate has its own step length, by the squares of its past updates.

Source: S. Reddi, Z. Charles, M. Zaheer, Z. Garrett, K. Rush, J. Konečný, S. Kumar, B. McMahan, "Adaptive Federated
Optimization", ICLR 2021, Algorithm 2. Three rules differ in the second moment v alone. As there, v begins at τ² and
moments are not corrected for their beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from unseen.learners.horizontal.process import Aggregate, LocalPlan, Process, State, Vector
from unseen.learners.horizontal.strategies.parts import LocalTraining, SendModel, WeightedMean, named, stepped

Rule: TypeAlias = Literal["FedAdagrad", "FedAdam", "FedYogi"]


def _adagrad(second: Vector, square: Vector, _beta: np.float32) -> Vector:
    return second + square


def _adam(second: Vector, square: Vector, beta: np.float32) -> Vector:
    return beta * second + (np.float32(1) - beta) * square


def _yogi(second: Vector, square: Vector, beta: np.float32) -> Vector:
    change: Vector = (np.float32(1) - beta) * square * np.sign(second - square)
    return second - change


_RULES: dict[Rule, Callable[[Vector, Vector, np.float32], Vector]] = {
    "FedAdagrad": _adagrad,
    "FedAdam": _adam,
    "FedYogi": _yogi,
}


@dataclass(frozen=True, slots=True)
class AdaptiveStep:
    """m ← β₁·m + (1 − β₁)·Δ, v by the rule, w ← w + η·m/(√v + τ)."""

    rule: Rule
    learning_rate: float
    beta1: float
    beta2: float
    tau: float

    def __call__(self, state: State, aggregate: Aggregate) -> State:
        """Return the state after a round, with both moments."""
        delta, size, beta, tau = aggregate.delta, len(state.model), np.float32(self.beta1), np.float32(self.tau)
        first = beta * named(state.extra, "first", size) + (np.float32(1) - beta) * delta
        before = state.extra.get("second", np.full(size, tau * tau))
        second = _RULES[self.rule](before, delta * delta, np.float32(self.beta2))
        step = np.divide(first, np.sqrt(second) + tau, dtype=np.float32)
        model = stepped(state.model, self.learning_rate, step)
        return State(state.round + 1, model, {"first": first, "second": second})


def adaptive(plan: LocalPlan, step: AdaptiveStep) -> Process:
    """Return FedAvg with an adaptive step at the server."""
    return Process(step.rule, SendModel(), LocalTraining(plan), WeightedMean(), step)
