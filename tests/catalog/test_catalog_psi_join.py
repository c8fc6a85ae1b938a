import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from unseen.catalog.psi_join import COMPONENT, PsiJoinParams
from unseen.data.schema import Column, Kind, Role, Schema
from unseen.data.table import Table
from unseen.errors import DataError, UsageError

PARTIES = ("bank", "shop", "telco")


def people(table_of, ids):
    return {"table": table_of({"id": ids, "x": [float(sum(name.encode())) for name in ids]})}


def keyed(key, **columns):
    """Make a table whose column ``key`` is a text feature, beside an id of its own and integer features."""
    schema = [Column("id", Role.ID, Kind.TEXT), Column(key, Role.FEATURE, Kind.TEXT)]
    schema += [Column(name, Role.FEATURE, Kind.INTEGER) for name in columns if name != key]
    rows = len(columns[key])
    frame = pl.DataFrame({"id": [f"{key}-{row}" for row in range(rows)], **columns}, strict=False)
    return {"table": Table.from_frame(frame, Schema(tuple(schema)))}


def frames(results):
    return {party: result["table"].frame() for party, result in results.items()}


@pytest.mark.parametrize("parties", [PARTIES[:2], PARTIES])
def test_all_parties_get_the_shared_people_in_one_order(run_step, table_of, parties):
    rng = np.random.default_rng(1)
    lists = {party: [f"p{number}" for number in rng.permutation(40)[:30]] for party in parties}
    inputs = {party: people(table_of, ids) for party, ids in lists.items()}
    results = run_step(COMPONENT, inputs, {"keep_ids": parties})
    orders = {tuple(result["table"].ids()) for result in results.values()}
    assert len(orders) == 1
    shared = set.intersection(*map(set, lists.values()))
    assert sorted(orders.pop()) == sorted(name.encode() for name in shared)
    for result in results.values():
        summary = result["summary"]
        assert summary.sizes == dict.fromkeys(parties, 30)
        assert summary.shared == summary.rows == len(shared)
        assert (summary.protocol, summary.changed, summary.left_out) == ("ecdh", {"id": {}}, {})
        assert all(x == sum(name.encode()) for name, x in result["table"].frame().rows())


def test_row_numbers_stand_for_ids_unless_a_party_keeps_its_own(run_step, table_of):
    inputs = {"bank": people(table_of, ["a", "b", "c", "d"]), "shop": people(table_of, ["d", "c", "b", "x"])}
    plain, kept = run_step(COMPONENT, inputs), run_step(COMPONENT, inputs, {"keep_ids": ["shop"]})
    for result in plain.values():
        assert result["table"].schema.names == ("row", "x")
        assert result["table"].frame()["row"].to_list() == [0, 1, 2]
    assert plain["bank"]["table"] == plain["shop"]["table"]
    assert kept["bank"]["table"].schema.id.name == "row"
    assert sorted(kept["shop"]["table"].frame()["id"]) == ["b", "c", "d"]
    assert kept["shop"]["table"].matrix().tolist() == kept["bank"]["table"].matrix().tolist()


def test_nobody_in_common_gives_empty_tables(run_step, table_of):
    inputs = {"bank": people(table_of, ["a", "b"]), "shop": people(table_of, ["c"])}
    for duplicates in ("refuse", "all_pairs"):
        for result in run_step(COMPONENT, inputs, {"duplicates": duplicates}).values():
            assert result["table"].rows == result["summary"].shared == 0
            assert result["summary"].sizes == {"bank": 2, "shop": 1}


# --- keys and rules ----------------------------------------------------------------------------------------------


