"""The boosting examples run; a changed parameter of the training costs no new set-up."""

import subprocess
import sys
from pathlib import Path

import pytest

from unseen.data.demo import make_parties
from unseen.flow.spec import read_flow
from unseen.simulation import simulate

EXAMPLES = Path(__file__).parents[2] / "examples"
FIRST = ["read", "align", "split", "bin", "prepare"]


def example(**params):
    """Return the flow of the example with other parameters of its training."""
    spec = read_flow(EXAMPLES / "boosting.yaml")
    train = spec.steps["train"]
    changed = train.model_copy(update={"params": {**train.params, **params}})
    return spec.model_copy(update={"steps": {**spec.steps, "train": changed}})


@pytest.fixture(scope="module")
def tables():
    return {party: {"customers": frame} for party, frame in make_parties(rows=900).items()}


def test_the_set_up_is_kept_for_further_trainings(tables, tmp_path):
    first = simulate(example(rounds=3), tables, workspace=tmp_path)
    assert first.reused() == []
    setups = {party: first.get("prepare.setup", party) for party in ("bank", "partner")}
    files = {party: tmp_path / party / "artifacts" / it.digest / "content.bin" for party, it in setups.items()}
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o600}
    again = simulate(example(rounds=2, l2=5.0), tables, workspace=tmp_path)
    assert again.reused()[:5] == FIRST
    assert "train" not in again.reused()
    assert again.get("prepare.setup", "partner") == setups["partner"]
    assert again.get("train.report", "bank").rounds == 2


def test_the_example_in_python_shows_that_the_joint_model_is_better():
    command = [sys.executable, str(EXAMPLES / "boosting.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = dict(line.rsplit(maxsplit=1) for line in done.stdout.splitlines()[:2])
    # One split of some 1,050 people: the standard deviation of the difference is 0.03.
    assert float(lines["together"]) > float(lines["alone"])
    assert "splits" in done.stdout
