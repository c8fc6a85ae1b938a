from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from unseen.errors import RemoteProtocolError
from unseen.ids import JobId, PartyId

# First: it sets what gRPC reads when it is imported.
from unseen.transport.grpc import GrpcChannel, Options
from unseen.transport.link import Limits
from unseen.transport.memory import MemoryNetwork
from unseen.transport.port import Port, PortOptions
from unseen.transport.relay import RelayChannel
from unseen.transport.tls import Authority, Identity, issue, make_authority

ALICE, BOB, CAROL = PartyId("alice"), PartyId("bob"), PartyId("carol_2")
SMALL = Limits(packet_bytes=1 << 16, window_bytes=1 << 20, inbox_bytes=2 << 20, message_bytes=64 << 20)
JOB = JobId("job-1")
QUICK_WORKER = Options(connect_grace=20.0, close_grace=0.5)
QUICK_PORT = PortOptions(recheck=0.1, mail_wait=30.0, worker_wait=10.0, close_grace=3.0)
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
        self._lock = threading.Lock()
        self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            with self._lock:
                if self._closed:
                    client.close()
                    server.close()
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
        with self._lock:
            self._closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut_all()
        for end in self._open:
            end.close()


# --- ports of nodes


class Letters:
    """A mailroom in memory."""

    def __init__(self) -> None:
        self.changes = threading.Condition()
        self.out: dict[PartyId, list[bytes]] = {}
        self.done: dict[PartyId, int] = {}
        self.taken: dict[PartyId, list[bytes]] = {}
        self.refuses: bytes | None = None
        self.patience = 0.02
        """Shorter than need be, so that ports close at once."""
        self.after_take: Callable[[int], object] = lambda _: None

    def post(self, peer, body):
        with self.changes:
            self.out.setdefault(peer, []).append(body)
            self.changes.notify_all()

    def waiting(self, peer):
        with self.changes:
            done = self.done.get(peer, 0)
            return [(done + 1 + i, body) for i, body in enumerate(self.out.get(peer, [])[done:])]

    def delivered(self, peer, up_to):
        with self.changes:
            if up_to > len(self.out.get(peer, [])):
                raise RemoteProtocolError(f"{peer} has taken letter {up_to}, which was never written")
            self.done[peer] = max(self.done.get(peer, 0), up_to)

    def take(self, peer, number, body):
        with self.changes:
            taken = self.taken.setdefault(peer, [])
            if number > len(taken) + 1 or (number <= len(taken) and taken[number - 1] != body):
                raise RemoteProtocolError(f"{peer}: letter {number} does not follow {len(taken)}")
            if body == self.refuses:
                raise RemoteProtocolError(f"{peer}'s letter {number} makes no sense")
            if number == len(taken) + 1:
                taken.append(body)
            self.changes.notify_all()
        self.after_take(number)

    def received(self, peer):
        with self.changes:
            return len(self.taken.get(peer, []))

    def changed(self, peer, timeout):
        with self.changes:
            if not self.waiting(peer):
                self.changes.wait(min(timeout, self.patience))

    def stir(self, peer):
        with self.changes:
            self.changes.notify_all()

    def wait_for(self, peer, count):
        with self.changes:
            assert self.changes.wait_for(lambda: self.received(peer) >= count, 20), self.taken
        return self.taken[peer]

    def wait_until(self, condition):
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)


@dataclass
class Site:
    """A node with what stands around its port."""

    party: PartyId
    identity: Identity
    folder: Path
    partners: Callable[[], Mapping[PartyId, str | None]]
    listen: str | None
    known: dict[PartyId, str | None] = field(default_factory=dict)
    letters: Letters = field(default_factory=Letters)
    not_admitted: set[tuple[PartyId, JobId]] = field(default_factory=set)
    fence: int = 0
    port: Port | None = None

    def open(self) -> Port:
        """Open the port, or open it again where it was."""
        self.port = Port(
            self.identity,
            listen=self.listen,
            partners=self.partners,
            mail=self.letters,
            relay=self.folder,
            admits=lambda peer, job: (peer, job) not in self.not_admitted,
            options=QUICK_PORT,
        )
        if self.listen is not None:
            self.listen = f"127.0.0.1:{self.port.port}"
        return self.port

    def worker(self, *peers: PartyId, job: JobId = JOB, options: Options = QUICK_WORKER) -> RelayChannel:
        """Return the channel of a new worker."""
        self.fence += 1
        token = self.port.admit_worker(job, self.fence)
        return RelayChannel(self.party, peers, self.port.socket, token, job, options=options)


@pytest.fixture
def new_site(stack):
    """Return a new node with an open port."""

    def opened(
        party: PartyId,
        identity: Identity,
        folder: Path,
        partners: Callable[[], Mapping[PartyId, str | None]],
        listen: str | None = "127.0.0.1:0",
    ) -> Site:
        site = Site(party, identity, folder, partners, listen)
        site.open()
        stack.callback(lambda: site.port.close())  # noqa: PLW0108  # it may have another one by then
        return site

    return opened


@pytest.fixture
def sites(identities, tmp_path, new_site):
    """Return nodes of one authority with open ports: each dials those before it, and the last cannot be dialled."""

    def opened(*parties: PartyId) -> list[Site]:
        made: list[Site] = []
        for party in parties:
            known = {other.party: other.listen for other in made}
            for other in made:
                other.known[party] = None
            listen = None if party == parties[-1] else "127.0.0.1:0"
            site = new_site(party, identities[party], tmp_path / party, lambda known=known: dict(known), listen)
            site.known = known
            made.append(site)
        return made

    return opened


@pytest.fixture
def sites_once(sites):
    """Return a node that is dialled by Bob, who is not there."""
    return sites(ALICE, BOB)[0]