def test_several_columns_under_rules_make_the_key_and_leave_the_table(run_step):
    inputs = {
        "bank": keyed("phone", phone=["0170 1234567", "+49 171 2345678", "0172 3456789", "none"], zip=[1, 2, 3, 4]),
        "shop": keyed(
            "tel", tel=["0049-172-3456789", "0171/2345678", "+491701234567"], area=[3, 2, 9], age=[30, 40, 50]
        ),
    }
    params = {
        "keys": {"bank": ["phone", "zip"], "shop": ["tel", "area"]},
        "rules": [["trim", "e164"], []],
        "country_code": "49",
        "missing": "leave_out",
        "keep_ids": ["bank", "shop"],
    }
    results = run_step(COMPONENT, inputs, params)
    pairs = zip(*(frame["id"].to_list() for frame in frames(results).values()), strict=True)
    assert set(pairs) == {("phone-1", "tel-1"), ("phone-2", "tel-0")}
    assert results["bank"]["table"].schema.names == ("id",)
    assert results["shop"]["table"].schema.names == ("id", "age")
    bank, shop = results["bank"]["summary"], results["shop"]["summary"]
    assert bank.sizes == shop.sizes == {"bank": 3, "shop": 3}
    assert bank.changed == {"phone": {"trim": 0, "e164": 3}, "zip": {}}
    assert shop.changed == {"tel": {"trim": 0, "e164": 2}, "area": {}}
    assert (bank.left_out, shop.left_out) == ({"no_phone_number": 1}, {})


def test_one_list_of_rules_is_for_every_column(run_step):
    inputs = {"bank": keyed("a", a=[" Ann", "BEN"], n=[7, 8]), "shop": keyed("b", b=["ann", "Ben "], m=[7, 9])}
    params = {"keys": {"bank": ["a", "n"], "shop": ["b", "m"]}, "rules": [["trim", "casefold"]]}
    results = run_step(COMPONENT, inputs, params)
    assert results["bank"]["summary"].shared == 1
    assert results["shop"]["summary"].changed == {"b": {"trim": 1, "casefold": 1}, "m": {"trim": 0, "casefold": 0}}


def test_a_row_without_a_key_is_refused_by_default(run_step):
    inputs = {"bank": keyed("a", a=["x", None]), "shop": keyed("a", a=["x"])}
    with pytest.raises(DataError, match="missing_key at rows 1 "):
        run_step(COMPONENT, inputs, {"keys": {"bank": ["a"], "shop": ["a"]}})


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"keys": {"bank": ["id", "x"], "shop": ["id"]}}, "need the same number of columns"),
        ({"keys": {"bank": []}}, "need the same number of columns"),
        ({"rules": [["trim"], ["nfc"]]}, "one list for all key columns, or one for each"),
        ({"keys": {"bank": ["a", "b"]}, "rules": [["trim"]] * 3}, "one list for all key columns, or one for each"),
        ({"rules": [["trim", "nfc", "trim"]]}, "a rule is named twice"),
        ({"rules": [["soundex"]]}, "Input should be 'trim'"),
        ({"country_code": "049"}, "country_code"),
        ({"max_pairs": 0}, "max_pairs"),
    ],
)
def test_parameters_that_do_not_fit_are_refused_before_the_flow_runs(params, message):
    with pytest.raises(ValidationError, match=message):
        PsiJoinParams.model_validate(params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"keys": {"bnak": ["id"]}}, "keys names bnak, who take no part"),
        ({"keep_ids": ["bnak"]}, "keep_ids names bnak, who take no part"),
        ({"keys": {"bank": ["id", "x"]}}, "for some parties only: add shop"),
        ({"keys": {"bank": ["x"]}}, "column x is a feature and holds real"),
    ],
)
def test_parameters_that_do_not_fit_the_tables_are_told(run_step, table_of, params, message):
    inputs = {"bank": people(table_of, ["a"]), "shop": people(table_of, ["a"])}
    with pytest.raises(UsageError, match=message):
        run_step(COMPONENT, inputs, params)


# --- duplicates --------------------------------------------------------------------------------------------------


def with_duplicates(parties, seed=5):
    rng = np.random.default_rng(seed)
    return {party: keyed("k", k=[f"k{n}" for n in rng.integers(0, 8, 14)], v=list(range(14))) for party in parties}


def everybody(parties, column="k"):
    return {party: [column] for party in parties}


def test_duplicates_are_refused_by_default(run_step):
    with pytest.raises(DataError, match="14 rows have the key of an earlier row, first rows"):
        run_step(COMPONENT, with_duplicates(PARTIES[:2]), {"keys": everybody(PARTIES[:2])})


