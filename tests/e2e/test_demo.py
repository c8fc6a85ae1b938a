"""The main job as users run it: ``unseen demo`` in processes of its own, over mutual TLS on loopback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from unseen.catalog.evaluate import Evaluation
from unseen.catalog.logistic_regression import LogisticRegressionParams
from unseen.data.demo import make_parties
from unseen.data.table import Table
from unseen.demo.prepare import DemoOptions, DemoPlan, prepare
from unseen.demo.results import DemoResults
from unseen.report.model import Report


def unseen(*arguments: object, code: int = 0) -> str:
    """Run the command line; return what it printed."""
    command = [sys.executable, "-m", "unseen", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stdout + ended.stderr


def sklearn_on_pooled_rows(results: DemoResults) -> tuple[np.ndarray, float]:
    """Return scikit-learn's coefficients, the intercept last, and its AUC on the test rows."""
    plan = results.plan
    train, test = (results.get(plan.active, step, "table", Table) for step in ("scale", "scale_test"))
    strength = 1 / (train.rows * LogisticRegressionParams().l2)
    model = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
    model.fit(results.matrix("scale"), train.label())
    scores = model.decision_function(results.matrix("scale_test"))
    return np.concatenate([model.coef_[0], model.intercept_]), float(roc_auc_score(test.label(), scores))


def auc(results: DemoResults, step: str) -> float:
    return results.get(results.plan.active, step, "evaluation", Evaluation).result.auc


def test_linearised_demo_is_close_to_pooled_data_and_beats_the_bank_alone(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    said = unseen("demo", "--out", out, "--mode", "linearised")
    assert str(out / "report.html") in said.replace("\n", "")
    results = DemoResults(DemoPlan.read(out))
    _, pooled = sklearn_on_pooled_rows(results)
    # One random split; over many the gap had a standard deviation of about 1e-3 around +1e-3.
    assert auc(results, "evaluate") == pytest.approx(pooled, abs=5e-3)
    assert auc(results, "evaluate") > auc(results, "evaluate_alone") + 0.02
    report = Report.from_json((out / "report.json").read_text())
    assert [model.name for model in report.comparison] == ["Federated", "bank alone", "Pooled data"]
    assert report.comparison[2].auc == pytest.approx(pooled, abs=1e-5)
    assert sum(step.bytes_sent for step in report.steps) == sum(step.bytes_received for step in report.steps)
    # Nothing is left to do: everything is taken from what is there.
    assert "nothing" not in (again := unseen("resume", out))
    assert again.count("reused") == len(results.graph.nodes)


@pytest.mark.parametrize("mode", ["private", "exact"])
def test_other_demos_are_scikit_learn_on_pooled_data(tmp_path: Path, mode: str) -> None:
    out = tmp_path / "demo"
    unseen("demo", "--out", out, *([] if mode == "private" else ["--mode", mode]), "--quiet")
    results = DemoResults(DemoPlan.read(out))
    assert results.plan.mode == mode
    wanted, pooled = sklearn_on_pooled_rows(results)
    found = results.coefficients()
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) < 1e-3
    assert auc(results, "evaluate") == pytest.approx(pooled, abs=1e-4)


def test_demo_on_own_data_of_three_parties(tmp_path: Path) -> None:
    frames = make_parties(rows=800)
    own = tmp_path / "own"
    own.mkdir()
    frames["bank"].write_csv(own / "bank.csv")
    columns = frames["partner"].columns
    frames["partner"].select(columns[:5]).write_csv(own / "telecom.csv")
    frames["partner"].select(["id", *columns[5:]]).write_parquet(own / "shop.parquet")
    out = tmp_path / "demo"
    said = unseen("demo", "--data", own, "--out", out)
    assert "bank holds the label" in said
    report = Report.from_json((out / "report.json").read_text())
    assert {party.name: party.role for party in report.parties} == {
        "bank": "active",
        "shop": "passive",
        "telecom": "passive",
    }


def test_secrets_stay_out_of_sight(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    unseen("demo", "--out", out, "--rows", 300, "--quiet")
    plan = DemoPlan.read(out)
    for party in plan.parties:
        seed = json.loads((out / party / "workspace" / "jobs" / "demo" / "job.json").read_text())["seed"]
        places = [path for path in out.rglob("*") if path.is_file() and seed in path.read_bytes().decode("latin-1")]
        assert [path.name for path in places] == ["job.json"]
        assert places[0].stat().st_mode & 0o077 == 0
        keys = [path for path in (out / party / "identity").iterdir() if b"PRIVATE" in path.read_bytes()]
        assert len(keys) == 1
        assert keys[0].stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peers": {}}, "does not say how to reach partner"),
        ({"party": "partner", "peers": {"bank": None}}, "holds the certificate of bank, not of partner"),
        ({"tables": {}}, "has no table 'customers'"),
        ({"listens": "127.0.0.1:1"}, "listens: Extra inputs"),
    ],
)
def test_party_configuration_mistakes_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    out = tmp_path / "demo"
    prepare(DemoOptions(out, rows=300))
    path = out / "bank" / "party.yaml"
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**config, **change, "job": "another"}))
    ended = subprocess.run(
        [sys.executable, "-m", "unseen", "party", str(path), "--listen", "127.0.0.1:0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert re.search(message, " ".join(ended.stderr.split()))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"bank.csv": "id,y,x\n1,0,1\n2,1,3\n"}, "expected one each for two or more parties"),
        ({"a.csv": "id,x\n1,0\n2,1\n", "b.csv": "id,z\n1,0\n2,1\n"}, "exactly one party's file has a label"),
        ({"a.csv": "id,y\n1,0\n2,1\n", "b.csv": "id,z\n1,0\n1,1\n"}, "duplicate id"),
    ],
)
def test_bad_data_folder_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    own = tmp_path / "own"
    own.mkdir()
    for name, text in files.items():
        (own / name).write_text(text)
    said = unseen("demo", "--data", own, "--out", tmp_path / "demo", code=1)
    assert message in " ".join(said.split())


def test_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep me")
    assert "not empty" in unseen("demo", "--out", tmp_path, code=2)
    assert (tmp_path / "precious.txt").read_text() == "keep me"


def test_frames_of_the_demo_overlap_in_part() -> None:
    frames = make_parties(rows=1000)
    shared = frames["bank"].join(frames["partner"], on="id")
    assert 0.5 < len(shared) / 1000 < 0.75
    assert isinstance(shared, pl.DataFrame)
