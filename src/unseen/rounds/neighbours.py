"""Gossip between real nodes: each trains, and exchanges models with its neighbours over a channel, within deadlines.

With all nodes there, a run has the bits of ``Gossip``. What goes wrong is kept to the nodes around:

* A share that does not come in time is left out of the round; since models are x/w, those that came are weighted anew
  by themselves. When it comes later it is added then. Until then its part of x and w is on its way, and the mean of
  all, Σx/Σw, is not changed by it.
* A share that certainly was not sent stays with its sender.
* A neighbour that was not heard in time is *apart*: what would be its share stays at home, and an empty one is sent, as
  a sign of life, until it is in time again, and has heard what was sent to it last. Of which a round heard nothing at
  all is not waited for until it sends anything. So a neighbour that is lost for good costs one deadline and what was on
  its way, and the others learn on without it. In a directed graph a node does not hear all to whom it gives: until the
  link to one that is lost breaks, it loses mass to it in every round. Therefore steps are in units of a node's mass,
  and not of 1 as in Assran's Algorithm 1: both agree while nothing is lost, and here models stay as they are if it is.
* A node that comes back finds its neighbours in later rounds. It gives no shares, of which it gets none either, but
  plays the rounds that they have been through by itself until it has caught up; they wait for it.
* Lost for good, and with it the mean moved by as much, is what was on its way when a process or a link ended, what a
  node had taken in after the last round that it kept, and what a refused node sent.
* A neighbour that sends another size, numbers that are not finite, a model beyond 2^60, no positive mass, or a round
  that has been, or that runs another process, is refused by name for the rest of the run; all others go on. A share
  with which a node would have more mass than all nodes together is left out, so that its own are not refused for it.

*Leakage*: neighbours see each other's models after every training, in the clear, so as much as a server does that sees
single updates. Noise for local differential privacy in the process is what protects. *Trust*: a neighbour can send any
model within bounds, with the mass of all n nodes: it pulls those around it by n times the share of the mixing matrix.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, decode, encode, message, shown
from unseen.dialogue import CancelToken
from unseen.errors import Cancelled, DataError, DeadlineExceeded, RemoteProtocolError, TransportError, UsageError
from unseen.ids import ClientId, JobId, PartyId
from unseen.learners.horizontal.mixing import model_of, only_delta, step_of
from unseen.learners.horizontal.private.charged import charge
from unseen.learners.horizontal.process import (
    LARGEST,
    Assignment,
    Broadcast,
    Examples,
    Process,
    State,
    Trainer,
    Vector,
    stream,
)
from unseen.learners.horizontal.topology import Topology
from unseen.rounds.checkpoint import Checkpoints
from unseen.rounds.digest import digest_of
from unseen.rounds.events import LOOK_SECONDS, Renewable
from unseen.rounds.notes import only_here
from unseen.rounds.run import Round, Run
from unseen.transport.channel import Channel

_LEAST = 2.0**-100
"""Of a mass: with less, models lose digits."""


@message("gossip/share")
class Share:
    """What a node has after its training in a round; the receiver takes its share of it."""

    run: str
    process: str
    """``digest_of`` the process."""
    topology: str
    """The graph and all nodes."""
    round: int
    row: Annotated[NDArray[np.float32], Shape(None)]
    """Its numbers x, and its mass w at the end; empty as a sign of life of one that keeps its share."""
    heard: int
    """The last round of which the sender has heard the receiver; −1: none."""


@dataclass(frozen=True, slots=True)
class NeighbourSettings:
    """How a node takes part; what stands after ``seed`` is a node's own choice.

    Raises:
        UsageError: A number is not what it has to be.
    """

    run: JobId
    nodes: tuple[PartyId, ...]
    """All nodes, in ascending order."""
    topology: Topology
    rounds: int
    """In all, those of an earlier process included."""
    seed: int = 0
    """Of the first model, which has to be common, and of what training draws."""
    deadline: float = 60.0
    """Seconds for which a round waits for its neighbours' shares, beginning when this node has trained."""
    folder: Path | None = None
    """Where the last round is kept; nowhere if ``None``."""
    evaluate_every: int = 1
    test: Examples | None = field(default=None, repr=False)
    """This node's own examples to evaluate its model on."""
    observe: Callable[[Round], None] | None = field(default=None, repr=False)
    """Is told every finished round."""

    def __post_init__(self) -> None:
        if list(self.nodes) != sorted(set(self.nodes)):
            raise UsageError("the nodes of a run are named in ascending order, each once")
        if min(self.rounds, self.evaluate_every) < 1 or not self.deadline > 0:
            raise UsageError(f"run {self.run}: rounds, evaluate_every and deadline are above 0")


