"""A node's one port: letters and streams between nodes over real TLS."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import pytest

from unseen.codec import message
from unseen.errors import RemoteProtocolError
from unseen.ids import JobId, PartyId

# First: it sets what gRPC reads when it is imported.
from unseen.transport.port import Port, PortOptions
from unseen.transport.relay import RelayChannel

ALICE, BOB, CAROL = PartyId("alice"), PartyId("bob"), PartyId("carol_2")
JOB = JobId("job-1")
QUICK = PortOptions(recheck=0.1, mail_wait=5.0, worker_wait=5.0, close_grace=3.0)


class Letters:
    """A mailroom in memory."""

    def __init__(self) -> None:
        self.changes = threading.Condition()
        self.out: dict[PartyId, list[bytes]] = {}
        self.done: dict[PartyId, int] = {}
        self.taken: dict[PartyId, list[bytes]] = {}

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
            if number == len(taken) + 1:
                taken.append(body)
            self.changes.notify_all()

    def received(self, peer):
        with self.changes:
            return len(self.taken.get(peer, []))

    def changed(self, peer, timeout):
        with self.changes:
            if not self.waiting(peer):
                self.changes.wait(timeout)

    def wait_for(self, peer, count):
        with self.changes:
            assert self.changes.wait_for(lambda: self.received(peer) >= count, 20), self.taken
        return self.taken[peer]


@dataclass
class Site:
    """A node with what stands around its port."""

    party: PartyId
    identity: object
    folder: object
    partners: dict = field(default_factory=dict)
    letters: Letters = field(default_factory=Letters)
    strangers: set = field(default_factory=set)
    port: Port | None = None
    fence: int = 0

    def open(self, listen="127.0.0.1:0", options=QUICK):
        self.port = Port(
            self.identity,
            listen=listen,
            partners=lambda: self.partners,
            mail=self.letters,
            relay=self.folder,
            admits=lambda peer, job: (peer, job) not in self.strangers,
            options=options,
        )
        return self.port

    def knows(self, other, *, dials):
        self.partners[other.party] = f"127.0.0.1:{other.port.port}" if dials else None

    def worker(self, peers, job=JOB):
        self.fence += 1
        token = self.port.admit_worker(job, self.fence)
        return RelayChannel(self.party, peers, self.port.socket, token, job)


@pytest.fixture
def sites(identities, tmp_path):
    """Nodes with open ports, the first of which is dialled by all others, and the second by the third."""
    with ExitStack() as stack:

        def opened(*parties):
            made = [Site(party, identities[party], tmp_path / party) for party in parties]
            for place, site in enumerate(made):
                site.open(None if site is made[-1] else "127.0.0.1:0")
                stack.callback(lambda site=site: site.port.close())
                for other in made[:place]:
                    other.knows(site, dials=False)
                    site.knows(other, dials=True)
            return made

        yield opened


# --- letters


def test_letters_go_both_ways_though_only_one_side_can_be_dialled(sites):
    alice, bob = sites(ALICE, BOB)
    for number in range(200):
        alice.letters.post(BOB, b"to bob %d" % number)
        bob.letters.post(ALICE, b"to alice %d" % number)
    assert bob.letters.wait_for(ALICE, 200) == [b"to bob %d" % number for number in range(200)]
    assert alice.letters.wait_for(BOB, 200) == [b"to alice %d" % number for number in range(200)]


# --- streams of jobs


@message("test/port/block")
class Block:
    data: np.ndarray


def test_a_session_runs_over_relays(sites, together):
    alice, bob = sites(ALICE, BOB)
    a, b = alice.worker([BOB]), bob.worker([ALICE])
    with a, b:
        a.send(BOB, [b"hello"])
        assert bytes(b.receive(ALICE, 10)) == b"hello"
        b.send(ALICE, [b"and back"])
        assert bytes(a.receive(BOB, 10)) == b"and back"
        together(a.close, b.close)
