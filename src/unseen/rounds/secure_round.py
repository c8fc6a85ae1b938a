"""The sum of a secure round, as its server and as a client of it takes part: terms, steps, what is said twice.

A sum belongs to run, round, attempt and a number that is used once, to the layout of the updates, the cohort with its
identities, and the fingerprint of what was broadcast: whoever was told anything else has signed something else, and is
not added up. Keys and masks are fresh for every sum; an attempt that fails is followed by another one.

Two sums that differ by one client would give that client away. So a client that has begun a sum trains, and begins
sums, for no round that lies before and for no other broadcast of the same round; and it consents to one set of clients
for a broadcast, and once it has, to no other set. It notes either in its folder, before a word of it leaves.
``docs/security/secure_aggregation.md`` says what that is worth together with the quorum, and
``protocols.secure_aggregation.secagg_plus`` what a sum itself promises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from unseen.codec import Buffer, decode, encode_bytes, shown
from unseen.crypto.hashing import framed_digest
from unseen.crypto.prg import Prg
from unseen.errors import LocalProtocolError, PeerUnreachable, PermissionDenied, RemoteProtocolError, UsageError
from unseen.ids import ClientId, PartyId
from unseen.learners.horizontal.process import Aggregate, Update
from unseen.learners.horizontal.sums import Layout, SumAggregator, check_count
from unseen.protocols.secure_aggregation import rlwe, secagg_plus, secagg_server
from unseen.protocols.secure_aggregation.port import ClientRole, ServerRole, Setting
from unseen.protocols.secure_aggregation.roster import Terms
from unseen.rounds.identities import Signer
from unseen.rounds.messages import KeptSum, Place, Summing, SumStep, said_by_server

NONCE_BYTES = 16


@dataclass(frozen=True, slots=True)
class SumPlan:
    """One sum, the same at its server and all its clients."""

    place: Place
    nonce: bytes
    clients: tuple[PartyId, ...]
    layout: Layout
    model: bytes
    """The fingerprint of the assignment."""

    def setting(self, by: SumAggregator) -> Setting:
        """Return the setting of the protocol.

        Raises:
            UsageError: So many clients are no sum, or are not named in ascending order.
        """
        check_count(by, len(self.clients))
        where = f"{self.place.round} {self.place.attempt}".encode()
        session = framed_digest(
            b"unseen/rounds/sum/1", self.place.run.encode(), where, self.nonce, repr(self.layout).encode()
        )
        return Setting(self.clients, self.layout.length, by.bits, session, self.model, by.fewest)

    def step(self, content: object) -> SumStep:
        """Return a message of the protocol as a word."""
        frame = np.frombuffer(encode_bytes(content), np.uint8)
        return SumStep(self.place.run, self.place.round, self.place.attempt, self.nonce, frame)

    def opening(self) -> Summing:
        """Return the word that a sum begins with."""
        place = self.place
        return Summing(place.run, place.round, place.attempt, self.nonce, self.clients)


def cohort_of(ready: Mapping[ClientId, tuple[str, ...]]) -> tuple[PartyId, ...]:
    """Return over whom a sum is to be taken: over all that are ready, or over those of a sum that may have been taken.

    A sum that was cut off after consents goes on with the same clients alone, if more than a third of those that are
    ready say so; fewer, who may lie, are left to refuse.

    Raises:
        PeerUnreachable: Not all of these are there.
    """
    said = Counter(note for note in ready.values() if note)
    note, count = max(said.items(), key=lambda one: one[1], default=((), 0))
    if 3 * count <= len(ready):
        return tuple(sorted(map(PartyId, ready)))
    if missing := sorted(set(note) - set(ready)):
        raise PeerUnreachable(
            f"{count} clients have consented to a sum that was cut off, and to no other one of this round: wait for "
            f"{shown(', '.join(missing))}, who took part in it"
        )
    return tuple(sorted(map(PartyId, note)))


# --- the server --------------------------------------------------------------------------------------------------


class ServerSum:
    """The server's side of one sum.

    Raises:
        UsageError: So many clients are no sum, or one has no key in the roster.
    """

    def __init__(self, plan: SumPlan, by: SumAggregator, roster: Mapping[PartyId, bytes], server: PartyId) -> None:
        self.plan, self._by = plan, by
        setting = plan.setting(by)
        self._role: ServerRole = (
            rlwe.Server(setting) if by.scheme == "rlwe" else secagg_server.Server(Terms(setting, roster, server=server))
        )
        self._out: dict[ClientId, str] = {}
        opening = said_by_server(plan.opening())
        self._told: dict[ClientId, list[Buffer]] = {ClientId(client): opening for client in plan.clients}

    @property
    def over(self) -> bool:
        """Whether the sum is known."""
        return self._role.expects is None

    @property
    def waiting(self) -> frozenset[ClientId]:
        """Whom this phase waits for."""
        return frozenset(map(ClientId, self._role.waiting)) - set(self._out)

    @property
    def phase(self) -> str:
        """What clients are to send now."""
        return self._role.expects.__name__ if self._role.expects else "nothing"

    def word_for(self, client: ClientId) -> list[Buffer] | None:
        """Return what a client has to be told now; ``None`` if it has answered or is out."""
        return self._told.get(client) if client in self.waiting else None

    def take(self, client: ClientId, step: SumStep) -> bool:
        """Take a message of a client; return whether it counts, or comes twice or too late.

        Raises:
            RemoteProtocolError: It is malformed. Its client is out of this sum; the others go on.
        """
        kind = self._role.expects
        if client not in self.waiting or kind is None:
            return False
        try:
            self._role.accept(PartyId(client), decode(kind, step.frame.data, sender=client))
        except RemoteProtocolError as error:
            self.leave_out(client, f"was refused ({error})")
            raise
        return True

    def leave_out(self, client: ClientId, why: str) -> None:
        """Wait for a client no longer."""
        self._out[client] = why

    def story(self) -> str:
        """Return why clients are out."""
        return "".join(f"; {client} {why}" for client, why in sorted(self._out.items()))

    def advance(self) -> None:
        """End a phase; ``word_for`` has what comes next.

        Raises:
            PeerUnreachable: Too few clients are left.
            RemoteProtocolError: What the clients sent does not fit together.
        """
        told = self._role.advance()
        self._told = {ClientId(client): said_by_server(self.plan.step(content)) for client, content in told.items()}

    def aggregate(self) -> tuple[Aggregate, tuple[ClientId, ...]]:
        """Return what the sum means, and whose updates are in it.

        Raises:
            RemoteProtocolError: It is a sum that honest clients cannot have.
        """
        total = self._role.total()
        clients = tuple(map(ClientId, total.clients))
        return self._by.decode(total.words, total.weight, len(clients), self.plan.layout), clients


# --- a client ----------------------------------------------------------------------------------------------------


class _Keep(Protocol):
    """Keeps a note durably."""

    def __call__(self, note: KeptSum) -> None: ...


@dataclass(slots=True)
class _Taking:
    """A sum in which this client takes part, and what it has said last."""

    plan: SumPlan
    role: ClientRole
    said: SumStep
    heard: bytes = b""


@dataclass(slots=True)
class ClientSums:
    """A client's side of the sums of a run, one at a time."""

    me: PartyId
    server: PartyId
    by: SumAggregator
    signer: Signer | None
    secret: Prg = field(repr=False)
    """For rounding."""
    note: KeptSum | None
    keep: _Keep
    _now: _Taking | None = field(default=None, repr=False)

    def check(self, round_number: int, assigned: bytes) -> None:
        """Refuse to train or add up what could give this client away beside a sum that may have been taken.

        Raises:
            PermissionDenied: It has begun a sum of a later round, or of another assignment of this round.
        """
        note = self.note
        if note and (note.round > round_number or (note.round == round_number and note.assigned != assigned)):
            raise PermissionDenied(
                f"{self.me} has taken part in a sum of round {note.round + 1}, and is now asked for round "
                f"{round_number + 1} with another model: two such sums could give single updates away; begin a run "
                "with another name"
            )

    def summed(self, assigned: bytes) -> tuple[str, ...]:
        """Return with whom an update may have been added up; nobody if it has not."""
        return self.note.clients if self.note and self.note.assigned == assigned else ()

    def begin(self, word: Summing, assigned: bytes, update: Update) -> SumStep:
        """Take part in a sum; return the first message, the same one if this is heard twice.

        Raises:
            PermissionDenied: The update has been added up already, with other clients; or ``check`` refuses.
            RemoteProtocolError: The server names no cohort, or one without this client.
            UsageError: So many clients are no sum, one is unknown here, or the update does not become words.
        """
        self.check(word.round, assigned)
        now = self._now
        if now is not None and now.plan.nonce == word.nonce and not now.heard:
            return now.said
        self._now = None
        plan = self._plan(word, assigned, Layout.of(update))
        role = self._role(plan.setting(self.by), update)
        now = _Taking(plan, role, plan.step(role.begin()))
        # Safety: others can open a sum with what is sent from here on, whether this client consents or not.
        if self.note is None or (self.note.round, self.note.assigned) != (word.round, assigned):
            self._keep(KeptSum(word.round, assigned, ()))
        self._now = now
        return now.said

    def answer(self, word: SumStep) -> SumStep:
        """Return the answer to the server's next message; the same one if it is heard twice.

        Raises:
            PermissionDenied: The sum would add the update to other clients' than before.
            RemoteProtocolError: The server broke the rules, or goes on with a sum that this client does not know.
        """
        now, self._now = self._now, None
        if now is None or word.nonce != now.plan.nonce:
            raise RemoteProtocolError(
                f"{self.server} goes on with a sum that {self.me} does not take part in: it has been started again, or "
                "has left that sum before"
            )
        heard = framed_digest(b"heard", word.frame)
        if heard == now.heard:
            self._now = now
            return now.said
        kind = now.role.hears
        if kind is None:
            raise RemoteProtocolError(f"{self.server} goes on with a sum that is over")
        # Safety: only a step without any error is followed by another one.
        told = decode(kind, word.frame.data, sender=self.server)
        said = now.plan.step(now.role.answer(told))
        if isinstance(told, secagg_plus.Survivors | rlwe.Summed):
            self._consent(now)
        self._now = _Taking(now.plan, now.role, said, heard)
        return said

    def _consent(self, now: _Taking) -> None:
        """Note, before anybody is told, that this update may be added up with those that are left."""
        left = now.role.left if isinstance(now.role, secagg_plus.Client | rlwe.Client) else None
        if left is None:
            raise LocalProtocolError("a client has consented to a sum of nobody")
        place, assigned = now.plan.place, now.plan.model
        self.check(place.round, assigned)
        self._check_same(assigned, left, exactly=True)
        if not self.summed(assigned):
            self._keep(KeptSum(place.round, assigned, tuple(left)))

    def _keep(self, note: KeptSum) -> None:
        self.keep(note)
        self.note = note

    def _check_same(self, assigned: bytes, clients: tuple[PartyId, ...], *, exactly: bool) -> None:
        note = self.note
        if note is None or note.assigned != assigned or not note.clients:
            return
        before, now = set(note.clients), set(clients)
        if before != now if exactly else not before <= now:
            raise PermissionDenied(
                f"the update of {self.me} may have been added up already, over {', '.join(sorted(before))}, and goes "
                f"into no other sum: wait for {', '.join(sorted(before - now)) or 'the same clients'}"
            )

    def _plan(self, word: Summing, assigned: bytes, layout: Layout) -> SumPlan:
        try:
            clients = tuple(PartyId(name) for name in word.clients)
        except UsageError as error:
            raise RemoteProtocolError(f"{self.server} names a client that is none: {error}") from error
        if self.me not in clients or list(clients) != sorted(set(clients)) or len(word.nonce) != NONCE_BYTES:
            raise RemoteProtocolError(f"{self.server} begins a sum without {self.me}, or of clients in no order")
        self._check_same(assigned, clients, exactly=False)
        return SumPlan(Place(word.run, word.round, word.attempt), word.nonce, clients, layout, assigned)

    def _role(self, setting: Setting, update: Update) -> ClientRole:
        contribution = self.by.encode(update, self.secret)
        if self.by.scheme == "rlwe":
            return rlwe.Client(setting, self.me, contribution, Prg.fresh(), self.server)
        if self.signer is None:
            raise UsageError(f"{self.me} has no signer: secure rounds need its signing key and the roster")
        terms = Terms(setting, self.signer.roster, server=self.server)
        return secagg_plus.Client(terms, self.me, contribution, self.signer.key, Prg.fresh())
