"""Tables from the organisation's own databases over HTTP: who may, what is told, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tests.node.http.conftest import NAMES, Site

from unseen.errors import UsageError
from unseen.node.domain import Duty
from unseen.node.http.app import PREFIX
from unseen.node.sources.config import SourceKind
from unseen.node.sources.port import Columns
from unseen.node.usecases.sources import Sources

CSV = b"phone,income,rent,bad\n0123,1,5,0\n0456,2.5,6,1\n0789,,7,1\n"


@dataclass
class Shelf:
    """A source of files by name."""

    files: dict[str, bytes]
    kind: SourceKind = SourceKind.S3

    def tables(self) -> tuple[str, ...]:
        return tuple(self.files)

    def fetch(self, table: str, wanted: Columns, folder: Path) -> tuple[Path, Columns]:
        if table not in self.files:
            raise UsageError("source lake: there is no table")
        path = folder / "fetched"
        path.write_bytes(self.files[table])
        return path, wanted


@pytest.fixture
def stocked(staffed: Site) -> Site:
    """A node with one source."""
    services = replace(staffed.services, sources=Sources(staffed.services.catalogue, {"lake": Shelf({"a.csv": CSV})}))
    staffed.app.state.services = services
    return staffed


def ask(site: Site, duty: Duty = Duty.DATA_OWNER, **said: object):
    body = {"source": "lake", "table": "a.csv", "id": "phone", "label": "bad", "text": ["phone"], **said}
    return site.of(duty).post(f"{PREFIX}/tables/clients/versions/from-source", json=body)


def test_a_table_of_a_source_becomes_a_version_and_says_where_it_comes_from(stocked):
    made = ask(stocked)
    assert made.status_code == 201, made.text
    table, report = made.json()["table"], made.json()["report"]
    assert (table["version"], table["rows"], table["origin"], table["by"]) == (1, 3, "lake: a.csv", "dataowner")
    assert (report["rows_read"], report["missing"]) == (3, {"income": 1})
    assert ask(stocked).json()["table"]["version"] == 1, "the same content again is the version that is there"


def test_columns_that_are_not_wanted_are_not_kept(stocked):
    columns = [one["name"] for one in ask(stocked, columns=["phone", "rent"]).json()["table"]["columns"]]
    assert columns == ["phone", "rent"], "nor is a label, whoever calls it one"
    columns = [one["name"] for one in ask(stocked, leave_out=["rent"]).json()["table"]["columns"]]
    assert columns == ["phone", "income", "bad"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"source": "crm"}, "there is no source called 'crm' here"),
        ({"table": "b.csv"}, "source lake: there is no table"),
        ({"columns": ["phone", "x"]}, "there is no column x"),
        ({"columns": ["rent"]}, "phone, which identifies people, is not among them"),
        ({"origin": "elsewhere"}, "body.origin: Extra inputs are not permitted"),
        ({"url": "postgresql://db/x"}, "body.url: Extra inputs are not permitted"),
        ({"id": "bad", "label": "rent"}, "lake: a.csv: nothing was imported"),
        ({"table": "x" * 2000}, "body.table"),
    ],
)
def test_what_cannot_be_is_refused_with_its_cause(stocked, said, words):
    answer = ask(stocked, **said)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]


def test_sources_are_for_data_owners_only_who_do_not_see_where_they_are(stocked):
    owner = stocked.of(Duty.DATA_OWNER)
    assert owner.get(f"{PREFIX}/sources").json() == [{"name": "lake", "kind": "s3"}]
    assert owner.get(f"{PREFIX}/sources/lake/tables").json() == [{"table": "a.csv"}]
    assert owner.get(f"{PREFIX}/sources/other/tables").status_code == 404
    for duty in NAMES:
        if duty is not Duty.DATA_OWNER:
            assert ask(stocked, duty).status_code == 403
            for path in ("sources", "sources/lake/tables"):
                assert stocked.of(duty).get(f"{PREFIX}/{path}").status_code == 403


def test_a_body_that_is_no_upload_stays_small(stocked):
    assert ask(stocked, table="x" * 150_000).status_code == 413


@contextmanager
def crowded(site: Site) -> Iterator[None]:
    places = site.app.state.uploads
    with places.place(), places.place(), places.place(), places.place():
        yield


def test_no_more_than_four_come_in_at_once(stocked):
    with crowded(stocked):
        assert ask(stocked).status_code == 429
        assert stocked.of(Duty.DATA_OWNER).get(f"{PREFIX}/sources/lake/tables").status_code == 429
    assert ask(stocked).status_code == 201
