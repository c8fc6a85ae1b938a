"""Secure aggregation with drop-outs, measured: scheme ``secagg_plus``, all parties in one process.

``python -m benchmarks.secure_aggregation [--clients 100 --words 1000000 --dropouts 0.1]`` prints one JSON line.
Clients that drop out do so at the costliest moment: after their shares are delivered, before their vector is sent.
Every message is encoded and decoded; no network is involved.

* ``client_seconds``: CPU seconds of one client for the whole sum, the median over those that stay; its own encoding and
  decoding included. ``client_seconds_max`` is the largest.
* ``server_seconds``: CPU seconds of the server, from the first message to the sum, with its encoding and decoding.
* ``wire_ratio``: all bytes that a client sends, over those that it would send with scheme ``plain``, where the vector
  and its weight travel unprotected; the median. ``wire_ratio_both_ways`` counts what it receives, too, over the same.
* ``peak_rss_mb``: of this process, which holds the server and all clients; their vectors are parts of one array.
* ``exact``: the sum is the one that numpy finds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.measure import core_seconds, peak_rss_mb
from unseen.codec import decode, encode_bytes
from unseen.crypto.prg import Prg
from unseen.ids import PartyId
from unseen.protocols.secure_aggregation import plain
from unseen.protocols.secure_aggregation.graph import Assumptions, choose
from unseen.protocols.secure_aggregation.port import Contribution, Setting, Words
from unseen.protocols.secure_aggregation.roster import Terms
from unseen.protocols.secure_aggregation.secagg_plus import Client, Masked
from unseen.protocols.secure_aggregation.secagg_server import Server

R = TypeVar("R")


@dataclass(slots=True)
class Party:
    """What one party has spent."""

    seconds: float = 0.0
    sent: int = 0
    received: int = 0

    def clocked(self, work: Callable[[], R]) -> R:
        """Return what ``work`` returns, and count its CPU seconds to this party."""
        before = core_seconds()
        result = work()
        self.seconds += core_seconds() - before
        return result


@dataclass(frozen=True, slots=True)
class Federation:
    """Everybody's keys and vectors, all of one seed."""

    terms: Terms
    identities: dict[PartyId, Ed25519PrivateKey]
    prg: Prg
    numbers: Words

    @classmethod
    def make(cls, clients: int, words: int, assumptions: Assumptions, seed: int) -> Federation:
        """Return a federation of ``clients``."""
        prg = Prg(seed.to_bytes(32, "little"))
        names = tuple(sorted(PartyId(f"client{index}") for index in range(clients)))
        identities = {
            name: Ed25519PrivateKey.from_private_bytes(prg.derive("identity", name.encode()).bytes(32))
            for name in names
        }
        public = {name: key.public_key().public_bytes_raw() for name, key in identities.items()}
        setting = Setting(names, words, session=b"benchmark", model=b"model")
        numbers = prg.derive("numbers").words((words + clients) // 2 + 1).view("<u4")
        return cls(Terms(setting, public, assumptions), identities, prg, numbers)

    def contribution(self, name: PartyId) -> Contribution:
        """Return a client's vector: its own part of the numbers, shifted by one word for each client."""
        index = self.terms.setting.clients.index(name)
        return Contribution(self.numbers[index : index + self.terms.setting.length], weight=index + 1)

    def client(self, name: PartyId) -> Client:
        """Return one client."""
        prg = self.prg.derive("client", name.encode())
        return Client(self.terms, name, self.contribution(name), self.identities[name], prg)

    def is_exact(self, server: Server) -> bool:
        """Return whether the total is that of those in it."""
        total = server.total()
        expected = np.zeros(self.terms.setting.length, np.uint32)
        for name in total.clients:
            expected += self.contribution(name).words
        return bool((expected == total.words).all())


def measure(federation: Federation, dropouts: int) -> dict[str, Any]:
    """Return the figures of one sum, of which the first ``dropouts`` clients drop out."""
    clients = federation.terms.setting.clients
    gone = set(clients[:dropouts])
    spent, server_spent = {name: Party() for name in clients}, Party()
    roles = {name: spent[name].clocked(lambda name=name: federation.client(name)) for name in clients}
    server = Server(federation.terms)
    frames: dict[PartyId, bytes] = {}
    while (kind := server.expects) is not None:
        for name in sorted(server.waiting - gone if kind is Masked else server.waiting):
            heard = frames.pop(name, None)
            frame = spent[name].clocked(lambda name=name, heard=heard: _speak(roles[name], heard))
            spent[name].sent += len(frame)
            spent[name].received += len(heard or b"")
            server_spent.clocked(lambda name=name, frame=frame, kind=kind: server.accept(name, decode(kind, frame)))
        told = server_spent.clocked(server.advance)
        frames = server_spent.clocked(lambda told=told: {name: encode_bytes(each) for name, each in told.items()})
    stayed = [spent[name] for name in clients if name not in gone]
    alone = plain.Client(federation.terms.setting, federation.contribution(clients[-1]), unprotected=True)
    unprotected = len(encode_bytes(alone.begin()))
    return {
        "client_seconds": round(statistics.median(each.seconds for each in stayed), 4),
        "client_seconds_max": round(max(each.seconds for each in stayed), 4),
        "server_seconds": round(server_spent.seconds, 4),
        "wire_ratio": round(statistics.median(each.sent for each in stayed) / unprotected, 4),
        "wire_ratio_both_ways": round(statistics.median(each.sent + each.received for each in stayed) / unprotected, 4),
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "exact": federation.is_exact(server),
    }


def _speak(role: Client, frame: bytes | None) -> bytes:
    """Return a client's next frame."""
    heard = role.hears
    if frame is None or heard is None:
        return encode_bytes(role.begin())
    return encode_bytes(role.answer(decode(heard, frame, sender="server")))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Secure aggregation with drop-outs.")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--words", type=int, default=1_000_000)
    parser.add_argument("--dropouts", type=float, default=0.1)
    parser.add_argument("--corrupt", type=float, default=Assumptions().corrupt)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    assumptions = Assumptions(corrupt=asked.corrupt)
    degree, threshold = choose(asked.clients, asked.clients, assumptions)
    figures = measure(
        Federation.make(asked.clients, asked.words, assumptions, asked.seed), int(asked.clients * asked.dropouts)
    )
    line = {"name": "secure_aggregation", **vars(asked), "neighbours": degree, "threshold": threshold, **figures}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
