"""How good scores and probabilities are; numpy only, every figure with optional row weights.

Two classes: labels are 0 or 1. AUC: Hanley and McNeil, Radiology 143 (1982), ties counted one half. KS: largest
distance between the score distributions of the two classes. More classes: labels are 0 to k − 1. Amounts and counts:
RMSE, MAE, and D², the share of the deviance that is explained (Hastie, Tibshirani and Wainwright, *Statistical
Learning with Sparsity*, 2015, section 3.5). All of them raise ``DataError`` when an input is malformed, or when only
one of two classes is present.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from unseen.errors import DataError, UsageError

Floats = NDArray[np.float64]

_TINY = np.finfo(np.float64).eps


@dataclass(frozen=True, slots=True, eq=False)
class RocCurve:
    """Points of the curve, from (0, 0) to (1, 1); ``thresholds[i]`` is the lowest score that counts as positive."""

    false_positive_rate: Floats
    true_positive_rate: Floats
    thresholds: Floats


@dataclass(frozen=True, slots=True, eq=False)
class KsCurve:
    """Share of each class among the best-scored ``population`` of the rows; ``ks`` is the largest distance."""

    population: Floats
    positives: Floats
    negatives: Floats
    thresholds: Floats
    ks: float
    threshold: float


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationCurve:
    """Per quantile bin of the predicted probability: its mean, the observed rate, and the weight of its rows."""

    predicted: Floats
    observed: Floats
    weight: Floats


@dataclass(frozen=True, slots=True, eq=False)
class GainCurve:
    """Among the best-scored ``population``: ``gain``, their share of all positives, and ``lift``, gain / population."""

    population: Floats
    gain: Floats
    lift: Floats


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the area under the ROC curve: the chance that a positive outscores a negative, ties counted one half."""
    true, false, _ = _steps(*_checked(labels, scores, weights))
    return float(np.sum(np.diff(false) * (true[1:] + true[:-1])) / (2 * true[-1] * false[-1]))


def roc_curve(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, *, points: int = 1000
) -> RocCurve:
    """Return the ROC curve in at most ``points`` points: corners only, thinned evenly along the curve."""
    true, false, thresholds = _steps(*_checked(labels, scores, weights))
    true, false = true / true[-1], false / false[-1]
    corner = np.ones(len(true), bool)
    # Equal areas on both sides mean that the middle point lies on the line through its neighbours.
    corner[1:-1] = np.diff(true)[:-1] * np.diff(false)[1:] != np.diff(true)[1:] * np.diff(false)[:-1]
    kept = _thin(np.flatnonzero(corner), (true + false)[corner], points)
    return RocCurve(false[kept], true[kept], thresholds[kept])


