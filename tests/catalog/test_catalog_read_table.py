import shutil

import polars as pl
import pytest

from unseen.catalog.read_table import COMPONENT
from unseen.component import Source
from unseen.data.schema import Role
from unseen.errors import DataError, UsageError

BAD = "id,x,y\na,1,0\nb,two,1\na,3,1\nc,4\nd,5,1\ne,6,0\n"


@pytest.fixture
def bad_file(tmp_path):
    path = tmp_path / "bank.csv"
    path.write_text(BAD)
    return path


def test_every_party_reads_its_own_file(run_step, demo_files):
    results = run_step(COMPONENT, {party: {"source": Source(path)} for party, path in demo_files.items()})
    for party, path in demo_files.items():
        table, report = results[party]["table"], results[party]["report"]
        assert table.rows == report.rows_read == report.rows_kept == pl.read_csv(path).height == 240
        assert report.problems == {}
    assert results["bank"]["table"].schema.label.name == "y"
    assert results["partner"]["table"].schema.label is None
    assert not list(demo_files["bank"].parent.glob("*quarantine*"))


def test_a_bad_row_refuses_the_table(run_step, bad_file):
    with pytest.raises(DataError, match=r"bank\.csv") as caught:
        run_step(COMPONENT, {"bank": {"source": Source(bad_file)}})
    for cause in ("ragged row", "duplicate id", "line 5"):
        assert cause in str(caught.value)
    assert not list(bad_file.parent.glob("*quarantine*"))


def test_bad_rows_are_put_aside_beside_the_file(run_step, bad_file):
    params = {"lenient": True, "columns": {"bank": {"x": "feature"}}}
    (result,) = run_step(COMPONENT, {"bank": {"source": Source(bad_file)}}, params).values()
    report = result["report"]
    assert report.rows_read == 6
    assert report.rows_kept == result["table"].rows == 6 - sum(report.problems.values())
    assert {"ragged row", "duplicate id"} <= set(report.problems)
    quarantine = bad_file.with_name("bank.csv.quarantine.csv")
    assert quarantine.exists()
    text = quarantine.read_text()
    for row in ("c,4", "a,3,1"):
        assert row in text
    assert "d,5,1" not in text
    assert bad_file.read_text() == BAD


def test_columns_may_be_given_their_roles(run_step, tmp_path):
    for party in ("bank", "shop"):
        (tmp_path / f"{party}.csv").write_text("customer,outcome,x\na,0,1.5\nb,1,2.5\n")
    inputs = {party: {"source": Source(tmp_path / f"{party}.csv")} for party in ("bank", "shop")}
    columns = {"bank": {"customer": "id", "outcome": "label"}, "shop": {"customer": "id"}}
    results = run_step(COMPONENT, inputs, {"columns": columns})
    bank, shop = results["bank"]["table"].schema, results["shop"]["table"].schema
    assert (bank.id.name, bank.label.name, bank.feature_names) == ("customer", "outcome", ("x",))
    assert (shop.label, shop.feature_names) == (None, ("outcome", "x"))
    assert bank.column("outcome").role is Role.LABEL


def test_columns_of_a_party_that_takes_no_part_are_refused(run_step, demo_files):
    with pytest.raises(UsageError, match=r"step step: its params name telco, which take no part"):
        run_step(COMPONENT, {"bank": {"source": Source(demo_files["bank"])}}, {"columns": {"telco": {"a": "id"}}})


def test_the_import_does_not_depend_on_where_the_file_lies(run_step, demo_files, tmp_path):
    moved = shutil.copyfile(demo_files["bank"], tmp_path / "other.csv")
    tables = [
        run_step(COMPONENT, {"bank": {"source": Source(path)}})["bank"]["table"] for path in (demo_files["bank"], moved)
    ]
    assert tables[0].digest == tables[1].digest


def test_features_may_be_left_out(run_step, tmp_path):
    (tmp_path / "bank.csv").write_text("id,colour,x\na,red,1.5\nb,blue,2.5\n")
    inputs = {"bank": {"source": Source(tmp_path / "bank.csv")}}
    (result,) = run_step(COMPONENT, inputs, {"leave_out": {"bank": ["colour"]}}).values()
    assert result["table"].schema.names == ("id", "x")
    with pytest.raises(UsageError, match="there is no column color"):
        run_step(COMPONENT, inputs, {"leave_out": {"bank": ["color"]}})


def test_kinds_may_be_declared_and_ids_may_repeat_party_by_party(run_step, tmp_path):
    for party in ("bank", "shop"):
        (tmp_path / f"{party}.csv").write_text("id,phone\na,0170123\na,0170124\nb,0170125\n")
    inputs = {party: {"source": Source(tmp_path / f"{party}.csv")} for party in ("bank", "shop")}
    params = {"kinds": {"shop": {"phone": "text"}}, "repeated_ids": ["bank", "shop"]}
    results = run_step(COMPONENT, inputs, params)
    assert results["bank"]["table"].texts("phone").to_list() == ["170123", "170124", "170125"]
    assert results["shop"]["table"].texts("phone").to_list() == ["0170123", "0170124", "0170125"]
    assert results["shop"]["report"].notes == ("rows that share their id with another one: 2",)
    with pytest.raises(DataError, match=r"shop\.csv.*\n.*duplicate id \(2\)"):
        run_step(COMPONENT, inputs, {"repeated_ids": ["bank"]})


@pytest.mark.parametrize("params", [{"kinds": {"telco": {"x": "text"}}}, {"repeated_ids": ["telco"]}])
def test_declarations_for_a_party_that_takes_no_part_are_refused(run_step, demo_files, params):
    with pytest.raises(UsageError, match=r"step step: its params name telco, which take no part"):
        run_step(COMPONENT, {"bank": {"source": Source(demo_files["bank"])}}, params)


def test_a_kind_of_a_column_that_is_not_there_is_refused(run_step, demo_files):
    with pytest.raises(UsageError, match="there is no column fone"):
        run_step(COMPONENT, {"bank": {"source": Source(demo_files["bank"])}}, {"kinds": {"bank": {"fone": "text"}}})
