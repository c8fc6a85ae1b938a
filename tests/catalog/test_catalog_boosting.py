"""Boosting as steps of a flow: binned, set up, trained, scored; the learner itself is tested beside it."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from unseen.catalog import bin_columns, local_boosting, prepare_histograms, score, vertical_boosting
from unseen.catalog.tree_model import TreeModel
from unseen.component import Packed
from unseen.data.schema import Column, Kind, Role, Schema
from unseen.data.table import Table
from unseen.errors import DataError, UsageError

ROWS = 600
ALONE = {"rounds": 4, "max_depth": 3, "learning_rate": 0.3, "min_child_weight": 2.0, "min_rows_in_leaf": 1}
# Few rows: as many sums as there may be.
SMALL = ALONE | {"scheme": "plain", "max_sums_per_row": 100.0}


@pytest.fixture(scope="module")
def data(table_of):
    """Columns of two parties about the same people; the label, a class and a count, depend on both."""
    rng = np.random.default_rng(7)
    features = rng.normal(size=(ROWS, 5))
    features[rng.uniform(size=features.shape) < 0.05] = np.nan
    known = np.nan_to_num(features)
    score = known @ [1, -0.5, 1.5, 0, 0] + known[:, 0] * known[:, 2]
    labels = {
        "binary": (score + rng.normal(size=ROWS) > 0.3).astype(int),
        "multiclass": np.digitize(score, [-1, 1]),
        "poisson": rng.poisson(np.exp(score / 3)),
        "squared": np.rint(5 * score),
        "huber": np.rint(5 * score),
    }
    ids = [f"p{n}" for n in range(ROWS)]
    bank = {"id": ids, "a": features[:, 0].tolist(), "b": features[:, 1].tolist()}
    shop = {"id": ids} | {name: features[:, n].tolist() for n, name in ((2, "c"), (3, "d"), (4, "e"))}
    tables = {
        objective: {"bank": table_of(bank | {"y": truth.tolist()}), "shop": table_of(shop)}
        for objective, truth in labels.items()
    }
    return tables, labels


def binned(run_step, tables):
    results = run_step(bin_columns.COMPONENT, {party: {"table": table} for party, table in tables.items()})
    return {party: {"table": found["table"]} for party, found in results.items()}


def scored(run_step, tables, models, component=score):
    inputs = {
        party: {"table": tables[party]} | ({"model": models[party]} if party in models else {}) for party in tables
    }
    return run_step(component.COMPONENT, inputs)["bank"]["scores"]


def trained(run_step, data, objective="binary", **params):
    tables = data[0][objective]
    chosen = SMALL | {"objective": objective, "classes": 3 if objective == "multiclass" else 1} | params
    results = run_step(vertical_boosting.COMPONENT, binned(run_step, tables), chosen)
    return results, scored(run_step, tables, {party: found["model"] for party, found in results.items()})


def test_a_joint_model_is_better_than_the_label_holders_own(run_step, data):
    tables, labels = data[0]["binary"], data[1]["binary"]
    _, together = trained(run_step, data)
    alone = run_step(local_boosting.COMPONENT, binned(run_step, tables), ALONE)
    assert alone["shop"] == {}
    own = scored(run_step, tables, {"bank": alone["bank"]["model"]})
    aucs = [roc_auc_score(labels, table.matrix(["probability"])[:, 0]) for table in (together, own)]
    assert together.schema.names == ("id", "y", "probability")
    assert aucs[0] > aucs[1] + 0.05
    assert alone["bank"]["report"].objective == "binary"


def test_the_joint_model_is_that_of_pooled_columns(run_step, data, table_of):
    """The same trees as on one party's table that has all columns: the splits that count are the same."""
    tables = data[0]["binary"]
    _, together = trained(run_step, data)
    frames = [tables["bank"].frame(), tables["shop"].frame().drop("id")]
    pooled = {"bank": table_of({name: frame[name].to_list() for frame in frames for name in frame.columns})}
    alone = run_step(local_boosting.COMPONENT, binned(run_step, pooled), ALONE)
    own = scored(run_step, pooled, {"bank": alone["bank"]["model"]})
    np.testing.assert_allclose(together.matrix(), own.matrix(), atol=1e-9)


def test_each_party_keeps_its_own_half(run_step, data):
    results, _ = trained(run_step, data)
    bank, shop = (results[party]["model"].unpack(TreeModel) for party in ("bank", "shop"))
    assert bank.passive is None
    assert shop.active is None
    assert [column.name for column in bank.rules.columns] == ["a", "b"]
    assert [column.name for column in shop.rules.columns] == ["c", "d", "e"]


