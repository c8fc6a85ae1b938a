"""A regression as a flat vector: coefficients in the units of the table, and how sure they are.

All numbers are 64-bit floats in three 32-bit parts: what comes out is not rounded by the way it travels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError, RemoteProtocolError
from unseen.learners.horizontal.process import Vector
from unseen.learners.horizontal.tables.exact import to_floats, to_reals

Floats = NDArray[np.float64]

_ABOUT = 4


@dataclass(frozen=True, slots=True, eq=False)
class Regression:
    """What a row's score is: intercept + Σ coefficient·value, missing values replaced by their column's mean."""

    means: Floats
    """Over all clients' rows; shape (columns,)."""
    scales: Floats
    """Standard deviations, 1 for constant columns; shape (columns,)."""
    coefficients: Floats
    """Shape (columns,)."""
    intercept: float
    errors: Floats
    """Standard errors of the coefficients, then of the intercept; NaN where there are none."""
    loss: float
    """Mean loss on the training rows where the last round found it: log loss, or half the squared error."""
    rows: int
    converged: bool

    @classmethod
    def zero(cls, columns: int) -> Regression:
        """Return the model before training."""
        nothing, nan = np.zeros(columns), np.full(columns + 1, math.nan)
        return cls(nothing, np.ones(columns), nothing, 0.0, nan, math.nan, 0, converged=False)

    def vector(self) -> Vector:
        """Return the flat vector."""
        about = np.array([self.intercept, self.loss, self.rows, self.converged], np.float64)
        return to_floats(np.concatenate([about, self.means, self.scales, self.coefficients, self.errors]))

    @staticmethod
    def size(columns: int) -> int:
        """Return the length of the flat vector."""
        return 3 * (_ABOUT + 4 * columns + 1)

    @classmethod
    def of(cls, vector: Vector, columns: int) -> Regression:
        """Return the model of a flat vector.

        Raises:
            DataError: It holds none for so many columns.
        """
        try:
            numbers = to_reals(vector)
        except RemoteProtocolError as error:
            raise DataError("the vector holds no regression: is it the model of another learner?") from error
        if len(vector) != cls.size(columns):
            raise DataError(
                f"expected a model of {cls.size(columns)} numbers for {columns} columns, found {len(vector)}"
            )
        about, rest = numbers[:_ABOUT].tolist(), numbers[_ABOUT:]
        means, scales, coefficients = rest[: 3 * columns].reshape(3, columns)
        intercept, loss, rows, converged = about
        return cls(
            means, scales, coefficients, intercept, rest[3 * columns :], loss, int(rows), converged=bool(converged)
        )

    def scores(self, inputs: Floats) -> Floats:
        """Return the score of every row of inputs (rows, columns).

        Raises:
            DataError: There is another number of columns, or a value is infinite.
        """
        if inputs.ndim != 2 or inputs.shape[1] != len(self.means):
            raise DataError(f"the model was trained on {len(self.means)} columns, found inputs of {inputs.shape}")
        filled = np.where(np.isnan(inputs), self.means, inputs)
        if not np.isfinite(filled).all():
            raise DataError("a value to be scored is infinite; mark missing values as NaN")
        scores: Floats = filled @ self.coefficients + self.intercept
        return scores


@dataclass(frozen=True, slots=True)
class Term:
    """One line of a summary."""

    name: str
    coefficient: float
    error: float
    """Standard error."""
    statistic: float
    """Coefficient over standard error."""
    p: float
    """Of a coefficient as far from 0 or farther, were the true one 0, by the normal distribution."""


def summary(model: Regression, columns: Sequence[str]) -> list[Term]:
    """Return one line for each column, then one for the intercept."""
    values = [*model.coefficients.tolist(), model.intercept]
    terms = []
    for name, value, error in zip([*columns, "intercept"], values, model.errors.tolist(), strict=True):
        statistic = value / error if error > 0 else math.nan
        terms.append(Term(name, value, error, statistic, math.erfc(abs(statistic) / math.sqrt(2))))
    return terms
