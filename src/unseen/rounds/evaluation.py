"""What a run is worth: client by client, to the worst off, and beside training alone and on everybody's examples.

A mean over all examples hides who is badly served, so figures are taken at every client. Training alone is what a
client has without the others, pooled training what nobody may have: both start from the same model and train on by the
same plan, over each of their examples as often as the run did on average.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from unseen.errors import DataError, UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.process import Correction, Examples, LocalPlan, Trainer, Vector, stream
from unseen.rounds.gossip import Gossip
from unseen.rounds.run import Clients
from unseen.rounds.simulate import Simulation
from unseen.rounds.workers import Workers

ModelOf: TypeAlias = Callable[[ClientId], Vector]
"""The model that a client uses."""
Metrics: TypeAlias = Mapping[str, float]

_TENTH = 0.1


# --- client by client --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class PerClient:
    """One metric at every client that has examples to test on.

    Measures of fairness: the standard deviation and the mean of the worst tenth of clients (T. Li, M. Sanjabi, A.
    Beirami, V. Smith, "Fair Resource Allocation in Federated Learning", ICLR 2020, section 4), and Jain's index (R.
    Jain, D. Chiu, W. Hawe, DEC-TR-301, 1984): 1 if all clients have the same, 1/n if one has everything.
    """

    metric: str
    clients: tuple[ClientId, ...]
    sizes: NDArray[np.int64]
    """How many examples each was tested on, shape (clients,)."""
    values: NDArray[np.float64]
    """Shape (clients,)."""

    @property
    def mean(self) -> float:
        """Mean over clients, each counting the same."""
        return float(self.values.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over clients."""
        return float(self.values.std())

    @property
    def jain(self) -> float:
        """Jain's index; for a metric of which more is better, such as an accuracy."""
        squares = float(np.mean(self.values**2))
        return self.mean**2 / squares if squares else 1.0

    def worst(self, *, more_is_better: bool = True) -> float:
        """Return the mean over the worst tenth of the clients, one at least."""
        ranked = np.sort(self.values if more_is_better else -self.values)
        count = max(1, round(_TENTH * len(ranked)))
        return float(ranked[:count].mean()) * (1 if more_is_better else -1)

    def quantile(self, part: float) -> float:
        """Return the value below which ``part`` of the clients lie."""
        return float(np.quantile(self.values, part))


def per_client(
    trainer: Trainer, clients: Clients, model_of: ModelOf, *, workers: int | None = None
) -> dict[str, PerClient]:
    """Return all metrics of the trainer at every client that has examples.

    Args:
        trainer: The model.
        clients: Their examples to test on (``FederatedData.halves`` makes some).
        model_of: Which model each uses: ``lambda _: run.state.model``, or ``simulation.personal``.
        workers: How many processes evaluate; all cores if ``None``.

    Raises:
        DataError: No client has examples.
    """
    tested = [client for client, size in zip(clients.ids, clients.sizes, strict=True) if size]
    if not tested:
        raise DataError("no client has examples to test on: keep some of each (FederatedData.halves)")

    def job(_worker: int, client: ClientId) -> dict[str, float]:
        return dict(trainer.evaluate(model_of(client), Examples(*clients.client(client))))

    found = _played(trainer, job, tested, tested, workers)
    sizes = np.array([size for size in clients.sizes if size], np.int64)
    return {
        name: PerClient(name, tuple(tested), sizes, np.array([one[name] for one in found], np.float64))
        for name in found[0]
    }


# --- beside training alone, and pooled ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The same model, tested on the same examples, trained in three ways."""

    federated: Metrics
    pooled: Metrics
    alone: Mapping[ClientId, Metrics] = field(default_factory=dict)
    """Of some clients, each by its own examples."""

    def mean_alone(self) -> dict[str, float]:
        """Return the mean of each metric over the clients that trained alone."""
        found = list(self.alone.values())
        return {name: float(np.mean([one[name] for one in found])) for name in (found[0] if found else ())}

    def rows(self) -> list[tuple[str, Metrics]]:
        """Return the three, with names for people."""
        alone = f"alone (mean of {len(self.alone)} clients)"
        return [("federated", self.federated), ("pooled", self.pooled), (alone, self.mean_alone())]


