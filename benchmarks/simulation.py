"""Simulated horizontal learning on digits, beside a plain loop in PyTorch with the same clients and cohorts.

``python -m benchmarks.simulation --cohort 10 --rounds 20 [--workers 2]`` prints one JSON line. 3,383 clients hold 80 to
120 images of MNIST, with label mixes drawn from Dirichlet(1.0); each trains the tutorial's CNN for one epoch in batches
of 20 with learning rate 0.05. The images are looked for where ``load_images`` says (``UNSEEN_DATA`` names a folder).

* ``seconds_per_round``: median over the rounds; ``core_seconds_per_round``: of all processes, from the beginning of the
  simulation to its end, by the number of rounds; ``build_core_seconds``: of making the trainer before, with the loading
  of compiled loops, once a process.
* ``first_seconds``: from the beginning of the simulation to the end of its first round, without imports and data.
* ``accuracy``: on the 10,000 test images, after the last round; ``…_plain``: of the plain loop, which draws its batches
  in another order.
* ``peak_rss_mb``: of the largest process.
* ``plain_torch_…``: a loop over the cohort, one module, one thread, afterwards in the same process.
* ``--peer NAME=PYTHON`` (may be repeated) runs another system after it, with the interpreter of that system's own
  environment: the same clients, cohorts, first model and plan. ``NAME_…`` are the keys above, except that its
  core-seconds are the median over the rounds, without what it takes to start and to compile; ``NAME_error`` says why
  there are none, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks import other_systems
from benchmarks.measure import peak_rss_mb
from unseen.data.federated.clients import Labelled
from unseen.data.federated.images import load_images
from unseen.data.federated.partition import DirichletWithOverlap, deal
from unseen.ids import ClientId
from unseen.learners.horizontal.neural.models import logistic_regression, tutorial_cnn
from unseen.learners.horizontal.neural.trainer import TorchTrainer
from unseen.learners.horizontal.process import Examples, LocalPlan
from unseen.learners.horizontal.strategies.fed_avg import fed_avg
from unseen.rounds.cohort import Uniform
from unseen.rounds.run import Clients
from unseen.rounds.simulate import Settings, Simulation

PLAN = LocalPlan(learning_rate=0.05, epochs=1, batch=20)
MODELS = {"cnn": tutorial_cnn, "logistic": logistic_regression}


def core_seconds() -> float:
    """Return the CPU seconds of this process and of those of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained."""

    clients: Clients
    test: Examples
    cohort: int
    rounds: int
    build: Callable[[], nn.Module]

    def names(self, number: int) -> list[ClientId]:
        """Return the clients of a round."""
        settings = Settings(Uniform(self.cohort))
        return settings.cohort.choose(self.clients.ids, self.clients.sizes, number, settings.seed)


def simulated(job: Job, workers: int) -> dict[str, Any]:
    """Return what the product takes; children's CPU is known once they have ended, so it is that of the whole run."""
    before = core_seconds()
    trainer = TorchTrainer(job.build)
    built = core_seconds() - before
    settings = Settings(Uniform(job.cohort), workers=workers, evaluate_every=job.rounds)
    before, ends = core_seconds(), [time.perf_counter()]
    with Simulation(job.clients, trainer, fed_avg(PLAN), settings) as simulation:
        simulation.rounds(job.rounds, observe=lambda _: ends.append(time.perf_counter()))
        model = simulation.run.state.model
    spent = core_seconds() - before
    return {
        "seconds_per_round": statistics.median(np.diff(ends)),
        "core_seconds_per_round": spent / job.rounds,
        "build_core_seconds": built,
        "first_seconds": ends[1] - ends[0],
        "accuracy": trainer.evaluate(model, job.test)["accuracy"],
    }


