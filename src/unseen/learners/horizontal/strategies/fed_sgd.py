"""FedSGD: clients send the gradient of all their examples, the server takes one step.

Source: B. McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
section 2. It is gradient descent on the pooled examples: the reference that others save rounds against.
"""

from __future__ import annotations

from dataclasses import dataclass

from unseen.learners.horizontal.process import Assignment, Memory, Process, Trainer, Update
from unseen.learners.horizontal.strategies.parameters import Positive, validated
from unseen.learners.horizontal.strategies.parts import SendModel, ServerStep, WeightedMean


@dataclass(frozen=True, slots=True)
class Gradient:
    """Sends the negative gradient of the mean loss over the client's examples."""

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the update, and nothing to keep."""
        gradient, loss = trainer.gradient(assignment.broadcast.model, assignment.examples)
        return Update(-gradient, len(assignment.examples), {}, {"loss": loss}), {}


@validated
def fed_sgd(*, learning_rate: Positive = 0.1) -> Process:
    """Return FedSGD with the server's learning rate."""
    return Process("FedSGD", SendModel(), Gradient(), WeightedMean(), ServerStep(learning_rate))
