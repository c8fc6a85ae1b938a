"""Ditto: beside the model of all, every client trains one of its own that is drawn to it.

Source: T. Li, S. Hu, A. Beirami, V. Smith, "Ditto: Fair and Robust Federated Learning Through Personalization", ICML
2021, Algorithm 1, with FedAvg for the model of all: v ← v − η·(∇F(v) + λ·(v − broadcast model)).
"""

from __future__ import annotations

from dataclasses import dataclass

from unseen.learners.horizontal.process import Assignment, LocalPlan, Memory, Process, Trainer, Update, Vector
from unseen.learners.horizontal.strategies.parameters import PLAN, NotNegative, Plan, Positive, validated
from unseen.learners.horizontal.strategies.parts import SendModel, ServerStep, WeightedMean, towards, trained


@dataclass(frozen=True, slots=True)
class TwiceTraining:
    """Trains the broadcast model for all and, with a pull to it, the client's own, which it keeps."""

    plan: LocalPlan
    pull: float

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the update of the model of all, and the client's own as ``personal``."""
        model = assignment.broadcast.model
        # The model of all comes first: its random numbers are those of FedAvg.
        fit = trained(trainer, assignment, self.plan)
        own = self.personal(trainer, assignment)
        mine = trained(trainer, assignment, self.plan, towards(model, self.pull), start=own)
        metrics = {"loss": fit.loss, "personal_loss": mine.loss}
        return Update(fit.model - model, len(assignment.examples), {}, metrics), {"personal": mine.model}

    def personal(self, _trainer: Trainer, assignment: Assignment) -> Vector:
        """Return the client's own model; that of all before its first round."""
        return assignment.memory.get("personal", assignment.broadcast.model)


@validated
def ditto(plan: Plan = PLAN, *, pull: NotNegative = 0.1, server_learning_rate: Positive = 1.0) -> Process:
    """Return Ditto; the pull λ leads from a model of the client alone (0) to that of all (large).

    The model of all is that of FedAvg bit for bit.
    """
    return Process("Ditto", SendModel(), TwiceTraining(plan, pull), WeightedMean(), ServerStep(server_learning_rate))
