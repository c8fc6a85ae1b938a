"""A node's one port under many partners at once: a whole node in its own process, partners in others, on loopback.

``python -m benchmarks.port [--partners 1000 --letters 3 --processes 2]`` prints one JSON line. Every partner has a root
and a certificate of its own and was paired with; each keeps one connection of mutual TLS 1.3 and, as partners do that
dial, one call that waits for letters. The node keeps its books on the disk. All partners at the same time

1. connect and ask for facts (``connect``);
2. bring a letter, which the node takes (``letter``; ``letters`` times, one partner's after each other);
3. wait for letters, ``connections`` and ``threads`` being counted then; the node writes to all of them at once, and
   each acknowledges what it has read (``reach``).

* ``errors``: calls that failed, and letters that did not arrive; 0.
* ``…_seconds``: median, 99th percentile and most of one partner's call, all partners calling at the same time; of
  ``reach``, from when the node begins to write.
* ``letters_per_second``: that the node took, of all partners together.
* ``core_seconds``: CPU of the node's process, start included; ``idle_core_share``: its part of one core while all
  wait. ``rss_mb``: memory of the node's process before anybody came, and the most.

Partners' processes use the same machine, and its cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from benchmarks.measure import core_seconds, peak_rss_mb
from unseen.codec import decode, encode_bytes
from unseen.ids import PartyId

# Of what imports gRPC the first: it sets what gRPC reads then.
from unseen.transport.endpoints import EXCHANGE, FACTS, SERVICE, connection_options

import grpc  # isort: skip

from unseen.node.folder import Node
from unseen.node.letters import Card, write_letter
from unseen.node.partners import PARTNERS_FILE, Partner
from unseen.node.start import Running, open_node
from unseen.transport.facts import Facts
from unseen.transport.mail import Exchange, Letter
from unseen.transport.tls import Identity, host_name, issue, make_authority
from unseen.trust.keys import SigningKey, certificate_fingerprint

HUB = PartyId("hub")
_PATIENCE = 600.0
_IDLE_SECONDS = 5.0
_MOST_WAIT = 25.0


def names_of(count: int) -> list[PartyId]:
    """Return the partners' names."""
    return [PartyId(f"partner-{number:04}") for number in range(count)]


def make_all(folder: Path, count: int) -> None:
    """Make the node, and partners it was paired with."""
    now, paired = datetime.now(UTC), {}
    node = Node.create(folder / HUB, HUB, "127.0.0.1:0", now)
    for name in names_of(count):
        root = make_authority(f"Unseen node {name}", days=1, now=now, party=name)
        issue(root, name, days=1, now=now).save(folder / name)
        paired[name] = Partner(root=root.certificate_pem.decode(), endpoint=None, since=now).model_dump(mode="json")
    (node.folder / PARTNERS_FILE).write_text(json.dumps({"partners": paired}), encoding="utf-8")


# --- the node's process


def serve(folder: Path) -> None:
    """Run the node; answer each line of the standard input by one of JSON."""
    with open_node(folder / HUB) as running:
        _say(port=running.port.port)
        for line in sys.stdin:
            if line.strip() == "write":
                _write_to_all(running)
            _say(**_figures(running.port.port))


def _write_to_all(running: Running) -> None:
    card = Card(running.books.owner.key.public, running.books.owner.certificate)
    for peer in running.node.partners.all():
        with running.books.turn() as turn:
            turn.post(peer, card)


