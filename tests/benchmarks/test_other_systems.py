"""Figures of other systems come from their drivers; one that fails is told and leaves the others alone."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

WORKLOAD = {
    "images": np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2),
    "labels": np.arange(6),
    "test_images": np.zeros((1, 2, 2), np.uint8),
    "test_labels": np.zeros(1, np.int64),
    "rows": np.array([4, 0, 5, 1, 2]),
    "ends": np.array([2, 5]),
    "cohorts": [[1], [0]],
    "weights": 1,
    "weight_0": np.ones(3, np.float32),
    "model": "logistic",
    "learning_rate": 0.5,
    "batch": 2,
    "epochs": 1,
}
FIGURES = {
    "seconds_per_round": 0.5,
    "core_seconds_per_round": 1.0,
    "first_seconds": 2.0,
    "accuracy": 0.75,
    "peak_rss_mb": 80.0,
}


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module("benchmarks.other_systems")


def played(other: ModuleType, folder: Path, drivers: dict[str, str], python: str = sys.executable) -> dict[str, object]:
    for name, text in drivers.items():
        (folder / f"run_{name}.py").write_text(text, encoding="utf-8")
    found: dict[str, object] = other.run([other.System(name, python) for name in drivers], WORKLOAD, folder)
    return found


def test_the_line_of_a_driver_is_merged_whatever_becomes_of_the_one_before(other: ModuleType, tmp_path: Path) -> None:
    drivers = {
        "absent": "import sys\ntry:\n    import no_such_system\nfinally:\n    sys.stderr.write('x')",
        "silent": "print('nearly done')",
        "wrong": f"print({json.dumps(json.dumps({**FIGURES, 'accuracy': float('nan')}))})",
        "good": f"print('chatter')\nprint({json.dumps(json.dumps(FIGURES))})",
    }
    found = played(other, tmp_path, drivers)
    assert {key: value for key, value in found.items() if key.startswith("good_")} == {
        f"good_{key}": value for key, value in FIGURES.items()
    }
    assert "No module named 'no_such_system'; install it into the environment of " in str(found["absent_error"])
    assert "found 'nearly done'" in str(found["silent_error"])
    assert "expected a line of JSON with numbers" in str(found["wrong_error"])
    assert len(found) == len(FIGURES) + 3


def test_an_interpreter_that_is_not_there_is_told(other: ModuleType, tmp_path: Path) -> None:
    found = played(other, tmp_path, {"good": ""}, python=str(tmp_path / "python"))
    assert set(found) == {"good_error"}
    assert "cannot start" in str(found["good_error"])


@pytest.mark.parametrize("text", ["flower", "flower=", "unknown=/usr/bin/python3", "../flower=python"])
def test_only_systems_with_a_driver_can_be_asked_for(other: ModuleType, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected NAME=PYTHON with a name of fedjax, flower, pfl"):
        other.system(text)


def test_drivers_read_what_the_benchmark_writes_and_report_what_it_reads(other: ModuleType, tmp_path: Path) -> None:
    driver = (
        f"import sys; sys.path.insert(0, {str(other.DRIVERS)!r})\n"
        "from workload import Laps, given\n"
        "work, laps = given(), Laps()\n"
        "assert work.cohorts == [[1], [0]] and work.clients == 2 and work.batch == 2\n"
        "assert work.client(0)[1].tolist() == [4, 0] and work.client(1)[0][0].tolist() == [[20, 21], [22, 23]]\n"
        "assert [weight.tolist() for weight in work.weights] == [[1, 1, 1]]\n"
        "for _ in work.cohorts:\n    laps.begin(); laps.end()\n"
        "laps.report(0.25)\n"
    )
    found = played(other, tmp_path, {"real": driver})
    assert found["real_accuracy"] == 0.25
    assert 0 <= found["real_seconds_per_round"] <= found["real_first_seconds"]
    assert found["real_peak_rss_mb"] > 1
