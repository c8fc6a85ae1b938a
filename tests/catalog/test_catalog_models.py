import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge, TweedieRegressor

from unseen.catalog import (
    linear_regression,
    local_logistic_regression,
    logistic_regression,
    poisson_regression,
    score,
    softmax_regression,
    tweedie_regression,
)
from unseen.catalog.class_model import ClassModel
from unseen.catalog.schemes import scheme_of
from unseen.data.schema import Column, Kind, Schema
from unseen.data.schema import Role as ColumnRole
from unseen.data.table import Table
from unseen.errors import DataError, UsageError

ROWS, L2 = 160, 0.01
PLAIN = {"scheme": "plain", "l2": L2}


@pytest.fixture(scope="module")
def data(table_of):
    """Standardised columns of two parties about the same people, the label with the bank."""
    rng = np.random.default_rng(5)
    features = rng.normal(size=(ROWS, 5)) @ rng.normal(size=(5, 5))
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    labels = (rng.uniform(size=ROWS) < 1 / (1 + np.exp(1 - features @ [1, -1, 0.5, 1.5, 0]))).astype(int)
    ids = [f"p{n}" for n in range(ROWS)]
    bank = {"id": ids, "y": labels.tolist(), "a": features[:, 0].tolist(), "b": features[:, 1].tolist()}
    shop = {"id": ids} | {name: features[:, n].tolist() for n, name in ((2, "c"), (3, "d"), (4, "e"))}
    return {"bank": table_of(bank), "shop": table_of(shop)}, features, labels


@pytest.fixture(scope="module")
def models(run_step, data):
    inputs = {party: {"table": table} for party, table in data[0].items()}
    params = {"mode": "exact", "scheme": "plain", "l2": L2, "max_iterations": 200, "tolerance": 1e-7}
    return {party: it["model"] for party, it in run_step(logistic_regression.COMPONENT, inputs, params).items()}


def pooled(features, labels):
    fitted = LogisticRegression(C=1 / (L2 * ROWS), tol=1e-10, max_iter=1000).fit(features, labels)
    return fitted.coef_[0], fitted.intercept_[0]


def test_the_parts_make_up_the_model_of_pooled_data(data, models):
    _, features, labels = data
    coefficients, intercept = pooled(features, labels)
    joint = np.r_[models["bank"].coefficients, models["shop"].coefficients]
    np.testing.assert_allclose(joint, coefficients, atol=2e-3)
    assert models["bank"].intercept == pytest.approx(intercept, abs=2e-3)
    assert models["bank"].names == ("a", "b")
    assert models["shop"].names == ("c", "d", "e")
    assert models["bank"].passives == models["shop"].passives == ("shop",)
    assert models["bank"].converged


def test_a_model_document_gives_the_trained_part_back(models):
    for model in models.values():
        assert logistic_regression.LinearModel.of(model.part, model.names, model.passives) == model
        assert type(model).model_validate_json(model.model_dump_json()) == model


def test_the_label_holder_alone_gets_the_model_of_its_own_columns(run_step, data):
    tables, features, labels = data
    inputs = {party: {"table": table} for party, table in tables.items()}
    results = run_step(local_logistic_regression.COMPONENT, inputs, {"l2": L2})
    coefficients, intercept = pooled(features[:, :2], labels)
    assert results["shop"] == {}
    np.testing.assert_allclose(results["bank"]["model"].coefficients, coefficients, atol=1e-4)
    assert results["bank"]["model"].intercept == pytest.approx(intercept, abs=1e-4)
    assert results["bank"]["model"].passives == ()


def test_scores_are_those_of_the_parts_together(run_step, data, models):
    tables, features, _ = data
    inputs = {party: {"table": tables[party], "model": models[party]} for party in tables}
    results = run_step(score.COMPONENT, inputs)
    joint = np.r_[models["bank"].coefficients, models["shop"].coefficients]
    expected = 1 / (1 + np.exp(-(features @ joint + models["bank"].intercept)))
    assert results["shop"] == {}
    found = results["bank"]["scores"]
    assert found.schema.names == ("id", "y", "probability")
    assert found.ids() == tables["bank"].ids()
    np.testing.assert_allclose(found.matrix()[:, 0], expected, atol=1e-6)


