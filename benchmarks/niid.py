"""One cell of the table of Flower's ``niid_bench``: ten clients that differ, one network, fifty rounds.

``python -m benchmarks.niid --data mnist --partition dirichlet-per-label:0.5 --strategy scaffold [--folder RUN]`` prints
one JSON line; ``--published`` plays all cells that have a published figure. A cell takes about 1,000 core-seconds; with
``--folder`` a run that is killed goes on where it stood.

The settings are the published ones: all ten clients in every round, 10 local epochs in batches of 64, learning rate
0.01, momentum 0.9, the network of Q. Li and others ("Federated Learning on Non-IID Data Silos", ICDE 2022), no
augmentation. The published Dirichlet(0.5) is ``dirichlet-per-label:0.5``, whose clients differ in size as well;
``dirichlet:0.5`` deals everybody the same number of examples and has no published figure.

* ``accuracy``: on the 10,000 test images, after the last round; ``best``: of any round; ``accuracies``: of all rounds.
* ``published``: the accuracy that Flower's table states for the cell, if it does.
* ``seconds``, ``core_seconds``: of all rounds of this call and their evaluations, all processes together.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.simulation import core_seconds
from unseen.data.federated.images import load_images
from unseen.data.federated.notation import parse_partitioner
from unseen.data.federated.partition import deal
from unseen.learners.horizontal.neural.models import niid_cnn
from unseen.learners.horizontal.neural.trainer import TorchTrainer
from unseen.learners.horizontal.process import Examples
from unseen.learners.horizontal.strategies import strategy
from unseen.rounds.cohort import Uniform
from unseen.rounds.run import Round
from unseen.rounds.simulate import Settings, Simulation

CLIENTS = 10
PLAN = {"learning_rate": 0.01, "momentum": 0.9, "epochs": 10, "batch": 64}
OWN = {"scaffold": {"clients": CLIENTS}, "fed_dyn": {"clients": CLIENTS}}
"""What strategies need beside the plan."""
IID, MIXED, PAIRS = "iid", "dirichlet-per-label:0.5", "labels:2"
PUBLISHED = {
    ("mnist", "fed_avg", IID): 0.9909,
    ("mnist", "fed_avg", MIXED): 0.9889,
    ("mnist", "fed_avg", PAIRS): 0.9686,
    ("mnist", "scaffold", IID): 0.9906,
    ("mnist", "scaffold", MIXED): 0.9907,
    ("mnist", "scaffold", PAIRS): 0.9692,
    ("fashion-mnist", "fed_avg", IID): 0.8923,
    ("fashion-mnist", "fed_avg", MIXED): 0.8809,
    ("fashion-mnist", "fed_avg", PAIRS): 0.7810,
    ("fashion-mnist", "fed_nova", IID): 0.8936,
    ("fashion-mnist", "fed_nova", MIXED): 0.8822,
    ("fashion-mnist", "fed_nova", PAIRS): 0.7167,
}
"""Accuracies of https://flower.ai/docs/baselines/niid_bench.html, by data, strategy and partition."""


def _told(one: Round) -> None:
    print(f"round {one.number}: {one.test['accuracy']:.4f}, {one.seconds:.0f} s", file=sys.stderr, flush=True)


def play(asked: argparse.Namespace) -> dict[str, Any]:
    """Return the line of one cell."""
    images = load_images(asked.data)
    clients = deal(images.train, parse_partitioner(asked.partition), CLIENTS, seed=asked.seed)
    process = strategy(asked.strategy, **PLAN, decay=asked.decay, **OWN.get(asked.strategy, {}))
    settings = Settings(Uniform(CLIENTS), seed=asked.seed, workers=asked.workers, folder=asked.folder)
    began, before = time.perf_counter(), core_seconds()
    with Simulation(clients, TorchTrainer(niid_cnn), process, settings, test=Examples(*images.test)) as simulation:
        run = simulation.rounds(asked.rounds, observe=_told)
    accuracies = [round(one.test["accuracy"], 4) for one in run.history]
    as_published = asked.decay == 1 and asked.rounds == 50
    return {
        "name": "niid",
        **{key: value for key, value in vars(asked).items() if key != "published"},
        "folder": str(asked.folder) if asked.folder else None,
        "accuracy": accuracies[-1],
        "best": max(accuracies),
        "published": PUBLISHED.get((asked.data, asked.strategy, asked.partition)) if as_published else None,
        "seconds": round(time.perf_counter() - began, 1),
        "core_seconds": round(core_seconds() - before, 1),
        "accuracies": accuracies,
    }


def main() -> None:
    """Print one line of JSON for a cell, or for each that has a published figure."""
    parser = argparse.ArgumentParser(description="One cell of the table of niid_bench, or all.")
    parser.add_argument("--data", default="mnist", help="mnist or fashion-mnist")
    parser.add_argument("--partition", default=MIXED, help=f"{IID}, {MIXED}, {PAIRS}, or any other")
    parser.add_argument("--strategy", default="fed_avg", help="any strategy by its name")
    parser.add_argument(
        "--published", action="store_true", help="all cells with a published figure, one after the other"
    )
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--decay", type=float, default=1.0, help="of the learning rate a round; not published")
    parser.add_argument("--seed", type=int, default=0, help="of the partition and of the run")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="where the run is kept, or with --published all runs")
    asked = parser.parse_args()
    if not asked.published:
        print(json.dumps(play(asked)))
        return
    for data, name, partition in PUBLISHED:
        cell = {"data": data, "strategy": name, "partition": partition}
        folder = asked.folder and asked.folder / f"{data} {name} {partition.partition(':')[0]}"
        print(json.dumps(play(argparse.Namespace(**{**vars(asked), **cell, "folder": folder}))), flush=True)


if __name__ == "__main__":
    main()
