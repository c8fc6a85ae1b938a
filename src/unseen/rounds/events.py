"""What happens in a deployed run: told to whoever watches, heard from all clients at once, kept attempt by attempt.

A channel is read one peer at a time. So the server has two threads a client, one that waits for what the client sends
and one that sends to it, and takes what came in, whoever it is from, out of one place. A client that sends faster than
the server reads is held back by its link, and one that does not read holds up nobody but itself.
"""

from __future__ import annotations

import queue
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np

from unseen.codec import Buffer
from unseen.errors import Cancelled, DeadlineExceeded, UnseenError, UsageError
from unseen.ids import ClientId, PartyId
from unseen.learners.horizontal.process import Update
from unseen.learners.horizontal.sums import Layout
from unseen.rounds.messages import Place
from unseen.rounds.traffic import Traffic, frame_bytes
from unseen.transport.channel import Channel

LOOK_SECONDS = 0.2
"""How often somebody who waits looks whether to stop; what arrives ends the waiting at once."""
_PAUSE = 0.1
_MOST_REFUSALS = 8
_FAREWELL = 10.0


# --- for people --------------------------------------------------------------------------------------------------


class What(StrEnum):
    """Kinds of events."""

    JOINED = "joined"
    """A client said hello, and runs the same as the server."""
    LOST = "lost"
    """The link to the other side is gone; it may come back."""
    ASSIGNED = "assigned"
    """A round was handed out, or came in."""
    ANSWERED = "answered"
    """An update was taken, or sent; in a secure round: is there, and kept by its client."""
    SUMMED = "summed"
    """A phase of the sum of a secure round begins; the note names what clients are to send."""
    REPEATED = "repeated"
    """A client sent the update again that it had sent before."""
    FAILED = "failed"
    """A client could not play its round."""
    REFUSED = "refused"
    """What a client sent does not count: it is malformed, or of another run."""
    LATE = "late"
    """An update of an older round or attempt was dropped."""
    DUPLICATE = "duplicate"
    """A second update of a client for the same round was dropped."""
    UNASKED = "unasked"
    """An update of a client that is not in the cohort was dropped."""
    AGAIN = "again"
    """An attempt at a round brought too little; there will be another one."""
    FINISHED = "finished"
    """The run is over."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened in a round; ``done`` of ``total`` clients have answered."""

    what: What
    round: int
    attempt: int = 0
    client: ClientId | None = None
    note: str = ""
    done: int = 0
    total: int = 0


Watch: TypeAlias = Callable[[Event], None]


# --- for the server ----------------------------------------------------------------------------------------------


@runtime_checkable
class Renewable(Protocol):
    """A channel that can begin a link anew; without it, a client that restarts is lost until the server restarts."""

    def renew(self, peer: PartyId) -> None:
        """Give the link to ``peer`` up with all that is on its way, and wait for a new one."""
        ...


@dataclass(frozen=True, slots=True)
class Heard:
    """A message of a client, or why its link is gone."""

    client: ClientId
    frame: Buffer | None = None
    lost: UnseenError | None = None


