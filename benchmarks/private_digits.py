"""Digits of 3,383 clients under differential privacy: the accuracy that a stated ε leaves.

``python -m benchmarks.private_digits --epsilon 2 [--mechanism central]`` prints one JSON line. Clients are those of
``benchmarks.simulation``: as many as federated EMNIST has writers, 80 to 120 images of MNIST each. Noise is the least
for which the accountant states ε at δ = 1e-5; the run charges every round to a budget of just that ε.

=============  ==================================================  ===============================  ===================
mechanism      what                                                unit, neighbours                 whom clients trust
=============  ==================================================  ===============================  ===================
``tutorial``   the settings of TensorFlow Federated's tutorial,    client, add-or-remove            the server
               but for the images: perceptron with 200 and 200
               hidden units, 100 Poisson cohorts of 120, a bound
               that adapts, server momentum 0.9
``central``    ours: the same mechanism, a smaller model, larger   client, add-or-remove            the server
               cohorts, more local steps
``ftrl``       DP-FTRL: noise from a tree, everybody once in it    client, zero-out                 the server
``discrete``   discrete Gaussian noise of all in a modular sum     client, replace                  who adds the sum up
``local``      every client its own noise                          client, replace                  nobody
``example``    DP-SGD at every client                              example, add-or-remove           nobody
``none``       ours without bound and noise                        –                                the server
=============  ==================================================  ===============================  ===================

* ``accuracy``: on the 10,000 test images, after the last round; ``noise_multiplier``: noise over the bound of one unit.
* ``epsilon``, ``delta``, ``unit``, ``relation``: what the accountant states of all that was charged.

Secrets come from ``--seed`` here, so that a figure can be made again: a run on people's data takes ``Prg.fresh()``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import nn

from benchmarks.simulation import core_seconds
from unseen.crypto.prg import Prg
from unseen.data.federated.images import load_images
from unseen.data.federated.partition import DirichletWithOverlap, deal
from unseen.learners.horizontal.neural.models import logistic_regression, niid_cnn, perceptron
from unseen.learners.horizontal.neural.trainer import TorchTrainer
from unseen.learners.horizontal.private.central import Central, Plan, Sum
from unseen.learners.horizontal.private.clip import AdaptiveClip, Announce, Clip, Quantile
from unseen.learners.horizontal.private.distributed import (
    Code,
    Decode,
    DistributedPlan,
    Encode,
    ModularSum,
    step_for,
)
from unseen.learners.horizontal.private.dp_sgd import DpSgd, ExamplePlan
from unseen.learners.horizontal.private.ftrl import Ftrl, TreePlan
from unseen.learners.horizontal.private.local import LocalNoise
from unseen.learners.horizontal.private.sampling import EpochCohort, FixedCohort, PoissonCohort
from unseen.learners.horizontal.process import Examples, Finalizer, LocalPlan, Process
from unseen.learners.horizontal.strategies.fed_avg_m import MomentumStep
from unseen.learners.horizontal.strategies.parts import LocalTraining, SendModel, WeightedMean
from unseen.privacy import accounting
from unseen.privacy.epsilon import Budget, Limit
from unseen.privacy.events import Spend
from unseen.rounds.cohort import Cohort, Uniform
from unseen.rounds.run import Round
from unseen.rounds.simulate import Settings, Simulation

CLIENTS, DELTA, ABOUT, RUN = 3383, 1e-5, "writers of digits", "private-digits"
MODELS: Mapping[str, Callable[[], nn.Module]] = {
    "perceptron": perceptron,
    "small perceptron": partial(perceptron, hidden=(32,)),
    "cnn": niid_cnn,
    "logistic": logistic_regression,
}


@dataclass(frozen=True, slots=True)
class Job:
    """What is trained, apart from the noise."""

    model: str
    rounds: int
    cohort: int
    plan: LocalPlan
    clip: float
    adaptive: Quantile | None = None
    """In place of the bound ``clip``."""
    beta: float = 0.0
    """Momentum at the server."""
    server: float = 1.0
    """Learning rate there."""

    def step(self) -> Finalizer:
        """Return what the server does with a mean."""
        return MomentumStep(self.beta, self.server)


@dataclass(frozen=True, slots=True)
class Private:
    """A process with the noise that an ε needs."""

    process: Process
    cohort: Cohort
    noise: float
    fact: Spend | None
    """What a unit has spent in the end."""


Make = Callable[[Job, float, Prg, TorchTrainer], Private]


def _budget(fact: Spend, epsilon: float) -> Budget:
    return Budget(Limit(fact.about, epsilon, DELTA, fact.unit, fact.relation), accounting.epsilon)


def central(job: Job, epsilon: float, prg: Prg, _: TorchTrainer) -> Private:
    """Return noise on the sum of a Poisson cohort's clipped updates."""
    cohort, clip = PoissonCohort(job.cohort / CLIENTS, prg.derive("cohort")), job.adaptive or job.clip

    def plan(noise: float) -> Plan:
        stated = {"sampling": cohort.sampling(), "run": RUN, "about": ABOUT}
        return Plan(clip=clip, noise_multiplier=noise, expected=job.cohort, **stated)

    noise = accounting.calibrate(lambda z: [plan(z).spend(job.rounds)], epsilon, DELTA)
    fact = plan(noise).spend(job.rounds)
    step = Central(job.step(), plan(noise), _budget(fact, epsilon), prg.derive("noise"))
    sent = Announce(SendModel(), job.adaptive) if job.adaptive else SendModel()
    shorten = AdaptiveClip() if job.adaptive else Clip(job.clip)
    return Private(Process("DP-FedAvg", sent, LocalTraining(job.plan), Sum(), step, (shorten,)), cohort, noise, fact)


