import numpy as np
import pytest

from unseen.catalog.psi_join import COMPONENT


def table(table_of, ids):
    return table_of({"id": ids, "x": [float(sum(name.encode())) for name in ids]})


@pytest.mark.parametrize("parties", [("bank", "shop"), ("bank", "shop", "telco")])
def test_all_parties_get_the_shared_people_in_one_order(run_step, table_of, parties):
    rng = np.random.default_rng(1)
    people = {party: [f"p{number}" for number in rng.permutation(40)[:30]] for party in parties}
    results = run_step(COMPONENT, {party: {"table": table(table_of, ids)} for party, ids in people.items()})
    orders = {tuple(result["table"].ids()) for result in results.values()}
    assert len(orders) == 1
    shared = set.intersection(*map(set, people.values()))
    assert sorted(orders.pop()) == sorted(name.encode() for name in shared)
    for result in results.values():
        assert result["summary"].sizes == dict.fromkeys(parties, 30)
        assert result["summary"].shared == len(shared)
        rows = result["table"].frame().rows()
        assert all(x == sum(name.encode()) for name, x in rows)


def test_nobody_in_common_gives_empty_tables(run_step, table_of):
    inputs = {"bank": {"table": table(table_of, ["a", "b"])}, "shop": {"table": table(table_of, ["c"])}}
    for result in run_step(COMPONENT, inputs).values():
        assert result["table"].rows == result["summary"].shared == 0
        assert result["summary"].sizes == {"bank": 2, "shop": 1}
