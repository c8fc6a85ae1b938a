"""A node that was put back and a partner that was not, over the port's own way to exchange letters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.node.store import Store
from unseen.transport.mail import Clerk

NOW = datetime(2026, 11, 28, tzinfo=UTC)
BANK, TELECOM = PartyId("bank"), PartyId("telecom")


@dataclass
class Box:
    """A mailroom that only keeps letters."""

    store: Store
    taken: list[bytes] = field(default_factory=list)

    def waiting(self, peer: PartyId) -> tuple[tuple[int, bytes], ...]:
        with self.store.begin() as kept:
            return kept.mail.waiting(peer)

    def delivered(self, peer: PartyId, up_to: int) -> None:
        with self.store.begin() as kept:
            kept.mail.delivered(peer, up_to)

    def received(self, peer: PartyId) -> int:
        with self.store.begin() as kept:
            return kept.mail.received(peer)

    def take(self, peer: PartyId, number: int, body: bytes) -> None:
        with self.store.begin() as kept:
            if kept.mail.take(peer, number, body):
                self.taken.append(body)

    def changed(self, peer: PartyId, timeout: float) -> None:
        raise NotImplementedError

    def stir(self, peer: PartyId) -> None:
        raise NotImplementedError

    def post(self, peer: PartyId, body: bytes) -> None:
        with self.store.begin() as kept:
            kept.mail.post(peer, body)


@pytest.fixture
def boxes(tmp_path: Path) -> Iterator[tuple[Box, Box]]:
    stores = [Store(f"sqlite:///{tmp_path / name}.db") for name in (BANK, TELECOM)]
    yield Box(stores[0]), Box(stores[1])
    for store in stores:
        store.close()


def put_back(box: Box) -> None:
    with box.store.begin() as kept:
        kept.recovery.begin([TELECOM], NOW)


def call(bank: Box, telecom: Box) -> None:
    """The bank calls, and hears the answer."""
    caller, called = (Clerk(box, lambda *_: None) for box in (bank, telecom))
    called.hear(BANK, caller.say(TELECOM, letters=True))
    caller.hear(TELECOM, called.say(BANK, letters=True))


def test_a_partner_that_has_received_nothing_gets_everything(boxes):
    bank, telecom = boxes
    put_back(bank)
    bank.post(TELECOM, b"first")
    call(bank, telecom)
    assert telecom.taken == [], "the bank did not know yet"
    call(bank, telecom)
    assert telecom.taken == [b"first"]


def test_a_partner_that_has_received_more_gets_new_letters_under_new_numbers(boxes):
    bank, telecom = boxes
    for number in (1, 2, 3):
        telecom.take(BANK, number, b"forgotten")
        telecom.post(BANK, b"forgotten")
    telecom.delivered(BANK, 3)
    telecom.post(BANK, b"fourth")
    put_back(bank)
    bank.post(TELECOM, b"new")
    call(bank, telecom)
    call(bank, telecom)
    assert telecom.taken[3:] == [b"new"]
    assert bank.taken == [b"fourth"]
    assert (bank.received(TELECOM), telecom.received(BANK)) == (4, 4)


def test_a_node_that_does_not_know_that_it_was_put_back_is_told(boxes):
    bank, telecom = boxes
    telecom.take(BANK, 1, b"forgotten")
    with pytest.raises(RemoteProtocolError, match="unseen node reconcile"):
        call(bank, telecom)


def test_a_count_that_nobody_can_have_reached_is_refused(boxes):
    bank, _ = boxes
    put_back(bank)
    with pytest.raises(RemoteProtocolError, match="has received"):
        bank.delivered(TELECOM, 1 << 80)
    for number in (1 << 80, 0, -1):
        with pytest.raises(RemoteProtocolError, match="is no number of a letter"):
            bank.take(TELECOM, number, b"x")
