"""Attends a deployed run as one client: trains whenever the server asks, and sends what the process lets out.

The process, trainer and examples are this client's own, made by its own program; the server sends numbers only. What a
client keeps from round to round stays in its folder, as in a simulation. There is also its last answer: an assignment
that comes again, since the connection broke or the server was killed, is answered with the same bytes, without
training again. A client that was killed and is started again with the same folder and seed goes on likewise.

Where answers cost privacy (local and distributed noise, DP-SGD), the client does not believe what the server calls a
round: it counts by itself, durably, and answers no more than its ε allows (``answered``).

If the process's aggregator is a sum, the answer stays in the folder: the server is told that it is there, and then the
client takes part in the sum (``secure_round``). A client that is started again in mid-sum is out of that sum, as one
that dropped out, and there for the next one.

Its random numbers come from the seed that it is given, the round and its name. With the seed of the federation the run
is bit for bit that of a simulation; a seed of its own is kept from everybody. (Noise for privacy has a secret key of
its own, whatever the seed: see ``learners.horizontal.private``.)
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from unseen.dialogue import CancelToken
from unseen.errors import (
    Cancelled,
    DeadlineExceeded,
    HandshakeRefused,
    PeerFailed,
    PeerUnreachable,
    PermissionDenied,
    RemoteProtocolError,
    TransportError,
    UnseenError,
    UsageError,
)
from unseen.ids import ClientId, PartyId
from unseen.learners.horizontal.compression.compressed import Compressed
from unseen.learners.horizontal.compression.encoded import Encoded
from unseen.learners.horizontal.private.limit import limited_parts
from unseen.learners.horizontal.process import (
    Assignment,
    Examples,
    Memory,
    Process,
    State,
    Trainer,
    Update,
    beyond,
    stream,
)
from unseen.learners.horizontal.sums import Layout
from unseen.rounds.answered import Answers
from unseen.rounds.checkpoint import Checkpoints
from unseen.rounds.digest import codec_of, digest_of, sum_of
from unseen.rounds.events import LOOK_SECONDS, Event, What
from unseen.rounds.messages import (
    Answer,
    Assigned,
    ClientWord,
    Diverged,
    Failed,
    Finished,
    Hello,
    KeptAnswer,
    Place,
    Refusal,
    ServerWord,
    Standing,
    Summing,
    SumStep,
    answer_with,
    broadcast_in,
    fingerprint,
    printable,
    ready_with,
    said_by_client,
    server_word,
    update_in,
    what_to_tell,
)
from unseen.rounds.notes import Notes, client_folder
from unseen.rounds.secure_round import ClientSums
from unseen.rounds.settings import AttendSettings
from unseen.transport.channel import Channel

__all__ = ["AttendSettings", "Attendance", "attend"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


@dataclass(frozen=True, slots=True)
class Attendance:
    """What a client did in a run."""

    rounds: int
    """How many rounds the run had."""
    trained: int
    repeated: int
    """How many answers were sent again."""


def attend(
    connect: Callable[[], Channel],
    process: Process,
    trainer: Trainer,
    examples: Examples,
    settings: AttendSettings,
    *,
    cancel: CancelToken | None = None,
) -> Attendance:
    """Take part in a run until the server says that it is over; return what was done.

    Args:
        connect: Opens a channel that leads to the server and nobody else; called again whenever the link is lost.
        process: The algorithm, the same as at the server.
        trainer: The model, the same as at the server.
        examples: This client's own; they are not sent.
        settings: Which run, which seed, where to keep what.
        cancel: Looked at several times a second, but not while a model is trained.

    Raises:
        PeerUnreachable: The server stayed away for longer than ``patience``.
        DeadlineExceeded: It is connected and says nothing.
        PeerFailed: It refuses this client, and says why: another process, model or run.
        HandshakeRefused: The two could not authenticate each other.
        RemoteProtocolError: It sent something that does not belong here.
        Cancelled: The token was set.
    """
    with client_folder(settings, process) as folder:
        client = _Client(connect, (process, trainer, examples), settings, Checkpoints(folder), cancel)
        return client.attend()


class _Client:
    def __init__(
        self,
        connect: Callable[[], Channel],
        parts: tuple[Process, Trainer, Examples],
        settings: AttendSettings,
        store: Checkpoints,
        cancel: CancelToken | None,
    ) -> None:
        self._connect, self._settings, self._store, self._notes = connect, settings, store, Notes(store.folder)
        self._process, self._trainer, self._examples = parts
        self._watch, self._cancel = settings.watch, cancel
        self._clock = settings.clock
        self._away_since: float | None = None
        self._heard_at = self._clock.monotonic()
        self._pause = _FIRST_PAUSE
        self._waiting: deque[ServerWord] = deque()
        self._kept: KeptAnswer | None = None
        self._sums: ClientSums | None = None
        self._answers: Answers | None = None
        self._begun = False
        self._trained = self._repeated = self._round = 0

    def attend(self) -> Attendance:
        self._trainer.settle()
        while True:
            self._look()
            try:
                with self._connect() as channel:
                    return self._talk(channel)
            except (HandshakeRefused, DeadlineExceeded):
                raise
            except TransportError as error:
                self._lost(error)

    def _talk(self, channel: Channel) -> Attendance:
        """Do what the server asks until it says that the run is over."""
        server, me = _ends(channel)
        self._begin(server, me)
        self._waiting.clear()
        self._heard_at = self._clock.monotonic()
        self._say(channel, Hello(self._settings.run, digest_of(self._process), self._trainer.size))
        while (done := self._obey(channel, server, me, self._next(channel, server))) is None:
            pass
        return done

    def _obey(self, channel: Channel, server: PartyId, me: ClientId, word: ServerWord) -> Attendance | None:
        """Do what a word asks for; return what was done in all if it was the last one."""
        if word.run != self._settings.run:
            raise RemoteProtocolError(f"{server} serves another run than {self._settings.run}: check its name")
        if isinstance(word, Finished):
            self._tell(What.FINISHED, Place(word.run, word.rounds, 0))
            return Attendance(word.rounds, self._trained, self._repeated)
        if isinstance(word, Refusal):
            self._refused(server, me, word)
        elif isinstance(word, Assigned):
            self._answer(channel, me, word)
        elif isinstance(word, Summing | SumStep):
            self._take_part(channel, server, word)
        return None

    def _refused(self, server: PartyId, me: ClientId, word: Refusal) -> None:
        reason = printable(word.reason)
        if word.final:
            raise PeerFailed(f"{server} refuses {me}: {reason}")
        self._tell(What.REFUSED, Place(word.run, self._round, 0), reason)

    def _begin(self, server: PartyId, me: ClientId) -> None:
        """Find what was kept, or note what this folder is for."""
        if self._begun:
            return
        self._begun = True
        if parts := limited_parts(self._process):
            budget = self._settings.budget or self._store.folder
            self._answers = Answers(budget, self._settings.run, me, parts, new=not self._store.begun)
        about = {"run": self._settings.run, "client": me, "process": digest_of(self._process)}
        self._store.begin({**about, "model size": self._trainer.size})
        kept = self._notes.answer()
        # An answer that was not written down has not left: it is as good as none.
        self._kept = kept if kept and (self._answers is None or self._answers.has_last(kept.assigned)) else None
        by, signer = sum_of(self._process), self._settings.signer
        if by is None:
            return
        if self._settings.folder is None:
            raise UsageError(
                f"run {self._settings.run} takes sums: give this client a folder, which keeps what it has agreed to be "
                "added up with"
            )
        if signer is None and by.scheme != "rlwe":
            raise UsageError(f"run {self._settings.run} takes sums: give this client a signer (rounds.identities)")
        keep = self._notes.keep_sum
        self._sums = ClientSums(PartyId(me), server, by, signer, self._notes.secret(), self._notes.sum(), keep)

    # --- one round

    def _answer(self, channel: Channel, me: ClientId, word: Assigned) -> None:
        place, self._round = Place(word.run, word.round, word.attempt), word.round
        if len(word.model) != self._trainer.size or word.round < 0:
            raise RemoteProtocolError(
                f"round {word.round} comes with a model of {len(word.model)} numbers: expected {self._trainer.size}"
            )
        self._tell(What.ASSIGNED, place)
        key = fingerprint(word)
        kept = self._kept if self._kept is not None and self._kept.assigned == key else None
        if not self._may_train(channel, place, key, kept=kept is not None):
            return
        if kept is not None:
            self._repeated += 1
            self._hand_in(channel, replace(kept.answer, attempt=word.attempt))
            self._tell(What.REPEATED, place)
            return
        self._kept = None
        answer = self._trained_answer(channel, me, word, place)
        if answer is not None:
            kept = KeptAnswer(key, answer)
            self._notes.keep_answer(kept)
            if self._answers is not None:
                self._answers.add(word.round, key)
            self._kept = kept
            self._hand_in(channel, answer)
            self._tell(What.ANSWERED, place)

    def _may_train(self, channel: Channel, place: Place, key: bytes, *, kept: bool) -> bool:
        try:
            if self._sums is not None:
                self._sums.check(place.round, key)
            if self._answers is not None:
                self._answers.check(place.round, key, kept=kept)
        except UnseenError as error:
            self._say(channel, Failed(place.run, place.round, place.attempt, what_to_tell(error)))
            self._tell(What.FAILED, place, str(error))
            return False
        return True

    def _hand_in(self, channel: Channel, answer: Answer) -> None:
        """Send an answer, or in a secure round say that it is there."""
        if self._sums is None:
            self._say(channel, answer)
            return
        layout = Layout.of(update_in(answer, self._trainer.size, None))
        summed = self._sums.summed(self._kept.assigned) if self._kept else ()
        self._say(channel, ready_with(Place(answer.run, answer.round, answer.attempt), layout, summed))

    def _take_part(self, channel: Channel, server: PartyId, word: Summing | SumStep) -> None:
        """Take part in a sum, step by step; whatever goes wrong ends this client's part in it and no more."""
        place = Place(word.run, word.round, word.attempt)
        try:
            said = self._step(server, word)
        except UnseenError as error:
            self._say(channel, Failed(place.run, place.round, place.attempt, what_to_tell(error)))
            self._tell(What.FAILED, place, str(error))
            return
        self._say(channel, said)

    def _step(self, server: PartyId, word: Summing | SumStep) -> SumStep:
        sums, kept = self._sums, self._kept
        if sums is None:
            raise RemoteProtocolError(f"{server} takes a sum, and this process has none: both sides need the same")
        if isinstance(word, SumStep):
            return sums.answer(word)
        if kept is None or kept.answer.round != word.round:
            raise RemoteProtocolError(f"{server} sums round {word.round + 1}, for which nothing is kept here")
        return sums.begin(word, kept.assigned, update_in(kept.answer, self._trainer.size, None))

    def _trained_answer(self, channel: Channel, me: ClientId, word: Assigned, place: Place) -> Answer | None:
        """Train; return the answer, or ``None`` if the server was told that this client cannot."""
        unexpected = "an unexpected error; the details stay at that client"
        try:
            with _telling(lambda: self._fail(channel, word, unexpected)):
                update, memory, encoded = self._train(me, word)
        except PermissionDenied as error:  # by the number of the round, whatever the examples are
            self._say(channel, Failed(place.run, place.round, place.attempt, what_to_tell(error)))
            self._tell(What.FAILED, place, str(error))
            return None
        except UnseenError as error:
            self._fail(channel, word, what_to_tell(error))
            self._tell(What.FAILED, place, str(error))
            return None
        self._trained += 1
        if memory:
            self._store.keep(me, place.round, memory)
            # What older rounds left behind is not needed once there is something newer.
            self._store.save(State(place.round, np.empty(0, np.float32)), [])
        return answer_with(place, me, update, encoded)

    def _fail(self, channel: Channel, word: Assigned, reason: str) -> None:
        """Say that this client cannot play a round; where answers cost privacy that is one, and the reason stays."""
        if self._answers is not None:
            self._answers.add(word.round, fingerprint(word))
            reason = "it cannot play this round; the details stay at that client"
        self._say(channel, Failed(word.run, word.round, word.attempt, reason))

    def _train(self, me: ClientId, word: Assigned) -> tuple[Update, Memory, Encoded | None]:
        memory = self._store.memory(me, word.round)
        rng = stream(self._settings.seed, word.round, me, "work")
        assignment = Assignment(me, broadcast_in(word), self._examples, memory, rng)
        work = self._process.work
        if codec_of(self._process) is not None and isinstance(work, Compressed):
            return work.encoded(self._trainer, assignment)
        update, kept = self._process.client_round(self._trainer, assignment)
        if bad := beyond(update):
            raise Diverged(
                f"round {word.round + 1}: the update of {me} holds numbers that are not finite, or beyond 2^60, in "
                f"{', '.join(bad)}: its training diverged; lower the learning rate, or look for such values in its "
                "examples"
            )
        return update, kept, None

    # --- words

    def _say(self, channel: Channel, word: ClientWord) -> None:
        server, _ = _ends(channel)
        channel.send(server, said_by_client(word), waiting=self._look)

    def _next(self, channel: Channel, server: PartyId) -> ServerWord:
        """Return what the server says next, but for assignments that have become pointless since."""
        while True:
            while self._hear(channel, server, block=not self._waiting):
                pass
            word = self._waiting.popleft()
            if not (isinstance(word, Assigned) and any(_outdates(later, word) for later in self._waiting)):
                return word

    def _hear(self, channel: Channel, server: PartyId, *, block: bool) -> bool:
        """Take in one message; return whether there was one."""
        while True:
            self._look()
            try:
                frame = channel.receive(server, LOOK_SECONDS if block else 0.0)
            except TransportError as error:
                if not block:
                    return False  # what it said before its link broke still counts
                if not isinstance(error, DeadlineExceeded):
                    raise
                self._check_silence(server)
                continue
            self._waiting.append(server_word(frame, sender=server))
            self._heard_at, self._away_since, self._pause = self._clock.monotonic(), None, _FIRST_PAUSE
            return True

    def _check_silence(self, server: PartyId) -> None:
        if self._clock.monotonic() - self._heard_at > self._settings.silence:
            raise DeadlineExceeded(
                f"{server} is connected and has said nothing for {self._settings.silence:g} s: is its run "
                f"{self._settings.run} going on?"
            )

    def _lost(self, error: TransportError) -> None:
        """Wait a little before the next connection, unless the server has been away for too long."""
        now, patience = self._clock.monotonic(), self._settings.patience
        self._away_since = now if self._away_since is None else self._away_since
        if now - self._away_since >= patience:
            raise PeerUnreachable(
                f"run {self._settings.run}: the server has been away for {patience:g} s, the patience of this client: "
                f"{error}. Start it again once the server is there; its folder is kept"
            ) from error
        self._tell(What.LOST, Place(self._settings.run, self._round, 0), str(error))
        time.sleep(min(self._pause, patience))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def _look(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled(f"run {self._settings.run}: stopped on request; what was kept is in its folder")

    def _tell(self, what: What, place: Place, note: str = "") -> None:
        if self._watch is not None:
            self._watch(Event(what, place.round, place.attempt, note=note))


def _ends(channel: Channel) -> tuple[PartyId, ClientId]:
    """Return the server at the other end, and this client."""
    if len(channel.peers) != 1:
        found = ", ".join(sorted(channel.peers)) or "nobody"
        raise UsageError(f"the channel of {channel.party} has to lead to the server and nobody else, found {found}")
    (server,) = channel.peers
    return server, ClientId(channel.party)


def _outdates(later: ServerWord, word: Assigned) -> bool:
    if isinstance(later, Assigned | Standing):
        return (later.round, later.attempt) != (word.round, word.attempt) or isinstance(later, Assigned)
    return isinstance(later, Finished)


@contextmanager
def _telling(tell: Callable[[], None]) -> Iterator[None]:
    """Tell the server before an error ends this program that is no error of ours: a bug in somebody's model."""
    done = False
    try:
        yield
        done = True
    except UnseenError:
        done = True
        raise
    finally:
        if not done:
            tell()
