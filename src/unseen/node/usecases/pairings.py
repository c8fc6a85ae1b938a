"""Pairing while the node runs: invitations at its port, and joining others, until people have compared the codes.

Nothing of it is kept: a node that is started anew has forgotten its invitations, and with them their secrets.
"""

from __future__ import annotations

import enum
import logging
import queue
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509

from unseen.codec import shown
from unseen.errors import PermissionDenied, UnseenError, UsageError
from unseen.ids import PartyId
from unseen.node.domain import Person, Right
from unseen.node.folder import Node
from unseen.node.invitation import Door, Invitation
from unseen.node.meeting import TALK_SECONDS, Encounter, join, meet, new_invitation
from unseen.node.pairing import NONCE_BYTES, Inviter
from unseen.node.usecases.rights import demand
from unseen.node.wires import StreamWire
from unseen.transport.tls import issued_by

MOST_OPEN = 16
"""How many pairings may be under way at once."""
MOST_MINUTES = 1440
_MOST_KEPT = 64
_MOST_GUESTS = 16
_CHANCES = 3

_log = logging.getLogger(__name__)


class Stage(enum.StrEnum):
    """How far a pairing has come."""

    WAITING = "waiting"
    """Nobody has joined yet."""
    COMPARING = "comparing"
    """People compare the codes."""
    CONFIRMED = "confirmed"
    """Here the right code was heard; the other side has not said so yet."""
    PAIRED = "paired"
    ENDED = "ended"
    """Nothing came of it; ``reason`` says why."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A pairing as people see it."""

    name: str
    stage: Stage
    inviting: bool
    """Whether this node invited; else it joins."""
    peer: PartyId | None
    """Who it is with, or who alone may join; ``None`` for whoever holds the line."""
    by: str
    expires: datetime
    read_out: str | None
    """The code that is read to the other side's people, while codes are compared."""
    reason: str


class Pairing:
    """One invitation, or one joining. Thread-safe."""

    def __init__(self, invitation: Invitation, by: str, *, inviting: bool) -> None:
        self.name = secrets.token_hex(4)
        self.invitation = invitation
        self.door = Door(invitation)
        self.root = invitation.guest_root(datetime.now(UTC)).certificate_pem if inviting else b""
        """Of this invitation's guests, PEM."""
        self._by, self._inviting = by, inviting
        self._lock = threading.Lock()
        self._stage, self._reason = Stage.WAITING, ""
        self._encounter: Encounter | None = None
        self._decided: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._chances = _CHANCES

    @property
    def open(self) -> bool:
        """Whether something may still come of it."""
        return self.seen().stage not in (Stage.PAIRED, Stage.ENDED)

    @property
    def waits(self) -> bool:
        """Whether a guest is let in."""
        return self._inviting and self.seen().stage is Stage.WAITING

    def seen(self) -> Seen:
        """Return what people may know."""
        with self._lock:
            closed = self.door.closed(datetime.now(UTC)) if self._inviting and not self.door.talking else None
            if self._stage is Stage.WAITING and closed is not None:
                self._stage, self._reason = Stage.ENDED, f"{closed}; nobody was paired with"
            found = self._encounter.found if self._encounter is not None else None
            comparing = self._stage in (Stage.COMPARING, Stage.CONFIRMED)
            other = self.invitation.joiner if self._inviting else self.invitation.inviter
            return Seen(
                name=self.name,
                stage=self._stage,
                inviting=self._inviting,
                peer=found.peer if found is not None else other,
                by=self._by,
                expires=self.invitation.expires,
                read_out=found.read_out if found is not None and comparing else None,
                reason=self._reason,
            )

    def begin(self, encounter: Encounter) -> None:
        """Let people compare codes."""
        with self._lock:
            if self._stage is Stage.WAITING:
                self._stage, self._encounter = Stage.COMPARING, encounter

    def settle(self, encounter: Encounter) -> None:
        """Wait for the people, and keep the partner if both sides agree; whatever comes of it is seen."""
        try:
            with encounter:
                if self._encounter is encounter:
                    encounter.conclude(self._decision())
            with self._lock:
                self._stage = self._stage if self._stage is Stage.ENDED else Stage.PAIRED
        except UnseenError as error:
            self.end(str(error))
        finally:
            self.end("an error at this node, which its log tells")

    def _decision(self) -> str:
        try:
            return self._decided.get(timeout=TALK_SECONDS)
        except queue.Empty:
            raise PermissionDenied(f"no code was typed here within {TALK_SECONDS / 60:g} minutes") from None

    def confirm(self, heard: str) -> None:
        """Say what the other side's people have read.

        Raises:
            UsageError: There is nothing to compare, or it is not the code; the third wrong one ends the pairing.
        """
        with self._lock:
            if self._stage is not Stage.COMPARING or self._encounter is None:
                raise UsageError(f"pairing {self.name} is {self._stage}: there is no code to compare")
            if not self._encounter.found.is_heard(heard):
                self._chances -= 1
                if self._chances:
                    raise UsageError(f"that is not the code; listen again ({self._chances} more)")
            # A wrong one, too: so that the other side hears of it.
            self._stage = Stage.CONFIRMED
            self._decided.put(heard)

    def end(self, reason: str) -> None:
        """Give it up, unless it has come to its end."""
        self._end(reason, unless=(Stage.PAIRED, Stage.ENDED))

    def _end(self, reason: str, unless: tuple[Stage, ...]) -> None:
        with self._lock:
            if self._stage not in unless:
                self._stage, self._reason = Stage.ENDED, reason
                self._decided.put("")

    def cancel(self, reason: str) -> None:
        """Give it up.

        Raises:
            UsageError: Too late: the other side may have kept this node as a partner already.
        """
        # In this order: somebody else may be confirming it now.
        self._end(reason, unless=(Stage.CONFIRMED, Stage.PAIRED, Stage.ENDED))
        if self.seen().stage in (Stage.CONFIRMED, Stage.PAIRED):
            raise UsageError(f"pairing {self.name} was confirmed here: strike the partner off instead")


