import polars as pl
import pytest
from pydantic import ValidationError

from unseen.catalog.psi_sum import COMPONENT, PsiSumParams
from unseen.data.schema import Column, Kind, Role, Schema
from unseen.data.table import Table
from unseen.errors import DataError, UsageError

SCHEMA = Schema(
    (
        Column("id", Role.ID, Kind.TEXT),
        Column("spent", Role.FEATURE, Kind.INTEGER),
        Column("bought", Role.LABEL, Kind.BOOLEAN),
        Column("age", Role.FEATURE, Kind.REAL),
    )
)
SHOP = pl.DataFrame(
    {
        "id": ["a", "b", "c", "d", "b"],
        "spent": [100, -20, 2**60, 7, 5000],
        "bought": [True, True, False, True, True],
        "age": [1.0, 2.0, 3.0, 4.0, 5.0],
    }
)
PARAMS = {"columns": {"shop": ["spent", "bought"]}, "duplicates": "first", "min_shared": 0}


@pytest.fixture
def inputs(table_of):
    return {
        "bank": {"table": table_of({"id": ["x", "c", "b", "a"]})},
        "shop": {"table": Table.from_frame(SHOP, SCHEMA)},
    }


def summaries(run_step, inputs, **params):
    return {party: result["summary"] for party, result in run_step(COMPONENT, inputs, PARAMS | params).items()}


def test_both_learn_the_sums_over_the_shared_people(run_step, inputs):
    found = summaries(run_step, inputs)
    for summary in found.values():
        assert summary.totals == {"spent": 100 - 20 + 2**60, "bought": 2}
        assert (summary.shared, summary.withheld) == (3, False)
        assert summary.sizes == {"bank": 4, "shop": 4}
    assert found["shop"].left_out == {"duplicate_key": 1}


def test_sums_go_to_recipients_and_not_over_few_people(run_step, inputs):
    found = summaries(run_step, inputs, recipients=["bank"], min_shared=4)
    assert (found["bank"].totals, found["bank"].shared, found["bank"].withheld) == (None, None, True)
    assert (found["shop"].totals, found["shop"].shared, found["shop"].withheld) == (None, None, None)
    assert COMPONENT.params.model_fields["min_shared"].default == 10


@pytest.mark.parametrize("columns", [{}, {"shop": []}, {"shop": ["spent"], "bank": ["x"]}])
def test_one_party_brings_the_numbers(columns):
    with pytest.raises(ValidationError, match="one party brings the numbers"):
        PsiSumParams.model_validate({"columns": columns})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"shpo": ["spent"]}, "columns names shpo, who take no part"),
        ({"shop": ["age"]}, "column age holds real, expected integers or truth values"),
        ({"shop": ["absent"]}, "no column absent"),
    ],
)
def test_what_cannot_be_added_up_is_refused(run_step, inputs, columns, message):
    with pytest.raises(UsageError, match=message):
        summaries(run_step, inputs, columns=columns)


def test_missing_numbers_are_refused(run_step, inputs):
    table = Table.from_frame(SHOP.with_columns(spent=pl.Series([1, None, 3, 4, 5])), SCHEMA)
    with pytest.raises(DataError, match="column spent: 1 of 4 values are missing"):
        summaries(run_step, inputs | {"shop": {"table": table}})
