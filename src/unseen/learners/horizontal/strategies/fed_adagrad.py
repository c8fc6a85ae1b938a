"""FedAdagrad: FedAvg with an adaptive step at the server, by the sum of all squares: step lengths only shrink.

Source: S. Reddi et al., "Adaptive Federated Optimization", ICLR 2021, Algorithm 2.
"""

from __future__ import annotations

from unseen.learners.horizontal.process import Process
from unseen.learners.horizontal.strategies.adaptive import AdaptiveStep, adaptive
from unseen.learners.horizontal.strategies.parameters import PLAN, Decay, Plan, Positive, validated


@validated
def fed_adagrad(
    plan: Plan = PLAN, *, server_learning_rate: Positive = 0.1, beta1: Decay = 0.0, tau: Positive = 1e-3
) -> Process:
    """Return FedAdagrad; it suits coordinates that are seldom updated, such as those of rare words."""
    return adaptive(plan, AdaptiveStep("FedAdagrad", server_learning_rate, beta1, 0.0, tau))
