"""Penalised logistic regression within one party: Newton's method with step halving, in blocks of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.learners.vertical.factorisation import sigmoid

Floats = NDArray[np.float64]

_ROWS_PER_BLOCK = 1 << 16
_MAX_STEPS = 50
_MAX_HALVINGS = 40


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Minimise mean log loss + ½ t' penalty t over the coefficients t of the columns of ``design``."""

    design: Floats
    labels: Floats
    penalty: Floats

    def objective(self, coefficients: Floats) -> float:
        """Return the penalised mean log loss."""
        return self.loss(coefficients) + float(coefficients @ self.penalty @ coefficients) / 2

    def loss(self, coefficients: Floats) -> float:
        """Return the mean log loss."""
        scores = self.design @ coefficients
        return float(np.mean(np.logaddexp(0.0, scores) - self.labels * scores))

    def derivatives(self, coefficients: Floats) -> tuple[Floats, Floats]:
        """Return the gradient and the Hessian."""
        rows, width = self.design.shape
        gradient, hessian = np.zeros(width), np.zeros((width, width))
        for start in range(0, rows, _ROWS_PER_BLOCK):
            part = self.design[start : start + _ROWS_PER_BLOCK]
            chances = sigmoid(part @ coefficients)
            gradient += part.T @ (chances - self.labels[start : start + _ROWS_PER_BLOCK])
            hessian += part.T @ (part * (chances * (1 - chances))[:, None])
        return gradient / rows + self.penalty @ coefficients, hessian / rows + self.penalty

    def separates(self, coefficients: Floats) -> bool:
        """Return whether every row lies on its own label's side."""
        return bool(((2 * self.labels - 1) * (self.design @ coefficients) > 0).all())


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Where the minimisation ended."""

    coefficients: Floats
    objective: float
    loss: float
    converged: bool


def minimise(problem: Problem, start: Floats, goal: float) -> Fit:
    """Return the minimiser from ``start`` on; it has converged when the gradient's norm is at most ``goal``.

    A gradient that rounding keeps above ``goal`` counts as converged too once no step lowers the objective.
    """
    coefficients, objective = start, problem.objective(start)
    converged = False
    for _ in range(_MAX_STEPS):
        gradient, hessian = problem.derivatives(coefficients)
        if np.linalg.norm(gradient) <= goal:
            converged = True
            break
        # Saturated or collinear columns leave the Hessian singular; so small a ridge changes no digit that counts.
        ridge = 1e-13 * max(1.0, float(hessian.diagonal().max())) * np.eye(len(hessian))
        step = _solved(hessian + ridge, gradient)
        moved = _descend(problem, coefficients, step, objective)
        if moved is None:
            converged = bool(np.linalg.norm(gradient) <= 1e-6)
            break
        coefficients, objective = moved
    return Fit(coefficients, objective, problem.loss(coefficients), converged)


def _solved(hessian: Floats, gradient: Floats) -> Floats:
    """Return the Newton step; what peers contributed to the Hessian may make it singular or worse."""
    try:
        return np.linalg.solve(hessian, gradient).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        return gradient


def _descend(problem: Problem, coefficients: Floats, step: Floats, objective: float) -> tuple[Floats, float] | None:
    """Return the first of full, half, quarter … Newton steps that lowers the objective, and the objective there."""
    for _ in range(_MAX_HALVINGS):
        trial = coefficients - step
        value = problem.objective(trial)
        if value < objective:
            return trial, value
        step = step / 2
    return None