def ks(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the Kolmogorov–Smirnov statistic: the largest distance between the two classes' distributions."""
    true, false, _ = _steps(*_checked(labels, scores, weights))
    return float(np.max(np.abs(true / true[-1] - false / false[-1])))


def ks_curve(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, *, points: int = 1000) -> KsCurve:
    """Return both classes' cumulative shares, best scores first, in at most ``points`` points, the peak among them."""
    true, false, thresholds = _steps(*_checked(labels, scores, weights))
    population = (true + false) / (true[-1] + false[-1])
    true, false = true / true[-1], false / false[-1]
    peak = int(np.argmax(np.abs(true - false)))
    kept = _thin(np.arange(len(true)), population, max(2, points - 1))
    kept = np.unique(np.append(kept, peak))
    distance = float(abs(true[peak] - false[peak]))
    return KsCurve(population[kept], true[kept], false[kept], thresholds[kept], distance, float(thresholds[peak]))


def log_loss(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the mean negative log-likelihood, in nats; probabilities are kept away from 0 and 1 by 2^-52."""
    truth, chance, weight = _checked_probabilities(labels, probabilities, weights)
    chance = np.clip(chance, _TINY, 1 - _TINY)
    return float(-np.average(truth * np.log(chance) + (1 - truth) * np.log1p(-chance), weights=weight))


def brier(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the mean squared distance of the probabilities from the labels."""
    truth, chance, weight = _checked_probabilities(labels, probabilities, weights)
    return float(np.average(np.square(chance - truth), weights=weight))


def calibration_curve(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None, *, bins: int = 10
) -> CalibrationCurve:
    """Return predicted and observed rates in at most ``bins`` quantile bins; equal probabilities share a bin."""
    truth, chance, weight = _checked_probabilities(labels, probabilities, weights)
    if bins < 1:
        raise UsageError(f"a calibration curve needs at least one bin, found {bins}")
    edges = np.unique(np.quantile(chance, np.linspace(0, 1, bins + 1)))
    place = np.searchsorted(edges[1:-1], chance, side="left")
    total: Floats = np.bincount(place, weight, minlength=max(1, len(edges) - 1)).astype(np.float64)
    filled = total > 0
    sums = [np.bincount(place, weight * values, minlength=len(total))[filled] for values in (chance, truth)]
    return CalibrationCurve(sums[0] / total[filled], sums[1] / total[filled], total[filled])


def gain_curve(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, *, bins: int = 10) -> GainCurve:
    """Return cumulative gain and lift of the best 1/``bins``, 2/``bins``, … of the rows; ties are taken in part."""
    true, false, _ = _steps(*_checked(labels, scores, weights))
    if bins < 1:
        raise UsageError(f"a gain curve needs at least one bin, found {bins}")
    population = np.arange(1, bins + 1) / bins
    gain = np.interp(population, (true + false) / (true[-1] + false[-1]), true / true[-1])
    return GainCurve(population, gain, gain / population)


def accuracy(labels: ArrayLike, classes: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the share of rows whose class is the predicted one."""
    truth, found, weight = _checked_values(labels, classes, weights)
    return _mean(truth == found, weight)


def class_log_loss(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the mean negative log-likelihood, in nats, of ``probabilities`` of shape (rows, classes).

    Probabilities of a row are divided by their sum, and kept away from 0 by 2^-52.
    """
    chances = np.asarray(probabilities, np.float64)
    if (
        chances.ndim != 2
        or not np.isfinite(chances).all()
        or (chances < 0).any()
        or not (chances.sum(axis=1) > 0).all()
    ):
        raise DataError(f"probabilities of classes are a matrix of finite numbers from 0 on, found {chances.shape}")
    truth, _, weight = _checked_values(labels, chances[:, 0] if chances.shape[1] else np.zeros(len(chances)), weights)
    if not np.isin(truth, np.arange(chances.shape[1])).all():
        raise DataError(f"labels of {chances.shape[1]} classes are 0 to {chances.shape[1] - 1}")
    chances = np.maximum(chances / chances.sum(axis=1, keepdims=True), _TINY)
    return -_mean(np.log(chances[np.arange(len(truth)), truth.astype(np.int64)]), weight)


def rmse(labels: ArrayLike, values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the root of the mean squared error."""
    truth, found, weight = _checked_values(labels, values, weights)
    return math.sqrt(_mean(np.square(found - truth), weight))


def mae(labels: ArrayLike, values: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the mean absolute error."""
    truth, found, weight = _checked_values(labels, values, weights)
    return _mean(np.abs(found - truth), weight)


def d2(labels: ArrayLike, values: ArrayLike, weights: ArrayLike | None = None, *, power: float = 0.0) -> float:
    """Return the share of the Tweedie deviance explained: 1 is perfect, 0 is as good as the mean of the labels.

    ``power`` 0 is squared error (D² is then R²), 1 Poisson, between 1 and 2 compound Poisson–gamma, 2 gamma.

    Raises:
        DataError: A value or a label is out of the range of the deviance, or all labels are equal.
    """
    truth, found, weight = _checked_values(labels, values, weights)
    mean = np.full(len(truth), _mean(truth, weight))
    whole = _mean(_deviance(truth, mean, power), weight)
    if not whole > 0:
        raise DataError("all labels are equal: there is no deviance to be explained")
    return 1.0 - _mean(_deviance(truth, found, power), weight) / whole


def _deviance(truth: Floats, found: Floats, power: float) -> Floats:
    """Return the unit deviance of every row (Jørgensen, *The Theory of Dispersion Models*, 1997, chapter 4)."""
    if power == 0:
        return np.square(truth - found)
    if not 1 <= power <= 2:
        raise UsageError(f"the power of a deviance is 0, or from 1 to 2, found {power:g}")
    if (found <= 0).any() or (truth < 0).any() or (power == 2 and (truth == 0).any()):
        raise DataError(f"a deviance of power {power:g} needs positive predictions, and labels that are not negative")
    if power == 1:
        ratio = np.divide(truth, found, out=np.ones(len(truth)), where=truth > 0)
        return np.asarray(2 * (truth * np.log(ratio) - truth + found))
    if power == 2:
        return np.asarray(2 * (truth / found - 1 - np.log(truth / found)))
    one, two = 1 - power, 2 - power
    return np.asarray(2 * (truth**two / (one * two) - truth * found**one / one + found**two / two))


def _checked(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    truth, score, weight = _checked_values(labels, scores, weights)
    if not np.isin(truth, (0.0, 1.0)).all():
        raise DataError(f"labels must be 0 or 1, found {truth[~np.isin(truth, (0.0, 1.0))][0]:g}")
    if not weight[truth == 1].sum() > 0 or not weight[truth == 0].sum() > 0:
        raise DataError("the labels hold only one class (with any weight): nothing can be told apart")
    return truth, score, weight


def _checked_values(labels: ArrayLike, values: ArrayLike, weights: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    """Return labels, values and weights, each finite and of shape (rows,); all weights are 1 if there are none."""
    truth, score = np.asarray(labels, np.float64), np.asarray(values, np.float64)
    weight = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)
    if truth.ndim != 1 or truth.shape != score.shape or truth.shape != weight.shape:
        raise DataError(
            f"labels, scores and weights must be equally long: {truth.shape}, {score.shape}, {weight.shape}"
        )
    for name, content in (("label", truth), ("score", score)):
        if not np.isfinite(content).all():
            raise DataError(f"row {np.flatnonzero(~np.isfinite(content))[0]}: the {name} is not a finite number")
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise DataError("weights must be finite and not negative")
    return truth, score, weight


def _mean(values: Floats | NDArray[np.bool_], weight: Floats) -> float:
    if not weight.sum() > 0:
        raise DataError("there is no row with any weight: nothing can be measured")
    return float(np.average(values, weights=weight))


def _checked_probabilities(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None
) -> tuple[Floats, Floats, Floats]:
    truth, chance, weight = _checked(labels, probabilities, weights)
    if chance.min() < 0 or chance.max() > 1:
        raise DataError(f"probabilities lie between 0 and 1, found {chance.min():g} to {chance.max():g}")
    return truth, chance, weight


def _steps(truth: Floats, score: Floats, weight: Floats) -> tuple[Floats, Floats, Floats]:
    """Return cumulative weights of positives and negatives after each distinct score, best first, from (0, 0)."""
    order = np.argsort(-score, kind="stable")
    truth, score, weight = truth[order], score[order], weight[order]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    true = np.append(0.0, np.cumsum(truth * weight)[last])
    false = np.append(0.0, np.cumsum((1 - truth) * weight)[last])
    return true, false, np.append(np.inf, score[last])


def _thin(indices: NDArray[np.intp], along: Floats, points: int) -> NDArray[np.intp]:
    """Return at most ``points`` of ``indices``, both ends included, about evenly spaced in ``along`` (increasing)."""
    if points < 2:
        raise UsageError(f"a curve needs at least two points, found {points}")
    if len(indices) <= points:
        return indices
    wanted = np.linspace(along[0], along[-1], points)
    chosen = np.unique(np.clip(np.searchsorted(along, wanted), 0, len(indices) - 1))
    chosen[0], chosen[-1] = 0, len(indices) - 1
    return indices[chosen]
