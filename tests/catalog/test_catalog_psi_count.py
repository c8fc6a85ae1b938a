import pytest

from unseen.catalog.psi_count import COMPONENT
from unseen.errors import UsageError


@pytest.fixture
def inputs(table_of):
    lists = {"bank": ["Ann", "ben", "cem", "dan"], "shop": ["ann", "ben", "eve"], "telco": ["BEN", "ANN", "dan"]}
    return {party: {"table": table_of({"id": ids})} for party, ids in lists.items()}


def summaries(run_step, inputs, **params):
    rules = {"rules": [["casefold"]], "min_shared": 0}
    results = run_step(COMPONENT, inputs, rules | params)
    assert all(set(result) == {"summary"} for result in results.values())
    return {party: result["summary"] for party, result in results.items()}


def test_all_parties_learn_how_many_they_share(run_step, inputs):
    for party, summary in summaries(run_step, inputs).items():
        assert summary.shared == 2
        assert summary.sizes == {"bank": 4, "shop": 3, "telco": 3}
        assert summary.changed == {"id": {"casefold": {"bank": 1, "shop": 0, "telco": 2}[party]}}
        assert not summary.withheld


def test_only_recipients_are_told(run_step, inputs):
    found = summaries(run_step, inputs, recipients=["shop"])
    assert {party: summary.shared for party, summary in found.items()} == {"bank": None, "shop": 2, "telco": None}
    with pytest.raises(UsageError, match="recipients names shpo, who take no part"):
        summaries(run_step, inputs, recipients=["shpo"])


def test_small_numbers_are_not_shown(run_step, inputs):
    pair = {party: inputs[party] for party in ("bank", "shop")}
    for least, shown in ((3, None), (2, 2)):
        for summary in summaries(run_step, pair, min_shared=least).values():
            assert (summary.shared, summary.withheld) == (shown, shown is None)
    assert COMPONENT.params().min_shared == 10


def test_duplicates_count_once_if_asked(run_step, table_of):
    inputs = {"bank": {"table": table_of({"id": ["a", "A", "b"]})}, "shop": {"table": table_of({"id": ["a", "b"]})}}
    found = summaries(run_step, inputs, duplicates="first")
    assert found["bank"].shared == 2
    assert found["bank"].left_out == {"duplicate_key": 1}
