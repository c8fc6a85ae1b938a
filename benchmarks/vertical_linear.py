"""Vertical logistic regression, two processes over mutual TLS on loopback, against scikit-learn on the pooled rows.

``python -m benchmarks.vertical_linear --rows 1000000 --passive 50 --active 50`` prints one JSON line.

* ``seconds``, ``core_seconds`` and ``bytes``: the whole training, set-up included; of the active party's clock, and of
  both parties' CPU (all threads) and messages.
* An *iteration* is one exchange of vectors, one number a row from each party to the other, and all that belongs to it:
  each party learns the product of its columns with the other's vector (a *linearised* iteration, on the quadratic
  model of the loss) or, by shares of residuals, its part of the true gradient (an *accurate* one). Both occur in mode
  private only; in the modes linearised and exact all iterations are of one kind and count as accurate.
* ``iterations`` counts both, ``accurate_iterations`` the accurate ones; ``…_per_iteration`` are medians over all,
  ``…_per_accurate_iteration`` over the accurate ones.
* ``…_setup``: what comes before the first iteration: whitening of columns, the active party's own model, the linear
  maps' set-up, and the first gradient (one vector).
* ``coef_gap``: ‖federated − pooled‖ / ‖pooled‖ over all coefficients and the intercept; ``auc_gap`` federated − pooled
  on rows that were not trained on.
* ``threads``: how many each party uses.
* ``sklearn_seconds``: scikit-learn (newton-cholesky, tolerance 1e-10) afterwards, in one process with one thread.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias, TypeVar

import numpy as np

from benchmarks.data import Population, Split
from benchmarks.measure import Cost, PartyRun, median, together, whole
from benchmarks.parties import ACTIVE, PASSIVE, Part, add_threads, run_parties, stage, use_threads
from benchmarks.pooled import Linear, logistic_regression
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, Progress
from unseen.ids import PartyId
from unseen.kernels.blocks import threads
from unseen.learners.metrics import auc
from unseen.learners.vertical.logistic import (
    PRIVATE,
    LinearPart,
    LogisticParams,
    Setting,
    score_active,
    score_passive,
    train_active,
    train_passive,
)
from unseen.protocols.linear_map.lattice import Lattice

R = TypeVar("R")

_WARM_UP_ROWS = 2000


@dataclass(slots=True)
class Course:
    """What a training tells of its course: the total of its progress, and which iterations were accurate."""

    total: int = 0
    accurate: list[int] = field(default_factory=list)

    def note(self, event: Progress) -> None:
        """Take note of a progress."""
        if event.note == "set up":
            self.total = event.total
        elif "gradient norm" in event.note:
            self.accurate.append(event.done)


Result: TypeAlias = tuple[LinearPart, float, Course]
"""A party's part, the AUC if it knows, and the course of its training."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is trained on how many rows."""

    rows: int
    test_rows: int
    active: int
    passive: int
    mode: str
    seed: int

    @property
    def population(self) -> Population:
        """All rows, those to test on last."""
        return Population(self.rows + self.test_rows, self.active, self.passive, self.seed)

    @property
    def params(self) -> LogisticParams:
        """What the parties agree on."""
        return LogisticParams(mode=self.mode)


# --- a party -------------------------------------------------------------------------------------------------------


def part(me: PartyId, fields: dict[str, Any]) -> Part:
    """Return one party's side; it makes its own columns."""
    options = Options(**fields)
    people = options.population
    if me == ACTIVE:
        return side(me, Split.at(options.rows, people.active_features(), people.linear_labels()), options.params)
    return side(me, Split.at(options.rows, people.passive_features()), options.params)


def side(me: PartyId, data: Split, params: LogisticParams) -> Part:
    """Return one party's side of a training with ``data`` and of scoring the rows to test on."""
    setting = Setting(me, ACTIVE, (PASSIVE,), Prg.fresh(), Lattice())
    return Part(_active(data, params, setting) if me == ACTIVE else _passive(data, params, setting), _told)


def _active(data: Split, params: LogisticParams, setting: Setting) -> Dialogue[Result]:
    course = Course()
    found = yield from stage("train", noted(train_active(data.features, data.labels, params, setting), course))
    chances = yield from stage("score", score_active(found, data.test_features, setting))
    return found, auc(data.test_labels, chances), course


def _passive(data: Split, params: LogisticParams, setting: Setting) -> Dialogue[Result]:
    course = Course()
    found = yield from stage("train", noted(train_passive(data.features, params, setting), course))
    yield from stage("score", score_passive(found, data.test_features, setting))
    return found, math.nan, course


