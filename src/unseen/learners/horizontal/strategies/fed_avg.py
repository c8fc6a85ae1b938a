"""FedAvg: clients train the model for a while, the server takes the weighted mean.

Source: B. McMahan, E. Moore, D. Ramage, S. Hampson, B. Agüera y Arcas, "Communication-Efficient Learning of Deep
Networks from Decentralized Data", AISTATS 2017, Algorithm 1. The server's learning rate is that of S. Reddi et al.,
"Adaptive Federated Optimization", ICLR 2021, Algorithm 1; with 1 it is the paper's mean.
"""

from __future__ import annotations

from unseen.learners.horizontal.process import Process
from unseen.learners.horizontal.strategies.parameters import PLAN, Plan, Positive, validated
from unseen.learners.horizontal.strategies.parts import LocalTraining, SendModel, ServerStep, WeightedMean


@validated
def fed_avg(plan: Plan = PLAN, *, server_learning_rate: Positive = 1.0) -> Process:
    """Return FedAvg.

    With several local steps and clients that differ, it ends at a point that is not the optimum.
    """
    return Process("FedAvg", SendModel(), LocalTraining(plan), WeightedMean(), ServerStep(server_learning_rate))
