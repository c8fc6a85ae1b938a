"""FedRep: one representation for all, and a head of its own for every client.

Source: L. Collins, H. Hassani, A. Mokhtari, S. Shakkottai, "Exploiting Shared Representations for Personalized
Federated Learning", ICML 2021, Algorithm 1: a client first trains its head with the representation held fixed, then
the representation with the head held fixed, and sends the latter alone.

What is held fixed is put back after every minibatch, which for plain gradient descent is the same as a gradient of 0
there; so minibatches are drawn anew for every step, and momentum is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unseen.errors import UsageError
from unseen.learners.horizontal.process import Assignment, LocalPlan, Memory, Process, Trainer, Update, Vector
from unseen.learners.horizontal.strategies.parameters import PLAN, Count, Names, Plan, Positive, validated
from unseen.learners.horizontal.strategies.parts import (
    SendModel,
    ServerStep,
    WeightedMean,
    own_part,
    trained,
    with_own,
)


@dataclass(frozen=True, slots=True)
class HeadThenBody:
    """Trains the head for ``head_epochs`` epochs, then the rest for those of ``plan``."""

    plan: LocalPlan
    head: tuple[str, ...]
    head_epochs: int

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the update, which is 0 in the head, and the head as ``own``."""
        place = own_part(trainer, self.head)
        in_head = np.zeros(trainer.size, np.bool_)
        in_head[place] = True
        batches = -(-len(assignment.examples) // self.plan.batch)
        model = self.personal(trainer, assignment)
        model, _ = self._phase(trainer, assignment, model, in_head, batches * self.head_epochs)
        steps = self.plan.steps or batches * self.plan.epochs
        model, loss = self._phase(trainer, assignment, model, ~in_head, steps)
        delta = model - assignment.broadcast.model
        delta[place] = 0
        return Update(delta, len(assignment.examples), {}, {"loss": loss}), {"own": model[place].copy()}

    def personal(self, trainer: Trainer, assignment: Assignment) -> Vector:
        """Return the broadcast representation with the client's own head."""
        return with_own(assignment.broadcast.model, own_part(trainer, self.head), assignment.memory)

    def _phase(
        self, trainer: Trainer, assignment: Assignment, model: Vector, moving: NDArray[np.bool_], steps: int
    ) -> tuple[Vector, float]:
        """Return the model after ``steps`` minibatches that change it where ``moving`` alone, and the mean loss."""
        one, losses = replace(self.plan, epochs=1, steps=1), []
        for _ in range(steps):
            fit = trained(trainer, assignment, one, start=model)
            model = np.where(moving, fit.model, model)
            losses.append(fit.loss)
        return model, float(np.mean(losses)) if losses else 0.0


@validated
def fed_rep(
    plan: Plan = PLAN, *, head: Names, head_epochs: Count = 10, server_learning_rate: Positive = 1.0
) -> Process:
    """Return FedRep; ``head`` are the beginnings of the names of the parameters of the head.

    Raises:
        UsageError: ``plan`` has momentum.
    """
    if plan.momentum:
        raise UsageError(f"fed_rep trains without momentum, found momentum {plan.momentum}: set it to 0")
    work = HeadThenBody(plan, head, head_epochs)
    return Process("FedRep", SendModel(), work, WeightedMean(), ServerStep(server_learning_rate))
