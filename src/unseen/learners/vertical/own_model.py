"""The active party's own model, from which joint training starts: Newton's method with step halving, no exchange."""

from __future__ import annotations

import math

import numpy as np

from unseen.learners.vertical.columns import Columns
from unseen.learners.vertical.private import Truth
from unseen.learners.vertical.setting import Floats

_MAX_STEPS = 40
_MAX_HALVINGS = 30
_ROWS_PER_BLOCK = 1 << 15


def null_score(truth: Truth) -> float:
    """Return the score of the best constant model."""
    return truth.family.link(float(truth.weights @ truth.target) / len(truth.target))


def null_curvature(truth: Truth) -> float:
    """Return the mean curvature of the best constant model, rounded to a power of 2^¼."""
    scores = np.full(len(truth.target), null_score(truth))
    mean = float(truth.weights @ truth.family.curvature(scores, truth.target)) / len(scores)
    return coarse(mean)


def coarse(size: float) -> float:
    """Return the power of 2^¼ that is nearest to ``size``: exact means over all labels would confirm guesses."""
    return float(2.0 ** (round(4 * math.log2(max(size, 1e-300))) / 4))


def start(columns: Columns, truth: Truth) -> Floats:
    """Return the point of the best constant model."""
    point = np.zeros(columns.width)
    point[-1] = null_score(truth) * math.sqrt(columns.curvature)
    return point


def mean_curvature(columns: Columns, truth: Truth, point: Floats) -> float:
    """Return the mean curvature of the loss at a point."""
    curvature = truth.family.curvature(columns.scores(point), truth.target)
    return float(truth.weights @ curvature) / columns.rows


def fit(columns: Columns, truth: Truth, tolerance: float) -> tuple[Floats, Floats, bool]:
    """Return the minimiser over the active party's columns, the norms of the gradients, and whether it converged."""
    point = start(columns, truth)
    norms: list[float] = []
    for _ in range(_MAX_STEPS):
        gradient, hessian = _derivatives(columns, truth, point)
        norms.append(float(np.linalg.norm(gradient)))
        if norms[-1] <= tolerance * norms[0]:
            return point, np.array(norms), True
        ridge = 1e-10 * max(1.0, float(hessian.diagonal().max())) * np.eye(len(hessian))
        step: Floats = np.linalg.solve(hessian + ridge, gradient).astype(np.float64, copy=False)
        moved = _descend(columns, truth, point, step)
        if moved is None:
            # Single precision ends the descent; a gradient of this size moves no digit that counts.
            return point, np.array(norms), norms[-1] <= 1e-4 * norms[0]
        point = moved
    return point, np.array(norms), False


def _objective(columns: Columns, truth: Truth, point: Floats) -> float:
    losses = truth.family.loss(columns.scores(point), truth.target)
    return float(truth.weights @ losses) / columns.rows + float(point @ columns.penalty @ point) / 2


def _derivatives(columns: Columns, truth: Truth, point: Floats) -> tuple[Floats, Floats]:
    scores = columns.scores(point)
    curvature = truth.weights * truth.family.curvature(scores, truth.target)
    gradient = columns.sums(truth.residuals(scores)) / columns.rows + columns.penalty @ point
    hessian = np.zeros((columns.width, columns.width))
    for first in range(0, columns.rows, _ROWS_PER_BLOCK):
        block = slice(first, first + _ROWS_PER_BLOCK)
        # Losses are convex. One product of a matrix with itself takes half the work of one of two.
        part = columns.values[:, block] * np.sqrt(curvature[block]).astype(np.float32)
        hessian += part @ part.T
    return gradient, hessian / columns.rows + columns.penalty


def _descend(columns: Columns, truth: Truth, point: Floats, step: Floats) -> Floats | None:
    """Return the first of full, half, quarter … steps that lowers the objective."""
    before = _objective(columns, truth, point)
    for _ in range(_MAX_HALVINGS):
        if _objective(columns, truth, point - step) < before:
            return point - step
        step = step / 2
    return None