def compare(
    simulation: Simulation | Gossip, plan: LocalPlan, *, pooled: LocalPlan | None = None, alone: int = 10
) -> Comparison:
    """Return a run's metrics beside those of training on pooled examples, and of some clients that train alone.

    Args:
        simulation: A run that has been played, with examples to test on.
        plan: How its clients train; a falling learning rate ends where that of the run did.
        pooled: How pooled training goes, if something else suits it better: without the mean over clients, a lower
            learning rate often does.
        alone: How many clients train alone, drawn by the run's seed; all if there are fewer.

    Raises:
        UsageError: Nothing has been played, or there is nothing to test on.
    """
    run, clients, test = simulation.run, simulation.clients, simulation.test
    if not run.history or test is None:
        raise UsageError("a comparison needs a run that has been played, and examples to test on")
    seed = simulation.settings.seed
    often = _participations(simulation)
    plan, other = (replace(one, decay=one.decay ** (run.state.round / often)) for one in (plan, pooled or plan))
    filled = [client for client, size in zip(clients.ids, clients.sizes, strict=True) if size]
    drawn = stream(seed, "alone").choice(len(filled), min(alone, len(filled)), replace=False)
    chosen = [filled[place] for place in sorted(drawn.tolist())]
    trainer, everybody = simulation.trainer, _pooled(clients, filled)

    def job(_worker: int, client: ClientId | None) -> dict[str, float]:
        if client is None:
            model = trained_alone(trainer, everybody, other, often, seed, "pooled")
        else:
            model = trained_alone(trainer, Examples(*clients.client(client)), plan, often, seed, client)
        return dict(trainer.evaluate(model, test))

    # The pooled training is the longest: it begins first.
    names = ["pooled training", *(f"client {client} alone" for client in chosen)]
    together, *found = _played(trainer, job, [None, *chosen], names, simulation.settings.workers)
    return Comparison(run.test, together, dict(zip(chosen, found, strict=True)))


def trained_alone(trainer: Trainer, examples: Examples, plan: LocalPlan, times: int, seed: int, name: str) -> Vector:
    """Return a fresh model after ``times`` trainings by the plan on the same examples."""
    model = trainer.initial(seed)
    for number in range(times):
        rng = stream(seed, number, name, "alone")
        model = trainer.fit(model, examples, plan.at(number), rng, Correction()).model
    return model


def _participations(simulation: Simulation | Gossip) -> int:
    """Return in how many rounds a client has taken part on average, rounded, one at least."""
    heard = sum(one.cohort - one.dropped for one in simulation.run.history)
    return max(1, round(heard / len(simulation.clients.ids)))


def _pooled(clients: Clients, filled: Sequence[ClientId]) -> Examples:
    parts = [clients.client(client) for client in filled]
    return Examples(np.concatenate([inputs for inputs, _ in parts]), np.concatenate([labels for _, labels in parts]))


def _played(
    trainer: Trainer,
    job: Callable[[int, ClientId | None], dict[str, float]] | Callable[[int, ClientId], dict[str, float]],
    tasks: Sequence[ClientId | None] | Sequence[ClientId],
    names: Sequence[str],
    workers: int | None,
) -> list[dict[str, float]]:
    """Return what the job makes of each task, by worker processes of one thread each."""
    count = min(workers or len(os.sched_getaffinity(0)), len(tasks))
    with Workers(job, count, prepare=trainer.settle) as pool:
        found: list[dict[str, float]] = pool.map(tasks, name=lambda n: names[n], collect=lambda _n, _w, one: one)
    return found
