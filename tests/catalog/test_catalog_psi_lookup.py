"""A catalogue is handed over once; a few people are looked up in it, with the columns that come with them."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from unseen.catalog import prepare_lookup, psi_lookup
from unseen.catalog.psi_catalogue import KeptCatalogue, Layout
from unseen.codec import decode, encode_bytes
from unseen.component import Packed, installed_components
from unseen.data.schema import Column, Kind, Role, Schema
from unseen.data.table import Table
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.flow.spec import parse_flow
from unseen.simulation import Options, simulate

OFFERED = ("income", "city", "visits", "member")
KINDS = {"income": Kind.REAL, "city": Kind.TEXT, "visits": Kind.INTEGER, "member": Kind.BOOLEAN}
REGISTRY = {**installed_components(), "prepare_lookup": prepare_lookup.COMPONENT, "psi_lookup": psi_lookup.COMPONENT}


@pytest.fixture(scope="module")
def people():
    """The shop's large table, with missing values of every kind."""
    count = 300
    columns = {
        "id": [f"p{number}" for number in range(count)],
        "income": [None if number % 7 == 0 else number / 8 for number in range(count)],
        "city": [None if number % 5 == 0 else "Zürich" * (number % 4) for number in range(count)],
        "visits": [None if number % 3 == 0 else number - 2**60 for number in range(count)],
        "member": [None if number % 11 == 0 else number % 2 == 0 for number in range(count)],
    }
    schema = Schema((Column("id", Role.ID, Kind.TEXT), *(Column(name, Role.FEATURE, KINDS[name]) for name in OFFERED)))
    return Table.from_frame(pl.DataFrame(columns), schema)


@pytest.fixture(scope="module")
def asked(table_of):
    return table_of({"id": ["p10", "nobody", "p21", "p299", "p55", "else"], "y": [1, 0, 1, 1, 0, 0], "x": [0.5] * 6})


@pytest.fixture(scope="module")
def prepare(run_step):
    def run(held, asked, *, holder="passive", **params):
        bank, shop = (asked, held) if holder == "passive" else (held, asked)
        params = {"holder": holder, "columns": OFFERED, **params}
        results = run_step(prepare_lookup.COMPONENT, {"bank": {"table": bank}, "shop": {"table": shop}}, params)
        return {party: result["catalogue"] for party, result in results.items()}

    return run


@pytest.fixture(scope="module")
def catalogues(prepare, people, asked):
    return prepare(people, asked)


@pytest.fixture(scope="module")
def find(run_step):
    def run(catalogues, bank, shop, **params):
        tables = {"bank": bank, "shop": shop}
        inputs = {party: {"table": table, "catalogue": catalogues[party]} for party, table in tables.items()}
        return run_step(psi_lookup.COMPONENT, inputs, params)

    return run


def test_the_asker_gets_its_people_with_what_the_holder_offers(find, catalogues, people, asked):
    results = find(catalogues, asked, people)
    table = results["bank"]["table"]
    assert table.schema.names == ("id", "y", "x", *OFFERED)
    assert [column.kind for column in table.schema.features[1:]] == [KINDS[name] for name in OFFERED]
    mine, theirs = asked.frame(), people.frame()
    expected = mine.join(theirs, on="id", how="inner")
    assert table.frame().sort("id").equals(expected.sort("id"))
    assert results["bank"]["summary"].model_dump() == {"sizes": {"bank": 6, "shop": 300}, "found": 4}


def test_a_holder_that_is_not_told_learns_a_number_only(find, catalogues, people, asked, table_of):
    for table in (people, table_of({"id": ["anything"]})):
        result = find(catalogues, asked, table)["shop"]
        assert result["table"].rows == 0
        assert result["table"].schema == table.schema
        assert result["summary"].model_dump() == {"sizes": {"bank": 6, "shop": 300}, "found": None}


