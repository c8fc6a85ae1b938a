"""Simulates gossip: thousands of nodes train, and exchange models with their neighbours; there is no server.

A run is determined by its seed, its data, its process and its topology: the same bits for any number of workers, and
after a resume from the folder. All models lie in one array that workers share, and an exchange is one sparse product.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unseen.dialogue import CancelToken
from unseen.errors import Cancelled, DataError, UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.mixing import Rows, distance, mean_of, mixed, model_of, only_delta, step_of
from unseen.learners.horizontal.private.charged import charge
from unseen.learners.horizontal.process import Assignment, Broadcast, Examples, Process, State, Trainer, Vector, stream
from unseen.learners.horizontal.topology import Topology
from unseen.rounds.checkpoint import Checkpoints
from unseen.rounds.digest import digest_of
from unseen.rounds.run import Clients, Round, Run
from unseen.rounds.workers import Closing, Workers, shared_floats

_CHUNK = 1000
_GROUP = 32


@dataclass(frozen=True, slots=True)
class GossipSettings:
    """How gossip is simulated; only ``seed`` and ``drop`` change its result.

    Raises:
        UsageError: A number is not what it has to be.
    """

    seed: int = 0
    drop: float = 0.0
    """With this probability a node is down in a round: its neighbours keep what it would have got."""
    workers: int | None = None
    """All cores if ``None``."""
    evaluate_every: int = 1
    evaluated: int = 16
    """How many nodes' own models are evaluated beside the mean of all: as many as these, evenly spaced."""
    folder: Path | None = None
    """Where the run is kept; nowhere if ``None``."""

    def __post_init__(self) -> None:
        if self.evaluate_every < 1 or self.evaluated < 1:
            raise UsageError("evaluate_every and evaluated are at least 1")
        if not 0 <= self.drop < 1:
            raise UsageError(f"nodes are down with a probability from 0 to below 1, found {self.drop}")


