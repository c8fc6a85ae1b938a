"""FedProx: FedAvg whose clients are held near the broadcast model by a proximal term.

Source: T. Li, A. Sahu, M. Zaheer, M. Sanjabi, A. Talwalkar, V. Smith, "Federated Optimization in Heterogeneous
Networks", MLSys 2020, Algorithm 2: the local loss is F(w) + μ/2 · ‖w − broadcast model‖².
"""

from __future__ import annotations

from unseen.learners.horizontal.process import Process
from unseen.learners.horizontal.strategies.parameters import PLAN, NotNegative, Plan, Positive, validated
from unseen.learners.horizontal.strategies.parts import LocalTraining, SendModel, ServerStep, WeightedMean


@validated
def fed_prox(plan: Plan = PLAN, *, mu: NotNegative = 0.01, server_learning_rate: Positive = 1.0) -> Process:
    """Return FedProx; μ = 0 is FedAvg bit for bit. A greater μ lessens the bias of FedAvg, and slows it down."""
    return Process("FedProx", SendModel(), LocalTraining(plan, mu), WeightedMean(), ServerStep(server_learning_rate))