def test_a_model_of_one_party_needs_no_other(run_step, data, models):
    tables, features, _ = data
    alone = models["bank"].model_copy(update={"passives": ()})
    results = run_step(score.COMPONENT, {"bank": {"table": tables["bank"], "model": alone}, "shop": {}})
    expected = 1 / (1 + np.exp(-(features[:, :2] @ alone.coefficients + alone.intercept)))
    np.testing.assert_allclose(results["bank"]["scores"].matrix()[:, 0], expected, atol=1e-9)


def test_other_columns_than_the_models_are_refused(run_step, data, models):
    tables, _, _ = data
    other = models["bank"].model_copy(update={"names": ("b", "a")})
    with pytest.raises(DataError, match="the model was trained on columns b, a, the table has a, b"):
        run_step(score.COMPONENT, {"bank": {"table": tables["bank"], "model": other}, "shop": {}})


def test_plain_sums_are_refused_outside_simulation(run_step, data):
    inputs = {party: {"table": table} for party, table in data[0].items()}
    with pytest.raises(UsageError, match="simulation"):
        run_step(logistic_regression.COMPONENT, inputs, {"scheme": "plain"}, simulated=False)


def test_lattice_is_what_protects_by_default():
    params = logistic_regression.LogisticRegressionParams()
    assert (params.scheme, params.mode) == ("lattice", "private")
    names = {"lattice": "Lattice", "paillier": "Paillier", "plain": "Plain"}
    for name, kind in names.items():
        assert type(scheme_of(name, simulated=True)).__name__ == kind


@pytest.mark.parametrize("least", [ROWS, ROWS + 1])
def test_too_few_rows_are_refused_since_their_sums_tell_labels(run_step, data, least):
    inputs = {party: {"table": table} for party, table in data[0].items()}
    params = {"scheme": "plain", "min_rows": least}
    if least > ROWS:
        with pytest.raises(DataError, match=rf"{ROWS} rows are fewer than min_rows = {least}"):
            run_step(logistic_regression.COMPONENT, inputs, params)
    else:
        assert run_step(logistic_regression.COMPONENT, inputs, params)


def weighted(table, values):
    frame = table.frame().with_columns(w=pl.Series(values, dtype=pl.Float64))
    schema = Schema((*table.schema.columns, Column("w", ColumnRole.WEIGHT, Kind.REAL)))
    return Table.from_frame(frame, schema)


def test_weights_and_class_weights_are_those_of_scikit_learn(run_step, data):
    tables, features, labels = data
    weights = np.random.default_rng(0).uniform(0.5, 2, ROWS)
    inputs = {"bank": {"table": weighted(tables["bank"], weights)}, "shop": {"table": tables["shop"]}}
    total = (weights * np.where(labels == 1, 3.0, 1.0)).sum()
    fitted = LogisticRegression(C=1 / (L2 * total), tol=1e-10, max_iter=1000, class_weight={0: 1, 1: 3})
    fitted.fit(features, labels, sample_weight=weights)
    params = PLAIN | {"tolerance": 1e-7, "class_weights": (1.0, 3.0)}
    found = run_step(logistic_regression.COMPONENT, inputs, params)
    joint = np.r_[found["bank"]["model"].coefficients, found["shop"]["model"].coefficients]
    np.testing.assert_allclose(joint, fitted.coef_[0], atol=4e-3)
    alone = run_step(local_logistic_regression.COMPONENT, inputs, {"l2": L2, "class_weights": (1.0, 3.0)})
    fitted.fit(features[:, :2], labels, sample_weight=weights)
    np.testing.assert_allclose(alone["bank"]["model"].coefficients, fitted.coef_[0], atol=1e-3)


def test_weights_that_would_be_ignored_are_refused(run_step, data):
    tables, _, _ = data
    heavy = {"bank": {"table": weighted(tables["bank"], [1.5] * ROWS)}, "shop": {"table": tables["shop"]}}
    with pytest.raises(UsageError, match="mode 'linearised' knows no weights"):
        run_step(logistic_regression.COMPONENT, heavy, PLAIN | {"mode": "linearised"})
    with pytest.raises(UsageError, match="softmax regression knows no weights"):
        run_step(softmax_regression.COMPONENT, heavy, {"scheme": "plain", "classes": 2})
    passive = {"bank": {"table": tables["bank"]}, "shop": {"table": weighted(tables["shop"], [1.5] * ROWS)}}
    with pytest.raises(UsageError, match="shop has a column of weights, but only those of bank are used"):
        run_step(logistic_regression.COMPONENT, passive, PLAIN)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"balanced": True, "class_weights": (1.0, 2.0)}, "balanced already gives both classes weights"),
        ({"class_weights": (1.0,)}, "class_weights are those of labels 0 and 1, found 1"),
    ],
)
def test_class_weights_are_given_in_one_way(run_step, data, params, says):
    inputs = {party: {"table": table} for party, table in data[0].items()}
    with pytest.raises(UsageError, match=says):
        run_step(logistic_regression.COMPONENT, inputs, PLAIN | params)