class Gossip(Closing):
    """One federation without a server, in one program.

    Args:
        clients: Their examples; every client is a node and counts the same, however many examples it has.
        trainer: The model.
        process: ``fed_avg``, ``fed_prox`` or ``fed_sgd``: how a node trains between two exchanges, and what of clipping
            and noise it puts on the change; its server's learning rate is a factor before that.
        topology: Who exchanges with whom.
        settings: The seed, how many workers, …
        test: Examples that no client has, to evaluate on.

    The state of a run is the mean of all models, which no node knows; ``models`` has them all.
    """

    def __init__(
        self,
        clients: Clients,
        trainer: Trainer,
        process: Process,
        topology: Topology,
        settings: GossipSettings | None = None,
        *,
        test: Examples | None = None,
    ) -> None:
        self.clients, self.trainer, self.process, self.topology = clients, trainer, process, topology
        self.settings, self.test, self._rate = settings or GossipSettings(), test, step_of(process)
        self._ids: Sequence[ClientId] = list(clients.ids)
        nodes = len(self._ids)
        self._exchanges = [topology.mixing(nodes, number) for number in range(topology.period(nodes))]
        self._cancel: CancelToken | None = None
        with ExitStack() as stack:
            self._store = Checkpoints(self.settings.folder) if self.settings.folder else None
            if self._store:
                self._store.begin(self._description())
            self._rows = shared_floats(len(self._ids), trainer.size + 1)
            self._mean = shared_floats(1, trainer.size)
            self._run = self._first()
            count = self.settings.workers or len(os.sched_getaffinity(0))
            stack.enter_context(workers := Workers(self._play, count, prepare=trainer.settle))
            self._workers, self._stack = workers, stack.pop_all()

    def close(self) -> None:
        """End the workers and remove what was kept nowhere."""
        self._stack.close()

    @property
    def run(self) -> Run:
        """Where the run stands; its state is the mean of all models."""
        return self._run

    @property
    def models(self) -> Rows:
        """Every node's model, shape (n, size), in the order of the clients."""
        models: Rows = self._rows[:, :-1] / self._rows[:, -1:]
        return models

    def rounds(
        self, count: int, *, observe: Callable[[Round], None] | None = None, cancel: CancelToken | None = None
    ) -> Run:
        """Play rounds until ``count`` have been finished in all, those of an earlier call or process included.

        Raises:
            Cancelled: It was asked to stop; what is finished is kept, and goes on with a new object.
            PermissionDenied: A round would pass the budget of the process.
            UnseenError: A client's work failed; the note says whose.
        """
        self._cancel = cancel
        while self._run.state.round < count:
            self._look()
            self._run = self._play_round(last=self._run.state.round + 1 == count)
            if observe is not None:
                observe(self._run.history[-1])
        return self._run

    def _play_round(self, *, last: bool) -> Run:
        began, number, settings = time.monotonic(), self._run.state.round, self.settings
        charge(self.process, number + 1)
        down = stream(settings.seed, number, "down").random(len(self._ids)) < settings.drop
        losses = self._trained(number, np.flatnonzero(~down).tolist())
        exchange = self._exchanges[number % len(self._exchanges)]
        if down.any():
            exchange = exchange.without(down)
        self._rows[:] = mixed(self._rows, exchange)
        sent = int(((exchange.weights > 0) & (exchange.sources != np.arange(len(self._ids))[:, None])).sum())
        state = State(number + 1, mean_of(self._rows))
        test = self.evaluate(state.model) if last or state.round % settings.evaluate_every == 0 else {}
        entry = Round(
            number=state.round,
            cohort=len(self._ids),
            dropped=int(down.sum()),
            training={
                "loss": math.fsum(losses) / len(losses) if losses else math.nan,
                "consensus_distance": distance(self._rows),
            },
            test=test,
            seconds=round(time.monotonic() - began, 6),
            bytes_up=4 * self._rows.shape[1] * sent,
            bytes_down=4 * self._rows.shape[1] * sent,
        )
        history = (*self._run.history, entry)
        if self._store:
            self._store.save(State(state.round, self._rows.ravel()), [asdict(one) for one in history])
        return Run(state, history)

    def _trained(self, number: int, nodes: list[int]) -> list[float]:
        """Let nodes train, each in its own row; return their losses."""
        groups = [nodes[start : start + _GROUP] for start in range(0, len(nodes), _GROUP)]
        tasks = [("train", number, group) for group in groups]
        found = self._workers.map(tasks, name=lambda n: f"one of nodes {groups[n]}", collect=self._collect)
        return [loss for losses in found for loss in losses]

    def evaluate(self, mean: Vector) -> dict[str, float]:
        """Return the metrics of the mean model, and of the nodes' own: mean, lowest and highest; nothing without test.

        ``mean_accuracy`` is the mean of the nodes' accuracies, ``lowest_accuracy`` that of the worst.
        """
        if self.test is None:
            return {}
        self._mean[0] = mean
        count = min(self.settings.evaluated, len(self._ids))
        nodes = [-1, *sorted({place * len(self._ids) // count for place in range(count)})]
        tasks = [("test", 0, [node]) for node in nodes]
        found = self._workers.map(tasks, name=lambda n: f"evaluation of node {nodes[n]}", collect=self._collect)
        metrics: dict[str, float] = dict(found[0])
        for name in found[0]:
            own = [one[name] for one in found[1:]]
            metrics |= {
                f"mean_{name}": math.fsum(own) / len(own),
                f"lowest_{name}": min(own),
                f"highest_{name}": max(own),
            }
        return metrics

    def _collect(self, number: int, worker: int, answer: Any) -> Any:
        del number, worker
        self._look()
        return answer

    # --- in a worker

    def _play(self, worker: int, task: Any) -> Any:
        del worker
        kind, number, nodes = task
        if kind == "test":
            return self._tested(self._mean[0] if nodes[0] < 0 else model_of(self._rows[nodes[0]]))
        return [self._train(number, node) for node in nodes]

    def _train(self, number: int, node: int) -> float:
        client, row = self._ids[node], self._rows[node]
        inputs, labels = self.clients.client(client)
        rng = stream(self.settings.seed, number, client, "work")
        assignment = Assignment(client, Broadcast(number, model_of(row)), Examples(inputs, labels), {}, rng)
        update, memory = self.process.client_round(self.trainer, assignment)
        delta = only_delta(self.process, update, memory)
        if not np.isfinite(delta).all():
            raise DataError(f"the training of client {client} diverged: lower the learning rate")
        row[:-1] += np.float32(self._rate) * delta
        return float(update.metrics.get("loss", math.nan))

    def _tested(self, model: Vector) -> Mapping[str, float]:
        test = self.test
        if test is None:
            return {}
        slices = [slice(start, start + _CHUNK) for start in range(0, len(test), _CHUNK)]
        chunks = [Examples(test.inputs[part], test.labels[part]) for part in slices]
        found = [self.trainer.evaluate(model, chunk) for chunk in chunks]
        return {
            name: math.fsum(one[name] * len(chunk) for one, chunk in zip(found, chunks, strict=True)) / len(test)
            for name in found[0]
        }

    # --- beginning

    def _first(self) -> Run:
        kept = self._store.load() if self._store else None
        if kept is None:
            model = self.trainer.initial(self.settings.seed)
            self._rows[:, :-1], self._rows[:, -1] = model, 1.0
            return Run(State(0, model), ())
        state, history = kept
        self._rows[:] = state.model.reshape(self._rows.shape)
        return Run(State(state.round, mean_of(self._rows)), tuple(Round(**fields) for fields in history))

    def _description(self) -> dict[str, Any]:
        return {
            "gossip": repr(self.topology),
            "process": digest_of(self.process),
            "drop": self.settings.drop,
            "seed": self.settings.seed,
            "model size": self.trainer.size,
            "clients": len(self._ids),
            "examples": int(sum(self.clients.sizes)),
        }

    def _look(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled("stopped on request; finished rounds are kept if the run has a folder")
