"""FedBN: some layers, those of batch normalisation above all, never leave their client.

Source: X. Li, M. Jiang, X. Zhang, M. Kamp, Q. Dou, "FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization", ICLR 2021, Algorithm 1. With the last layers instead it is FedPer (M. Arivazhagan et al., 2019).
"""

from __future__ import annotations

from dataclasses import dataclass

from unseen.learners.horizontal.process import Assignment, LocalPlan, Memory, Process, Trainer, Update, Vector
from unseen.learners.horizontal.strategies.parameters import PLAN, Names, Plan, Positive, validated
from unseen.learners.horizontal.strategies.parts import (
    SendModel,
    ServerStep,
    WeightedMean,
    own_part,
    trained,
    with_own,
)


@dataclass(frozen=True, slots=True)
class PartlyLocalTraining:
    """Trains the whole model, keeps the ``local`` part of it, and sends the difference of the rest."""

    plan: LocalPlan
    local: tuple[str, ...]

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the update, which is 0 in the local part, and that part as ``own``."""
        place = own_part(trainer, self.local)
        fit = trained(trainer, assignment, self.plan, start=self.personal(trainer, assignment))
        delta = fit.model - assignment.broadcast.model
        delta[place] = 0
        return Update(delta, len(assignment.examples), {}, {"loss": fit.loss}), {"own": fit.model[place].copy()}

    def personal(self, trainer: Trainer, assignment: Assignment) -> Vector:
        """Return the broadcast model with the client's own part."""
        return with_own(assignment.broadcast.model, own_part(trainer, self.local), assignment.memory)


@validated
def fed_bn(plan: Plan = PLAN, *, local: Names, server_learning_rate: Positive = 1.0) -> Process:
    """Return FedBN; ``local`` are the beginnings of the names of all parameters and buffers that stay."""
    step = ServerStep(server_learning_rate)
    return Process("FedBN", SendModel(), PartlyLocalTraining(plan, local), WeightedMean(), step)