def regression(run_step, data, table_of, component, labels, **params):
    """Return the joint coefficients, and predictions of all rows."""
    tables, _, _ = data
    bank = {name: tables["bank"].frame()[name].to_list() for name in ("id", "a", "b")}
    inputs = {"bank": {"table": table_of(bank | {"y": labels.tolist()})}, "shop": {"table": tables["shop"]}}
    found = run_step(component.COMPONENT, inputs, PLAIN | {"tolerance": 1e-7} | params)
    models = {party: it["model"] for party, it in found.items()}
    scores = run_step(score.COMPONENT, {party: inputs[party] | {"model": models[party]} for party in models})
    return np.r_[models["bank"].coefficients, models["shop"].coefficients], scores["bank"]["scores"]


@pytest.mark.parametrize(
    ("component", "reference", "params"),
    [
        (linear_regression, Ridge(alpha=L2 * ROWS, tol=1e-10), {}),
        (poisson_regression, PoissonRegressor(alpha=L2, tol=1e-10, max_iter=1000), {}),
        (
            tweedie_regression,
            TweedieRegressor(alpha=L2, power=1.3, link="log", tol=1e-10, max_iter=1000),
            {"power": 1.3},
        ),
    ],
    ids=["linear", "poisson", "tweedie"],
)
def test_regressions_are_those_of_scikit_learn(run_step, data, table_of, component, reference, params):
    features = data[1]
    rng = np.random.default_rng(2)
    counts = rng.poisson(np.exp(0.3 + features @ [0.3, -0.2, 0.2, 0.1, 0]))
    joint, scores = regression(run_step, data, table_of, component, counts, **params)
    reference.fit(features, counts)
    assert np.linalg.norm(joint - reference.coef_) <= 0.003 * np.linalg.norm(reference.coef_)
    assert scores.schema.feature_names == ("prediction",)
    np.testing.assert_allclose(scores.matrix()[:, 0], reference.predict(features), rtol=0.01, atol=0.005)


def test_softmax_is_that_of_scikit_learn(run_step, data, table_of):
    tables, features, _ = data
    score_of = features @ [1, -1, 0.5, 1.5, 0]
    classes = np.digitize(score_of + np.random.default_rng(3).normal(size=ROWS), [-1, 1])
    bank = {name: tables["bank"].frame()[name].to_list() for name in ("id", "a", "b")}
    inputs = {"bank": {"table": table_of(bank | {"y": classes.tolist()})}, "shop": {"table": tables["shop"]}}
    found = run_step(softmax_regression.COMPONENT, inputs, {"scheme": "plain", "l2": L2, "tolerance": 1e-7})
    models = {party: it["model"] for party, it in found.items()}
    for model in models.values():
        assert type(model).model_validate_json(model.model_dump_json()) == model
        assert ClassModel.of(model.part, model.names, model.passives) == model
    scores = run_step(score.COMPONENT, {party: inputs[party] | {"model": models[party]} for party in models})
    reference = LogisticRegression(C=1 / (L2 * ROWS), tol=1e-10, max_iter=1000).fit(features, classes)
    values = scores["bank"]["scores"].matrix()
    np.testing.assert_allclose(values[:, 1:], reference.predict_proba(features), atol=5e-3)
    np.testing.assert_array_equal(values[:, 0], values[:, 1:].argmax(axis=1))


def test_an_l1_penalty_leaves_columns_out(run_step, data):
    inputs = {party: {"table": table} for party, table in data[0].items()}
    found = run_step(logistic_regression.COMPONENT, inputs, PLAIN | {"l1": 0.08, "max_iterations": 200})
    joint = np.r_[found["bank"]["model"].coefficients, found["shop"]["model"].coefficients]
    assert 0 < np.count_nonzero(joint == 0) < 5
