"""Every strategy, codec and robust rule on the same small problem: images of 15 clients that differ in their labels.

``python -m benchmarks.strategies [--rounds 50] [--table]`` prints one JSON line for each, or a table for people. The
1,797 images of scikit-learn's digits, less 360 to test on, are dealt to 15 clients by Dirichlet(0.3); every fifth image
of a client is kept from its training. The model is a perceptron with 32 hidden units, with normalisation for FedBN. All
clients train in all rounds, for 3 epochs in batches of 20. Where attackers are named, 3 of the 15 send −10 times their
update.

* ``accuracy``: of everybody's model on the 360 images, after so many rounds.
* ``own``: after the last round, the mean over clients of the accuracy of the model that each uses, on its own images.
"""

from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from unseen.data.federated.images import load_images
from unseen.data.federated.partition import Dirichlet, deal
from unseen.learners.horizontal.compression import Quantised, TopK, compressed
from unseen.learners.horizontal.neural.models import perceptron
from unseen.learners.horizontal.neural.trainer import TorchTrainer
from unseen.learners.horizontal.process import Assignment, Examples, Process, Update
from unseen.learners.horizontal.robust import aggregator, robust
from unseen.learners.horizontal.strategies import strategy
from unseen.rounds.cohort import Uniform
from unseen.rounds.evaluation import per_client
from unseen.rounds.simulate import Settings, Simulation

COUNT, ATTACKERS = 15, ("c0000", "c0005", "c0010")
PLAN = {"learning_rate": 0.1, "epochs": 3, "batch": 20}
ROUNDS = (5, 10, 20, 50)
_BARS = "▁▂▃▄▅▆▇█"