def test_a_report_names_own_columns_and_numbers_others(run_step, data):
    results, _ = trained(run_step, data)
    bank, shop = (results[party]["report"] for party in ("bank", "shop"))
    assert (bank.rounds, len(bank.losses), len(bank.leaves)) == (4, 4, 4)
    assert list(bank.losses) == sorted(bank.losses, reverse=True)
    names = [(column.party, column.name) for column in bank.importance]
    assert names == [("bank", "a"), ("bank", "b"), *(("shop", f"number {n}") for n in (1, 2, 3))]
    assert sum(column.gain for column in bank.importance) == pytest.approx(1)
    assert [column.name for column in shop.importance] == ["c", "d", "e"]
    assert {column.gain for column in shop.importance} == {0}
    # The label holder sees the shop's columns in another order, but of the same use.
    theirs = sorted(column.splits for column in bank.importance if column.party == "shop")
    assert sorted(column.splits for column in shop.importance) == theirs
    told, _ = trained(run_step, data, share_gains=True)
    assert sum(column.gain for column in told["shop"]["report"].importance) == pytest.approx(1)


@pytest.mark.parametrize("instance_space", ["everyone", "members"])
def test_what_parties_learn_does_not_change_the_model(run_step, data, instance_space):
    _, usual = trained(run_step, data)
    _, found = trained(run_step, data, instance_space=instance_space)
    assert found == usual


def test_a_kept_set_up_gives_the_same_model(run_step, data):
    tables = data[0]["binary"]
    rows = binned(run_step, tables)
    kept = run_step(prepare_histograms.COMPONENT, rows, {"scheme": "plain"})
    inputs = {party: rows[party] | kept[party] for party in rows}
    results = run_step(vertical_boosting.COMPONENT, inputs, SMALL)
    found = scored(run_step, tables, {party: it["model"] for party, it in results.items()})
    np.testing.assert_allclose(found.matrix(), trained(run_step, data)[1].matrix(), atol=1e-9)


