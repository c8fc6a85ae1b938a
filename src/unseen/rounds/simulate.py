"""Simulates horizontal learning: thousands of clients on one machine, the same bits for any number of workers.

A run is determined by its seed, its data, its process and its cohorts. Clients of a round are trained by worker
processes and added up in the order in which they were drawn. With a folder, the state after every round is kept
there, and a run that was stopped or killed goes on from it to the same end.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from unseen.codec import decode, encode_bytes
from unseen.dialogue import CancelToken
from unseen.errors import Cancelled, DataError
from unseen.ids import ClientId
from unseen.learners.horizontal.process import (
    Assignment,
    Broadcast,
    Examples,
    Memory,
    Process,
    State,
    Trainer,
    Update,
    Vector,
    beyond,
    stream,
)
from unseen.learners.horizontal.strategies.parts import personal_model
from unseen.rounds.checkpoint import Checkpoints, KeptState, pack, unpack
from unseen.rounds.cohort import Cohort, Uniform
from unseen.rounds.digest import digest_of
from unseen.rounds.pace import Faults
from unseen.rounds.run import Clients, Round, Run
from unseen.rounds.traffic import traffic_of
from unseen.rounds.workers import Closing, Workers, shared_floats

_CHUNK = 1000
"""Examples that are evaluated as one task."""
_GROUP, _NUMBERS = 32, 1 << 18
"""Clients that are handed out as one task: at most so many, with at most so many numbers in their models."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a simulation runs; only ``cohort``, ``seed``, ``faults`` and ``together`` change its result."""

    cohort: Cohort = field(default_factory=lambda: Uniform(10))
    seed: int = 0
    faults: Faults = field(default_factory=Faults)
    workers: int | None = None
    """All cores if ``None``."""
    together: bool = True
    """Whether clients are trained in groups where process and trainer gain by it (``Process.group``). The last bits
    are those of the groups, whatever the number of workers; without, they are those of real clients."""
    evaluate_every: int = 1
    """Rounds from one evaluation to the next; the last round of a call is evaluated anyway."""
    folder: Path | None = None
    """Where the run is kept; nowhere if ``None``."""


@dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """What a worker holds of a round."""

    given: int
    broadcast: Broadcast
    memory: Callable[[ClientId], Memory]


def _called(group: Sequence[ClientId]) -> str:
    return f"client {group[0]}" if len(group) == 1 else f"one of clients {group[0]} … {group[-1]}"


