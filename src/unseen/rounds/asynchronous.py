"""Simulates buffered asynchronous aggregation: no client waits for another, the server steps whenever enough came in.

Source: J. Nguyen, K. Malik, H. Zhan, A. Yousefpour, M. Rabbat, M. Malek, D. Huba, "Federated Learning with Buffered
Asynchronous Aggregation", AISTATS 2022, Algorithm 1. So many clients are always in flight, each with the model of the
moment when it began; whoever comes in is replaced at once; every ``buffer`` updates make a step, in which each counts
by its age (``strategies.fed_buff``).

When who begins and comes in depends on the seed and the pace alone, not on what is trained. So a run is the same bit
for bit for any number of workers, and goes on from its folder, which holds the updates of those that were in flight.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from unseen.errors import DataError, UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.process import Examples, Memory, Process, Trainer, Update, stream
from unseen.learners.horizontal.strategies.fed_buff import aged
from unseen.rounds.pace import Pace
from unseen.rounds.run import Clients, Round, Run
from unseen.rounds.simulate import Settings, Simulation
from unseen.rounds.traffic import traffic_of


@dataclass(frozen=True, slots=True)
class Flight:
    """How many clients are under way, and how many make a step.

    Raises:
        UsageError: A number is not positive.
    """

    at_once: int = 100
    """Clients in flight at any time."""
    buffer: int = 10
    """Updates of one step of the server, K in the paper."""
    pace: Pace = field(default_factory=lambda: Pace(spread=1.0))

    def __post_init__(self) -> None:
        if self.at_once < 1 or self.buffer < 1:
            raise UsageError(f"a flight has one client at least, and a buffer of one update at least, found {self}")


@dataclass(frozen=True, slots=True, order=True)
class Ticket:
    """One training: it comes in at ``ends``; the earlier ticket comes first."""

    ends: float
    number: int
    client: ClientId
    version: int
    """Steps of the server that had been finished when it began."""


class Schedule:
    """Who begins and who comes in, step by step."""

    def __init__(self, ids: Sequence[ClientId], sizes: Sequence[int], flight: Flight, seed: int) -> None:
        filled = [(client, size) for client, size in zip(ids, sizes, strict=True) if size]
        if len(filled) < flight.at_once:
            raise UsageError(
                f"{flight.at_once} clients are to be in flight at once: there are {len(filled)} that have examples"
            )
        self._flight, self._seed = flight, seed
        self._sizes = dict(filled)
        self._resting = [client for client, _ in filled]
        self._flying: list[Ticket] = []
        self._tickets = self._steps = 0
        self.clock = 0.0
        """Simulated seconds."""

    @property
    def flying(self) -> Sequence[Ticket]:
        """Who is under way."""
        return self._flying

    def step(self) -> tuple[list[Ticket], list[Ticket]]:
        """Return the tickets that begin with the model as it is, and those whose updates make the next one.

        A quick client may be among both.
        """
        begun, landed = [], []
        if not self._tickets:
            begun += [self._begin() for _ in range(self._flight.at_once)]
        for _ in range(self._flight.buffer):
            ticket = heapq.heappop(self._flying)
            self.clock = ticket.ends
            landed.append(ticket)
            self._resting.append(ticket.client)
            begun.append(self._begin())
        self._steps += 1
        return begun, landed

    def _begin(self) -> Ticket:
        """Let one of the clients that rest begin, each with the same probability."""
        number = self._tickets
        self._tickets += 1
        place = int(stream(self._seed, number, "flight").integers(len(self._resting)))
        client = self._resting[place]
        self._resting[place] = self._resting[-1]
        self._resting.pop()
        seconds = self._flight.pace.seconds(self._seed, number, client, self._sizes[client])
        ticket = Ticket(self.clock + seconds, number, client, self._steps)
        heapq.heappush(self._flying, ticket)
        return ticket


class AsynchronousSimulation(Simulation):
    """One federation whose clients do not wait for each other; a *round* is a step of the server.

    Args:
        clients: Their examples.
        trainer: The model.
        process: ``fed_buff``, or another one whose clients keep nothing between rounds.
        flight: How many clients are under way, how long they take, how many make a step.
        settings: As of ``Simulation``; its cohort and faults play no part.
        test: Examples that no client has, to evaluate on.
    """

    def __init__(
        self,
        clients: Clients,
        trainer: Trainer,
        process: Process,
        flight: Flight,
        settings: Settings | None = None,
        *,
        test: Examples | None = None,
    ) -> None:
        self.flight, settings = flight, settings or Settings()
        self._schedule = Schedule(clients.ids, clients.sizes, flight, settings.seed)
        self._planned: tuple[list[Ticket], list[Ticket]] | None = None
        super().__init__(clients, trainer, process, settings, test=test)
        for _ in range(self.run.state.round):
            self._schedule.step()
        try:
            self._waiting = {ticket.number: self._store.parked(ticket.number) for ticket in self._schedule.flying}
        except DataError:
            self.close()
            raise

    def _play_round(self, *, last: bool) -> Run:
        began, state = time.monotonic(), self.run.state
        # A step that was cancelled is planned already.
        self._planned = begun, landed = self._planned or self._schedule.step()
        broadcast = self.process.distributor(state)
        for ticket, update in zip(begun, self._train([ticket.client for ticket in begun], broadcast), strict=True):
            self._park(ticket, update)
        updates = [aged(self._waiting[ticket.number], state.round - ticket.version) for ticket in landed]
        after, aggregate = self.process.next(state, updates)
        moved = traffic_of(self.process, broadcast, len(begun), updates)
        clock, metrics = self._schedule.clock, dict(aggregate.metrics)
        entry = Round(after.round, len(landed), 0, metrics, {}, 0.0, moved.up, moved.down, clock)
        run = self._finished(after, entry, began, last=last)
        self._planned = None
        flying = {ticket.number for ticket in self._schedule.flying}
        self._waiting = {number: update for number, update in self._waiting.items() if number in flying}
        self._store.unpark(flying)
        return run

    def _park(self, ticket: Ticket, update: Update) -> None:
        """Hold an update until it comes in."""
        # Alone: others of its array come in earlier.
        self._waiting[ticket.number] = replace(update, delta=update.delta.copy())
        if self.settings.folder is not None:
            self._store.park(ticket.number, update)

    def _keep(self, client: ClientId, number: int, memory: Memory) -> None:
        if memory:
            raise UsageError(
                f"{self.process.name} has clients that keep something from round to round, which has no order when "
                "nobody waits: use fed_buff, or another strategy without memory"
            )
        super()._keep(client, number, memory)

    def _check_cohorts(self) -> None:
        self.process.check_cohort(self.flight, len(self.clients.ids), first_come=True)

    def _description(self) -> dict[str, Any]:
        return {**super()._description(), "flight": repr(self.flight)}
