"""The main job, two processes over mutual TLS on loopback, against scikit-learn on the pooled rows.

``python -m benchmarks.main_job [--repeat 3] [--rows N]`` prints one JSON line. ``seconds``, ``core_seconds`` (both
parties, without the comparison) and ``bytes`` (messages sent by both) are medians over the runs in mode linearised;
``coef_gap`` is ‖federated − pooled‖ / ‖pooled‖ over all coefficients and the intercept in mode exact, and
``auc_gap_exact`` the difference in AUC on the test rows there.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from unseen.catalog.evaluate import Evaluation
from unseen.catalog.logistic_regression import LogisticRegressionParams
from unseen.data.table import Table
from unseen.demo.flow import Mode
from unseen.demo.prepare import DemoOptions, prepare
from unseen.demo.processes import run_parties
from unseen.demo.results import DemoResults


@dataclass(frozen=True)
class Run:
    """What one run of the main job gave."""

    seconds: float
    core_seconds: float
    bytes: int
    auc: float
    auc_alone: float
    auc_pooled: float
    seconds_pooled: float
    coef_gap: float


def core_seconds() -> float:
    """Return the CPU seconds of all ended child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(mode: Mode, rows: int | None, folder: Path) -> Run:
    """Run the main job once and scikit-learn on the same rows."""
    plan = prepare(DemoOptions(folder, rows=rows, mode=mode))
    started, burnt = time.perf_counter(), core_seconds()
    run_parties(plan)
    seconds, burnt = time.perf_counter() - started, core_seconds() - burnt
    results = DemoResults(plan)
    traffic = sum(results.record(party, step).bytes_sent for party in plan.parties for step in results.graph.nodes)
    train, test = (results.get(plan.active, step, "table", Table) for step in ("scale", "scale_test"))
    started = time.perf_counter()
    l2 = LogisticRegressionParams().l2
    model = LogisticRegression(C=1 / (train.rows * l2), tol=1e-10, max_iter=10_000, solver="newton-cholesky")
    model.fit(results.matrix("scale"), train.label())
    seconds_pooled = time.perf_counter() - started
    wanted = np.concatenate([model.coef_[0], model.intercept_])
    found = results.coefficients()
    return Run(
        seconds,
        burnt,
        traffic,
        results.get(plan.active, "evaluate", "evaluation", Evaluation).result.auc,
        results.get(plan.active, "evaluate_alone", "evaluation", Evaluation).result.auc,
        float(roc_auc_score(test.label(), model.decision_function(results.matrix("scale_test")))),
        seconds_pooled,
        float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted)),
    )


def main() -> None:
    """Print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="runs in each mode")
    parser.add_argument("--rows", type=int, help="people to take; all if omitted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        linearised, exact = (
            [run(mode, options.rows, Path(folder) / f"{mode}-{turn}") for turn in range(options.repeat)]
            for mode in ("linearised", "exact")
        )
    print(
        json.dumps(
            {
                "name": "main_job",
                "seconds": round(statistics.median(one.seconds for one in linearised), 3),
                "core_seconds": round(statistics.median(one.core_seconds for one in linearised), 3),
                "auc_federated": round(statistics.median(one.auc for one in linearised), 6),
                "auc_pooled": round(statistics.median(one.auc_pooled for one in linearised), 6),
                "auc_alone": round(statistics.median(one.auc_alone for one in linearised), 6),
                "auc_gap": round(max((one.auc - one.auc_pooled for one in linearised), key=abs), 6),
                "bytes": statistics.median(one.bytes for one in linearised),
                "coef_gap": max(one.coef_gap for one in exact),
                "auc_gap_exact": max((one.auc - one.auc_pooled for one in exact), key=abs),
                "seconds_exact": round(statistics.median(one.seconds for one in exact), 3),
                "bytes_exact": statistics.median(one.bytes for one in exact),
                "seconds_pooled": round(statistics.median(one.seconds_pooled for one in linearised), 3),
                "repeat": options.repeat,
            }
        )
    )


if __name__ == "__main__":
    main()
