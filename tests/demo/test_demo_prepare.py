import polars as pl
import pytest

from unseen.demo.prepare import JOB, DemoOptions, DemoPlan, prepare
from unseen.errors import DataError, UsageError
from unseen.ids import StepId


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    pl.DataFrame({"id": [1, 2, 3], "x": [1, 2, 3], "y": [0, 1, 1]}).write_csv(folder / "bank.csv")
    pl.DataFrame({"id": [1, 2, 3], "z": [1, 2, 3]}).write_parquet(folder / "Partner.PARQUET")
    (folder / ".bank.csv").touch()
    return folder


def test_every_file_is_a_partys_own_and_stays_private(data, tmp_path):
    plan = prepare(DemoOptions(tmp_path / "demo", data))
    assert plan.parties == ("bank", "partner")
    assert (tmp_path / "demo" / "bank" / "customers.csv").stat().st_mode & 0o077 == 0
    assert DemoPlan.read(tmp_path / "demo") == plan


def test_a_request_that_cannot_be_met_does_not_cost_an_earlier_demo(data, tmp_path):
    plan = prepare(DemoOptions(tmp_path / "demo", data))
    (data / "bank.csv").unlink()
    with pytest.raises(DataError, match="1 CSV or Parquet files"):
        prepare(DemoOptions(plan.out, data))
    assert DemoPlan.read(plan.out) == plan


def test_data_inside_the_demos_folder_are_not_deleted(data, tmp_path):
    prepare(DemoOptions(tmp_path / "demo", data))
    inside = data.rename(tmp_path / "demo" / "mine")
    with pytest.raises(UsageError, match="choose another folder"):
        prepare(DemoOptions(tmp_path / "demo", inside))
    assert (inside / "bank.csv").exists()


def test_a_demo_interrupted_while_it_is_laid_out_can_be_laid_out_again(data, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("unseen.demo.prepare.issue", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(DemoOptions(tmp_path / "demo", data))
    with pytest.raises(UsageError, match="no demo in"):
        DemoPlan.read(tmp_path / "demo")
    assert prepare(DemoOptions(tmp_path / "demo", data)).active == "bank"


def test_a_folder_of_something_else_is_left_alone(data, tmp_path):
    with pytest.raises(UsageError, match="not a demo"):
        prepare(DemoOptions(data, None, 100))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not a demo"):
        prepare(DemoOptions(tmp_path / "file", data))


def test_files_that_cannot_be_told_apart_are_named(data, tmp_path):
    (data / "My Shop.csv").write_text("id,q\n1,2\n")
    with pytest.raises(UsageError, match=r"My Shop\.csv: .*rename it"):
        prepare(DemoOptions(tmp_path / "demo", data))
    (data / "My Shop.csv").rename(data / "partner.csv")
    with pytest.raises(DataError, match="both of partner"):
        prepare(DemoOptions(tmp_path / "demo", data))


def test_an_unfinished_demo_is_not_thrown_away_unasked(tmp_path):
    out = tmp_path / "demo"
    plan = prepare(DemoOptions(out, rows=300))
    prepare(DemoOptions(out, rows=300))  # nothing was done yet, so nothing is lost
    plan.workspace(plan.active).note_step(JOB, StepId("read"), "ab")
    with pytest.raises(UsageError, match=rf"go on with `unseen resume {out}`, or remove the folder first"):
        prepare(DemoOptions(out, rows=300))
    with plan.workspace(plan.active).locked(), pytest.raises(UsageError, match="another process works in"):
        prepare(DemoOptions(out, rows=300))
    for party in plan.parties:
        plan.workspace(party).end_job(JOB, "finished")
    prepare(DemoOptions(out, rows=300))
    assert not plan.workspace(plan.active).job(JOB).steps


def test_quarantine_files_are_nobodys_data(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    (own / "bank.csv").write_text("id,y,x\n1,0,1\n2,1,3\n")
    (own / "partner.csv").write_text("id,z\n1,0\n2,1\n")
    (own / "bank.csv.quarantine.csv").write_text("line,cause,row\n")
    assert prepare(DemoOptions(tmp_path / "demo", data=own)).parties == ("bank", "partner")
