"""Measures how well scores fit known labels: AUC, KS, log loss, Brier score, and the curves behind them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unseen.catalog.score import PROBABILITY, SCORES
from unseen.component import Component, Document, Input, Kind, Output, Params, Role, Task, Value
from unseen.data.table import Table
from unseen.dialogue import Dialogue
from unseen.errors import DataError
from unseen.learners import metrics
from unseen.report.model import CalibrationPoint, KsCurve, ModelKind, ModelResult, RocCurve, ScoreHistogram

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


class Evaluation(Document):
    """The quality of one model on rows with known labels."""

    rows: int
    result: ModelResult


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


def _run(task: Task) -> Dialogue[Mapping[str, Value]]:
    yield from ()
    if not task.is_active:
        return {}
    scores, params = task.input("scores", Table), task.parameters(EvaluateParams)
    missing = int(scores.label_missing().sum())
    if missing:
        raise DataError(f"step {task.step}: {missing} of {scores.rows} rows have no label; evaluate labelled rows only")
    result = model_result(params, scores.label(), scores.matrix([PROBABILITY])[:, 0])
    return {"evaluation": Evaluation(rows=scores.rows, result=result)}


COMPONENT = Component(
    name="evaluate",
    version=1,
    summary="Measure scores against known labels: AUC, KS, log loss, Brier score, and their curves.",
    params=EvaluateParams,
    inputs={"scores": Input(SCORES, "scored rows with labels", at=Role.ACTIVE)},
    outputs={"evaluation": Output(EVALUATION, "measures and curves", at=Role.ACTIVE)},
    leaks=(),
    run=_run,
)
