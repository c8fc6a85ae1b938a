"""``BySums``: a trainer whose model is made at the server, of sums over clients."""

from __future__ import annotations

import numpy as np

from unseen.errors import UsageError
from unseen.learners.horizontal.process import Correction, Examples, Fit, LocalPlan, Vector


class BySums:
    """The part of the port ``Trainer`` that only gradient descent at clients has a use for: it is refused."""

    def fit(
        self, model: Vector, examples: Examples, plan: LocalPlan, rng: np.random.Generator, correction: Correction
    ) -> Fit:
        """Refuse.

        Raises:
            UsageError: Always.
        """
        del model, examples, plan, rng, correction
        raise UsageError(
            "this model is made of sums over clients, not by descent at each: use the process that comes with it"
        )

    def gradient(self, model: Vector, examples: Examples) -> tuple[Vector, float]:
        """Refuse; raises ``UsageError``."""
        del model, examples
        raise UsageError("this model is made of sums over clients: use the process that comes with it")

    def part(self, *names: str) -> slice:
        """Refuse; raises ``UsageError``."""
        raise UsageError(f"this model has no parameters that a strategy could keep apart: {', '.join(names)}")
