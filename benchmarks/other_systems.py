"""Other systems of simulated horizontal learning, run by drivers in ``systems`` in environments of their own.

A driver gets the same clients, cohorts, first model and plan as a file for NumPy, so that it needs nothing of Unseen.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DRIVERS = Path(__file__).parent / "systems"
NAMES = tuple(sorted(path.stem.removeprefix("run_") for path in DRIVERS.glob("run_*.py")))
KEYS = ("seconds_per_round", "core_seconds_per_round", "first_seconds", "accuracy", "peak_rss_mb")
_PATIENCE = 3600.0
_RAISED = re.compile(r"[\w.]*(Error|Exception)\b")


@dataclass(frozen=True, slots=True)
class System:
    """One of them, and the interpreter of the environment that has it."""

    name: str
    python: str


def system(text: str) -> System:
    """Return what ``NAME=PYTHON`` says, for a command line."""
    name, _, python = text.partition("=")
    if name not in NAMES or not python:
        raise argparse.ArgumentTypeError(f"expected NAME=PYTHON with a name of {', '.join(NAMES)}, found {text!r}")
    return System(name, python)


def run(systems: Sequence[System], workload: Mapping[str, Any], drivers: Path = DRIVERS) -> dict[str, Any]:
    """Return ``NAME_key`` of each system for all ``KEYS``, or ``NAME_error``: a sentence on why there are none."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="unseen-benchmark-") as folder:
        path = Path(folder) / "workload.npz"
        np.savez(path, **workload)
        for each in systems:
            found.update({f"{each.name}_{key}": value for key, value in _played(each, path, drivers).items()})
    return found


def _played(asked: System, workload: Path, drivers: Path) -> dict[str, Any]:
    command = [asked.python, str(drivers / f"run_{asked.name}.py"), str(workload)]
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=outside,
            start_new_session=True,
        )
    except OSError as error:
        return {"error": f"cannot start {asked.python}: {error.strerror}; expected the interpreter of its environment"}
    try:
        said, complaints = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return {"error": f"unfinished after {_PATIENCE:.0f} s, and stopped"}
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        return {"error": _failure(asked, process.returncode, complaints)}
    return _figures(said)


def _failure(asked: System, code: int, complaints: str) -> str:
    lines = complaints.strip().splitlines() or ["it says nothing"]
    # Some systems print more after the exception that ends them.
    last = next((line for line in reversed(lines) if _RAISED.match(line)), lines[-1])
    missing = last.startswith("ModuleNotFoundError")
    advice = f"; install it into the environment of {asked.python}" if missing else ""
    return f"its driver ended with exit code {code}: {last}{advice}"


def _figures(said: str) -> dict[str, Any]:
    last = said.strip().splitlines()[-1] if said.strip() else ""
    try:
        line = json.loads(last)
        figures = {key: float(line[key]) for key in KEYS}
    except (ValueError, KeyError, TypeError):
        figures = {}
    if not figures or not all(map(math.isfinite, figures.values())):
        return {"error": f"expected a line of JSON with numbers {', '.join(KEYS)}, found {last[:200]!r}"}
    return figures
