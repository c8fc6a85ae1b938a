"""``RegressionTrainer``: what a regression says about rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from unseen.learners.horizontal.linear.model import Floats, Regression, Term, summary
from unseen.learners.horizontal.linear.plan import SQUARED, LinearSetting
from unseen.learners.horizontal.process import Examples, Vector
from unseen.learners.horizontal.tables.rows import client_rows
from unseen.learners.horizontal.tables.trainer import BySums


class RegressionTrainer(BySums):
    """A regression as the rounds of horizontal learning know models."""

    def __init__(self, setting: LinearSetting) -> None:
        self.setting = setting
        self.size = Regression.size(len(setting.columns))
        """Numbers of the flat vector."""

    def settle(self) -> None:
        """Do nothing: sums are rounded, and do not depend on the number of threads."""

    def initial(self, seed: int) -> Vector:
        """Return the model that is 0 everywhere; nothing is drawn."""
        del seed
        return Regression.zero(len(self.setting.columns)).vector()

    def evaluate(self, model: Vector, examples: Examples) -> Mapping[str, float]:
        """Return ``loss`` (log loss or half the squared error), and for classes ``accuracy``."""
        inputs, labels = client_rows(examples, self.setting.columns, "the rows to test on")
        scores = self.model(model).scores(inputs)
        if self.setting.family == SQUARED:
            return {"loss": float(np.mean(np.square(scores - labels)) / 2)}
        losses = np.logaddexp(0.0, scores) - labels * scores
        return {"loss": float(losses.mean()), "accuracy": float(np.mean((scores > 0) == labels))}

    def model(self, vector: Vector) -> Regression:
        """Return what a flat vector stands for."""
        return Regression.of(vector, len(self.setting.columns))

    def predict(self, model: Vector, inputs: NDArray[np.floating]) -> Floats:
        """Return the probability of label 1, or the amount, of each row."""
        scores = self.model(model).scores(np.asarray(inputs, np.float64))
        if self.setting.family == SQUARED:
            return scores
        found: Floats = 1 / (1 + np.exp(-np.clip(scores, -500, 500)))
        return found

    def summary(self, model: Vector) -> list[Term]:
        """Return coefficients, standard errors and p-values, a line for each column and one for the intercept."""
        return summary(self.model(model), self.setting.columns)