def noted(dialogue: Dialogue[R], course: Course) -> Dialogue[R]:
    """Play ``dialogue`` and take notes of its course."""
    answer: object = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            result: R = end.value
            return result
        if isinstance(effect, Progress):
            course.note(effect)
        answer = yield effect


def _told(result: Result) -> dict[str, Any]:
    found, tested, course = result
    return {
        "auc": tested,
        "coefficients": found.coef_.tolist(),
        "intercept": found.intercept_,
        "accurate": course.accurate,
        "total": course.total,
        "converged": found.converged,
        "note": found.note,
    }


# --- both, and the library -----------------------------------------------------------------------------------------


def federated(options: Options) -> tuple[PartyRun, PartyRun]:
    """Return what the two parties measured."""
    return run_parties("benchmarks.vertical_linear:part", asdict(options))


def pooled(options: Options) -> Linear:
    """Return what scikit-learn comes to on all columns together."""
    people = options.population
    return logistic_regression(
        Split.at(options.rows, people.pooled_features(), people.linear_labels()), options.params.l2
    )


def coef_gap(runs: tuple[PartyRun, PartyRun], wanted: Linear) -> float:
    """Return ‖federated − pooled‖ / ‖pooled‖ over all coefficients and the intercept."""
    active, passive = (run.report for run in runs)
    intercept = active["intercept"] + passive["intercept"]
    found = np.array([*active["coefficients"], *passive["coefficients"], intercept])
    return float(np.linalg.norm(found - wanted.coefficients) / np.linalg.norm(wanted.coefficients))


def laps(run: PartyRun) -> list[Cost]:
    """Return the cost of the set-up and of each iteration."""
    stamps = run.stages["train"]
    # Set-ups of linear maps tell of their own progress, before the training's begins at 0.
    mine = [stamp for stamp in stamps if stamp.what == "progress" and stamp.total == run.report["total"]]
    begun = max(place for place, stamp in enumerate(mine) if stamp.done == 0)
    return [after.spent - before.spent for before, after in pairwise([stamps[0], *mine[begun:]])]


def figures(options: Options, runs: tuple[PartyRun, PartyRun], wanted: Linear) -> dict[str, Any]:
    """Return the JSON line."""
    setup, *iterations = [together(lap) for lap in zip(*(laps(run) for run in runs), strict=True)]
    total, told = whole(runs, "train"), runs[0].report
    iteration = median(iterations)
    accurate = [iterations[number - 1] for number in told["accurate"]]
    exact = median(accurate)
    return {
        "name": "vertical_linear",
        "seconds": round(total.seconds, 3),
        "core_seconds": round(total.core_seconds, 3),
        "bytes": total.bytes,
        "seconds_setup": round(setup.seconds, 3),
        "core_seconds_setup": round(setup.core_seconds, 3),
        "bytes_setup": setup.bytes,
        "seconds_per_iteration": round(iteration.seconds, 4),
        "core_seconds_per_iteration": round(iteration.core_seconds, 4),
        "bytes_per_iteration": iteration.bytes,
        "iterations": len(iterations),
        "accurate_iterations": len(accurate),
        "seconds_per_accurate_iteration": round(exact.seconds, 4),
        "core_seconds_per_accurate_iteration": round(exact.core_seconds, 4),
        "bytes_per_accurate_iteration": exact.bytes,
        "converged": told["converged"],
        "note": told["note"],
        "coef_gap": coef_gap(runs, wanted),
        "auc": round(told["auc"], 6),
        "auc_pooled": round(wanted.auc, 6),
        "auc_gap": round(told["auc"] - wanted.auc, 6),
        "sklearn_seconds": round(wanted.cost.seconds, 3),
        "sklearn_core_seconds": round(wanted.cost.core_seconds, 3),
        "peak_rss_mb": round(max(run.peak_rss_mb for run in runs)),
        "threads": threads(),
        **asdict(options),
    }


def main() -> None:
    """Print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows to train on")
    parser.add_argument("--active", type=int, default=50, help="columns of the active party")
    parser.add_argument("--passive", type=int, default=50, help="columns of the passive party")
    parser.add_argument("--mode", default=PRIVATE, help="private, linearised or exact")
    parser.add_argument("--seed", type=int, default=1)
    add_threads(parser)
    asked = parser.parse_args()
    use_threads(asked.threads)
    options = Options(asked.rows, min(100_000, asked.rows // 5), asked.active, asked.passive, asked.mode, asked.seed)
    # Compiled once, all machine code comes from the cache: it is not the training that is slow the first time.
    federated(Options(_WARM_UP_ROWS, 400, 2, 2, asked.mode, asked.seed))
    runs = federated(options)
    print(json.dumps(figures(options, runs, pooled(options))))


if __name__ == "__main__":
    main()
