"""Tables come in over HTTP: streamed, bounded, reported; versions, profiles, and what is refused."""

from __future__ import annotations

import pytest

from unseen.data.readers import read_table
from unseen.data.schema import Role
from unseen.node.domain import Duty
from unseen.node.http.app import PREFIX

CSV = b"phone,income,bad\n0123,1,0\n0456,2.5,1\n0789,,1\n"
TABLES = f"{PREFIX}/tables"


def upload(site, content=CSV, name="clients", **query):
    asked = {"id": "phone", "label": "bad", **query}
    return site.of(Duty.DATA_OWNER).post(f"{TABLES}/{name}/versions", params=asked, content=content)


def test_a_file_becomes_a_version_with_its_report_and_its_content_is_lent_typed(staffed):
    made = upload(staffed, origin="customers.csv", text=["phone"])
    assert made.status_code == 201
    table, report = made.json()["table"], made.json()["report"]
    assert (table["version"], table["rows"], table["origin"], table["by"]) == (1, 3, "customers.csv", "dataowner")
    assert [(one["name"], one["role"], one["kind"]) for one in table["columns"]] == [
        ("phone", "id", "text"),
        ("income", "feature", "real"),
        ("bad", "label", "integer"),
    ]
    assert (report["rows_read"], report["rows_kept"], report["missing"]) == (3, 3, {"income": 1})
    with staffed.services.catalogue.open(staffed.services.catalogue.get("clients", 1)) as path:
        lent, _ = read_table(path)
    assert lent.schema.id.name == "phone"
    assert lent.frame()["phone"].to_list() == ["0123", "0456", "0789"]


def test_the_same_content_is_the_same_version_and_another_one_is_the_next(staffed):
    upload(staffed)
    assert upload(staffed).json()["table"]["version"] == 1
    assert upload(staffed, CSV + b"0999,4,0\n").json()["table"]["version"] == 2
    owner = staffed.of(Duty.DATA_OWNER)
    assert owner.delete(f"{TABLES}/clients/versions/2").json()["retired"] is True
    assert staffed.services.catalogue.get("clients").version == 1
    assert upload(staffed, CSV + b"0999,4,0\n").json()["table"]["version"] == 3, "what was retired does not come back"
    known = [(one["name"], one["version"]) for one in owner.get(TABLES).json()]
    assert known[:3] == [("clients", 1), ("clients", 2), ("clients", 3)]


def test_a_profile_has_the_quantiles_of_numbers_for_data_owners_only(staffed):
    upload(staffed)
    path = f"{TABLES}/clients/versions/1/profile"
    phone, income, _ = staffed.of(Duty.DATA_OWNER).get(path).json()
    assert (income["kind"], income["role"], income["missing"], income["distinct"]) == ("real", "feature", 1, 2)
    shares = ("least", "quarter", "median", "three_quarters", "greatest", "mean")
    assert [income[name] for name in shares] == [1.0, 1.375, 1.75, 2.125, 2.5, 1.75]
    assert {phone[name] for name in shares} == {None}, "an id is no number"
    assert staffed.of(Duty.ANALYST).get(path).status_code == 403


def test_a_profile_counts_and_quotes_nothing(staffed):
    upload(staffed, leave_out=["income"])
    found = staffed.of(Duty.DATA_OWNER).get(f"{TABLES}/clients/versions/1/profile")
    assert [(one["name"], one["missing"], one["distinct"]) for one in found.json()] == [("phone", 0, 3), ("bad", 0, 2)]
    assert found.json()[0]["mean"] is None
    assert "0456" not in found.text


@pytest.mark.parametrize(
    ("content", "query", "words"),
    [
        (b"", {}, "empty file"),
        (b"\x00\xff\xfe", {}, "not UTF-8 text"),
        (CSV + b"0123,9,1\n", {}, "duplicate id"),
        (CSV, {"id": "income2"}, "there is no column income2"),
        (CSV, {"leave_out": ["rent"]}, "rent"),
        (b"PAR1" + bytes(99), {"origin": "book.parquet"}, "book.parquet"),
    ],
)
def test_bad_files_are_refused_with_their_cause(staffed, content, query, words):
    answer = upload(staffed, content, **query)
    assert (answer.status_code, words in answer.json()["detail"]) == (422, True), answer.text
    assert [one["name"] for one in staffed.of(Duty.DATA_OWNER).get(TABLES).json()] == ["customers"], (
        "that of the setting"
    )


def test_lenient_leaves_bad_rows_out_and_says_so(staffed):
    made = upload(staffed, CSV + b"0123,9,1\n0999,9,0\n", lenient=True).json()
    assert made["report"]["problems"] == {"duplicate id": 2}
    assert made["table"]["rows"] == 3


def test_bodies_have_a_limit_whatever_their_header_says(staffed):
    big = b"phone,income,bad\n" + b"x" * 300_000
    assert upload(staffed, big).status_code == 413
    owner, pieces = staffed.of(Duty.DATA_OWNER), iter([big[:100_000], big[100_000:]])
    assert owner.post(f"{TABLES}/clients/versions", content=pieces).status_code == 413
    body = {"name": "eve", "password": "x" * 200_000, "duties": ["analyst"]}
    assert staffed.of(Duty.ADMIN).post(f"{PREFIX}/people", json=body).status_code == 413


@pytest.mark.parametrize("name", ["Customers", "a b", "..%2Fetc", "a" * 200])
def test_names_of_tables_are_plain(staffed, name):
    assert upload(staffed, name=name).status_code in {404, 422}


def test_roles_are_those_that_were_said(staffed):
    upload(staffed, label="income")
    table = staffed.services.catalogue.get("clients")
    assert {column.name: column.role for column in table.columns}["income"] is Role.LABEL