class Simulation(Closing):
    """One federation in one program.

    Args:
        clients: Their examples.
        trainer: The model.
        process: The algorithm.
        settings: Who takes part, how many workers, …
        test: Examples that no client has, to evaluate on.
    """

    def __init__(
        self,
        clients: Clients,
        trainer: Trainer,
        process: Process,
        settings: Settings | None = None,
        *,
        test: Examples | None = None,
    ) -> None:
        if not len(clients.ids):
            raise DataError("there are no clients")
        self.clients, self.trainer, self.process = clients, trainer, process
        self.settings, self.test = settings or Settings(), test
        self._check_cohorts()
        self._cancel: CancelToken | None = None
        self._stack = ExitStack()
        self._together = process.group(trainer) if self.settings.together else 1
        lasting = self.settings.folder is not None
        self._store = Checkpoints(self.settings.folder or self._temporary(), lasting=lasting)
        self._store.begin(self._description())
        self._scratch = self._temporary()
        count = self.settings.workers or len(os.sched_getaffinity(0))
        self._sizes = dict(zip(clients.ids, clients.sizes, strict=True))
        self._count = count
        self._most = self._together if self._together > 1 else max(1, min(_GROUP, _NUMBERS // trainer.size))
        self._deltas = shared_floats(count * self._most, trainer.size).reshape(count, self._most, -1)
        self._given = 0
        self._held: _Held | None = None
        self._workers = self._stack.enter_context(Workers(self._play, count, prepare=trainer.settle))
        self._run = self._first()

    def close(self) -> None:
        """End the workers and remove what was kept nowhere."""
        self._stack.close()

    @property
    def run(self) -> Run:
        """Where the simulation stands."""
        return self._run

    def personal(self, client: ClientId) -> Vector:
        """Return the model that a client uses: that of everyone, unless the strategy leaves each with its own."""
        state = self._run.state
        memory, examples = self._store.memory(client, state.round), Examples(*self.clients.client(client))
        rng = stream(self.settings.seed, state.round, client, "personal")
        broadcast = self.process.distributor(state)
        return personal_model(self.process, self.trainer, Assignment(client, broadcast, examples, memory, rng))

    def rounds(
        self, count: int, *, observe: Callable[[Round], None] | None = None, cancel: CancelToken | None = None
    ) -> Run:
        """Play rounds until ``count`` have been finished in all, those of an earlier call or process included.

        ``observe`` is told every finished round; ``cancel`` is looked at between clients.

        Raises:
            Cancelled: It was asked to stop; what is finished is kept.
            UnseenError: A client's work failed; the note says which.
        """
        self._cancel = cancel
        while self._run.state.round < count:
            self._look()
            self._run = self._play_round(last=self._run.state.round + 1 == count)
            if observe is not None:
                observe(self._run.history[-1])
        return self._run

    # --- one round

    def _play_round(self, *, last: bool) -> Run:
        began, state, settings = time.monotonic(), self._run.state, self.settings
        cohort = settings.cohort.choose(self.clients.ids, self.clients.sizes, state.round, settings.seed)
        broadcast = self.process.distributor(state)
        updates = self._train(cohort, broadcast)
        staying, took = settings.faults.heard(cohort, self._sizes, state.round, settings.seed)
        heard = [update for client, update in zip(cohort, updates, strict=True) if client in staying]
        after, aggregate = self.process.next(state, heard)
        clock = (self._run.history[-1].clock if self._run.history else 0.0) + took
        moved = traffic_of(self.process, broadcast, len(cohort), heard)
        missing = len(cohort) - len(heard)
        entry = Round(after.round, len(cohort), missing, dict(aggregate.metrics), {}, 0.0, moved.up, moved.down, clock)
        return self._finished(after, entry, began, last=last)

    def _train(self, cohort: Sequence[ClientId], broadcast: Broadcast) -> list[Update]:
        """Return the updates of clients that train on a broadcast, in their order; their differences are one array."""
        self._hand_out(broadcast)
        groups = self._groups(cohort)
        tasks = [("train", group, self._given) for group in groups]
        deltas = np.empty((len(cohort), self.trainer.size), np.float32)

        def collect(number: int, worker: int, answer: Any) -> list[Update]:
            """Take a group's updates out of the memory that its worker writes to."""
            self._look()
            own = deltas[number * len(groups[0]) :][: len(answer)]
            np.copyto(own, self._deltas[worker, : len(answer)])
            return [Update(delta, *rest) for delta, rest in zip(own, answer, strict=True)]

        found = self._workers.map(tasks, name=lambda n: _called(groups[n]), collect=collect)
        return list(chain.from_iterable(found))

    def _finished(self, after: State, entry: Round, began: float, *, last: bool) -> Run:
        """Evaluate a new state, and keep it with its entry in the history."""
        test = self.evaluate(after) if last or after.round % self.settings.evaluate_every == 0 else {}
        entry = replace(entry, test=test, seconds=round(time.monotonic() - began, 6))
        history = (*self._run.history, entry)
        self._store.save(after, [asdict(one) for one in history])
        return Run(after, history)

    def _groups(self, cohort: Sequence[ClientId]) -> list[Sequence[ClientId]]:
        """Return the cohort in pieces, small enough that all workers have something to do to the end.

        Pieces that are trained at once have one size whatever the number of workers: it changes the last bits.
        """
        size = self._together if self._together > 1 else max(1, min(self._most, len(cohort) // (4 * self._count)))
        return [cohort[place : place + size] for place in range(0, len(cohort), size)]

    def evaluate(self, state: State) -> dict[str, float]:
        """Return the metrics of a state's model on the examples to test on; nothing if there are none."""
        if self.test is None:
            return {}
        self._hand_out(Broadcast(state.round, state.model))
        starts = range(0, len(self.test), _CHUNK)
        tasks = [("test", start, self._given) for start in starts]
        parts = self._workers.map(tasks, name=lambda n: f"evaluation, part {n}", collect=lambda _n, _w, found: found)
        weights = [min(_CHUNK, len(self.test) - start) for start in starts]
        names = parts[0] if parts else {}
        return {
            name: sum(part[name] * weight for part, weight in zip(parts, weights, strict=True)) / sum(weights)
            for name in names
        }

    def _hand_out(self, broadcast: Broadcast) -> None:
        """Leave a broadcast where workers find it."""
        kept = KeptState(broadcast.round, broadcast.model, pack(broadcast.extra), "")
        path = self._scratch / "broadcast.next"
        path.write_bytes(encode_bytes(kept))
        path.replace(self._scratch / "broadcast")
        self._given += 1

    # --- in a worker

    def _play(self, worker: int, task: Any) -> Any:
        kind, what, given = task
        held = self._taken(given)
        if kind == "test":
            return self._tested(held.broadcast, what)
        if self._together > 1:
            assignments = [self._assignment(client, held) for client in what]
            found = self.process.group_round(self.trainer, assignments)
            return [
                self._leave(worker, place, assignment, *done)
                for place, (assignment, done) in enumerate(zip(assignments, found, strict=True))
            ]
        return [self._trained(worker, place, client, held) for place, client in enumerate(what)]

    def _trained(self, worker: int, place: int, client: ClientId, held: _Held) -> tuple[Any, ...]:
        """Train one client; return what it leaves."""
        try:
            assignment = self._assignment(client, held)
            return self._leave(worker, place, assignment, *self.process.client_round(self.trainer, assignment))
        except Exception as error:
            error.add_note(f"at client {client}")
            raise

    def _assignment(self, client: ClientId, held: _Held) -> Assignment:
        (inputs, labels), number = self.clients.client(client), held.broadcast.round
        rng = stream(self.settings.seed, number, client, "work")
        return Assignment(client, held.broadcast, Examples(inputs, labels), held.memory(client), rng)

    def _leave(
        self, worker: int, place: int, assignment: Assignment, update: Update, memory: Memory
    ) -> tuple[Any, ...]:
        """Leave a client's difference in the shared memory; return the rest of its update."""
        self._check(assignment.client, update)
        self._keep(assignment.client, assignment.broadcast.round, memory)
        self._deltas[worker, place] = update.delta
        return update.weight, dict(update.extra), dict(update.metrics)

    def _keep(self, client: ClientId, number: int, memory: Memory) -> None:
        """Keep what a client has after a round."""
        self._store.keep(client, number, memory)

    def _taken(self, given: int) -> _Held:
        """Return what the parent has left as number ``given``; a worker reads each once."""
        if self._held is None or self._held.given != given:
            kept = decode(KeptState, (self._scratch / "broadcast").read_bytes(), sender="broadcast")
            broadcast = Broadcast(kept.round, kept.model, unpack(kept.extra))
            self._held = _Held(given, broadcast, self._store.memories(kept.round))
        return self._held

    def _tested(self, broadcast: Broadcast, start: int) -> dict[str, float]:
        if self.test is None:
            return {}
        part = slice(start, start + _CHUNK)
        examples = Examples(self.test.inputs[part], self.test.labels[part])
        return dict(self.trainer.evaluate(broadcast.model, examples))

    def _check(self, client: ClientId, update: Update) -> None:
        if bad := beyond(update):
            raise DataError(
                f"the update of client {client} holds numbers that are not finite, or beyond 2^60, in "
                f"{', '.join(bad)}: its training diverged; lower the learning rate, or look for such values in its "
                "examples"
            )

    # --- beginning

    def _check_cohorts(self) -> None:
        settings = self.settings
        first_come = settings.faults.enough is not None
        self.process.check_cohort(settings.cohort, len(self.clients.ids), first_come=first_come)

    def _first(self) -> Run:
        kept = self._store.load()
        if kept is None:
            return Run(self.process.start(self.trainer.initial(self.settings.seed)), ())
        state, history = kept
        return Run(state, tuple(Round(**fields) for fields in history))

    def _description(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "process": digest_of(self.process),
            "cohort": repr(settings.cohort),
            "faults": repr(settings.faults),
            "group": self._together,
            "seed": settings.seed,
            "model size": self.trainer.size,
            "clients": len(self.clients.ids),
            "examples": int(sum(self.clients.sizes)),
        }

    def _temporary(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="unseen-rounds-")))

    def _look(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled("stopped on request; finished rounds are kept if the simulation has a folder")
