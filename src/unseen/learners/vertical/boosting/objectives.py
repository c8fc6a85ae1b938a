"""Losses with their first and second derivatives, for scores of shape (rows, outputs); one output but for softmax.

Sources: Friedman, Annals of Statistics 29 (2001); Chen and Guestrin, XGBoost, KDD 2016; the hessian of softmax is
LightGBM's, p(1 − p)·K/(K − 1), that of Huber's loss is 1 everywhere, as there.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError
from unseen.learners.vertical.boosting.setting import BINARY, HUBER, MULTICLASS, POISSON, SQUARED, BoostingParams

Floats = NDArray[np.float64]

_LARGEST_EXPONENT = 500.0


def check_labels(labels: Floats, rows: int, params: BoostingParams) -> Floats:
    """Return the labels.

    Raises:
        DataError: There is another number of them, or one is missing or not what the objective takes.
    """
    truth = np.asarray(labels, np.float64)
    if truth.shape != (rows,) or not rows:
        raise DataError(f"expected {max(rows, 1)} labels, one a row, found shape {truth.shape}")
    if not np.isfinite(truth).all():
        raise DataError("a label is missing or infinite: drop rows without a label")
    if params.objective in (BINARY, MULTICLASS):
        classes = max(2, params.classes)
        if not np.isin(truth, np.arange(classes)).all():
            found = ", ".join(f"{value:g}" for value in np.unique(truth)[:5])
            raise DataError(f"labels must be 0 to {classes - 1}, found {found}: map other values first")
    if params.objective == POISSON and truth.min() < 0:
        raise DataError(f"counts are not negative, found {truth.min():g}")
    return truth


def check_weights(weights: Floats | None, rows: int) -> Floats:
    """Return the weights of the rows, ones if there are none.

    Raises:
        DataError: There is another number of them, or one is negative, missing or infinite, or all are 0.
    """
    if weights is None:
        return np.ones(rows)
    found = np.asarray(weights, np.float64)
    if found.shape != (rows,) or not np.isfinite(found).all() or found.min() < 0 or not found.sum() > 0:
        raise DataError(f"expected {rows} finite weights that are not negative, and not all 0")
    return found


def class_factors(labels: Floats, params: BoostingParams) -> Floats:
    """Return the weight of each row's class."""
    if not params.class_weights:
        return np.ones(len(labels))
    return np.array(params.class_weights)[labels.astype(np.int64)]


def base_scores(labels: Floats, weights: Floats, params: BoostingParams) -> Floats:
    """Return the best constant scores, shape (outputs,); for Huber's loss the weighted median.

    Raises:
        DataError: A class, or every count, is absent.
    """
    if params.objective == MULTICLASS:
        shares: Floats = np.bincount(labels.astype(np.int64), weights, params.classes) / weights.sum()
        if not shares.min() > 0:
            raise DataError(f"no training row has label {int(shares.argmin())}: there is nothing to learn about it")
        return np.asarray(np.log(shares))
    if params.objective == HUBER:
        order = np.argsort(labels, kind="stable")
        total = np.cumsum(weights[order])
        return np.array([labels[order[np.searchsorted(total, total[-1] / 2)]]])
    mean = float(np.average(labels, weights=weights))
    if params.objective == BINARY:
        if not 0 < mean < 1:
            raise DataError(f"all labels are {mean:g}: there is nothing to tell apart")
        return np.array([math.log(mean / (1 - mean))])
    if params.objective == POISSON:
        if not mean > 0:
            raise DataError("all counts are 0: there is nothing to learn")
        return np.array([math.log(mean)])
    return np.array([mean])


def predictions(scores: Floats, objective: str) -> Floats:
    """Return probabilities, means or values for scores, of the same shape."""
    if objective == BINARY:
        return _sigmoid(scores)
    if objective == MULTICLASS:
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    return _exponential(scores) if objective == POISSON else scores


def derivatives(scores: Floats, labels: Floats, params: BoostingParams) -> tuple[Floats, Floats]:
    """Return gradient and hessian of the loss of every row, each of the shape of ``scores``; no weights."""
    means = predictions(scores, params.objective)
    if params.objective == MULTICLASS:
        truth = labels[:, None] == np.arange(params.classes)
        return means - truth, means * (1 - means) * (params.classes / (params.classes - 1))
    gradient = means - labels[:, None]
    if params.objective == BINARY:
        return gradient, means * (1 - means)
    if params.objective == POISSON:
        return gradient, means
    if params.objective == HUBER:
        gradient = np.clip(gradient, -params.huber_delta, params.huber_delta)
    return gradient, np.ones_like(gradient)


def mean_loss(scores: Floats, labels: Floats, weights: Floats, params: BoostingParams) -> float:
    """Return the weighted mean: log loss, squared error, Poisson deviance without constants, or Huber's loss."""
    first = scores[:, 0]
    if params.objective == MULTICLASS:
        top = scores.max(axis=1)
        logs = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
        losses = logs - scores[np.arange(len(labels)), labels.astype(np.int64)]
    elif params.objective == BINARY:
        losses = np.logaddexp(0.0, first) - labels * first
    elif params.objective == POISSON:
        losses = _exponential(first) - labels * first
    else:
        losses = _residual_losses(np.abs(first - labels), params)
    return float(np.average(losses, weights=weights))


def _residual_losses(residuals: Floats, params: BoostingParams) -> Floats:
    if params.objective == SQUARED:
        return residuals**2
    delta = params.huber_delta
    return np.where(residuals <= delta, residuals**2 / 2, delta * (residuals - delta / 2))


def _sigmoid(scores: Floats) -> Floats:
    return 1 / (1 + _exponential(-scores))


def _exponential(scores: Floats) -> Floats:
    return np.exp(np.minimum(scores, _LARGEST_EXPONENT))
