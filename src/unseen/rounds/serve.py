"""Serves a deployed run: hands every round out to a cohort of real clients, and makes the next state of their updates.

The same process, seed, clients and cohorts give the same bits as ``simulate``, whatever the order in which clients
answer. With a folder the state after every round is kept before the next one is handed out: a server that was killed
and is started again from there goes on to the same end, and clients answer what they are asked twice with the same
bytes.

What the server learns: every client's update, weight and metrics in the clear, nothing of its examples or its memory.
If the process's aggregator is a sum (``secure``, or distributed noise), then of a whole cohort the sum alone: clients
that have trained take it by a protocol, phase by phase, and whoever is missing by the deadline of a phase has dropped
out; a sum that fails is an attempt that failed, and the next one has fresh keys.

What it believes: nothing. What a client sends is checked when it is read: its place, its size, that numbers and weight
are within bounds (``process.LARGEST``, ``HEAVIEST``), and what the aggregator asks for (``UpdateRule``). A client that
sends anything else, or whose update alone is in the way of a next state (``culprit``), is refused by name, left out of
the round, and stops nobody; what its numbers do to the mean is a matter of the process (``robust``), and under secure
aggregation of nobody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from unseen.codec import Buffer, shown
from unseen.crypto.prg import Prg
from unseen.data.atomic import locked
from unseen.dialogue import CancelToken
from unseen.errors import (
    Cancelled,
    DataError,
    PeerFailed,
    PeerUnreachable,
    PermissionDenied,
    RemoteProtocolError,
    UsageError,
)
from unseen.ids import ClientId, PartyId
from unseen.learners.horizontal.private.sampling import KnownCohort
from unseen.learners.horizontal.process import Aggregate, Examples, Process, State, Trainer, Update, stream
from unseen.learners.horizontal.sums import Layout
from unseen.rounds.checkpoint import Checkpoints
from unseen.rounds.digest import codec_of, digest_of, sum_of
from unseen.rounds.events import LOOK_SECONDS, Attempt, Event, Heard, Links, Shelf, What
from unseen.rounds.messages import (
    Answer,
    Failed,
    Finished,
    Hello,
    Place,
    Ready,
    Refusal,
    Standing,
    SumStep,
    assigned,
    client_word,
    fingerprint,
    layout_in,
    odd_ones,
    printable,
    said_by_server,
    update_in,
)
from unseen.rounds.next_state import culprit, next_state
from unseen.rounds.run import Round, Run
from unseen.rounds.secure_round import NONCE_BYTES, ServerSum, SumPlan, cohort_of
from unseen.rounds.settings import ServeSettings
from unseen.rounds.traffic import Traffic
from unseen.transport.channel import Channel

__all__ = ["ServeSettings", "Server"]

_CHUNK = 1000
"""Examples that are evaluated at once: as many as in a simulation, so that the means have the same bits."""


class Server:
    """One run of horizontal learning with real clients; closes the channel at its end.

    Args:
        channel: Leads to all clients that may take part.
        process: The algorithm, the same as at all clients.
        trainer: The model, of which the server needs ``size``, ``initial`` and, to evaluate, ``evaluate``.
        settings: Who takes part, how long to wait, …
        test: Examples to evaluate on, the server's own.

    Leaving the block without an error tells the clients that the run is over. After an error they wait for a server
    that is started again.
    """

    def __init__(
        self,
        channel: Channel,
        process: Process,
        trainer: Trainer,
        settings: ServeSettings,
        *,
        test: Examples | None = None,
    ) -> None:
        if not channel.peers:
            raise UsageError(f"run {settings.run}: the channel of {channel.party} leads to no client")
        self._process, self._trainer, self._settings, self._test = process, trainer, settings, test
        self._watch, self._clock = settings.watch, settings.clock
        self._digest, self._codec, self._sums = digest_of(process), codec_of(process), sum_of(process)
        self._party = channel.party
        self._sum: ServerSum | None = None
        settings.check_keys(channel.peers, self._sums)
        settings.check_folder(process)
        self.counts: Counter[What] = Counter()
        """How often each kind of event has happened."""
        self._cancel: CancelToken | None = None
        self._last = 0
        self._present: set[ClientId] = set()
        self._why: dict[ClientId, str] = {}
        self._attempt: Attempt | None = None
        self._store = Checkpoints(settings.folder) if settings.folder else None
        ids = tuple(ClientId(peer) for peer in sorted(channel.peers))
        cohort = KnownCohort(settings.cohort) if self._sums else settings.cohort
        process.check_cohort(cohort, len(ids), first_come=settings.enough is not None)
        with ExitStack() as stack:
            if settings.folder is not None:
                stack.enter_context(locked(settings.folder))
            self._run = self._first(ids)
            self._stack = stack.pop_all()
        self._links, self._moved = Links(channel), Traffic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        self.close()

    def finish(self) -> None:
        """Tell all clients that are there that the run is over."""
        for _ in self._links.clients:  # some may have come just now
            self._take(self._links.next(0.0))
        last_words = said_by_server(Finished(self._settings.run, self._run.state.round))
        self._links.finish(last_words, self._present)
        self._tell(What.FINISHED)

    def close(self) -> None:
        """Close the channel; clients wait for a server that goes on, unless they were told that the run is over."""
        self._links.close()
        self._stack.close()

    @property
    def run(self) -> Run:
        """Where the run stands."""
        return self._run

    def rounds(
        self, count: int, *, observe: Callable[[Round], None] | None = None, cancel: CancelToken | None = None
    ) -> Run:
        """Play rounds until ``count`` have been finished in all, those of an earlier call or process included.

        ``observe`` is told every finished round; ``cancel`` is looked at several times a second.

        Raises:
            Cancelled: It was asked to stop; finished rounds are kept.
            PeerFailed: Too few clients answered, in every attempt at a round; the message says what was with each.
            PermissionDenied: The round would pass the budget of privacy.
        """
        self._cancel, self._last = cancel, count
        while self._run.state.round < count:
            self._run = self._play_round()
            if observe is not None:
                observe(self._run.history[-1])
        return self._run

    # --- one round

    def _play_round(self) -> Run:
        began, state = self._clock.monotonic(), self._run.state
        stories: list[str] = []
        for number in range(self._settings.attempts):
            attempt = self._hand_out(state, number)
            self._gather(attempt)
            found = self._next(state, attempt)
            if not isinstance(found, str):
                return self._keep(attempt, *found, began=began)
            stories.append(found)
            self._tell(What.AGAIN, note=found)
        raise PeerFailed(
            f"run {self._settings.run}, round {state.round + 1}: {len(stories)} attempts have failed, the last one "
            f"because {stories[-1]}. What is finished is kept: see to the clients and start the server again, or ask "
            "for fewer of them"
        )

    def _hand_out(self, state: State, number: int) -> Attempt:
        """Begin an attempt: send the assignment to those of its cohort that are there, and word to the others."""
        settings = self._settings
        place = Place(settings.run, state.round, number)
        cohort = self._cohort(state.round, number)
        word = assigned(place, self._process.distributor(state))
        parts = said_by_server(word)
        enough = min(settings.enough or len(cohort), len(cohort))
        shelf = Shelf(settings.held_bytes, settings.folder)
        least = max(settings.minimum, self._sums.fewest if self._sums else 1)
        attempt = Attempt(
            place, cohort, parts, fingerprint(word) if self._sums else b"", enough, least if cohort else 0, shelf
        )
        self._attempt = attempt
        self._tell(What.ASSIGNED)
        for client in sorted(self._present):
            self._send_place(client)
        return attempt

    def _cohort(self, round_number: int, number: int) -> tuple[ClientId, ...]:
        """Return the cohort of an attempt: that of a simulation at first, then another draw."""
        ids, settings = self._links.clients, self._settings
        sizes = [settings.sizes.get(client, 1) for client in ids]
        first = settings.cohort.choose(ids, sizes, round_number, settings.seed)
        if number == 0:
            return tuple(first)
        seed = int(stream(settings.seed, "attempt", number).integers(1 << 62))
        drawn = settings.cohort.choose(ids, sizes, round_number, seed)
        # In another order the same updates would give another rounding.
        return tuple(first if set(drawn) == set(first) else drawn)

    def _gather(self, attempt: Attempt) -> None:
        """Take in what clients send until the attempt is over or its time is up."""
        end = self._clock.monotonic() + self._settings.deadline
        while not attempt.over and (left := end - self._clock.monotonic()) > 0:
            self._look()
            self._take(self._links.next(min(left, LOOK_SECONDS)))

    def _next(self, state: State, attempt: Attempt) -> tuple[State, Aggregate, int] | str:
        """Return the state after the round, the aggregate and of how many it is, or why the attempt has failed."""
        for client in odd_ones(attempt.layouts()):
            del attempt.answers[client]
            self._refuse(client, "its update has other vectors than those of most clients")
        if len(attempt.answers) < attempt.minimum:
            return attempt.story({client: self._reason(client) for client in attempt.cohort})
        try:
            aggregate, count = self._aggregate(state, attempt)
        except (RemoteProtocolError, UsageError, PermissionDenied, PeerUnreachable) as error:
            return f"the updates of {', '.join(attempt.answered)}, in this order, cannot be aggregated: {error}"
        try:
            return next_state(self._process, state, aggregate), aggregate, count
        except (RemoteProtocolError, DataError) as error:
            blamed = culprit(self._process, state, attempt.updates())
            if blamed is None and isinstance(error, DataError):
                raise
            if blamed is None:
                return f"the updates of {', '.join(attempt.answered)} make no next state: {error}"
            del attempt.answers[blamed]
            # The details may tell of the others' updates.
            reason = "with its update there is no next state, and without it there is"
            self._refuse(blamed, reason, details=f": {error}")
        return self._next(state, attempt)

    def _aggregate(self, state: State, attempt: Attempt) -> tuple[Aggregate, int]:
        if self._sums is None or not attempt.answers:
            return self._process.aggregate(state, list(attempt.updates().values())), len(attempt.answers)
        (layout,) = {answer for answer in attempt.answers.values() if isinstance(answer, Layout)}
        clients = cohort_of({client: attempt.notes.get(client, ()) for client in attempt.answered})
        plan = SumPlan(attempt.place, Prg.fresh().bytes(NONCE_BYTES), clients, layout, attempt.fingerprint)
        self._sum = ServerSum(plan, self._sums, self._settings.roster, self._party)
        try:
            self._take_sum(self._sum)
            aggregate, left = self._sum.aggregate()
        except PeerUnreachable as error:
            raise PeerUnreachable(f"{error}{self._sum.story()}") from error
        finally:
            self._sum = None
        return aggregate, len(left)

    def _take_sum(self, taken: ServerSum) -> None:
        """Lead the clients through the phases of a sum."""
        while not taken.over:
            self._tell(What.SUMMED, note=taken.phase)
            for client in sorted(taken.waiting & self._present):
                self._send_place(client)
            end = self._clock.monotonic() + self._settings.phase_deadline
            while taken.waiting and (left := end - self._clock.monotonic()) > 0:
                self._look()
                self._take(self._links.next(min(left, LOOK_SECONDS)))
            taken.advance()

    def _keep(self, attempt: Attempt, after: State, aggregate: Aggregate, count: int, *, began: float) -> Run:
        """Return where the run stands after a round, once that is kept."""
        asked, metrics = len(attempt.cohort), aggregate.metrics
        attempt.answers.clear()
        last = after.round == self._last
        test = self.evaluate(after) if last or after.round % self._settings.evaluate_every == 0 else {}
        seconds, before, self._moved = round(self._clock.monotonic() - began, 6), self._moved, self._links.traffic()
        moved = self._moved - before
        entry = Round(after.round, asked, asked - count, dict(metrics), test, seconds, moved.up, moved.down)
        history = (*self._run.history, entry)
        if self._store:
            self._store.save(after, [asdict(one) for one in history])
        return Run(after, history)

    def evaluate(self, state: State) -> dict[str, float]:
        """Return the metrics of a state's model on the examples to test on; nothing if there are none."""
        test = self._test
        if test is None:
            return {}
        slices = [slice(start, start + _CHUNK) for start in range(0, len(test), _CHUNK)]
        chunks = [Examples(test.inputs[part], test.labels[part]) for part in slices]
        found = [self._trainer.evaluate(state.model, chunk) for chunk in chunks]
        return {
            name: sum(one[name] * len(chunk) for one, chunk in zip(found, chunks, strict=True)) / len(test)
            for name in (found[0] if found else {})
        }

    # --- what clients say

    def _take(self, heard: Heard | None) -> None:
        if heard is None:
            return
        client = heard.client
        if heard.frame is None:
            self._lose(client, str(heard.lost))
            return
        try:
            self._heed(client, heard.frame)
        except RemoteProtocolError as error:
            self._refuse(client, str(error))

    def _heed(self, client: ClientId, frame: Buffer) -> None:
        word = client_word(frame, sender=client)
        if word.run != self._settings.run:
            raise RemoteProtocolError(f"it takes part in run '{shown(word.run)}', this is {self._settings.run}")
        if isinstance(word, Hello):
            self._greet(client, word)
        elif client not in self._present:
            raise RemoteProtocolError("it sends before it has said hello")
        elif isinstance(word, Failed):
            self._give_up(client, word)
        elif isinstance(word, SumStep):
            self._take_step(client, word)
        else:
            self._take_answer(client, word)

    def _greet(self, client: ClientId, hello: Hello) -> None:
        self._present.discard(client)
        mine = (self._digest, self._trainer.size)
        if (hello.process, hello.size) != mine:
            reason = (
                f"it runs process {shown(hello.process[:12])} with a model of {hello.size} numbers, this run has "
                f"{mine[0][:12]} with {mine[1]}: give both sides the same process and trainer"
            )
            self._refuse(client, reason, final=True)
            return
        self._present.add(client)
        self._tell(What.JOINED, client=client)
        self._send_place(client)

    def _send_place(self, client: ClientId) -> None:
        """Tell a client what to do: its assignment again, if it has not answered, or to wait."""
        attempt = self._attempt
        if attempt is None:
            return
        if self._sum is not None and (parts := self._sum.word_for(client)) is not None:
            self._links.post(client, parts)
        elif self._sum is None and attempt.waits_for(client):
            self._links.post(client, attempt.parts)
        else:
            place = attempt.place
            self._links.post(client, said_by_server(Standing(place.run, place.round, place.attempt)))

    def _take_answer(self, client: ClientId, answer: Answer | Ready) -> None:
        attempt, place = self._attempt, Place(answer.run, answer.round, answer.attempt)
        if attempt is None or place != attempt.place or self._sum is not None:
            self._tell(What.LATE, client=client, place=place)
        elif client not in attempt.cohort:
            self._tell(What.UNASKED, client=client)
        elif client in attempt.answers:
            self._tell(What.DUPLICATE, client=client)
        else:
            attempt.add(client, self._read(client, answer))
            if isinstance(answer, Ready):
                attempt.notes[client] = answer.summed
            self._tell(What.ANSWERED, client=client)

    def _read(self, client: ClientId, answer: Answer | Ready) -> Update | Layout:
        if isinstance(answer, Ready) != (self._sums is not None):
            how = "takes sums of what stays with clients" if self._sums else "takes updates in the clear"
            raise RemoteProtocolError(f"it sends {type(answer).__name__}, and this run {how}")
        if isinstance(answer, Ready):
            if not set(answer.summed) <= set(self._links.clients):
                raise RemoteProtocolError("it names clients of an earlier sum that take no part in this run")
            return layout_in(answer, self._trainer.size)
        if answer.client != client:
            raise RemoteProtocolError(f"it calls itself '{shown(answer.client)}'")
        update = update_in(answer, self._trainer.size, self._codec)
        self._process.check_update(update)
        return update

    def _take_step(self, client: ClientId, step: SumStep) -> None:
        taken, place = self._sum, Place(step.run, step.round, step.attempt)
        if taken is None or (place, step.nonce) != (taken.plan.place, taken.plan.nonce):
            self._tell(What.LATE, client=client, place=place)
        elif PartyId(client) not in taken.plan.clients:
            self._tell(What.UNASKED, client=client)
        elif not taken.take(client, step):
            self._tell(What.DUPLICATE, client=client)

    def _give_up(self, client: ClientId, word: Failed) -> None:
        place, reason = Place(word.run, word.round, word.attempt), printable(word.reason)
        if self._attempt is not None and place == self._attempt.place:
            self._why[client] = f"failed ({reason})"
            self._attempt.leave_out(client, self._why[client])
            if self._sum is not None:
                self._sum.leave_out(client, self._why[client])
            self._tell(What.FAILED, client=client, note=reason)

    def _refuse(self, client: ClientId, reason: str, *, final: bool = False, details: str = "") -> None:
        """Tell a client why it is refused; ``details`` stay here."""
        self._why[client] = f"was refused ({reason}{details})"
        if self._attempt is not None:
            self._attempt.leave_out(client, self._why[client])
        self._links.post(client, said_by_server(Refusal(self._settings.run, reason, final)), refusal=True)
        self._tell(What.REFUSED, client=client, note=reason + details)

    def _lose(self, client: ClientId, reason: str) -> None:
        self._why[client] = f"is away ({reason})"
        if client in self._present:
            self._present.discard(client)
            self._tell(What.LOST, client=client, note=reason)

    def _reason(self, client: ClientId) -> str:
        """Return why a client has not answered, as far as is known."""
        if client in self._present:
            return f"has not answered (deadline {self._settings.deadline:g} s)"
        return self._why.get(client, "has not come")

    # --- the rest

    def _look(self) -> None:
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled(f"run {self._settings.run}: stopped on request; finished rounds are kept")

    def _tell(self, what: What, *, client: ClientId | None = None, note: str = "", place: Place | None = None) -> None:
        self.counts[what] += 1
        if self._watch is not None:
            now = self._attempt
            at = place or (now.place if now else Place(self._settings.run, self._run.state.round, 0))
            done, total = (len(now.answers), len(now.cohort)) if now else (0, 0)
            self._watch(Event(what, at.round, at.attempt, client, note, done, total))

    def _first(self, ids: tuple[ClientId, ...]) -> Run:
        settings = self._settings
        about: dict[str, Any] = {
            "run": settings.run,
            "process": self._digest,
            "cohort": repr(settings.cohort),
            "seed": settings.seed,
            "model size": self._trainer.size,
            "clients": list(ids),
        }
        if self._store is not None:
            self._store.begin(about)
            if (kept := self._store.load()) is not None:
                state, history = kept
                return Run(state, tuple(Round(**fields) for fields in history))
        return Run(self._process.start(self._trainer.initial(settings.seed)), ())
