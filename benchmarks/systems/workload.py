"""What a driver of another system is given, and the line that it prints; needs NumPy alone.

``python run_NAME.py WORKLOAD.npz`` trains what ``benchmarks.other_systems`` has written, in the environment of that
system, and prints one JSON line at the end. Costs are those of the driver and of all processes that descend from it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_TICK = os.sysconf("SC_CLK_TCK")


class Workload:
    """Clients, cohorts, first model and plan of a run."""

    def __init__(self, path: str) -> None:
        with np.load(path) as kept:
            held = {name: kept[name] for name in kept.files}
        self.images, self.labels = held["images"], held["labels"].astype(np.int64)
        self.test_images, self.test_labels = held["test_images"], held["test_labels"].astype(np.int64)
        self.cohorts: list[list[int]] = held["cohorts"].tolist()
        """The clients of each round, as numbers."""
        self.weights = [held[f"weight_{place}"] for place in range(int(held["weights"]))]
        """Of the first model, in PyTorch's order and layout."""
        self.model, self.learning_rate = str(held["model"]), float(held["learning_rate"])
        self.batch, self.epochs = int(held["batch"]), int(held["epochs"])
        self._rows, self._ends = held["rows"], held["ends"]

    @property
    def clients(self) -> int:
        """How many there are."""
        return len(self._ends)

    def client(self, number: int) -> tuple[Array, Array]:
        """Return one client's images, bytes of shape (n, height, width), and labels."""
        rows = self._rows[self._ends[number - 1] if number else 0 : self._ends[number]]
        return self.images[rows], self.labels[rows]


@dataclass(frozen=True)
class _Process:
    parent: int
    seconds: float


class Laps:
    """Takes the time and CPU seconds of rounds; ``first_seconds`` counts from when it is made."""

    def __init__(self) -> None:
        self._made = time.perf_counter()
        self._first = 0.0
        self._began, self._before = 0.0, 0.0
        self._seconds: list[float] = []
        self._cores: list[float] = []
        self._peak_rss_mb = 0.0

    def begin(self) -> None:
        """Begin a round."""
        self._before, self._began = tree_core_seconds(), time.perf_counter()

    def end(self) -> None:
        """End it."""
        now = time.perf_counter()
        self._first = self._first or now - self._made
        self._seconds.append(now - self._began)
        self._cores.append(tree_core_seconds() - self._before)
        self._peak_rss_mb = max(self._peak_rss_mb, *(_peak_rss_mb(each) for each in _tree()))

    def report(self, accuracy: float) -> None:
        """Print the line."""
        line = {
            "seconds_per_round": statistics.median(self._seconds),
            "core_seconds_per_round": statistics.median(self._cores),
            "first_seconds": self._first,
            "accuracy": accuracy,
            "peak_rss_mb": self._peak_rss_mb,
        }
        print(json.dumps(line), flush=True)


def given() -> Workload:
    """Return the workload that the command line names."""
    return Workload(sys.argv[1])


def tree_core_seconds() -> float:
    """Return the CPU seconds of this process, of all that descend from it, and of those of them that have ended."""
    return sum(each.seconds for each in _tree().values())


def _tree() -> dict[int, _Process]:
    """Return this process and its descendants."""
    everyone = {
        int(path.name): found for path in Path("/proc").iterdir() if path.name.isdigit() and (found := _read(path))
    }
    mine = {os.getpid()}
    while more := {number for number, each in everyone.items() if each.parent in mine} - mine:
        mine |= more
    return {number: everyone[number] for number in mine if number in everyone}


def _read(path: Path) -> _Process | None:
    try:
        # Fields 4 and 14 to 17 of proc(5), counted from the end of the name, which may hold anything.
        fields = (path / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return _Process(int(fields[1]), sum(map(int, fields[11:15])) / _TICK)


def _peak_rss_mb(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM:"))
