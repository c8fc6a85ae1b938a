"""Measures how well scores fit known labels.

Two classes: AUC, KS, log loss, Brier score, and the curves behind them. More classes: accuracy, log loss, and each
class against the others. Amounts and counts: RMSE, MAE, D². Which of them is told by the columns that `score` wrote.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unseen.catalog.score import PREDICTION, PROBABILITY, SCORES, class_columns
from unseen.component import Component, Document, Input, Kind, Output, Params, Role, Shown, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.errors import DataError
from unseen.learners import metrics
from unseen.report.model import (
    CalibrationPoint,
    ClassResult,
    KsCurve,
    ModelKind,
    ModelResult,
    RocCurve,
    ScoreHistogram,
)

CURVE_POINTS = 200
HISTOGRAM_BINS = 20


class EvaluateParams(Params):
    """How the result is shown."""

    name: str = "Federated"
    """What the model is called in reports."""
    kind: ModelKind = ModelKind.FEDERATED
    """What it is compared as."""
    calibration_bins: int = Field(default=10, ge=2, le=100)
    """Number of groups of people with similar predictions."""
    power: float = Field(default=0.0, ge=0, le=2)
    """The deviance behind D², for amounts and counts: 0 squared error, 1 Poisson, between 1 and 2 Tweedie, 2 gamma."""


class Evaluation(Document):
    """The quality of one model on rows with known labels."""

    rows: int
    result: ModelResult

    def shown(self, step: str, party: str) -> Shown:
        """Return the model among those that are compared."""
        del step, party
        return Shown(comparison=(self.result,))


EVALUATION = Kind("evaluation", Evaluation)


def model_result(
    params: EvaluateParams, labels: NDArray[np.float64], probabilities: NDArray[np.float64]
) -> ModelResult:
    """Return all measures of probabilities against labels in {0, 1}, both of shape (rows,)."""
    roc = metrics.roc_curve(labels, probabilities, points=CURVE_POINTS)
    ks = metrics.ks_curve(labels, probabilities, points=CURVE_POINTS)
    groups = metrics.calibration_curve(labels, probabilities, bins=params.calibration_bins)
    edges = np.linspace(0.0, max(float(probabilities.max()), 1e-6), HISTOGRAM_BINS + 1)
    return ModelResult(
        name=params.name,
        kind=params.kind,
        auc=metrics.auc(labels, probabilities),
        ks=metrics.ks(labels, probabilities),
        log_loss=metrics.log_loss(labels, probabilities),
        brier=metrics.brier(labels, probabilities),
        roc=RocCurve(
            false_positive_rate=tuple(roc.false_positive_rate), true_positive_rate=tuple(roc.true_positive_rate)
        ),
        ks_curve=KsCurve(share=tuple(ks.population), positives=tuple(ks.positives), negatives=tuple(ks.negatives)),
        calibration=tuple(
            CalibrationPoint(predicted=predicted, observed=observed, count=round(count))
            for predicted, observed, count in zip(groups.predicted, groups.observed, groups.weight, strict=True)
        ),
        scores=ScoreHistogram(
            edges=tuple(edges),
            positives=tuple(int(count) for count in np.histogram(probabilities[labels == 1], edges)[0]),
            negatives=tuple(int(count) for count in np.histogram(probabilities[labels == 0], edges)[0]),
        ),
    )


def class_result(params: EvaluateParams, labels: NDArray[np.float64], chances: NDArray[np.float64]) -> ModelResult:
    """Return all measures of probabilities of classes, shape (rows, classes), against labels in 0 … classes − 1."""
    found = chances.argmax(axis=1)
    return ModelResult(
        name=params.name,
        kind=params.kind,
        accuracy=metrics.accuracy(labels, found),
        log_loss=metrics.class_log_loss(labels, chances),
        classes=tuple(
            _one_class(labels == number, found == number, chances[:, number], str(number))
            for number in range(chances.shape[1])
        ),
    )


def _one_class(
    truth: NDArray[np.bool_], found: NDArray[np.bool_], chances: NDArray[np.float64], name: str
) -> ClassResult:
    count, both = int(truth.sum()), int((truth & found).sum())
    return ClassResult(
        name=name,
        count=count,
        precision=both / int(found.sum()) if found.any() else None,
        recall=both / count if count else None,
        auc=metrics.auc(truth, chances) if 0 < count < len(truth) else None,
    )


def amount_result(params: EvaluateParams, labels: NDArray[np.float64], values: NDArray[np.float64]) -> ModelResult:
    """Return all measures of predicted amounts or counts against true ones, both of shape (rows,)."""
    return ModelResult(
        name=params.name,
        kind=params.kind,
        rmse=metrics.rmse(labels, values),
        mae=metrics.mae(labels, values),
        d2=metrics.d2(labels, values, power=params.power),
    )


def _result(params: EvaluateParams, scores: Table) -> ModelResult:
    names, labels = scores.schema.feature_names, scores.label()
    if names == (PROBABILITY,):
        return model_result(params, labels, scores.matrix([PROBABILITY])[:, 0])
    if names == (PREDICTION,):
        return amount_result(params, labels, scores.matrix([PREDICTION])[:, 0])
    return class_result(params, labels, scores.matrix(class_columns(len(names) - 1)))


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    yield from ()
    if not task.is_active:
        return {}
    scores, params = task.input("scores", Table), task.parameters(EvaluateParams)
    missing = int(scores.label_missing().sum())
    if missing:
        raise DataError(f"step {task.step}: {missing} of {scores.rows} rows have no label; evaluate labelled rows only")
    return {"evaluation": Evaluation(rows=scores.rows, result=_result(params, scores))}


COMPONENT = Component(
    name="evaluate",
    version=2,
    summary="Measure scores against known labels: AUC and curves, or classes told apart, or errors of amounts.",
    params=EvaluateParams,
    inputs={"scores": Input(SCORES, "scored rows with labels", at=Role.ACTIVE)},
    outputs={"evaluation": Output(EVALUATION, "measures and curves", at=Role.ACTIVE)},
    leaks=(),
    run=_run,
)