class _Mailbox:
    """What waits to be sent to one client: at most one word on where the run stands, the newest, and refusals."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._closed = False
        self._idle = True
        self._refusals: deque[Sequence[Buffer]] = deque(maxlen=_MOST_REFUSALS)
        self._newest: Sequence[Buffer] | None = None
        self._sends_newest = False

    def put(self, parts: Sequence[Buffer], *, refusal: bool) -> None:
        with self._changed:
            if refusal:
                self._refusals.append(parts)
            else:
                self._newest = parts
            self._idle = False
            self._changed.notify_all()

    def take(self) -> Sequence[Buffer] | None:
        """Return what to send next, as soon as there is something, or ``None`` once it is closed."""
        with self._changed:
            self._idle = not (self._refusals or self._newest)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._refusals or self._newest or self._closed)
            if self._closed:
                return None
            self._sends_newest = not self._refusals
            if self._refusals:
                return self._refusals.popleft()
            parts, self._newest = self._newest, None
            return parts

    def look(self) -> None:
        """Give a message up, in mid-sending, that need not be sent any more."""
        if self._closed or (self._sends_newest and self._newest is not None):
            raise Cancelled("a newer message takes its place")

    def settle(self, timeout: float) -> None:
        """Return when everything has been sent, at the latest after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or self._closed, timeout)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class Links:
    """The server's links to all its clients; closes the channel at its end."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._clients = {ClientId(peer): peer for peer in sorted(channel.peers)}
        self._came: queue.SimpleQueue[tuple[Heard, threading.Event]] = queue.SimpleQueue()
        self._taken: threading.Event | None = None
        self._closing = threading.Event()
        self._boxes = {client: _Mailbox() for client in self._clients}
        # By client, since each is counted by one thread alone.
        self._up, self._down = dict.fromkeys(self._clients, 0), dict.fromkeys(self._clients, 0)
        self._threads = [
            threading.Thread(target=work, args=(client,), name=f"{name} {client}", daemon=True)
            for client in self._clients
            for name, work in (("hear", self._hear), ("tell", self._tell))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def clients(self) -> tuple[ClientId, ...]:
        """All clients, by name."""
        return tuple(self._clients)

    def traffic(self) -> Traffic:
        """Return how many bytes of messages have come from all clients, and gone to them."""
        return Traffic(sum(self._up.values()), sum(self._down.values()))

    def next(self, timeout: float) -> Heard | None:
        """Return what came in next, or ``None`` if nothing does within ``timeout`` seconds.

        A client is not read further before what it sent has been dealt with: before ``next`` is called again.
        """
        if self._taken is not None:
            self._taken.set()
            self._taken = None
        try:
            heard, self._taken = self._came.get(timeout=max(timeout, 0.001))
        except queue.Empty:
            return None
        return heard

    def post(self, client: ClientId, parts: Sequence[Buffer], *, refusal: bool = False) -> None:
        """Send a message as soon as the link allows; but for refusals, only the newest one has to arrive."""
        self._boxes[client].put(parts, refusal=refusal)

    def finish(self, parts: Sequence[Buffer], clients: Iterable[ClientId]) -> None:
        """Send last words to these clients, and return when they are on their way."""
        told = [self._boxes[client] for client in clients]
        for box in told:
            box.put(parts, refusal=False)
        for box in told:
            box.settle(_FAREWELL)

    def close(self) -> None:
        """Close the channel and end all threads; may be called twice."""
        self._closing.set()
        for box in self._boxes.values():
            box.close()
        self._channel.close()
        while self._came.qsize() or self._taken is not None:
            self.next(0.0)
        for thread in self._threads:
            thread.join(_FAREWELL)

    # --- in threads

    def _hear(self, client: ClientId) -> None:
        while not self._closing.is_set():
            try:
                # Nothing here keeps the message, which may be large, while the next one is waited for.
                self._hand_in(self._counted(client, self._channel.receive(self._clients[client], 60 * LOOK_SECONDS)))
            except DeadlineExceeded:
                continue
            except UsageError:
                return  # the channel is closed
            except UnseenError as error:
                self._hand_in(Heard(client, None, error))
                self._begin_anew(self._clients[client])

    def _counted(self, client: ClientId, frame: Buffer) -> Heard:
        self._up[client] += len(frame)
        return Heard(client, frame)

    def _hand_in(self, heard: Heard) -> None:
        taken = threading.Event()
        self._came.put((heard, taken))
        while not (taken.wait(LOOK_SECONDS) or self._closing.is_set()):
            pass

    def _begin_anew(self, peer: PartyId) -> None:
        if isinstance(self._channel, Renewable) and not self._closing.is_set():
            self._channel.renew(peer)
        self._closing.wait(_PAUSE)

    def _tell(self, client: ClientId) -> None:
        box, peer = self._boxes[client], self._clients[client]
        while (parts := box.take()) is not None:
            try:
                self._channel.send(peer, parts, waiting=box.look)
                self._down[client] += frame_bytes(parts)
            except UsageError:
                box.close()  # as the channel is
            except UnseenError:
                continue  # whoever hears the client is told; its next hello has it sent again


# --- what has come of it -----------------------------------------------------------------------------------------


class Shelf:
    """Where updates wait for their aggregation: in memory up to a limit, those beyond in files that are mapped.

    So a cohort's updates may exceed the memory, whatever the aggregator wants to see of them at once.
    """

    def __init__(self, limit: int, folder: Path | None) -> None:
        self._left, self._folder = limit, folder

    def put(self, update: Update) -> Update:
        """Return the same update, in memory or in a file that goes with it."""
        vectors = [update.delta, *update.extra.values()]
        size = sum(vector.nbytes for vector in vectors)
        self._left -= size
        if self._left >= 0 or not size:
            return update
        with tempfile.TemporaryFile(dir=self._folder) as file:
            for vector in vectors:
                file.write(np.ascontiguousarray(vector).data)
            file.flush()
            whole = np.asarray(np.memmap(file, np.float32, mode="r"))
        ends = np.cumsum([len(vector) for vector in vectors])[:-1]
        delta, *extra = np.split(whole, ends)
        return replace(update, delta=delta, extra=dict(zip(update.extra, extra, strict=True)))


@dataclass(slots=True)
class Attempt:
    """One attempt at a round: who is asked, and what has come of it."""

    place: Place
    cohort: tuple[ClientId, ...]
    parts: Sequence[Buffer] = field(repr=False)
    """The assignment, encoded once for all."""
    fingerprint: bytes = field(repr=False)
    enough: int
    minimum: int
    shelf: Shelf
    answers: dict[ClientId, Update | Layout] = field(default_factory=dict, repr=False)
    """Updates, or in a secure round the layouts of those that stay with their clients."""
    notes: dict[ClientId, tuple[str, ...]] = field(default_factory=dict, repr=False)
    """With whom an update may have been summed already, as its client says in a secure round."""
    out: dict[ClientId, str] = field(default_factory=dict)
    """Who failed or was refused, and why."""

    @property
    def over(self) -> bool:
        """Whether waiting longer is of no use."""
        waiting = len(self.cohort) - len(self.answers) - len(self.out)
        hopeless = len(self.answers) + waiting < self.minimum
        return hopeless or waiting == 0 or len(self.answers) >= self.enough

    def waits_for(self, client: ClientId) -> bool:
        """Return whether a client still has to answer."""
        return client in self.cohort and client not in self.answers

    def add(self, client: ClientId, answer: Update | Layout) -> None:
        """Keep what a client has answered."""
        self.answers[client] = self.shelf.put(answer) if isinstance(answer, Update) else answer
        self.out.pop(client, None)

    def leave_out(self, client: ClientId, why: str) -> None:
        """Do not wait for a client any longer; it may still answer."""
        if self.waits_for(client):
            self.out[client] = why

    @property
    def answered(self) -> list[ClientId]:
        """Who has answered, in the order of the cohort, so that who was faster does not matter."""
        return [client for client in self.cohort if client in self.answers]

    def updates(self) -> dict[ClientId, Update]:
        """Return the updates, in the order of the cohort; none in a secure round."""
        found = {client: self.answers[client] for client in self.answered}
        return {client: answer for client, answer in found.items() if isinstance(answer, Update)}

    def layouts(self) -> dict[ClientId, Hashable]:
        """Return what each answer consists of; metrics of updates may differ, since those that all have are used."""
        return {
            client: answer if isinstance(answer, Layout) else Layout.of(answer).extra
            for client in self.answered
            for answer in (self.answers[client],)
        }

    def story(self, reasons: Mapping[ClientId, str]) -> str:
        """Return why this attempt has failed: what was with those who have not answered."""
        if len(self.cohort) < self.minimum:
            return f"the cohort has {len(self.cohort)} clients, and at least {self.minimum} are needed"
        silent = [client for client in self.cohort if client not in self.answers]
        told = [f"{client} {self.out.get(client, reasons[client])}" for client in silent]
        return (
            f"{len(self.answers)} of {len(self.cohort)} clients answered, and at least {self.minimum} are needed: "
            f"{'; '.join(told)}"
        )