def test_the_first_row_of_each_key_is_kept_if_asked(run_step):
    inputs = with_duplicates(PARTIES[:2])
    params = {"keys": everybody(PARTIES[:2]), "duplicates": "first", "keep_ids": PARTIES[:2]}
    results = run_step(COMPONENT, inputs, params)
    firsts = {party: content["table"].frame().unique("k", keep="first") for party, content in inputs.items()}
    wanted = firsts["bank"].join(firsts["shop"], on="k").select("v", "v_right")
    found = np.column_stack([frame["v"] for frame in frames(results).values()])
    assert sorted(map(tuple, found.tolist())) == sorted(wanted.rows())
    for party, result in results.items():
        summary = result["summary"]
        assert summary.left_out == {"duplicate_key": 14 - len(firsts[party])}
        assert summary.sizes[party] == len(firsts[party])
        assert summary.rows == summary.shared == len(wanted)


@pytest.mark.parametrize("parties", [PARTIES[:2], PARTIES])
def test_all_pairs_are_those_of_a_join(run_step, parties):
    inputs = with_duplicates(parties)
    results = run_step(COMPONENT, inputs, {"keys": everybody(parties), "duplicates": "all_pairs"})
    tables = [content["table"].frame().select("k", pl.col("v").alias(party)) for party, content in inputs.items()]
    wanted = tables[0]
    for other in tables[1:]:
        wanted = wanted.join(other, on="k")
    found = np.column_stack([frame["v"] for frame in frames(results).values()])
    assert len(found) > len(wanted["k"].unique()) > 1
    assert sorted(map(tuple, found.tolist())) == sorted(wanted.drop("k").rows())
    for result in results.values():
        assert (result["summary"].rows, result["summary"].shared) == (len(wanted), wanted["k"].n_unique())
        assert result["table"].frame()["row"].to_list() == list(range(len(wanted)))


def test_too_many_pairs_are_an_error(run_step):
    inputs = {party: keyed("k", k=["a"] * 4) for party in ("bank", "shop")}
    params = {"keys": everybody(inputs), "duplicates": "all_pairs", "max_pairs": 15}
    with pytest.raises(DataError, match="about 16 pairs, at most 15 are allowed"):
        run_step(COMPONENT, inputs, params)
    assert run_step(COMPONENT, inputs, params | {"max_pairs": 16})["bank"]["table"].rows == 16


# --- limits and leaks --------------------------------------------------------------------------------------------


def test_too_few_shared_people_stop_the_step_without_a_number(run_step, table_of):
    inputs = {"bank": people(table_of, ["a", "b", "c"]), "shop": people(table_of, ["b", "c", "d"])}
    with pytest.raises(DataError, match="fewer than 3 people are shared"):
        run_step(COMPONENT, inputs, {"min_shared": 3})
    assert run_step(COMPONENT, inputs, {"min_shared": 2})["bank"]["summary"].shared == 2


def test_multiplicities_are_a_leak_of_all_pairs_only():
    def told(**params):
        return [leak.learns for leak in COMPONENT.leaks if leak.applies(PsiJoinParams.model_validate(params))]

    assert any("how often" in line for line in told(duplicates="all_pairs"))
    assert not any("how often" in line for line in told())


@pytest.mark.parametrize(("protocol", "used"), [("auto", "ecdh"), ("ecdh", "ecdh"), ("vole", "vole")])
def test_the_summary_says_which_protocol_was_used(run_step, table_of, protocol, used):
    inputs = {"bank": people(table_of, ["a", "b"]), "shop": people(table_of, ["b", "c"])}
    for result in run_step(COMPONENT, inputs, {"protocol": protocol}).values():
        assert (result["summary"].protocol, result["summary"].shared) == (used, 1)


def test_a_table_of_which_every_row_is_left_out_is_an_error(run_step, table_of):
    """Otherwise a forgotten country code would end well, with nobody in common."""
    inputs = {party: {"table": table_of({"id": ["0170 1234567"], "x": [1.0]})} for party in ("bank", "shop")}
    with pytest.raises(DataError, match=r"no row has a key, all are left out \(1 for no_phone_number\)"):
        run_step(COMPONENT, inputs, {"rules": [["e164"]], "missing": "leave_out"})
