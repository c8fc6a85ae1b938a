"""Penalised softmax regression within one party: Newton's method, its steps by conjugate gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unseen.learners.vertical.newton import Fit
from unseen.learners.vertical.setting import Floats

_MAX_STEPS = 60
_MAX_HALVINGS = 40
_MAX_PRODUCTS = 200


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Minimise mean cross-entropy + ½ Σ_k t_k' penalty t_k over coefficients t (classes, columns of ``design``)."""

    design: Floats
    truth: Floats
    """One-hot targets, rows × classes."""
    penalty: Floats

    def objective(self, coefficients: Floats) -> float:
        """Return the penalised mean cross-entropy."""
        return self.loss(coefficients) + float(np.sum((coefficients @ self.penalty) * coefficients)) / 2

    def loss(self, coefficients: Floats) -> float:
        """Return the mean cross-entropy."""
        scores = self.design @ coefficients.T
        top = scores.max(axis=1)
        logs = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
        return float(np.mean(logs - np.einsum("nk,nk->n", scores, self.truth)))

    def gradient(self, coefficients: Floats, chances: Floats) -> Floats:
        """Return the gradient, (classes, columns), given the probabilities at the point."""
        gradient: Floats = (chances - self.truth).T @ self.design / len(self.design) + coefficients @ self.penalty
        return gradient

    def product(self, vector: Floats, chances: Floats) -> Floats:
        """Return the Hessian's product with a vector (classes, columns)."""
        change = chances * (self.design @ vector.T)
        change -= chances * change.sum(axis=1, keepdims=True)
        product: Floats = change.T @ self.design / len(self.design) + vector @ self.penalty
        return product


def probabilities(scores: Floats) -> Floats:
    """Return the softmax of every row."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances: Floats = powers / powers.sum(axis=1, keepdims=True)
    return chances


def minimise(problem: Problem, start: Floats, goal: float) -> Fit:
    """Return the minimiser from ``start`` on; it has converged when the gradient's norm is at most ``goal``.

    A gradient that rounding keeps above ``goal`` counts as converged too once no step lowers the objective.
    """
    coefficients, objective = start, problem.objective(start)
    converged = False
    for _ in range(_MAX_STEPS):
        chances = probabilities(problem.design @ coefficients.T)
        gradient = problem.gradient(coefficients, chances)
        norm = float(np.linalg.norm(gradient))
        if norm <= goal:
            converged = True
            break
        step = _newton_step(problem, gradient, chances, min(0.1, norm**0.5))
        moved = _descend(problem, coefficients, step, objective)
        if moved is None:
            converged = norm <= 1e-6
            break
        coefficients, objective = moved
    return Fit(coefficients, objective, problem.loss(coefficients), converged)


def _newton_step(problem: Problem, gradient: Floats, chances: Floats, tolerance: float) -> Floats:
    """Return the solution of Hessian·step = gradient to a relative residual of ``tolerance``."""
    step, rest, direction = np.zeros_like(gradient), gradient, gradient
    square = first = float(np.sum(rest * rest))
    for _ in range(_MAX_PRODUCTS):
        image = problem.product(direction, chances)
        curvature = float(np.sum(direction * image))
        if curvature <= 1e-14 * float(np.sum(direction * direction)):
            break
        step = step + square / curvature * direction
        rest = rest - square / curvature * image
        before, square = square, float(np.sum(rest * rest))
        if square <= tolerance**2 * first:
            break
        direction = rest + square / before * direction
    return step if step.any() else gradient


def _descend(problem: Problem, coefficients: Floats, step: Floats, objective: float) -> tuple[Floats, float] | None:
    """Return the first of full, half, quarter … steps that lowers the objective, and the objective there."""
    for _ in range(_MAX_HALVINGS):
        trial = coefficients - step
        value = problem.objective(trial)
        if value < objective:
            return trial, value
        step = step / 2
    return None
