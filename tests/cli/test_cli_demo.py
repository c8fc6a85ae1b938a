"""What ``unseen demo`` refuses before it starts any process."""

import pytest

from unseen.component import installed_components
from unseen.demo.flow import credit_flow
from unseen.flow.graph import build_graph
from unseen.flow.spec import parse_flow


@pytest.mark.parametrize(("option", "value"), [("--mode", "precise"), ("--scheme", "plain"), ("--scheme", "rsa")])
def test_unknown_modes_and_schemes_are_refused(unseen, tmp_path, option, value):
    ended = unseen("demo", "--out", tmp_path / "out", option, value)
    assert ended.code == 2
    allowed = {"--mode": "private, linearised, exact", "--scheme": "lattice, paillier"}[option]
    assert f"{option} is one of {allowed}, found {value}" in ended.err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_is_not_touched(unseen, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    ended = unseen("demo", "--out", tmp_path)
    assert ended.code == 2
    assert "is not empty and not a demo: choose another folder with --out" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_too_few_people_are_refused(unseen, tmp_path):
    ended = unseen("demo", "--out", tmp_path / "out", "--rows", "99")
    assert ended.code == 2
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("files", "code", "expected"),
    [
        (["bank.csv"], 1, "holds 1 CSV or Parquet files, expected one each for two or more parties"),
        (["partner.csv", "other.csv"], 1, "exactly one party's file has a label (a column y or label), found 0"),
        (["bank.csv", "bank2.csv"], 1, "found 2: bank, bank2"),
    ],
)
def test_data_that_do_not_fit_are_refused(unseen, project, tmp_path, files, code, expected):
    data = tmp_path / "data"
    data.mkdir()
    for name in files:
        source = "bank.csv" if name.startswith("bank") else "partner.csv"
        (data / name).write_bytes((project / source).read_bytes())
    ended = unseen("demo", "--out", tmp_path / "out", "--data", data)
    assert ended.code == code
    assert expected in ended.err.replace("\n", " ")


@pytest.mark.parametrize("mode", ["private", "linearised", "exact"])
def test_the_demos_flow_can_run_and_reads_back(mode):
    spec = credit_flow("bank", ["partner", "telco"], mode=mode).spec
    assert parse_flow(spec.to_yaml()) == spec
    graph = build_graph(spec, installed_components())
    assert graph.nodes["train"].params.mode == mode
    assert graph.nodes["train"].params.scheme == "lattice"