class Pairings:
    """All pairings of a node that runs; the ``Guests`` of its port.

    Args:
        node: Whose port and partners those are.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lock = threading.Lock()
        self._known: dict[str, Pairing] = {}
        self._guests = threading.BoundedSemaphore(_MOST_GUESTS)
        self._listeners: list[Callable[[], object]] = []

    def after_each(self, tell: Callable[[], object]) -> None:
        """Call ``tell`` whenever there may be other partners or other guests."""
        self._listeners.append(tell)

    # --- people

    def invite(self, by: Person, *, joiner: PartyId | None, address: str | None, minutes: int) -> tuple[Seen, str]:
        """Open an invitation; return it, and the line for the partner, which is told this once.

        Raises:
            PermissionDenied: By somebody who may not, or too many are under way.
            UsageError: The node does not listen, or the address is none.
        """
        demand(by, Right.MANAGE_PARTNERS)
        if not 1 <= minutes <= MOST_MINUTES:
            raise UsageError(f"an invitation is good for 1 to {MOST_MINUTES} minutes, not for {minutes}")
        made = new_invitation(self._node, lifetime=timedelta(minutes=minutes), joiner=joiner, address=address)
        pairing = self._add(Pairing(made, by.name, inviting=True))
        self._tell()
        _log.info("%s has invited %s (pairing %s)", by.name, joiner or "whoever holds the line", pairing.name)
        return pairing.seen(), made.line()

    def join(self, by: Person, line: str) -> Seen:
        """Dial an inviter; return once it has answered.

        Raises:
            PermissionDenied: By somebody who may not, or the invitation is over, or for somebody else.
            UsageError: The line is no invitation.
            TransportError: The inviter is not there, or somebody else is.
        """
        demand(by, Right.MANAGE_PARTNERS)
        pairing = self._add(Pairing(Invitation.read(line), by.name, inviting=False))
        try:
            encounter = join(self._node, pairing.invitation)
        except BaseException as error:
            pairing.end(str(error) if isinstance(error, UnseenError) else "an error at this node, which its log tells")
            raise
        _log.info("%s joins %s (pairing %s)", by.name, pairing.invitation.inviter, pairing.name)
        pairing.begin(encounter)
        threading.Thread(target=self._settle, args=(pairing, encounter), name="joining", daemon=True).start()
        return pairing.seen()

    def all(self, by: Person) -> tuple[Seen, ...]:
        """Return the pairings since the node was started, the oldest first."""
        demand(by, Right.MANAGE_PARTNERS)
        return tuple(pairing.seen() for pairing in list(self._known.values()))

    def get(self, by: Person, name: str) -> Seen:
        """Return one pairing.

        Raises:
            UsageError: There is none of this name.
        """
        demand(by, Right.MANAGE_PARTNERS)
        return self._get(name).seen()

    def confirm(self, by: Person, name: str, heard: str) -> Seen:
        """Say which code the other side's people have read.

        Raises:
            UsageError: There is no such pairing, nothing to compare, or it is not the code.
        """
        demand(by, Right.MANAGE_PARTNERS)
        pairing = self._get(name)
        pairing.confirm(heard)
        _log.info("%s has typed the code of pairing %s", by.name, name)
        return pairing.seen()

    def cancel(self, by: Person, name: str) -> Seen:
        """Give a pairing up.

        Raises:
            UsageError: There is none of this name, or it was confirmed.
        """
        demand(by, Right.MANAGE_PARTNERS)
        pairing = self._get(name)
        pairing.cancel(f"{by.name} took it back")
        self._tell()
        return pairing.seen()

    def strike(self, by: Person, peer: PartyId) -> None:
        """Trust a partner no more.

        Raises:
            UsageError: There is no such partner.
        """
        demand(by, Right.MANAGE_PARTNERS)
        self._node.partners.strike(peer, datetime.now(UTC))
        self._tell()
        _log.warning("%s has struck partner %s off", by.name, peer)

    # --- guests

    def roots(self) -> tuple[bytes, ...]:
        """Return the roots of guests who may come now."""
        return tuple(pairing.root for pairing in list(self._known.values()) if pairing.waits)

    def receive(self, certificate_pem: bytes, packets: Iterator[bytes]) -> Iterator[bytes] | None:
        """Return what a guest is told, while it says ``packets``; ``None`` if it is none, or there are too many."""
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        known = [one for one in list(self._known.values()) if one.waits and issued_by(certificate, one.root)]
        if not known or not self._guests.acquire(blocking=False):
            return None
        wire = StreamWire()
        wire.follow(packets)
        threading.Thread(target=self._meet, args=(known[0], wire), name="guest", daemon=True).start()
        return wire.outgoing()

    def _meet(self, pairing: Pairing, wire: StreamWire) -> None:
        encounter = None
        try:
            with (
                suppress(UnseenError),
                Inviter(pairing.door, self._node.identity(), secrets.token_bytes(NONCE_BYTES)) as side,
            ):
                encounter = meet(self._node, wire, side)
                self._guests.release()
                pairing.begin(encounter)
                self._settle(pairing, encounter)
        finally:
            if encounter is None:
                self._guests.release()
            wire.close()

    # --- both

    def _settle(self, pairing: Pairing, encounter: Encounter) -> None:
        pairing.settle(encounter)
        seen = pairing.seen()
        why = f": {shown(seen.reason, limit=300)}" if seen.reason else ""
        _log.info("pairing %s with %s is %s%s", pairing.name, seen.peer, seen.stage, why)
        self._tell()

    def _add(self, pairing: Pairing) -> Pairing:
        with self._lock:
            if sum(one.open for one in self._known.values()) >= MOST_OPEN:
                raise PermissionDenied(f"{MOST_OPEN} pairings are under way: end some of them first")
            over = [name for name, one in self._known.items() if not one.open]
            for name in over[: max(len(self._known) + 1 - _MOST_KEPT, 0)]:
                del self._known[name]
            self._known[pairing.name] = pairing
        return pairing

    def _get(self, name: str) -> Pairing:
        try:
            return self._known[name]
        except KeyError:
            raise UsageError(f"there is no pairing {shown(name)} since the node was started") from None

    def _tell(self) -> None:
        for tell in self._listeners:
            with suppress(UnseenError):  # the port takes it up by itself a little later
                tell()
