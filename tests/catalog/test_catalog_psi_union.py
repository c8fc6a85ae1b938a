import pytest

from unseen.catalog.psi_union import COMPONENT
from unseen.component import ALIGNED_TABLE
from unseen.errors import DataError, UsageError


@pytest.fixture
def inputs(table_of):
    bank = table_of({"id": ["a", "b", "c", "d"], "y": [1, 0, 1, 0], "x": [1.0, 2.0, 3.0, 4.0]})
    shop = table_of({"id": ["d", "B ", "e"], "z": [40.0, 20.0, 50.0]})
    return {"bank": {"table": bank}, "shop": {"table": shop}}


RULES = {"rules": [["trim", "casefold"]]}


def test_there_is_one_row_for_everybody(run_step, inputs):
    results = run_step(COMPONENT, inputs, RULES)
    bank, shop = (result["table"].frame() for result in results.values())
    assert bank["row"].to_list() == shop["row"].to_list() == [0, 1, 2, 3, 4]
    both = set(zip(bank["x"].to_list(), bank["y"].to_list(), shop["z"].to_list(), strict=True))
    assert both == {(1.0, 1, None), (2.0, 0, 20.0), (3.0, 1, None), (4.0, 0, 40.0), (None, None, 50.0)}
    for party, result in results.items():
        summary = result["summary"]
        assert (summary.places, summary.shared, summary.sizes) == (5, 2, {"bank": 4, "shop": 3})
        assert summary.changed == {"id": {"trim": int(party == "shop"), "casefold": int(party == "shop")}}
    assert COMPONENT.outputs["table"].kind.fits(ALIGNED_TABLE)


def test_duplicates_do_not_shift_the_rows(run_step, table_of, inputs):
    shop = table_of({"id": ["d", "D", "e", "b"], "z": [40.0, 41.0, 50.0, 20.0]})
    results = run_step(COMPONENT, inputs | {"shop": {"table": shop}}, RULES | {"duplicates": "first"})
    bank, shop = (result["table"].frame() for result in results.values())
    assert {(1.0, None), (2.0, 20.0), (3.0, None), (4.0, 40.0), (None, 50.0)} == set(
        zip(bank["x"], shop["z"], strict=True)
    )


def test_too_few_shared_people_stop_the_step(run_step, inputs):
    with pytest.raises(DataError, match="fewer than 3 people are shared"):
        run_step(COMPONENT, inputs, RULES | {"min_shared": 3})


def test_a_union_is_for_two(run_step, inputs):
    with pytest.raises(UsageError, match="for two parties"):
        run_step(COMPONENT, inputs | {"telco": inputs["shop"]})
