import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from unseen.catalog import apply_scaler, standardise
from unseen.errors import DataError, UsageError

NAMES = ("a", "b", "c")


@pytest.fixture
def table(table_of):
    def make(rows, seed=0, names=NAMES):
        values = np.random.default_rng(seed).normal(3, 5, (rows, len(names)))
        values[1, 0] = np.nan
        columns = {
            name: [None if np.isnan(v) else v for v in column] for name, column in zip(names, values.T, strict=True)
        }
        return table_of({"id": [f"{seed}-{n}" for n in range(rows)], "y": [0, 1] * (rows // 2)} | columns), values

    return make


def test_training_rows_get_mean_zero_and_deviation_one(run_step, table):
    rows, values = table(50)
    result = run_step(standardise.COMPONENT, {"bank": {"table": rows}})["bank"]
    scaled = result["table"].matrix()
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(axis=0)[1:], 1, atol=1e-12)
    assert scaled[1, 0] == 0
    np.testing.assert_allclose(scaled[:, 1:], StandardScaler().fit_transform(values[:, 1:]), atol=1e-10)
    assert result["scaler"].fitted.names == NAMES
    assert result["scaler"].fitted.missing == (1, 0, 0)
    assert result["table"].ids() == rows.ids()
    assert result["table"].label().tolist() == rows.label().tolist()


def test_further_rows_are_scaled_as_the_training_rows_were(run_step, table):
    train, values = table(50)
    test, others = table(20, seed=7)
    scaler = run_step(standardise.COMPONENT, {"bank": {"table": train}})["bank"]["scaler"]
    result = run_step(apply_scaler.COMPONENT, {"bank": {"table": test, "scaler": scaler}})["bank"]["table"]
    reference = StandardScaler().fit(values[:, 1:]).transform(others[:, 1:])
    np.testing.assert_allclose(result.matrix()[:, 1:], reference, atol=1e-10)
    assert result.matrix()[1, 0] == 0
    again = run_step(apply_scaler.COMPONENT, {"bank": {"table": train, "scaler": scaler}})["bank"]["table"]
    assert again == run_step(standardise.COMPONENT, {"bank": {"table": train}})["bank"]["table"]


def test_each_party_scales_its_own_and_sends_nothing(run_step, table):
    tables = {"bank": {"table": table(10)[0]}, "shop": {"table": table(30, seed=2, names=("z",))[0]}}
    results = run_step(standardise.COMPONENT, tables)
    assert results["shop"]["scaler"].fitted.names == ("z",)
    assert results["bank"]["table"].rows == 10


def test_rows_without_a_column_that_was_scaled_are_refused(run_step, table):
    scaler = run_step(standardise.COMPONENT, {"bank": {"table": table(10)[0]}})["bank"]["scaler"]
    other = table(10, names=("a", "b", "d"))[0]
    with pytest.raises(UsageError, match="there is no column c: the table has id, y, a, b, d"):
        run_step(apply_scaler.COMPONENT, {"bank": {"table": other, "scaler": scaler}})


def test_a_column_without_any_value_is_named(run_step, table_of):
    table = table_of({"id": ["p", "q"], "a": [1.0, 2.0], "empty": [None, None]})
    with pytest.raises(DataError, match="column empty: no training row has a value"):
        run_step(standardise.COMPONENT, {"bank": {"table": table}})
