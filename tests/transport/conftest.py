from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime

import pytest

from unseen.ids import PartyId

# First: it sets what gRPC reads when it is imported.
from unseen.transport.grpc import GrpcChannel, Options
from unseen.transport.link import Limits
from unseen.transport.memory import MemoryNetwork
from unseen.transport.tls import Authority, Identity, issue, make_authority

ALICE, BOB, CAROL = PartyId("alice"), PartyId("bob"), PartyId("carol_2")
SMALL = Limits(packet_bytes=1 << 16, window_bytes=1 << 20, inbox_bytes=2 << 20, message_bytes=64 << 20)
QUICK = Options(connect_grace=20.0, close_grace=3.0, limits=SMALL)


@pytest.fixture(scope="session")
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture(scope="session")
def authority(now: datetime) -> Authority:
    return make_authority("Test federation", days=1, now=now)


@pytest.fixture(scope="session")
def identities(authority: Authority, now: datetime) -> dict[PartyId, Identity]:
    return {party: issue(authority, party, days=1, now=now) for party in (ALICE, BOB, CAROL)}


@pytest.fixture
def quick() -> Options:
    """Options with small limits, so that small messages exceed them."""
    return QUICK


@pytest.fixture
def mesh(identities):
    """Connect these parties over gRPC, each with each."""
    opened = []

    def connect(parties, options=QUICK):
        opened.append(grpc_mesh(identities, parties, options))
        return opened[-1]

    yield connect
    for channels in opened:
        close_all(channels)


@pytest.fixture(name="together")
def together_fixture():
    return together


@pytest.fixture
def chaos(stack):
    """Return a proxy to a port that cuts the first connections after so many bytes."""

    def start(target, cuts=()):
        proxy = ChaosProxy(target, list(cuts))
        stack.callback(proxy.close)
        return proxy

    return start


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def grpc_mesh(identities: dict[PartyId, Identity], parties, options=QUICK) -> dict[PartyId, GrpcChannel]:
    """Every party listens for those after it and dials those before it."""
    channels: dict[PartyId, GrpcChannel] = {}
    for party in parties:
        peers = {
            peer: f"127.0.0.1:{channels[peer].port}" if peer in channels else None for peer in parties if peer != party
        }
        channels[party] = GrpcChannel(identities[party], peers, listen="127.0.0.1:0", options=options)
    return channels


@pytest.fixture(params=["memory-2", "memory-3", "grpc-2", "grpc-3"])
def channels(request, identities):
    """Open channels of two or three parties."""
    kind, count = request.param.split("-")
    parties = [ALICE, BOB, CAROL][: int(count)]
    opened = MemoryNetwork(parties).channels() if kind == "memory" else grpc_mesh(identities, parties)
    yield opened
    close_all(opened)


def close_all(channels) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda channel: channel.close(), channels.values()))


def together(*calls: Callable[[], object]) -> list[object]:
    """Run all at once and return their results; fail rather than hang."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=30) for future in [pool.submit(call) for call in calls]]


class ChaosProxy:
    """Passes TCP on and cuts every connection after so many bytes towards the target, as long as cuts are left."""

    def __init__(self, target: int, cuts: list[int]) -> None:
        self.cuts = list(cuts)
        self.done = 0
        self._target = target
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._open += [client, server]
            left = self.cuts[0] if self.cuts else None
            threading.Thread(target=self._pump, args=(client, server, left), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, None), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, left: int | None) -> None:
        try:
            while data := source.recv(1 << 14):
                sink.sendall(data)
                if left is not None and (left := left - len(data)) <= 0:
                    self.cuts.pop(0)
                    self.done += 1
                    break
        except OSError:
            pass
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut_all(self) -> None:
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut_all()
        for end in self._open:
            end.close()
