"""Each party's own bins: what is learned, what is kept, and that further rows fall into the same bins."""

import numpy as np
import polars as pl
import pytest

from unseen.catalog.bin_columns import COMPONENT
from unseen.catalog.binned_table import BinnedTable, Bins
from unseen.data.schema import Column, Kind, Role, Schema
from unseen.data.table import Table
from unseen.errors import DataError, UsageError

KINDS = {"town": Kind.TEXT, "branch": Kind.INTEGER, "vip": Kind.BOOLEAN}
OTHER = {"id": (Role.ID, Kind.TEXT), "y": (Role.LABEL, Kind.INTEGER), "w": (Role.WEIGHT, Kind.REAL)}


def mixed_table(columns):
    schema = Schema(tuple(Column(n, *OTHER.get(n, (Role.FEATURE, KINDS.get(n, Kind.REAL)))) for n in columns))
    return Table.from_frame(pl.DataFrame(columns, strict=False), schema)


@pytest.fixture
def tables():
    ids = ["a", "b", "c", "d", "e", "f"]
    bank = mixed_table(
        {"id": ids, "y": [0, 1, 1, 0, None, 1], "w": [1.0, 2, 1, 1, 1, 1], "age": [30.0, 40, None, 30, 50, 60]}
    )
    shop = mixed_table(
        {
            "id": ids,
            "town": ["Ulm", "Bonn", None, "Ulm", "Kiel", "Ulm"],
            "branch": [7, 7, 3, 3, 1, 1],
            "vip": [True, False] * 3,
        }
    )
    return {"bank": {"table": bank}, "shop": {"table": shop}}


def binned(results, party):
    return results[party]["table"].unpack(BinnedTable)


def test_rows_are_kept_in_bins_with_labels_and_weights(run_step, tables):
    results = run_step(COMPONENT, tables, {"max_bins": 8, "categorical": {"shop": ["branch"]}})
    bank, shop = binned(results, "bank"), binned(results, "shop")
    assert bank.columns.missing == (True,)
    assert bank.codes.tolist() == [[0, 1, 4, 0, 2, 3]]
    np.testing.assert_array_equal(bank.label, [0, 1, 1, 0, np.nan, 1])
    assert bank.weight.tolist() == [1, 2, 1, 1, 1, 1]
    assert shop.label is None
    assert shop.weight is None
    assert shop.columns.categorical == (True, True, False)
    # By frequency, then by name; then «other», then missing.
    assert shop.rules.columns[0].categories == ("Ulm", "Bonn", "Kiel")
    assert shop.codes[0].tolist() == [0, 1, 4, 0, 2, 0]
    assert shop.rules.columns[1].categories == ("1", "3", "7")
    assert shop.codes[2].tolist() == [1, 0] * 3
    assert shop.rules == results["shop"]["bins"]


def test_bins_survive_being_kept_as_json(run_step, tables):
    bins = run_step(COMPONENT, tables)["shop"]["bins"]
    assert Bins.model_validate_json(bins.model_dump_json()) == bins


def test_further_rows_fall_into_the_bins_of_the_training_rows(run_step, tables):
    bins = run_step(COMPONENT, tables, {"edges": {"bank": {"age": [35.5, 45]}}})["bank"]["bins"]
    new = mixed_table({"id": ["x", "y", "z"], "age": [35.5, 999, None]})
    assert bins.columns[0].edges == (35.5, 45.0)
    assert bins.apply(new).codes.tolist() == [[0, 2, 3]]
    with pytest.raises(DataError, match="made for columns age, the table has height"):
        bins.apply(mixed_table({"id": ["x"], "height": [1.0]}))


def test_categories_that_were_not_seen_are_others(run_step, tables):
    bins = run_step(COMPONENT, tables)["shop"]["bins"]
    new = mixed_table({"id": ["x"], "town": ["Aalen"], "branch": [7], "vip": [True]})
    assert bins.apply(new).codes[0].tolist() == [3]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"categorical": {"shop": ["age"]}}, "shop: age are no features: town, branch, vip"),
        ({"edges": {"bank": {"y": [1.0]}}}, "bank: y are no features"),
        ({"edges": {"bank": {"age": [2.0, 1.0]}}}, "column age: edges"),
        ({"categorical": {"nobody": ["age"]}}, "its params name nobody, which take no part"),
    ],
)
def test_parameters_that_fit_no_column_are_refused(run_step, tables, params, says):
    with pytest.raises(UsageError, match=says):
        run_step(COMPONENT, tables, params)


def test_rows_without_columns_are_rows(run_step, tables):
    results = run_step(COMPONENT, {"bank": {"table": tables["bank"]["table"].select([])}, "shop": tables["shop"]})
    assert binned(results, "bank").codes.shape == (0, 6)