def ftrl(job: Job, epsilon: float, prg: Prg, _: TorchTrainer) -> Private:
    """Return noise from one tree, in which every client is once."""
    cohort = EpochCohort(job.cohort, prg.derive("cohort"))
    steps = cohort.rounds(CLIENTS)

    def plan(noise: float) -> TreePlan:
        stated = {"run": RUN, "about": ABOUT}
        return TreePlan(clip=job.clip, noise_multiplier=noise, steps=steps, expected=job.cohort, **stated)

    noise = accounting.calibrate(lambda z: [plan(z).spend(job.rounds)], epsilon, DELTA)
    fact = plan(noise).spend(job.rounds)
    step = Ftrl(job.step(), plan(noise), _budget(fact, epsilon), prg.derive("noise"))
    process = Process("DP-FTRL", SendModel(), LocalTraining(job.plan), Sum(), step, (Clip(job.clip),))
    return Private(process, cohort, noise, fact)


def discrete(job: Job, epsilon: float, prg: Prg, trainer: TorchTrainer) -> Private:
    """Return discrete Gaussian noise of every client in a cohort of fixed size, in a sum modulo 2^20."""
    cohort, count = FixedCohort(job.cohort, prg.derive("cohort")), job.cohort

    def plan(noise: float) -> DistributedPlan:
        deviation = noise * job.clip / math.sqrt(count)
        step = step_for(20, job.clip, trainer.size, count, deviation)
        code = Code(size=trainer.size, bound=job.clip, step=step, deviation=deviation, clients=count, bits=20)
        return DistributedPlan(code=code, seed=0, sampling=cohort.sampling(CLIENTS), run=RUN, about=ABOUT)

    noise = accounting.calibrate(lambda z: [plan(z).spend(job.rounds)], epsilon, DELTA)
    fact, code = plan(noise).spend(job.rounds), plan(noise).code
    step = Decode(job.step(), plan(noise), _budget(fact, epsilon))
    shorten = Encode(code, 0, job.rounds, prg.derive("noise"))
    process = Process("Distributed DP", SendModel(), LocalTraining(job.plan), ModularSum(code), step, (shorten,))
    return Private(process, cohort, noise, fact)


def local(job: Job, epsilon: float, prg: Prg, _: TorchTrainer) -> Private:
    """Return noise of every client on its own update; all take part in all rounds."""

    def postprocess(noise: float) -> LocalNoise:
        return LocalNoise(job.clip, noise, job.rounds, prg.derive("noise"))

    def fact(noise: float) -> Spend:
        return postprocess(noise).spend(RUN, "one writer", job.rounds)

    noise = accounting.calibrate(lambda z: [fact(z)], epsilon, DELTA)
    work, mean = LocalTraining(job.plan), WeightedMean(equal=True)
    process = Process("Local DP", SendModel(), work, mean, job.step(), (postprocess(noise),))
    return Private(process, Uniform(job.cohort), noise, fact(noise))


