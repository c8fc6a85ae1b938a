"""A network inside one process, for tests and for parties that are threads; sending never blocks."""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from unseen.codec import Buffer
from unseen.errors import DeadlineExceeded, PeerUnreachable, UsageError
from unseen.ids import PartyId
from unseen.transport.channel import Waiting


class MemoryNetwork:
    """Connects parties of one process, each with each."""

    def __init__(self, parties: Iterable[PartyId]) -> None:
        self._parties = frozenset(parties)
        self._changed = threading.Condition()
        self._mail: dict[tuple[PartyId, PartyId], deque[bytes]] = defaultdict(deque)
        self._notices: dict[PartyId, list[tuple[PartyId, bytes]]] = defaultdict(list)
        self._traffic: dict[frozenset[PartyId], int] = defaultdict(int)
        self._closed: set[PartyId] = set()

    def channel(self, party: PartyId) -> MemoryChannel:
        """Return the channel of ``party``."""
        if party not in self._parties:
            raise UsageError(f"{party} is not in this network: it has {', '.join(sorted(self._parties))}")
        return MemoryChannel(self, party)

    def channels(self) -> dict[PartyId, MemoryChannel]:
        """Return the channels of all parties."""
        return {party: MemoryChannel(self, party) for party in sorted(self._parties)}


class MemoryChannel:
    """One party's links inside a ``MemoryNetwork``."""

    def __init__(self, network: MemoryNetwork, party: PartyId) -> None:
        self.party = party
        self.peers = network._parties - {party}
        self._network = network

    def send(self, peer: PartyId, parts: Sequence[Buffer], *, waiting: Waiting | None = None) -> None:
        """Queue one message; never blocks."""
        network = self._network
        with network._changed:
            self._check_open(peer)
            if peer in network._closed:
                raise PeerUnreachable(f"{peer} has closed its channel")
            whole = b"".join(parts)
            network._mail[self.party, peer].append(whole)
            network._traffic[frozenset((self.party, peer))] += len(whole)
            network._changed.notify_all()

    def receive(self, peer: PartyId, timeout: float) -> memoryview | bytes:
        """Return the next message of ``peer``."""
        network, mail = self._network, self._network._mail[peer, self.party]
        deadline = time.monotonic() + timeout
        with network._changed:
            while not mail:
                self._check_open(peer)
                if peer in network._closed:
                    raise PeerUnreachable(f"{peer} has closed its channel")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DeadlineExceeded(f"{peer} sent nothing for {timeout:g} s")
                network._changed.wait(left)
            self._check_open(peer)
            return mail.popleft()

    def notify(self, peer: PartyId, notice: bytes) -> None:
        """Queue a short notice."""
        with self._network._changed:
            self._check_open(peer)
            self._network._notices[peer].append((self.party, notice))

    def notices(self) -> Sequence[tuple[PartyId, bytes]]:
        """Return and forget the notices that have arrived."""
        with self._network._changed:
            return self._network._notices.pop(self.party, [])

    def traffic(self, peer: PartyId) -> int:
        """Return how many bytes went to and came from ``peer``."""
        return self._network._traffic[frozenset((self.party, peer))]

    def flush(self, timeout: float) -> None:
        """Return at once: what was sent is in the peers' inboxes already."""

    def close(self) -> None:
        """Take this party out of the network; peers still receive what was sent to them."""
        with self._network._changed:
            self._network._closed.add(self.party)
            self._network._changed.notify_all()

    def _check_open(self, peer: PartyId) -> None:
        if self.party in self._network._closed:
            raise UsageError(f"the channel of {self.party} is closed")
        if peer not in self.peers:
            raise UsageError(f"{self.party} has no link to {peer}: its peers are {', '.join(sorted(self.peers))}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