def _figures(port: int) -> dict[str, Any]:
    """Return what this process holds and has used."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if ":" in line
    )
    tables = [Path("/proc/self/net", table).read_text(encoding="ascii") for table in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    established = sum(row[3] == "01" and int(row[1].split(":")[1], 16) == port for row in rows)
    return {
        "core": core_seconds(),
        "rss": int(status["VmRSS"].split()[0]) * 1024 / 1e6,
        "peak": peak_rss_mb(),
        "threads": int(status["Threads"]),
        "files": len(os.listdir("/proc/self/fd")),
        "connections": established,
    }


# --- a process of partners


class Visitor:
    """One partner: its connection, and what it has said and heard."""

    def __init__(self, identity: Identity, root_pem: bytes, endpoint: str, key: str) -> None:
        credentials = grpc.ssl_channel_credentials(root_pem, identity.key_pem, identity.certificate_pem)
        options = [
            *connection_options(10.0),
            ("grpc.ssl_target_name_override", host_name(HUB)),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
        ]
        self._channel = grpc.aio.secure_channel(endpoint, credentials, options)
        self._card = write_letter(Card(key, certificate_fingerprint(identity.ca_pem)))
        self._sent = self.heard = 0

    async def connect(self) -> None:
        """Make the connection and ask for facts."""
        answer = await self._channel.unary_unary(f"/{SERVICE}/{FACTS}")(b"", timeout=_PATIENCE)
        if decode(Facts, bytes(answer), sender=HUB).objection:
            raise RuntimeError("refused")

    async def letter(self) -> None:
        """Bring one letter, which has to be taken."""
        self._sent += 1
        answer = await self._exchange((Letter(self._sent, self._card),))
        if answer.received != self._sent:
            raise RuntimeError(f"letter {self._sent} was not taken")

    async def reach(self) -> None:
        """Wait until there is a letter, and acknowledge it."""
        deadline, before = time.monotonic() + _PATIENCE, self.heard
        while self.heard == before:
            if time.monotonic() > deadline:
                raise RuntimeError("no letter came")
            await self._exchange((), wait=_MOST_WAIT)
        await self._exchange(())

    async def _exchange(self, letters: tuple[Letter, ...], wait: float = 0.0) -> Exchange:
        said = encode_bytes(Exchange(self.heard, letters, wait, ""))
        call = self._channel.unary_unary(f"/{SERVICE}/{EXCHANGE}")
        answer = decode(Exchange, bytes(await call(said, timeout=wait + _PATIENCE)), sender=HUB)
        if answer.complaint:
            raise RuntimeError(answer.complaint)
        self.heard = max([self.heard, *(letter.number for letter in answer.letters)])
        return answer


async def visit(folder: Path, endpoint: str, names: Sequence[PartyId]) -> None:
    """Play these partners; do what each line of the standard input says, and answer by one of JSON."""
    root_pem = Node(folder / HUB).identity().ca_pem
    key = SigningKey.generate().public
    visitors = [Visitor(Identity.load(folder / name), root_pem, endpoint, key) for name in names]
    _say(ready=len(visitors))
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        todo: Callable[[Visitor], Awaitable[None]] = getattr(Visitor, line)
        found = await asyncio.gather(*(_timed(todo(visitor)) for visitor in visitors))
        _say(seconds=[span for span, _ in found], errors=Counter(error for _, error in found if error))


async def _timed(doing: Awaitable[None]) -> tuple[tuple[float, float], str]:
    """Return from when until when something was done, and how it failed, or nothing."""
    began, failed = time.time(), ""
    try:
        await doing
    except grpc.RpcError as error:
        failed = f"{error.code().name}: {error.details()}"[:200]
    except RuntimeError as error:
        failed = str(error)
    return (began, time.time()), failed


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


# --- the whole


class Process:
    """A process that answers every line by one of JSON."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "benchmarks.port", *arguments]
        root = Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: str) -> None:
        """Send a line."""
        pipe: IO[str] = self._process.stdin  # type: ignore[assignment]  # it was asked for
        pipe.write(line + "\n")
        pipe.flush()

    def answer(self) -> dict[str, Any]:
        """Return the next answer."""
        pipe: IO[str] = self._process.stdout  # type: ignore[assignment]  # it was asked for
        line = pipe.readline()
        if not line:
            raise SystemExit("a process ended; its words are above")
        found: dict[str, Any] = json.loads(line)
        return found

    def close(self) -> None:
        """Let it end."""
        self._process.communicate()


