import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from unseen.catalog import local_logistic_regression, logistic_regression, score
from unseen.data.schema import Column, Kind, Schema
from unseen.data.schema import Role as ColumnRole
from unseen.data.table import Table
from unseen.errors import DataError, UsageError

ROWS, L2 = 160, 0.01


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
    params = {"l2": L2, "max_iterations": 200, "tolerance": 1e-7}
    results = run_step(local_logistic_regression.COMPONENT, inputs, params)
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
    assert (params.scheme, params.mode) == ("lattice", "linearised")
    names = {"lattice": "Lattice", "paillier": "Paillier", "plain": "Plain"}
    for name, kind in names.items():
        assert type(logistic_regression.scheme_of(name, simulated=True)).__name__ == kind


@pytest.mark.parametrize("least", [ROWS, ROWS + 1])
def test_too_few_rows_are_refused_since_their_sums_tell_labels(run_step, data, least):
    inputs = {party: {"table": table} for party, table in data[0].items()}
    params = {"scheme": "plain", "min_rows": least}
    if least > ROWS:
        with pytest.raises(DataError, match=rf"{ROWS} rows are fewer than min_rows = {least}"):
            run_step(logistic_regression.COMPONENT, inputs, params)
    else:
        assert run_step(logistic_regression.COMPONENT, inputs, params)


@pytest.mark.parametrize("component", [logistic_regression.COMPONENT, local_logistic_regression.COMPONENT])
def test_row_weights_are_refused_rather_than_ignored(run_step, data, component):
    frame = data[0]["bank"].frame().with_columns(w=1.5)
    weighted = Schema((*data[0]["bank"].schema.columns, Column("w", ColumnRole.WEIGHT, Kind.REAL)))
    inputs = {"bank": {"table": Table.from_frame(frame, weighted)}, "shop": {"table": data[0]["shop"]}}
    with pytest.raises(UsageError, match="column w is a weight"):
        run_step(component, inputs)
