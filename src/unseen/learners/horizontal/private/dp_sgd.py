"""DP-SGD at the client: every example's gradient is clipped, and every step's sum has noise; examples are hidden.

Each step takes every example by a coin of its own (real Poisson sampling, never a shuffled pass), clips its gradient,
adds Gaussian noise to the sum, and divides by the *expected* number of examples. What leaves the client is private
whoever sees it, the server included. A client with many examples is not hidden by it, only each of them.

Source: M. Abadi and others, "Deep Learning with Differential Privacy", CCS 2016, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.errors import PermissionDenied, UsageError
from unseen.learners.horizontal.private.clip import check_bound
from unseen.learners.horizontal.private.noise import Reals, fresh
from unseen.learners.horizontal.private.sampling import coins
from unseen.learners.horizontal.process import Assignment, Examples, Memory, Trainer, Update, Vector
from unseen.privacy.events import Gaussian, Poisson, Relation, Spend, Unit
from unseen.privacy.mechanisms import noisy

ROUNDS = "dp/rounds"
"""In how many rounds a client has trained: in its memory, shape (1,)."""


@runtime_checkable
class ExampleGradients(Protocol):
    """What DP-SGD needs of a trainer: gradients of single examples."""

    def example_gradients(self, model: Vector, examples: Examples) -> Iterator[NDArray[np.float32]]:
        """Yield the gradients of the loss of each example alone, shape (some, size), in order.

        They must not depend on other examples: no batch normalisation.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamplePlan:
    """How a client trains.

    Raises:
        UsageError: A number is not what it has to be.
    """

    bound: float
    """On the L2 norm of an example's gradient."""
    noise_multiplier: float
    rate: float
    """With what probability each example is in a step."""
    nominal: int
    """How many examples a client is taken to have: a public number. Sums are divided by ``rate`` times it."""
    steps: int
    """In one round."""
    learning_rate: float
    rounds: int
    """In how many rounds a client may train: those that its ε allows (``accounting.affordable`` over all steps). It
    counts them in its memory, and when deployed in a file that no server can name anew (``rounds.answered``)."""

    def __post_init__(self) -> None:
        check_bound(self.bound)
        self.spend("check", "check", 1)
        if self.nominal < 1 or self.steps < 1 or self.rounds < 1 or not self.learning_rate > 0:
            raise UsageError(
                f"DP-SGD has a nominal number of examples, steps and rounds of at least 1, and a learning rate above "
                f"0, found {self}"
            )

    def spend(self, run: str, client: str, rounds: int) -> Spend:
        """Return the fact that a client has trained in ``rounds`` rounds; the fact counts steps."""
        return Spend(
            run=run,
            about=client,
            mechanism=Gaussian(noise_multiplier=self.noise_multiplier),
            sampling=Poisson(rate=self.rate),
            rounds=rounds * self.steps,
            unit=Unit.EXAMPLE,
            relation=Relation.ADD_OR_REMOVE,
        )


@dataclass(frozen=True, slots=True)
class DpSgd:
    """A client's work: private steps from the broadcast model. Metrics, and how many examples it has, stay at home."""

    plan: ExamplePlan
    gradients: ExampleGradients
    prg: Prg = field(repr=False)
    """The client's own secret; a simulation has one for all, and each client a stream of it."""

    @property
    def answers(self) -> int:
        """How many the client's ε allows."""
        return self.plan.rounds

    def spend(self, run: str, client: str, rounds: int) -> Spend:
        """Return the fact that a client has trained in ``rounds`` rounds."""
        return self.plan.spend(run, client, rounds)

    def __call__(self, trainer: Trainer, assignment: Assignment) -> tuple[Update, Memory]:
        """Return the update, of weight 1, and the count of rounds.

        Raises:
            PermissionDenied: The round is beyond those that the client's ε allows.
        """
        del trainer
        client = assignment.client
        done = int(assignment.memory[ROUNDS][0]) if ROUNDS in assignment.memory else 0
        if done >= self.plan.rounds:
            raise PermissionDenied(
                f"client {client}: it has trained in all {self.plan.rounds} rounds that its ε allows: use more noise, "
                "or draw it less often"
            )
        start = assignment.broadcast.model
        model = start.astype(np.float64)
        for step in range(self.plan.steps):
            model -= self.plan.learning_rate * self._gradient(model.astype(np.float32), assignment, step)
        memory = {**assignment.memory, ROUNDS: np.array([done + 1], np.float32)}
        return Update((model - start).astype(np.float32), 1.0), memory

    def _gradient(self, model: Vector, assignment: Assignment, step: int) -> Reals:
        """Return the noisy mean gradient of a step."""
        plan, place = self.plan, (assignment.client, assignment.broadcast.round, step)
        # The draw of examples belongs to the place and the model, as the noise belongs to the sum.
        chosen = coins(fresh(self.prg, "dp/sgd/batch", place, model), plan.rate, len(assignment.examples))
        summed = self._sum(model, assignment, chosen)
        noised = noisy(summed, plan.noise_multiplier * plan.bound, fresh(self.prg, "dp/sgd/noise", place, summed))
        return noised / (plan.rate * plan.nominal)

    def _sum(self, model: Vector, assignment: Assignment, chosen: list[int]) -> Reals:
        """Return the sum of clipped gradients of the chosen examples, in 64 bits."""
        summed = np.zeros(len(model))
        if not chosen:
            return summed
        examples = Examples(assignment.examples.inputs[chosen], assignment.examples.labels[chosen])
        rows = 0
        for gradients in self.gradients.example_gradients(model, examples):
            summed += clipped_sum(gradients, self.plan.bound)
            rows += len(gradients)
        if rows != len(chosen):
            raise UsageError(f"{len(chosen)} examples gave {rows} gradients: the trainer must give one for each")
        return summed


def clipped_sum(gradients: NDArray[np.float32], bound: float) -> Reals:
    """Return the sum of rows, each scaled down to at most ``bound`` in L2; shape (n, size) gives (size,).

    A row that is not finite counts as zeros: a failure would tell that the example is there.
    """
    rows = gradients.astype(np.float64)
    squares = np.vecdot(rows, rows)
    bad = ~np.isfinite(squares)
    rows[bad], squares[bad] = 0.0, 0.0
    # Within 2^-20 of the bound, so that rounding of the product does not pass it.
    limit = bound * (1 - 2.0**-20)
    return np.asarray((limit / np.maximum(np.sqrt(squares), limit)) @ rows, np.float64)