def test_a_holder_that_is_told_gets_the_same_people_in_the_same_order(find, catalogues, people, asked):
    results = find(catalogues, asked, people, recipients="both")
    assert results["bank"]["table"].ids() == results["shop"]["table"].ids()
    assert sorted(results["shop"]["table"].ids()) == [b"p10", b"p21", b"p299", b"p55"]
    assert results["shop"]["summary"] == results["bank"]["summary"]
    row = results["shop"]["table"].frame().row(0, named=True)
    assert row == people.frame().row(by_predicate=pl.col("id") == row["id"], named=True)


def test_the_active_party_may_be_the_holder(prepare, find, people, asked):
    catalogues = prepare(people, asked, holder="active")
    table = find(catalogues, people, asked)["shop"]["table"]
    assert sorted(table.ids()) == [b"p10", b"p21", b"p299", b"p55"]


def test_without_columns_the_asker_learns_who_is_there(prepare, find, people, asked):
    result = find(prepare(people, asked, columns=()), asked, people)["bank"]["table"]
    assert result.schema == asked.schema
    assert result.rows == 4


def test_the_holders_side_has_the_key_and_the_askers_has_not(catalogues):
    holder, asker = (catalogues[party].unpack(KeptCatalogue) for party in ("shop", "bank"))
    assert holder.catalogue is None
    assert asker.holding is None
    assert holder.holding.key_seed not in b"".join(bytes(part) for part in catalogues["bank"].parts)
    assert "secret" in repr(holder)
    assert repr(holder.holding.key_seed) not in repr(holder)


def test_a_told_holder_needs_the_table_of_the_catalogue(find, catalogues, people, asked):
    changed = people.take(np.arange(299))
    with pytest.raises(DataError, match=r"made of another table of shop's: run prepare_lookup on this one"):
        find(catalogues, asked, changed, recipients="both")


def test_a_column_that_the_asker_has_too_is_refused(find, catalogues, people, table_of):
    with pytest.raises(DataError, match=r"bank: the catalogue offers column income, which the table has too: rename"):
        find(catalogues, table_of({"id": ["p1"], "income": [1.0]}), people)


def test_more_people_than_agreed_are_refused(prepare, find, people, asked):
    with pytest.raises(DataError, match="6 items are to be looked up, shop answers at most 5 in a session"):
        find(prepare(people, asked, max_points=5), asked, people)


def test_sides_of_two_catalogues_do_not_fit(prepare, find, catalogues, people, asked):
    other = prepare(people.take(np.arange(200)), asked)
    with pytest.raises(RemoteProtocolError, match="bank: asks about another catalogue than ours"):
        find({"bank": catalogues["bank"], "shop": other["shop"]}, asked, people)


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [(("id",), "column id is the id"), (("absent",), "no column absent"), (("city", "city"), "no name twice")],
)
def test_only_columns_that_are_there_are_offered(prepare, people, asked, columns, complaint):
    with pytest.raises(UsageError, match=complaint):
        prepare(people, asked, columns=columns)


def test_texts_that_are_too_long_are_not_offered(prepare, asked):
    schema = Schema((Column("id", Role.ID, Kind.TEXT), Column("note", Role.FEATURE, Kind.TEXT)))
    table = Table.from_frame(pl.DataFrame({"id": ["a"], "note": ["x" * 4095]}), schema)
    with pytest.raises(DataError, match="column note: a text of 4095 bytes is too long to be offered"):
        prepare(table, asked, columns=("note",))


def test_three_parties_are_refused(run_step, people, asked):
    inputs = {party: {"table": asked} for party in ("bank", "shop", "telco")}
    with pytest.raises(UsageError, match="a catalogue is a matter of two parties, found 3"):
        run_step(prepare_lookup.COMPONENT, inputs)


# --- payloads ----------------------------------------------------------------------------------------------------


def test_rows_come_back_from_payloads_of_one_length(people):
    layout = Layout.of(people, OFFERED)
    payloads = layout.write(people)
    assert payloads.shape == (300, layout.payload_bytes) == (300, (1 + 8) + (1 + 2 + 32) + (1 + 8) + (1 + 1))
    assert pl.DataFrame(layout.read(payloads, "shop")).equals(people.frame().select(OFFERED))


