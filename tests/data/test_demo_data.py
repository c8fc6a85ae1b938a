import importlib.resources

import numpy as np
import polars as pl
import pytest

from unseen.data import demo
from unseen.data.readers import read_table
from unseen.errors import DataError, UsageError


@pytest.fixture(scope="module")
def parties():
    return demo.make_parties()


def test_the_shipped_data_are_the_original_ones():
    credit = demo.load_credit()
    assert credit.shape == (30_000, 24)
    assert credit["default"].sum() == 6_636
    assert credit.row(0) == (20000, 2, 2, 1, 24, 2, 2, -1, -1, -2, -2, 3913, 3102, 689, 0, 0, 0, 0, 689, 0, 0, 0, 0, 1)
    assert credit.row(4)[:6] == (50000, 1, 2, 1, 57, -1)
    assert credit.null_count().sum_horizontal().item() == 0


def test_the_description_names_licence_source_and_checksum():
    files = importlib.resources.files("unseen.data") / "files"
    text = (files / "credit.md").read_text(encoding="utf-8")
    for words in ("CC BY 4.0", "10.24432/C55S3H", "Yeh, I-C.", demo.CREDIT_SHA256):
        assert words in text


def test_another_file_in_its_place_is_refused(monkeypatch):
    monkeypatch.setattr(demo, "CREDIT_SHA256", "0" * 64)
    with pytest.raises(DataError, match="reinstall"):
        demo.load_credit()


def test_each_party_lacks_a_fifth_of_the_people(parties):
    bank, partner = parties["bank"], parties["partner"]
    assert (bank.width, partner.width) == (15, 11)
    assert (bank.height, partner.height) == (24_000, 24_000)
    assert bank["id"].n_unique() == partner["id"].n_unique() == 24_000
    assert bank.join(partner, on="id").height == pytest.approx(19_200, abs=200)


def test_neither_order_nor_ids_tell_the_row(parties):
    bank, partner = parties["bank"], parties["partner"]
    ranks = partner.with_row_index("there").join(bank.with_row_index("here"), on="id")
    numbers = ranks["id"].str.slice(1).cast(pl.Int64)
    for left, right in [
        (ranks["here"], ranks["there"]),
        (numbers, ranks["here"]),
        (numbers, ranks["limit"].fill_null(0)),
    ]:
        assert abs(np.corrcoef(left, right)[0, 1]) < 0.03
    assert bank["id"].str.contains(r"^C\d{8}$").all()


def test_some_values_and_labels_are_missing(parties):
    missing = {name: {c.name: c.null_count() for c in frame if c.null_count()} for name, frame in parties.items()}
    assert missing["bank"].pop("y") == 720
    assert set(missing["bank"].values()) == set(missing["partner"].values()) == {480}
    assert 3 <= len(missing["bank"]) < 13
    assert 3 <= len(missing["partner"]) < 10


def test_values_are_those_of_the_data(parties):
    people = demo.load_credit()
    joined = parties["bank"].join(parties["partner"], on="id").drop_nulls()
    known = people.select(
        pl.struct("default", "LIMIT_BAL", "BILL_AMT2", "PAY_AMT6", "AGE", "PAY_0", "PAY_6").alias("p")
    )["p"]
    found = joined.select(
        pl.struct(
            default="y", LIMIT_BAL="limit", BILL_AMT2="bill_aug", PAY_AMT6="payment_apr", AGE="age", PAY_0="status_sep",
            PAY_6="status_apr",
        ).alias("p")
    )["p"]  # fmt: skip
    assert found.is_in(known.implode()).all()


def test_the_seed_decides():
    first, again, other = demo.make_parties(3, 100), demo.make_parties(3, 100), demo.make_parties(4, 100)
    assert all(first[party].equals(again[party]) for party in first)
    assert not set(first["bank"]["id"]) & set(other["bank"]["id"])
    assert first["bank"].height == 80


@pytest.mark.parametrize(("seed", "rows"), [(0, 1), (0, 30_001), (-1, 100)])
def test_impossible_requests_are_refused(seed, rows):
    with pytest.raises(UsageError):
        demo.make_parties(seed, rows)


def test_the_written_files_import_without_problems(tmp_path):
    paths = demo.write_parties(tmp_path / "new" / "folder", rows=1000)
    tables = {}
    for party, path in paths.items():
        assert path == tmp_path / "new" / "folder" / f"{party}.csv"
        tables[party], report = read_table(path)
        assert (report.rows_kept, report.problems, report.notes) == (800, (), ())
    assert len(tables["bank"].schema.features) == 13
    assert len(tables["partner"].schema.features) == 10
    assert tables["bank"].label_missing().sum() == 24
    assert np.isnan(tables["partner"].matrix()).sum() == 4 * 16


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be made"):
        demo.write_parties(tmp_path / "file" / "folder", rows=10)
