"""Local training of a cohort, measured: the trainer beside the plain loop of PyTorch, one thread each.

``python -m benchmarks.training [--rounds 5]`` prints one JSON line. Clients have 80 to 120 pictures of 28 × 28, batch
20, one epoch, SGD 0.05; pictures are random, which changes nothing about the time. Models and cohorts are

* ``tutorial_cnn``: 32 filters 3×3, pool 2, dense 128, dense 10; 10 clients a round,
* ``niid_cnn``: 6 and 16 filters 5×5, dense 120, 84, 10; 10 clients, 10 epochs of batch 64, momentum 0.9,
* ``logistic_regression``: 784 × 10; 1,000 clients a round.

Each has ``plain_core_seconds`` and ``core_seconds`` a round (median), ``times`` (their quotient), ``difference``
(greatest, between the models after the first client) and ``first_core_seconds``, which has building and compiling in
it. The plain loop sums models as the trainer's round does. Rounds of both are measured in turn.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmarks.measure import core_seconds, peak_rss_mb
from unseen.learners.horizontal.neural import models
from unseen.learners.horizontal.neural.batches import minibatches
from unseen.learners.horizontal.neural.trainer import TorchTrainer
from unseen.learners.horizontal.process import Correction, Examples, LocalPlan, Vector, stream


@dataclass(frozen=True, slots=True)
class Workload:
    """One model, how its clients train, and how many do in a round."""

    name: str
    build: Callable[[], nn.Module]
    plan: LocalPlan
    cohort: int


WORKLOADS = (
    Workload("tutorial_cnn", models.tutorial_cnn, LocalPlan(0.05, 1, 20), 10),
    Workload("niid_cnn", models.niid_cnn, LocalPlan(0.01, 10, 64, momentum=0.9), 10),
    Workload("logistic_regression", models.logistic_regression, LocalPlan(0.05, 1, 20), 1000),
)


def clients(count: int) -> list[Examples]:
    """Return random examples of ``count`` clients."""
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        n = int(rng.integers(80, 121))
        pictures = rng.random((n, 28, 28), np.float32) * (rng.random((n, 28, 28)) < 0.2)
        found.append(Examples(pictures.astype(np.float32), rng.integers(0, 10, n)))
    return found


def plain_fit(module: nn.Module, start: Vector, examples: Examples, plan: LocalPlan, rng: np.random.Generator) -> None:
    """Train by autograd and ``torch.optim``, as a tutorial would."""
    with torch.no_grad():
        nn.utils.vector_to_parameters(torch.from_numpy(start.copy()), module.parameters())
    sgd = torch.optim.SGD(module.parameters(), lr=plan.learning_rate, momentum=plan.momentum)
    inputs, labels = torch.from_numpy(examples.inputs), torch.from_numpy(examples.labels)
    for rows in minibatches(len(labels), plan, rng):
        sgd.zero_grad()
        nn.functional.cross_entropy(module(inputs[rows]), labels[rows]).backward()
        sgd.step()


def plain_client(module: nn.Module, plan: LocalPlan) -> Callable[[Vector, Examples, np.random.Generator], Vector]:
    """Return what trains one client in the plain loop."""

    def train(start: Vector, examples: Examples, rng: np.random.Generator) -> Vector:
        rng.integers(2**62)
        plain_fit(module, start, examples, plan, rng)
        return nn.utils.parameters_to_vector(module.parameters()).detach().numpy()

    return train


def play(
    train: Callable[[Vector, Examples, np.random.Generator], Vector], model: Vector, cohort: list[Examples]
) -> tuple[Vector, float]:
    """Return the weighted mean of the models of a cohort, and its CPU seconds."""
    before = core_seconds()
    total, weight = np.zeros_like(model), 0
    for number, examples in enumerate(cohort):
        total += np.float32(len(examples)) * train(model, examples, stream(0, number))
        weight += len(examples)
    return total / np.float32(weight), core_seconds() - before


def measure(workload: Workload, rounds: int) -> dict[str, float]:
    """Return the figures of one workload."""
    cohort, plan = clients(workload.cohort), workload.plan
    began = core_seconds()
    trainer = TorchTrainer(workload.build)
    trainer.settle()
    model = trainer.initial(0)

    def ours(start: Vector, examples: Examples, rng: np.random.Generator) -> Vector:
        return trainer.fit(start, examples, plan, rng, Correction()).model

    mine = play(ours, model, cohort)[0]
    first = core_seconds() - began
    plain = plain_client(workload.build(), plan)
    difference = np.abs(ours(model, cohort[0], stream(0, 0)) - plain(model, cohort[0], stream(0, 0))).max()
    theirs, seconds, plain_seconds = mine, [], []
    for _ in range(rounds):
        mine, spent = play(ours, mine, cohort)
        theirs, plain_spent = play(plain, theirs, cohort)
        seconds.append(spent)
        plain_seconds.append(plain_spent)
    return {
        "cohort": workload.cohort,
        "core_seconds": round(statistics.median(seconds), 4),
        "plain_core_seconds": round(statistics.median(plain_seconds), 4),
        "times": round(statistics.median(plain_seconds) / statistics.median(seconds), 2),
        "difference": float(f"{difference:.2g}"),
        "first_core_seconds": round(first, 4),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Local training beside the plain loop of PyTorch.")
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    figures = {workload.name: measure(workload, asked.rounds) for workload in WORKLOADS}
    print(json.dumps({"name": "training", "rounds": asked.rounds, **figures, "peak_rss_mb": round(peak_rss_mb(), 1)}))


if __name__ == "__main__":
    main()