@contextmanager
def processes(folder: Path, names: Sequence[PartyId], count: int) -> Iterator[tuple[Process, list[Process]]]:
    """Start the node and its partners."""
    node = Process("--serve", str(folder))
    visitors: list[Process] = []
    try:
        endpoint = f"127.0.0.1:{node.answer()['port']}"
        visitors += [Process("--visit", str(folder), endpoint, ",".join(names[part::count])) for part in range(count)]
        for one in visitors:
            one.answer()
        yield node, visitors
    finally:
        for one in (*visitors, node):
            one.close()


class Course:
    """Lets all partners do something at once, and keeps what came of it."""

    def __init__(self, node: Process, visitors: Sequence[Process]) -> None:
        self._node, self._visitors = node, visitors
        self.errors = Counter[str]()

    def node(self, line: str) -> dict[str, Any]:
        """Return what the node answers."""
        self._node.ask(line)
        return self._node.answer()

    def begin(self, what: str) -> None:
        """Let all begin."""
        for one in self._visitors:
            one.ask(what)

    def end(self, since: float | None = None) -> tuple[list[float], float]:
        """Return what each took, from its own beginning or from ``since``, and all of them together."""
        found = [one.answer() for one in self._visitors]
        for one in found:
            self.errors.update(one["errors"])
        spans = [span for one in found for span in one["seconds"]]
        took = [end - (begin if since is None else since) for begin, end in spans]
        return took, max(end for _, end in spans) - min(begin for begin, _ in spans)


def spread(seconds: Sequence[float]) -> list[float]:
    """Return median, 99th percentile and maximum."""
    ordered = sorted(seconds)
    return [round(value, 3) for value in (statistics.median(ordered), ordered[int(0.99 * len(ordered))], ordered[-1])]


def measure(folder: Path, partners: int, letters: int, count: int) -> dict[str, Any]:
    """Return what is printed."""
    make_all(folder, partners)
    with processes(folder, names_of(partners), count) as (node, visitors):
        course = Course(node, visitors)
        before = course.node("figures")
        course.begin("connect")
        connect, _ = course.end()
        took: list[float] = []
        elapsed = 0.0
        for _ in range(letters):
            course.begin("letter")
            each, all_together = course.end()
            took, elapsed = took + each, elapsed + all_together
        course.begin("reach")  # the node's card, which it writes to whomever it is paired with
        course.end()
        course.begin("reach")
        time.sleep(1.0)
        idle = course.node("figures")
        time.sleep(_IDLE_SECONDS)
        held = course.node("figures")
        since = time.time()
        course.node("write")
        reach, _ = course.end(since)
        after = course.node("figures")
    return {
        "benchmark": "port",
        "partners": partners,
        "errors": sum(course.errors.values()),
        "connections": held["connections"],
        "connect_seconds": spread(connect),
        "letter_seconds": spread(took),
        "letters_per_second": round(partners * letters / elapsed, 1),
        "reach_seconds": spread(reach),
        "threads": held["threads"],
        "files": held["files"],
        "rss_mb": [round(before["rss"], 1), round(after["peak"], 1)],
        "core_seconds": round(after["core"], 1),
        "idle_core_share": round((held["core"] - idle["core"]) / _IDLE_SECONDS, 3),
        **({"errors_by_kind": dict(course.errors)} if course.errors else {}),
    }


def main() -> None:
    """Run the benchmark, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--partners", type=int, default=1000)
    parser.add_argument("--letters", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--visit", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(Path(asked.serve))
    elif asked.visit:
        folder, endpoint, names = asked.visit
        asyncio.run(visit(Path(folder), endpoint, [PartyId(name) for name in names.split(",")]))
    else:
        with tempfile.TemporaryDirectory(prefix="unseen-port-") as folder:
            print(json.dumps(measure(Path(folder), asked.partners, asked.letters, asked.processes)))


if __name__ == "__main__":
    main()