def example(job: Job, epsilon: float, prg: Prg, trainer: TorchTrainer) -> Private:
    """Return DP-SGD at clients, who come once an epoch; each step draws every fifth of some 100 examples."""
    cohort = EpochCohort(job.cohort, prg.derive("cohort"))
    turns, steps = -(-job.rounds // cohort.rounds(CLIENTS)), 5 * job.plan.epochs

    def plan(noise: float) -> ExamplePlan:
        counts = {"nominal": 100, "steps": steps, "rounds": turns}
        rate = job.plan.learning_rate
        return ExamplePlan(bound=job.clip, noise_multiplier=noise, rate=0.2, learning_rate=rate, **counts)

    noise = accounting.calibrate(lambda z: [plan(z).spend(RUN, "one writer", turns)], epsilon, DELTA)
    work = DpSgd(plan(noise), trainer, prg.derive("noise"))
    process = Process("DP-SGD at clients", SendModel(), work, WeightedMean(equal=True), job.step())
    return Private(process, cohort, noise, plan(noise).spend(RUN, "one writer", turns))


def none(job: Job, _epsilon: float, _prg: Prg, _trainer: TorchTrainer) -> Private:
    """Return plain averaging."""
    process = Process("FedAvgM", SendModel(), LocalTraining(job.plan), WeightedMean(equal=True), job.step())
    return Private(process, Uniform(job.cohort), 0.0, None)


TUTORIAL = Job("perceptron", 100, 120, LocalPlan(learning_rate=0.01, batch=128), 0.1, Quantile(deviation=6.0), beta=0.9)
OURS = Job("logistic", 40, 850, LocalPlan(learning_rate=0.1, epochs=2, batch=20), 0.5, beta=0.8)
LINEAR = LocalPlan(learning_rate=0.05, epochs=1, batch=20)
MECHANISMS: Mapping[str, tuple[Make, Job]] = {
    "tutorial": (central, TUTORIAL),
    "central": (central, OURS),
    "ftrl": (ftrl, Job("logistic", 8, 422, LINEAR, 0.5)),
    "discrete": (discrete, Job("logistic", 20, 850, LINEAR, 0.5)),
    "local": (local, Job("logistic", 2, CLIENTS, LINEAR, 0.5)),
    "example": (example, Job("logistic", 28, 120, LocalPlan(learning_rate=0.2, epochs=2), 1.0)),
    "none": (none, OURS),
}


def _overridden(job: Job, asked: argparse.Namespace) -> Job:
    """Return the job with what the command line says otherwise."""
    plan = replace(job.plan, **{key: getattr(asked, key) for key in PLANNED if getattr(asked, key) is not None})
    return replace(job, plan=plan, **{key: getattr(asked, key) for key in OWN if getattr(asked, key) is not None})


def _told(one: Round) -> None:
    if one.test:
        print(f"round {one.number}: {one.test['accuracy']:.4f}, {one.seconds:.1f} s", file=sys.stderr, flush=True)


PLANNED = {"learning_rate": float, "epochs": int}
OWN = {"model": str, "rounds": int, "cohort": int, "clip": float, "beta": float, "server": float}


def main() -> None:
    """Print one line of JSON."""
    parser = argparse.ArgumentParser(description="Digits under differential privacy: the accuracy that an ε leaves.")
    parser.add_argument("--epsilon", type=float, default=2.0)
    parser.add_argument("--mechanism", choices=sorted(MECHANISMS), default="central")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    for key, kind in {**PLANNED, **OWN}.items():
        parser.add_argument(f"--{key.replace('_', '-')}", type=kind, help="in place of the mechanism's own")
    asked = parser.parse_args()
    make, job = MECHANISMS[asked.mechanism]
    job = _overridden(job, asked)
    digits = load_images("mnist")
    clients = deal(digits.train, DirichletWithOverlap(1.0), CLIENTS, seed=0)
    trainer = TorchTrainer(MODELS[job.model])
    prg = Prg(hashlib.sha256(f"benchmark, public: {asked.seed}".encode()).digest())
    private = make(job, asked.epsilon, prg, trainer)
    settings = Settings(private.cohort, seed=asked.seed, workers=asked.workers, evaluate_every=5)
    began, before = time.perf_counter(), core_seconds()
    with Simulation(clients, trainer, private.process, settings, test=Examples(*digits.test)) as simulation:
        run = simulation.rounds(job.rounds, observe=_told)
    line: dict[str, Any] = {
        "name": "private_digits",
        "mechanism": asked.mechanism,
        "accuracy": round(run.test["accuracy"], 4),
        "noise_multiplier": private.noise,
        "seconds": round(time.perf_counter() - began, 1),
        "core_seconds": round(core_seconds() - before, 1),
        **{key: getattr(job, key) for key in OWN},
        **{key: getattr(job.plan, key) for key in PLANNED},
        "numbers": trainer.size,
        "seed": asked.seed,
    }
    if private.fact is not None:
        found = accounting.guarantee([private.fact], DELTA)
        line |= {"epsilon": math.ceil(found.epsilon * 1000) / 1000, "delta": DELTA, "by": found.method}
        line |= {"unit": str(found.unit), "relation": str(found.relation)}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