def test_the_room_of_texts_tells_their_length_to_16_bytes_only():
    schema = Schema((Column("id", Role.ID, Kind.TEXT), Column("city", Role.FEATURE, Kind.TEXT)))

    def room(longest):
        return Layout.of(Table.from_frame(pl.DataFrame({"id": ["a"], "city": ["x" * longest]}), schema), ["city"]).rooms

    assert [room(longest)[0] for longest in (0, 1, 16, 17)] == [2, 18, 18, 34]


@pytest.mark.parametrize(
    ("names", "kinds", "rooms"),
    [
        (("a", "a"), ("real", "real"), (8, 8)),
        (("a",), ("real", "real"), (8, 8)),
        (("a",), ("real",), (9,)),
        (("a",), ("text",), (1,)),
        (("a",), ("text",), (1 << 40,)),
        (("a",), ("table",), (8,)),
        ((" a",), ("real",), (8,)),
    ],
    ids=["twice", "counts", "room", "small", "large", "kind", "name"],
)
def test_a_layout_that_cannot_be_is_refused_from_a_peer(names, kinds, rooms):
    good = encode_bytes(Layout(("a",), ("real",), (8,)))
    assert decode(Layout, good, sender="shop").names == ("a",)
    bad = object.__new__(Layout)
    for field, value in zip(("names", "kinds", "rooms"), (names, kinds, rooms), strict=True):
        object.__setattr__(bad, field, value)
    with pytest.raises(RemoteProtocolError, match=r"^shop: malformed frame: catalog/payload-layout"):
        decode(Layout, encode_bytes(bad), sender="shop")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [("income", b"\xff" * 8, "values that are no numbers"), ("city", b"\x02\x00\xff\xff", "text that is not UTF-8")],
)
def test_payloads_that_hold_something_else_name_their_maker(people, name, value, complaint):
    layout = Layout.of(people, [name])
    payloads = layout.write(people)[1:2].copy()
    payloads[0, 1 : 1 + len(value)] = np.frombuffer(value, np.uint8)
    with pytest.raises(RemoteProtocolError, match=f"shop: column {name} holds {complaint}"):
        layout.read(payloads, "shop")


def test_a_peer_whose_payloads_do_not_fit_its_columns_is_named(run_step, people, asked, monkeypatch):
    monkeypatch.setattr(Layout, "write", lambda layout, table: np.zeros((table.rows, 3), np.uint8))
    with pytest.raises(RemoteProtocolError, match="shop: expected payloads of 9 bytes, found 3"):
        run_step(
            prepare_lookup.COMPONENT,
            {"bank": {"table": asked}, "shop": {"table": people}},
            {"columns": ("income",)},
        )


# --- in a flow ---------------------------------------------------------------------------------------------------


def flow():
    """Return the flow of the documentation."""
    text = (Path(__file__).parents[2] / "docs" / "security" / "psi_lookup.md").read_text(encoding="utf-8")
    return parse_flow(text.partition("```yaml\n")[2].partition("```")[0])


def test_other_people_are_looked_up_in_the_catalogue_that_is_kept(people, tmp_path):
    nobody = pl.DataFrame({"id": ["nobody"]})
    held = people.frame().select("id", "income")

    def run(ids):
        tables = {
            "bank": {"list": nobody, "people": pl.DataFrame({"id": ids})},
            "shop": {"list": held, "people": nobody},
        }
        return simulate(flow(), tables, workspace=tmp_path, options=Options(registry=REGISTRY))

    first = run(["p1", "p2", "x"])
    assert first.reused() == []
    assert sorted(first.get("find.table", "bank").ids()) == [b"p1", b"p2"]
    again = run(["p3", "y"])
    assert again.reused() == ["list", "prepare"]
    assert again.get("find.table", "bank").frame().rows() == [("p3", 3 / 8)]
    catalogue = again.get("prepare.catalogue", "bank")
    assert isinstance(catalogue, Packed)
    assert len(catalogue.parts) == 1  # mapped into memory, not read
    assert max(usage.bytes_sent for usage in again.usage("find").values()) < 1000