@dataclass(frozen=True, slots=True, eq=False)
class Exchanged:
    """What became of a node's part in a run."""

    run: Run
    """The node's own model, and its history: ``cohort`` counts it and those it hears, ``dropped`` who was not heard."""
    refused: dict[PartyId, str] = field(default_factory=dict)
    """Neighbours that broke the rules, and how."""
    missed: dict[PartyId, int] = field(default_factory=dict)
    """In how many rounds of this process a neighbour's share did not come, where it missed any."""

    @property
    def troubles(self) -> dict[PartyId, str]:
        """What was wrong with neighbours, in words."""
        rounds = len(self.run.history)
        missed = {peer: f"was not heard in {count} of {rounds} rounds" for peer, count in self.missed.items()}
        return missed | {peer: f"is refused: {why}" for peer, why in self.refused.items()}


def neighbours_of(settings: NeighbourSettings, me: PartyId) -> frozenset[PartyId]:
    """Return to whom a node needs a link: all with whom it exchanges in any round, in either direction."""
    here, found = settings.nodes.index(me), set[int]()
    for number in range(settings.topology.period(len(settings.nodes))):
        exchange = settings.topology.mixing(len(settings.nodes), number)
        found |= {*exchange.sent_by(here), *exchange.sent_to(here)}
    return frozenset(settings.nodes[node] for node in found)


def exchange_models(
    channel: Channel,
    process: Process,
    trainer: Trainer,
    examples: Examples,
    settings: NeighbourSettings,
    *,
    cancel: CancelToken | None = None,
) -> Exchanged:
    """Play a node of gossip to its last round over ``channel``, which is closed; return its model and history.

    Raises:
        UsageError: The process cannot be used, the channel lacks a neighbour, or the folder holds another run. Another
            process works in it. Or there is none, and answers cost privacy.
        DataError: The training has diverged.
        Cancelled: The token was set; finished rounds are kept.
        PermissionDenied: A round would pass the budget of the process.
    """
    with channel, only_here(settings.run, process, settings.folder):
        missing = neighbours_of(settings, channel.party) - channel.peers if channel.party in settings.nodes else None
        if missing is None or missing:
            raise UsageError(
                f"{channel.party} is to be a node of {settings.topology.name} and linked to all its neighbours; "
                f"missing: {', '.join(sorted(missing or [channel.party]))}"
            )
        trainer.settle()
        node = _Node(channel, process, trainer, examples, settings, cancel)
        while node.run.state.round < settings.rounds:
            node.play()
            if settings.observe is not None:
                settings.observe(node.run.history[-1])
        with suppress(TransportError):
            channel.flush(settings.deadline)
        return Exchanged(node.run, node.refused, dict(node.missed))


