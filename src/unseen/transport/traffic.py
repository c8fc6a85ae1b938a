"""Counts the bytes that go to partners and come from them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping

from unseen.ids import PartyId


class Traffic:
    """How many bytes of jobs and letters were exchanged with each partner, without what TLS and HTTP/2 add.

    Used from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: Counter[PartyId] = Counter()
        self._received: Counter[PartyId] = Counter()

    def sent(self, peer: PartyId, count: int) -> None:
        """Count bytes to a partner."""
        with self._lock:
            self._sent[peer] += count

    def received(self, peer: PartyId, count: int) -> None:
        """Count bytes from a partner."""
        with self._lock:
            self._received[peer] += count

    def all(self) -> Mapping[PartyId, tuple[int, int]]:
        """Return what was sent and received, by partner."""
        with self._lock:
            return {peer: (self._sent[peer], self._received[peer]) for peer in {*self._sent, *self._received}}
