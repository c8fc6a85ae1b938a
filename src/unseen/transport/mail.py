"""Letters between two nodes: numbered, kept by the sender until they are acknowledged, and taken once.

Both directions ride on calls of whoever dials, so that one side may only dial out. ``Exchange`` is question and answer:
what this side has received, and letters for the other. The one who answers waits for letters of its own as long as the
question allows. Letters come again until they are acknowledged; ``Mailroom.take`` knows those it has seen.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from unseen.codec import decode, encode_bytes, message, shown
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.transport.traffic import Traffic
from unseen.transport.visits import Complain

LETTER_BYTES = 1 << 20
"""A letter has at most so many bytes."""
MOST_LETTERS = 64
"""So many travel at once, if they are short."""
MOST_WAIT = 60.0
"""Seconds for which an answer may wait for letters."""
_LETTERS_BYTES = 2 << 20
_LOOK_SECONDS = 10.0
_WORDS = 500

_log = logging.getLogger(__name__)


class Mailroom(Protocol):
    """Where a node keeps its letters; used from several threads, for one peer from several as well."""

    def waiting(self, peer: PartyId) -> Sequence[tuple[int, bytes]]:
        """Return letters for ``peer`` that are not delivered, with their numbers, oldest first, not all of many."""
        ...

    def delivered(self, peer: PartyId, up_to: int) -> None:
        """Note that ``peer`` has taken its letters up to this number; it may say so again, and it may lie.

        Raises:
            RemoteProtocolError: No such letter was written.
        """
        ...

    def take(self, peer: PartyId, number: int, body: bytes) -> None:
        """Act, durably and once, on a letter of ``peer``; nothing happens if it was taken before.

        Raises:
            RemoteProtocolError: It is not the next one, or is not what may be said; the peer is told, and keeps it.
        """
        ...

    def received(self, peer: PartyId) -> int:
        """Return the number of the newest letter of ``peer`` that was taken, or 0."""
        ...

    def changed(self, peer: PartyId, timeout: float) -> None:
        """Return when there may be new letters for ``peer``, at the latest after ``timeout`` seconds."""
        ...

    def stir(self, peer: PartyId) -> None:
        """Let whoever waits in ``changed`` for ``peer`` return."""
        ...


@message("transport/letter")
class Letter:
    """One letter; a sender numbers those to one receiver from 1 without gaps."""

    number: int
    body: bytes


@message("transport/exchange")
class Exchange:
    """What one side of a correspondence says to the other."""

    received: int
    """The newest letter that the sender of this has taken."""
    letters: tuple[Letter, ...]
    wait: float
    """For how many seconds the answer may wait for letters; 0 in an answer."""
    complaint: str
    """Why a letter of the other side was not taken, or nothing."""


class Clerk:
    """One side of a node's correspondence with each of its peers.

    Args:
        mail: Keeps the letters.
        complain: Logs a line about a peer.
        traffic: Counts what is said and heard.
    """

    def __init__(self, mail: Mailroom, complain: Complain, traffic: Traffic | None = None) -> None:
        self._traffic = traffic or Traffic()
        self._mail = mail
        self._complain = complain
        self._taking: dict[PartyId, threading.Lock] = {}
        self._refused: dict[PartyId, str] = {}
        self._acknowledged: dict[PartyId, int] = {}
        self._waited: set[PartyId] = set()

    def say(self, peer: PartyId, *, letters: bool, wait: float = 0.0) -> bytes:
        """Return an encoded exchange for ``peer``, with or without letters."""
        waiting = self._some(peer) if letters else ()
        frame = encode_bytes(Exchange(self._mail.received(peer), waiting, wait, self._refused.get(peer, "")))
        self._traffic.sent(peer, len(frame))
        return frame

    def hear(self, peer: PartyId, frame: bytes) -> Exchange:
        """Act on an exchange of ``peer`` and return it.

        Raises:
            RemoteProtocolError: It is malformed.
        """
        self._traffic.received(peer, len(frame))
        heard = decode(Exchange, frame, sender=peer)
        if len(heard.letters) > MOST_LETTERS or any(len(letter.body) > LETTER_BYTES for letter in heard.letters):
            raise RemoteProtocolError(
                f"{peer}: at most {MOST_LETTERS} letters of {LETTER_BYTES} bytes may come at once"
            )
        if heard.received < 0 or not 0 <= heard.wait <= MOST_WAIT:
            raise RemoteProtocolError(f"{peer}: an exchange has impossible values")
        if heard.complaint:
            self._complain(
                peer, f"{peer} does not take a letter of this node: {shown(heard.complaint, limit=_WORDS)}", None
            )
        if heard.received != self._acknowledged.get(peer):
            self._mail.delivered(peer, heard.received)
            self._acknowledged[peer] = heard.received
        self._take(peer, heard.letters)
        return heard

    def wait(self, peer: PartyId, seconds: float, alive: Callable[[], bool]) -> bool:
        """Return whether there are letters for ``peer``, at once or within so many seconds.

        It is given up when ``alive`` is not true any more, which is asked whenever somebody ``stir``s.
        """
        deadline = time.monotonic() + seconds
        self._waited.add(peer)
        while True:
            # In this order: whoever stirs after `alive` was asked ends `changed`.
            found, left = bool(self._mail.waiting(peer)), deadline - time.monotonic()
            if found or left <= 0 or not alive():
                return found
            self._mail.changed(peer, min(left, _LOOK_SECONDS))

    def stir(self, peer: PartyId | None = None) -> None:
        """Let those look who ``wait`` whether it is still wanted: for one peer, or for all."""
        for one in list(self._waited) if peer is None else (peer,):
            self._mail.stir(one)

    def received(self, peer: PartyId) -> int:
        """Return the number of the newest letter of ``peer`` that was taken, or 0."""
        return self._mail.received(peer)

    def has_refused(self, peer: PartyId) -> bool:
        """Return whether the last letters of ``peer`` were not all taken."""
        return peer in self._refused

    def _take(self, peer: PartyId, letters: Sequence[Letter]) -> None:
        with self._taking.setdefault(peer, threading.Lock()):
            try:
                for letter in letters:
                    self._mail.take(peer, letter.number, letter.body)
            except RemoteProtocolError as error:
                self._refused[peer] = str(error)[:_WORDS]
                self._complain(peer, f"a letter of {peer} was not taken: {error}", None)
            else:
                if letters:
                    self._refused.pop(peer, None)

    def _some(self, peer: PartyId) -> tuple[Letter, ...]:
        """Return the letters to send now: as many as fit into one message, and at least one if there is any."""
        chosen: list[Letter] = []
        size = 0
        for number, body in self._mail.waiting(peer):
            size += len(body)
            if len(body) > LETTER_BYTES:
                self._complain(
                    peer, f"letter {number} to {peer} has {len(body)} bytes, of at most {LETTER_BYTES}", None
                )
                break
            if len(chosen) == MOST_LETTERS or (chosen and size > _LETTERS_BYTES):
                break
            chosen.append(Letter(number, body))
        return tuple(chosen)