def plain(job: Job) -> dict[str, Any]:
    """Return what a loop in PyTorch takes."""
    torch.set_num_threads(1)
    model, local = job.build(), job.build()
    optimiser = torch.optim.SGD(local.parameters(), lr=PLAN.learning_rate)
    seconds, cores = [], []
    for number in range(job.rounds):
        began, before = time.perf_counter(), core_seconds()
        _plain_round(model, local, optimiser, [job.clients.client(name) for name in job.names(number)])
        seconds.append(time.perf_counter() - began)
        cores.append(core_seconds() - before)
    return {
        "plain_torch_seconds_per_round": statistics.median(seconds),
        "plain_torch_core_seconds_per_round": statistics.median(cores),
        "accuracy_plain": _accuracy(model, job.test),
    }


def _plain_round(model: nn.Module, local: nn.Module, optimiser: torch.optim.Optimizer, cohort: list[Any]) -> None:
    sums = [torch.zeros_like(each) for each in model.parameters()]
    total = 0
    for inputs, labels in cohort:
        local.load_state_dict(model.state_dict())
        x, y = _tensor(inputs), torch.from_numpy(labels)
        for rows in torch.randperm(len(y)).split(PLAN.batch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(local(x[rows]), y[rows]).backward()
            optimiser.step()
        with torch.no_grad():
            for into, each in zip(sums, local.parameters(), strict=True):
                into.add_(each, alpha=len(y))
        total += len(y)
    with torch.no_grad():
        for each, into in zip(model.parameters(), sums, strict=True):
            each.copy_(into / total)


def _tensor(images: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(images)).float().div_(255).unsqueeze(1)


def workload(job: Job, pooled: Labelled, asked: argparse.Namespace) -> dict[str, Any]:
    """Return what the drivers of other systems get."""
    numbers = {name: number for number, name in enumerate(job.clients.ids)}
    dealt = deal((np.arange(len(pooled.labels)), pooled.labels), DirichletWithOverlap(1.0), asked.clients, seed=0)
    rows = [dealt.client(name)[0] for name in dealt.ids]
    torch.manual_seed(0)
    weights = [each.detach().numpy() for each in job.build().parameters()]
    return {
        **{f"weight_{place}": weight for place, weight in enumerate(weights)},
        "weights": len(weights),
        "images": pooled.inputs,
        "labels": pooled.labels,
        "test_images": job.test.inputs,
        "test_labels": job.test.labels,
        "rows": np.concatenate(rows),
        "ends": np.cumsum([len(own) for own in rows]),
        "cohorts": [[numbers[name] for name in job.names(number)] for number in range(job.rounds)],
        "model": asked.model,
        "learning_rate": PLAN.learning_rate,
        "batch": PLAN.batch,
        "epochs": PLAN.epochs,
    }


@torch.no_grad()
def _accuracy(model: nn.Module, test: Examples) -> float:
    found = torch.cat([model(_tensor(part)).argmax(1) for part in np.array_split(test.inputs, 10)])
    return float((found == torch.from_numpy(np.array(test.labels))).float().mean())


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description="Simulated horizontal learning, beside a plain loop in PyTorch.")
    parser.add_argument("--cohort", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--clients", type=int, default=3383)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", choices=MODELS, default="cnn", help="the tutorial's CNN, or logistic regression")
    parser.add_argument("--set", default="mnist", help="a set of images, as load_images has them")
    parser.add_argument("--peer", action="append", default=[], type=other_systems.system, metavar="NAME=PYTHON")
    asked = parser.parse_args()
    peers = vars(asked).pop("peer")
    digits = load_images(asked.set)
    clients = deal(digits.train, DirichletWithOverlap(1.0), asked.clients, seed=0)
    job = Job(
        clients, Examples(digits.test.inputs, digits.test.labels), asked.cohort, asked.rounds, MODELS[asked.model]
    )
    found = simulated(job, asked.workers)
    line = {"name": "simulation", **vars(asked), **found, "peak_rss_mb": peak_rss_mb(), **plain(job)}
    if peers:
        line.update(other_systems.run(peers, workload(job, digits.train, asked)))
    print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in line.items()}))
    failed = [f"{key.removesuffix('_error')}: {why}" for key, why in line.items() if key.endswith("_error")]
    if failed:
        sys.exit("\n".join(failed))


if __name__ == "__main__":
    main()
