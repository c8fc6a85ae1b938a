"""The sample flow that matches people: counted, added up and aligned from files."""

from pathlib import Path

import polars as pl
import pytest

from unseen import Flow, simulate
from unseen.flow.spec import read_flow

FLOW = Path(__file__).parents[2] / "examples" / "matching.yaml"
SURNAMES = ["Weiß", "Zoë", "von Ah", "Çelik", "O'Neil", "Brandt", "Đặng", "Ng", "Roth", "Öz", "Kim", "Lévy"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    phones = [f"170{number:07d}" for number in range(len(SURNAMES))]
    numbers = [f"b-{number}" for number in range(len(SURNAMES))]
    bank = pl.DataFrame(
        {"id": numbers, "phone": [f"0{phone}" for phone in phones], "surname": SURNAMES, "y": [0, 1] * 6}
    )
    shop = pl.DataFrame(
        {
            "id": range(12),
            "mobile": [f"+49 {phone[:3]} {phone[3:]}" for phone in phones[:11]] + ["none"],
            "name": [f"{name.upper()} " for name in SURNAMES[:11]] + ["Kim"],
            "spent": [2**number for number in range(12)],
        }
    )
    folder = tmp_path_factory.mktemp("matching")
    for party, frame in {"bank": bank, "shop": shop}.items():
        frame.write_csv(folder / f"{party}.csv")
    return simulate(read_flow(FLOW), {party: {"customers": folder / f"{party}.csv"} for party in ("bank", "shop")})


def test_people_are_counted_and_added_up_before_they_are_matched(result):
    assert result.get("count.summary", "shop").shared == 11
    spent = result.get("spent.summary", "bank")
    assert (spent.totals, spent.shared) == ({"spent": 2**11 - 1}, 11)
    assert result.get("spent.summary", "shop").totals is None
    assert result.get("count.summary", "shop").left_out == {"no_phone_number": 1}


def test_the_bank_knows_who_is_in_a_row_and_the_shops_table_does_not_say(result):
    bank, shop = (result.get("align.table", party).frame() for party in ("bank", "shop"))
    assert bank.columns == ["id", "y"]
    assert shop.columns == ["row", "spent"]
    assert [2 ** int(number[2:]) for number in bank["id"]] == shop["spent"].to_list()
    summary = result.get("align.summary", "shop")
    assert summary.changed == {"mobile": {"e164": 11}, "name": {"trim": 11, "nfc": 0, "casefold": 12}}


def test_a_file_with_several_rows_for_one_person_is_joined_as_databases_do(tmp_path):
    (tmp_path / "bank.csv").write_text("id,y\nann,0\nben,1\ncat,0\n")
    (tmp_path / "shop.csv").write_text("id,spent\nben,1\nann,2\nben,4\ndan,8\n")
    flow = Flow("orders", active="bank", passive=["shop"])
    people = flow.step("read", "read_table", source=flow.table("orders"), repeated_ids=["shop"])
    flow.step("align", "psi_join", table=people["table"], duplicates="all_pairs", keep_ids=["bank"])
    result = simulate(flow, {party: {"orders": tmp_path / f"{party}.csv"} for party in ("bank", "shop")})
    bank, shop = (result.get("align.table", party).frame() for party in ("bank", "shop"))
    assert sorted(zip(bank["id"], shop["spent"], strict=True)) == [("ann", 2), ("ben", 1), ("ben", 4)]
