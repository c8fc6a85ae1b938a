import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    d2_tweedie_score,
    log_loss,
    mean_absolute_error,
    precision_score,
    recall_score,
    roc_auc_score,
    roc_curve,
)

from unseen.catalog.evaluate import COMPONENT
from unseen.errors import DataError
from unseen.report.model import ModelKind


def scores(table_of, rows=400, seed=0, labels=None):
    rng = np.random.default_rng(seed)
    probabilities = np.round(rng.beta(2, 5, rows), 2)
    truth = (rng.uniform(size=rows) < probabilities).astype(int).tolist() if labels is None else labels
    ids = [f"p{n}" for n in range(rows)]
    return table_of({"id": ids, "y": truth, "probability": probabilities.tolist()}), truth, probabilities


def evaluate(run_step, table, params=None):
    return run_step(COMPONENT, {"bank": {"scores": table}, "shop": {}}, params)


def test_measures_are_those_of_scikit_learn(run_step, table_of):
    table, truth, chance = scores(table_of)
    results = evaluate(run_step, table)
    assert results["shop"] == {}
    evaluation = results["bank"]["evaluation"]
    found = evaluation.result
    assert evaluation.rows == 400
    assert found.auc == pytest.approx(roc_auc_score(truth, chance), abs=1e-12)
    assert found.log_loss == pytest.approx(log_loss(truth, np.clip(chance, 2**-52, 1)), abs=1e-9)
    assert found.brier == pytest.approx(brier_score_loss(truth, chance), abs=1e-12)
    false, true, _ = roc_curve(truth, chance)
    assert found.ks == pytest.approx(np.max(true - false), abs=1e-12)


def test_curves_are_those_of_scikit_learn(run_step, table_of):
    table, truth, chance = scores(table_of)
    found = evaluate(run_step, table)["bank"]["evaluation"].result
    points = {
        (round(x, 9), round(y, 9)) for x, y, _ in zip(*roc_curve(truth, chance, drop_intermediate=False), strict=True)
    }
    ours = list(zip(found.roc.false_positive_rate, found.roc.true_positive_rate, strict=True))
    assert {(round(x, 9), round(y, 9)) for x, y in ours} <= points
    assert (ours[0], ours[-1]) == ((0, 0), (1, 1))
    assert np.trapezoid(found.roc.true_positive_rate, found.roc.false_positive_rate) == pytest.approx(found.auc)
    gaps = np.abs(np.subtract(found.ks_curve.positives, found.ks_curve.negatives))
    assert gaps.max() == pytest.approx(found.ks)
    assert sum(point.count for point in found.calibration) == 400
    weights = [point.count for point in found.calibration]
    assert np.average([point.predicted for point in found.calibration], weights=weights) == pytest.approx(chance.mean())
    assert np.average([point.observed for point in found.calibration], weights=weights) == pytest.approx(np.mean(truth))
    assert sum(found.scores.positives) == sum(truth)
    assert sum(found.scores.negatives) == 400 - sum(truth)
    assert len(found.scores.edges) == len(found.scores.positives) + 1 == 21


def test_the_result_is_shown_as_asked_for(run_step, table_of):
    table = scores(table_of)[0]
    params = {"name": "bank alone", "kind": "alone", "calibration_bins": 4}
    found = evaluate(run_step, table, params)["bank"]["evaluation"].result
    assert (found.name, found.kind, len(found.calibration)) == ("bank alone", ModelKind.ALONE, 4)


def test_rows_without_a_label_are_refused(run_step, table_of):
    table = scores(table_of, rows=5, labels=[0, 1, None, None, 1])[0]
    with pytest.raises(DataError, match="step step: 2 of 5 rows have no label"):
        evaluate(run_step, table)


def test_one_class_cannot_be_evaluated(run_step, table_of):
    table = scores(table_of, rows=3, labels=[1, 1, 1])[0]
    with pytest.raises(DataError, match="only one class"):
        evaluate(run_step, table)


def test_measures_of_counts_are_those_of_scikit_learn(run_step, table_of):
    rng = np.random.default_rng(2)
    means = rng.gamma(2, 1, 200) + 0.1
    truth = rng.poisson(means)
    ids = [f"p{n}" for n in range(200)]
    table = table_of({"id": ids, "y": truth.tolist(), "prediction": means.tolist()})
    found = evaluate(run_step, table, {"power": 1.0})["bank"]["evaluation"].result
    assert found.rmse == pytest.approx(np.sqrt(np.mean((truth - means) ** 2)))
    assert found.mae == pytest.approx(mean_absolute_error(truth, means))
    assert found.d2 == pytest.approx(d2_tweedie_score(truth, means, power=1))
    assert found.auc is None
    assert found.classes == ()


def test_measures_of_classes_are_those_of_scikit_learn(run_step, table_of):
    rng = np.random.default_rng(4)
    truth, chances = rng.integers(0, 3, 150), rng.dirichlet(np.ones(3), 150)
    chosen = chances.argmax(axis=1)
    columns = {f"probability_{n}": chances[:, n].tolist() for n in range(3)}
    table = table_of(
        {"id": [f"p{n}" for n in range(150)], "y": truth.tolist(), "prediction": chosen.tolist()} | columns
    )
    found = evaluate(run_step, table)["bank"]["evaluation"].result
    assert found.accuracy == pytest.approx(accuracy_score(truth, chosen))
    assert found.log_loss == pytest.approx(log_loss(truth, chances), abs=1e-9)
    for number, entry in enumerate(found.classes):
        assert (entry.name, entry.count) == (str(number), int((truth == number).sum()))
        assert entry.precision == pytest.approx(precision_score(truth == number, chosen == number))
        assert entry.recall == pytest.approx(recall_score(truth == number, chosen == number))
        assert entry.auc == pytest.approx(roc_auc_score(truth == number, chances[:, number]))


def test_a_class_that_nobody_has_is_not_measured(run_step, table_of):
    table = table_of(
        {"id": ["a", "b"], "y": [0, 0], "prediction": [0, 0], "probability_0": [0.9, 0.8], "probability_1": [0.1, 0.2]}
    )
    first, second = evaluate(run_step, table)["bank"]["evaluation"].result.classes
    assert (first.precision, first.recall, first.auc) == (1, 1, None)
    assert (second.count, second.precision, second.recall, second.auc) == (0, None, None, None)