def test_a_set_up_of_another_table_is_refused(run_step, data):
    tables = data[0]["binary"]
    half = {party: table.take(np.arange(ROWS // 2)) for party, table in tables.items()}
    kept = run_step(prepare_histograms.COMPONENT, binned(run_step, half), {"scheme": "plain"})
    inputs = {party: found | kept[party] for party, found in binned(run_step, tables).items()}
    with pytest.raises(UsageError, match="set-up"):
        run_step(vertical_boosting.COMPONENT, inputs, SMALL)


def test_training_stops_by_the_validation_rows(run_step, data):
    tables = data[0]["binary"]
    train = {party: table.take(np.arange(400)) for party, table in tables.items()}
    rest = {party: table.take(np.arange(400, ROWS)) for party, table in tables.items()}
    rows = binned(run_step, train)
    inputs = {party: rows[party] | {"validation": rest[party]} for party in rows}
    params = SMALL | {"rounds": 60, "patience": 3, "learning_rate": 0.8, "max_depth": 5}
    report = run_step(vertical_boosting.COMPONENT, inputs, params)["bank"]["report"]
    assert report.rounds < len(report.validation_losses) < 60
    assert report.rounds == 1 + int(np.argmin(report.validation_losses))
    learning = report.learning("Federated")
    assert (learning.best, learning.measure) == (report.rounds, "log loss")
    assert learning.validation.values[learning.best - 1] == min(learning.validation.values)
    with pytest.raises(UsageError, match="patience needs validation rows"):
        run_step(vertical_boosting.COMPONENT, rows, params)


@pytest.mark.parametrize("objective", ["multiclass", "poisson", "squared", "huber"])
def test_scores_fit_the_objective(run_step, data, objective):
    _, found = trained(run_step, data, objective, huber_delta=10.0)
    truth = data[1][objective]
    if objective == "multiclass":
        assert found.schema.feature_names == ("prediction", *(f"probability_{n}" for n in range(3)))
        values = found.matrix()
        np.testing.assert_allclose(values[:, 1:].sum(axis=1), 1)
        np.testing.assert_array_equal(values[:, 0], values[:, 1:].argmax(axis=1))
        assert (values[:, 0] == truth).mean() > 0.6
    else:
        assert found.schema.feature_names == ("prediction",)
        errors = found.matrix()[:, 0] - truth
        assert np.mean(errors**2) < 0.8 * truth.var()


def test_a_weight_of_two_is_two_rows(run_step):
    rng = np.random.default_rng(1)
    values, weights = rng.integers(0, 6, (120, 2)), rng.integers(1, 3, 120)
    labels = values.sum(axis=1) + rng.integers(0, 3, 120)
    predictions = []
    for times in (np.ones(120, int), weights):
        where = np.arange(120).repeat(times)
        used = np.ones(120) if times is weights else weights
        frame = pl.DataFrame({"id": [f"p{n}" for n in range(len(where))], "y": labels[where], "weight": used[where]})
        frame = frame.with_columns(pl.Series("a", values[where, 0]), pl.Series("b", values[where, 1]))
        roles = {"id": Role.ID, "y": Role.LABEL, "weight": Role.WEIGHT}
        kinds = {"id": Kind.TEXT, "y": Kind.INTEGER}
        schema = Schema(tuple(Column(n, roles.get(n, Role.FEATURE), kinds.get(n, Kind.REAL)) for n in frame.columns))
        tables = {"bank": Table.from_frame(frame, schema)}
        params = ALONE | {"objective": "squared"}
        results = run_step(local_boosting.COMPONENT, binned(run_step, tables), params)
        found = scored(run_step, tables, {"bank": results["bank"]["model"]}).matrix()[:, 0]
        predictions.append(found[np.unique(where, return_index=True)[1]])
    np.testing.assert_allclose(*predictions, atol=1e-9)


@pytest.mark.parametrize("least", [ROWS, ROWS + 1])
def test_too_few_rows_are_refused_since_sums_tell_about_them(run_step, data, least):
    rows = binned(run_step, data[0]["binary"])
    if least == ROWS:
        run_step(vertical_boosting.COMPONENT, rows, SMALL | {"min_rows": least, "rounds": 1})
        return
    with pytest.raises(DataError, match="600 rows are fewer than min_rows = 601"):
        run_step(vertical_boosting.COMPONENT, rows, SMALL | {"min_rows": least})


def test_half_a_model_is_refused_elsewhere(run_step, data):
    results, _ = trained(run_step, data)
    tables = data[0]["binary"]
    with pytest.raises(DataError, match=r"bins were made for columns c, d, e"):
        scored(run_step, tables, {"bank": results["shop"]["model"], "shop": results["bank"]["model"]})


def test_a_table_without_a_label_cannot_be_learned(run_step, data):
    shop = {"table": binned(run_step, data[0]["binary"])["shop"]["table"]}
    with pytest.raises(DataError, match="the table of shop has no label to learn"):
        run_step(local_boosting.COMPONENT, {"shop": shop}, ALONE, active="shop")


def test_plain_sums_are_refused_outside_simulation(run_step, data):
    with pytest.raises(UsageError, match="simulation"):
        run_step(vertical_boosting.COMPONENT, binned(run_step, data[0]["binary"]), SMALL, simulated=False)


@pytest.mark.parametrize("scheme", ["lattice", "paillier", "plain"])
def test_set_ups_of_all_schemes_can_be_kept_and_serve_three_parties(run_step, table_of, tmp_path, scheme):
    rows = 30 if scheme == "paillier" else 120
    rng = np.random.default_rng(9)
    values = rng.integers(0, 3, (rows, 3))
    truth = (values.sum(axis=1) + rng.integers(0, 2, rows) > 3).astype(int)
    ids = [f"p{n}" for n in range(rows)]
    tables = {name: table_of({"id": ids, name: values[:, n].tolist()}) for n, name in enumerate(("aide", "shop"))}
    tables["bank"] = table_of({"id": ids, "y": truth.tolist(), "own": values[:, 2].tolist()})
    inputs = binned(run_step, tables)
    for party, found in run_step(prepare_histograms.COMPONENT, inputs, {"scheme": scheme}).items():
        found["setup"].write(tmp_path / party)
        inputs[party] = inputs[party] | {"setup": Packed.read(tmp_path / party)}
    params = ALONE | {"rounds": 1, "max_depth": 2, "min_rows": 2, "max_sums_per_row": 100.0}
    results = run_step(vertical_boosting.COMPONENT, inputs, params, simulated=scheme == "plain")
    assert [column.party for column in results["bank"]["report"].importance] == ["bank", "aide", "shop"]
    found = scored(run_step, tables, {party: it["model"] for party, it in results.items()})
    columns = {"own": values[:, 2], "aide": values[:, 0], "shop": values[:, 1]}
    pooled = {"bank": table_of({"id": ids, "y": truth.tolist()} | {n: it.tolist() for n, it in columns.items()})}
    alone = run_step(local_boosting.COMPONENT, binned(run_step, pooled), ALONE | {"rounds": 1, "max_depth": 2})
    own = scored(run_step, pooled, {"bank": alone["bank"]["model"]})
    np.testing.assert_allclose(found.matrix(), own.matrix(), atol=1e-9)
