"""FedYogi: FedAvg with an adaptive step at the server, second moments that grow and shrink slowly.

Source: S. Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.
"""

from __future__ import annotations

from unseen.learners.horizontal.process import Process
from unseen.learners.horizontal.strategies.adaptive import AdaptiveStep, adaptive
from unseen.learners.horizontal.strategies.parameters import PLAN, Decay, Plan, Positive, validated


@validated
def fed_yogi(
    plan: Plan = PLAN,
    *,
    server_learning_rate: Positive = 0.1,
    beta1: Decay = 0.9,
    beta2: Decay = 0.99,
    tau: Positive = 1e-3,
) -> Process:
    """Return FedYogi; τ bounds the step of a coordinate that hardly ever moves: the smaller, the more adaptive."""
    return adaptive(plan, AdaptiveStep("FedYogi", server_learning_rate, beta1, beta2, tau))