class _Node:
    """One node, between two rounds."""

    def __init__(
        self,
        channel: Channel,
        process: Process,
        trainer: Trainer,
        examples: Examples,
        settings: NeighbourSettings,
        cancel: CancelToken | None,
    ) -> None:
        self._channel, self._process, self._trainer, self._examples = channel, process, trainer, examples
        self._settings, self._cancel, self._rate = settings, cancel, step_of(process)
        self._digest, self._graph = digest_of(process), f"{settings.topology}/{','.join(settings.nodes)}"
        self._here = settings.nodes.index(channel.party)
        self._ahead: dict[PartyId, Share] = {}
        self._last: dict[PartyId, int] = {}
        self._bytes = [0, 0]
        self.refused: dict[PartyId, str] = {}
        self.missed = Counter[PartyId]()
        self._quiet: set[PartyId] = set()
        """Who is not waited for."""
        self._apart: set[PartyId] = set()
        """Who is given no share."""
        self._told: dict[PartyId, list[int]] = {}
        """In which two rounds each was last sent anything."""
        self._store = Checkpoints(settings.folder) if settings.folder else None
        self._row, self.run = self._first()

    def _first(self) -> tuple[Vector, Run]:
        kept = None
        if self._store is not None:
            self._store.begin({"process": self._digest, "gossip": self._graph, "seed": self._settings.seed})
            kept = self._store.load()
        if kept is None:
            model = self._trainer.initial(self._settings.seed)
            return np.append(model, np.float32(1)), Run(State(0, model), ())
        state, history = kept
        return state.model, Run(State(state.round, model_of(state.model)), tuple(Round(**one) for one in history))

    def play(self) -> None:
        """Play one round."""
        began, number, settings = time.monotonic(), self.run.state.round, self._settings
        self._bytes = [0, 0]
        charge(self._process, number + 1)
        row, loss = self._trained(number)
        mixing = settings.topology.mixing(len(settings.nodes), number)
        total = row.astype(np.float64) * float(mixing.weights[self._here, 0])
        end = time.monotonic() + settings.deadline
        for node, weight in mixing.sent_by(self._here).items():
            if not self._sent(settings.nodes[node], number, row, end):
                total += weight * row.astype(np.float64)
        sources = [settings.nodes[node] for node in mixing.sent_to(self._here)]
        missing = [peer for peer in sources if not self._take(peer, number, total, end)]
        self.missed.update(missing)
        self._row = total.astype(np.float32)
        if self._row[-1] < _LEAST:
            raise DataError(
                f"{self._channel.party} has no mass left after round {number + 1}: what it gave to nodes that are gone "
                "did not come back; begin a run without them"
            )
        model = model_of(self._row)
        last = number + 1 == settings.rounds
        tested = last or (number + 1) % settings.evaluate_every == 0
        entry = Round(
            number=number + 1,
            cohort=1 + len(sources),
            dropped=len(missing),
            training={"loss": loss, "mass": float(self._row[-1])},
            test=dict(self._trainer.evaluate(model, settings.test)) if tested and settings.test is not None else {},
            seconds=round(time.monotonic() - began, 6),
            bytes_up=self._bytes[0],
            bytes_down=self._bytes[1],
        )
        self.run = Run(State(number + 1, model), (*self.run.history, entry))
        if self._store is not None:
            self._store.save(State(number + 1, self._row), [asdict(one) for one in self.run.history])

    def _trained(self, number: int) -> tuple[Vector, float]:
        me = self._channel.party
        broadcast = Broadcast(number, model_of(self._row))
        rng = stream(self._settings.seed, number, me, "work")
        assignment = Assignment(ClientId(me), broadcast, self._examples, {}, rng)
        update, memory = self._process.client_round(self._trainer, assignment)
        delta = only_delta(self._process, update, memory)
        if not np.isfinite(delta).all():
            raise DataError(f"the training of {me} diverged in round {number + 1}: lower the learning rate")
        row = self._row.copy()
        # In units of its own mass: steps would grow with what is lost of it otherwise.
        row[:-1] += np.float32(self._rate) * row[-1] * delta
        return row, float(update.metrics.get("loss", math.nan))

    # --- shares that go

    def _sent(self, peer: PartyId, number: int, row: Vector, end: float) -> bool:
        """Send what this node has to a neighbour; return whether it may arrive."""
        if peer in self.refused:
            return False

        def waiting() -> None:
            self._look()
            if time.monotonic() >= end:
                raise DeadlineExceeded(f"{peer} is too far behind")

        behind = any(share.round > number for share in self._ahead.values())
        if behind or peer in self._apart:
            row = row[:0]
        self._told[peer] = [*self._told.get(peer, ())[-1:], number]
        heard = self._last.get(peer, -1)
        parts = encode(Share(self._settings.run, self._digest, self._graph, number, row, heard))
        try:
            self._channel.send(peer, parts, waiting=waiting)
        except TransportError:
            return False
        self._bytes[0] += sum(len(part) for part in parts)
        return len(row) > 0

    # --- shares that come

    def _take(self, peer: PartyId, number: int, total: NDArray[np.float64], end: float) -> bool:
        """Add what a neighbour sends up to this round to ``total``; return whether its share of this round was there.

        Messages come in order: one of a later round says that there is none of this one.
        """
        heard = False
        self._apart.add(peer)
        while peer not in self.refused:
            patience = time.monotonic() if peer in self._quiet else end
            share = self._ahead.pop(peer, None) or self._heard(peer, patience)
            if share is None:
                if not heard:
                    self._quiet.add(peer)
                return False
            heard = True
            self._quiet.discard(peer)
            if share.round > number:
                self._ahead[peer] = share
                return False
            added = self._add(peer, share, total)
            if share.round == number:
                if share.heard >= max((told for told in self._told.get(peer, ()) if told < number), default=-1):
                    self._apart.discard(peer)
                return added
        return False

    def _add(self, peer: PartyId, share: Share, total: NDArray[np.float64]) -> bool:
        settings = self._settings
        if not len(share.row):
            return False
        mixing = settings.topology.mixing(len(settings.nodes), share.round)
        weight = mixing.sent_to(self._here).get(settings.nodes.index(peer), 0.0)
        taken = weight * share.row.astype(np.float64)
        if total[-1] + taken[-1] > len(settings.nodes):
            return False
        total += taken
        return True

    def _heard(self, peer: PartyId, end: float) -> Share | None:
        """Return a neighbour's next share, or ``None`` if none comes in time, or it is gone or refused."""
        while True:
            self._look()
            left = end - time.monotonic()
            try:
                frame = self._channel.receive(peer, max(0.0, min(left, LOOK_SECONDS)))
                self._bytes[1] += len(frame)
                return self._checked(peer, decode(Share, frame, sender=peer))
            except DeadlineExceeded:
                if left <= 0:
                    return None
            except RemoteProtocolError as error:
                self.refused[peer] = str(error)
                return None
            except TransportError:
                self._begin_anew(peer)
                return None

    def _begin_anew(self, peer: PartyId) -> None:
        """Be ready for a neighbour that is started again; one that this node dials needs a new channel."""
        if isinstance(self._channel, Renewable):
            with suppress(UsageError):
                self._channel.renew(peer)
        self._last.pop(peer, None)

    def _checked(self, peer: PartyId, share: Share) -> Share:
        mine = (self._settings.run, self._digest, self._graph)
        if (share.run, share.process, share.topology) != mine:
            raise RemoteProtocolError(
                f"{peer} takes part in run {shown(share.run)} with process {shown(share.process[:12])} and topology "
                f"{shown(share.topology)}, this is {mine[0]} with {mine[1][:12]} and {mine[2]}"
            )
        if len(share.row):
            self._check_row(peer, share.row)
        if not self._last.get(peer, -1) < share.round < self._settings.rounds:
            raise RemoteProtocolError(
                f"{peer}: expected a round after {self._last.get(peer, -1)} and before {self._settings.rounds}, found "
                f"{share.round}"
            )
        self._last[peer] = share.round
        return share

    def _check_row(self, peer: PartyId, row: Vector) -> None:
        if len(row) != len(self._row) or not np.isfinite(row).all():
            raise RemoteProtocolError(f"{peer}: expected {len(self._row)} finite numbers, found {len(row)}")
        mass = float(row[-1])
        if not 0 < mass <= len(self._settings.nodes):
            raise RemoteProtocolError(f"{peer}: expected a mass above 0, at most that of all nodes, found {mass}")
        if np.abs(row).max() > LARGEST * mass:
            raise RemoteProtocolError(f"{peer}: its model holds numbers beyond 2^60")

    def _look(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled(f"run {self._settings.run}: stopped on request; finished rounds are kept in its folder")