def normalised(features: int = 64, hidden: int = 32, classes: int = 10) -> nn.Sequential:
    """Return a perceptron whose inputs are normalised by each client for itself: ``local``."""
    names = ("flatten", "local", "dense", "relu", "head")
    layers = (
        nn.Flatten(),
        nn.BatchNorm1d(features),
        nn.Linear(features, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )
    return nn.Sequential(OrderedDict(zip(names, layers, strict=True)))


plain = partial(perceptron, 64, (32,))


def sixteenths(images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return pixels, 0 to 16, in [0, 1]."""
    return images.astype(np.float32) / np.float32(16)


@dataclass(frozen=True, slots=True)
class Attack:
    """A postprocessor: what it multiplies the updates of some clients by."""

    clients: tuple[str, ...]
    factor: float = -10.0

    def __call__(self, update: Update, assignment: Assignment) -> Update:
        """Return the update, changed if its client attacks."""
        if assignment.client not in self.clients:
            return update
        return replace(update, delta=np.float32(self.factor) * update.delta)


def attacked(process: Process) -> Process:
    """Return a process some of whose clients attack."""
    return replace(process, postprocessors=(*process.postprocessors, Attack(ATTACKERS)))


@dataclass(frozen=True, slots=True)
class Case:
    """One line of the table."""

    process: Process
    build: Callable[[], nn.Module] = plain


FED_AVG = strategy("fed_avg", **PLAN)
STRATEGIES: Mapping[str, Case] = {
    "clustered": Case(strategy("clustered", clusters=2, **PLAN)),
    "ditto": Case(strategy("ditto", **PLAN)),
    "fed_adagrad": Case(strategy("fed_adagrad", server_learning_rate=0.05, **PLAN)),
    "fed_adam": Case(strategy("fed_adam", server_learning_rate=0.02, **PLAN)),
    "fed_avg": Case(FED_AVG),
    "fed_avg_m": Case(strategy("fed_avg_m", beta=0.5, **PLAN)),
    "fed_bn": Case(strategy("fed_bn", local=("local",), **PLAN), normalised),
    "fed_buff": Case(strategy("fed_buff", **PLAN)),
    "fed_dyn": Case(strategy("fed_dyn", clients=COUNT, **PLAN)),
    "fed_nova": Case(strategy("fed_nova", **PLAN)),
    "fed_prox": Case(strategy("fed_prox", mu=0.1, **PLAN)),
    "fed_rep": Case(strategy("fed_rep", head=("head",), head_epochs=3, **PLAN)),
    "fed_sgd": Case(strategy("fed_sgd", learning_rate=0.5)),
    "fed_yogi": Case(strategy("fed_yogi", server_learning_rate=0.02, **PLAN)),
    "scaffold": Case(strategy("scaffold", clients=COUNT, **PLAN)),
}
CODECS: Mapping[str, Case] = {
    "fed_avg, top 1 %": Case(compressed(FED_AVG, TopK(0.01))),
    "fed_avg, top 10 %": Case(compressed(FED_AVG, TopK(0.1))),
    "fed_avg, 8 bits": Case(compressed(FED_AVG, Quantised(8))),
    "fed_avg, 4 bits": Case(compressed(FED_AVG, Quantised(4, bucket=64))),
}
RULES: Mapping[str, Case] = {
    "attacked: the mean": Case(attacked(FED_AVG)),
    "attacked: clipped": Case(attacked(robust(FED_AVG, aggregator("clipped")))),
    "attacked: median": Case(attacked(robust(FED_AVG, aggregator("median")))),
    "attacked: trimmed_mean": Case(attacked(robust(FED_AVG, aggregator("trimmed_mean", byzantine=3)))),
    "attacked: krum": Case(attacked(robust(FED_AVG, aggregator("krum", byzantine=3)))),
    "attacked: krum, 9 selected": Case(attacked(robust(FED_AVG, aggregator("krum", byzantine=3, select=9)))),
    "attacked: bulyan": Case(attacked(robust(FED_AVG, aggregator("bulyan", byzantine=3)))),
    "attacked: geometric_median": Case(attacked(robust(FED_AVG, aggregator("geometric_median")))),
}
CASES: Mapping[str, Case] = {**STRATEGIES, **CODECS, **RULES}


@dataclass(frozen=True, slots=True)
class Played:
    """What a case came to."""

    accuracies: Sequence[float]
    """Of everybody's model after each round."""
    own: float
    """Mean over clients of the accuracy that each has on its own images."""
    upload: float | None
    """Bytes of a client's update, where they are counted."""


def play(case: Case, rounds: int, seed: int = 0) -> Played:
    """Return what ``rounds`` rounds come to."""
    digits = load_images("digits")
    training, held = deal(digits.train, Dirichlet(0.3), COUNT, seed=0).halves(0.2, seed=0)
    trainer = TorchTrainer(case.build, convert=sixteenths)
    settings = Settings(Uniform(COUNT), seed=seed, workers=1)
    with Simulation(training, trainer, case.process, settings, test=Examples(*digits.test)) as simulation:
        run = simulation.rounds(rounds)
        own = per_client(trainer, held, simulation.personal, workers=1)["accuracy"].mean
    upload = run.history[-1].training.get("upload_bytes")
    return Played([one.test["accuracy"] for one in run.history], own, upload)


def sparkline(values: Sequence[float]) -> str:
    """Return some bars, from 0 to 1."""
    return "".join(_BARS[min(len(_BARS) - 1, int(value * len(_BARS)))] for value in values)


def _row(name: str, played: Played, at: Sequence[int]) -> str:
    found = " | ".join(f"{played.accuracies[number - 1]:.3f}" for number in at)
    every = max(1, len(played.accuracies) // 25)
    return f"| {name} | {found} | {played.own:.3f} | `{sparkline(played.accuracies[::every])}` |"


def main() -> None:
    """Print a line of JSON for each case, or a table."""
    parser = argparse.ArgumentParser(description="Every strategy, codec and robust rule on the same small problem.")
    parser.add_argument("--rounds", type=int, default=ROUNDS[-1])
    parser.add_argument("--only", nargs="*", choices=list(CASES), help="these alone")
    parser.add_argument("--table", action="store_true", help="a table for people")
    asked = parser.parse_args()
    at = [number for number in ROUNDS if number <= asked.rounds] or [asked.rounds]
    if asked.table:
        print(f"| | {' | '.join(f'round {number}' for number in at)} | own | rounds 1 to {asked.rounds} |")
        print(f"|---{'|---' * (len(at) + 2)}|")
    for name in asked.only or CASES:
        played = play(CASES[name], asked.rounds)
        accuracy = {str(number): round(played.accuracies[number - 1], 4) for number in at}
        line = {"name": name, "accuracy": accuracy, "own": round(played.own, 4), "upload_bytes": played.upload}
        print(_row(name, played, at) if asked.table else json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
