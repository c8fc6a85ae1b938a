"""The state machine of a link: whatever is cut or repeated, what was sent arrives once and in order."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.codec import encode
from unseen.errors import PeerUnreachable, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.transport.link import (
    MAX_PACKET_BYTES,
    Hello,
    Kind,
    Limits,
    Link,
    Why,
    cut,
    pack,
    read_refusal,
    refusal,
    unpack,
)

ALICE, BOB = PartyId("alice"), PartyId("bob")
TINY = Limits(packet_bytes=4096, window_bytes=20_000, inbox_bytes=10_000, message_bytes=50_000)


def link(party=ALICE, peer=BOB, *, epoch=None, limits=TINY):
    return Link(party, peer, epoch=(epoch or party.encode()).ljust(16, b"."), limits=limits)


def take_all(receiver, packets):
    for packet in packets:
        receiver.take(unpack(packet, sender="alice"))


def queue(sender, text):
    offset = 0
    for piece in cut([text], sender.limits.packet_bytes):
        sender.queue_piece(len(text), offset, piece)
        offset += sum(len(view) for view in piece)


class Wire:
    """Two links and the stream between them, in which packets wait until somebody moves them."""

    def __init__(self, one=None, other=None):
        self.ends = (one or link(), other or link(BOB, ALICE))
        self.reconnect()

    def reconnect(self):
        self.flying = (deque(), deque())
        for end in self.ends:
            end.open()

    def write(self, side, count):
        for _ in range(count):
            if (packet := self.ends[side].next_packet()) is not None:
                self.flying[side].append(packet)

    def deliver(self, side, count, *, repeat=False):
        for _ in range(min(count, len(self.flying[side]))):
            packet = unpack(self.flying[side].popleft(), sender="x")
            for _ in range(1 + (repeat and packet.kind is not Kind.HELLO)):
                assert self.ends[1 - side].take(packet)

    def settle(self):
        moved = True
        while moved:
            for side in (0, 1):
                self.write(side, 100)
            moved = any(self.flying)
            for side in (0, 1):
                self.deliver(side, 100)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), st.sampled_from([0, 1, 4095, 4096, 4097, 9000, 13_000])),
        st.tuples(st.just("write"), st.integers(0, 1), st.integers(1, 6)),
        st.tuples(st.just("deliver"), st.integers(0, 1), st.integers(1, 6)),
        st.tuples(st.just("repeat"), st.integers(0, 1), st.integers(1, 6)),
        st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 3)),
        st.tuples(st.just("cut"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(STEPS)
def test_what_was_sent_arrives_once_and_in_order_whatever_is_cut(steps):
    wire = Wire()
    sent, got = ([], []), ([], [])
    for what, side, number in steps:
        match what:
            case "send" if wire.ends[side].has_room():
                text = bytes([len(sent[side]) % 256]) * number
                queue(wire.ends[side], text)
                sent[side].append(text)
            case "write":
                wire.write(side, number)
            case "deliver" | "repeat":
                wire.deliver(side, number, repeat=what == "repeat")
            case "read":
                got[side].extend(filter(None.__ne__, (wire.ends[side].pop() for _ in range(number))))
            case "cut":
                wire.reconnect()
    for _ in range(len(steps) + 1):
        wire.settle()
        for side in (0, 1):
            while (text := wire.ends[side].pop()) is not None:
                got[side].append(text)
    assert [bytes(text) for text in got[1]] == sent[0]
    assert [bytes(text) for text in got[0]] == sent[1]
    assert all(end.settled and end.silent for end in wire.ends)


def test_a_cut_in_mid_message_repeats_only_what_is_missing():
    wire = Wire()
    wire.settle()
    queue(wire.ends[0], b"a" * 12_288)
    wire.write(0, 3)
    wire.deliver(0, 2)
    wire.reconnect()
    wire.settle()
    assert bytes(wire.ends[1].pop()) == b"a" * 12_288
    assert wire.ends[1].bytes_in == 12_288 + 3 * 32


def test_a_full_inbox_withholds_acknowledgements_until_it_is_read_or_the_side_accepts_everything():
    wire = Wire()
    for _ in range(5):
        queue(wire.ends[0], b"m" * 4096)
    wire.settle()
    assert not wire.ends[0].settled
    wire.ends[1].accepting = True
    wire.settle()
    assert wire.ends[0].settled
    wire.ends[1].accepting = False
    while wire.ends[0].has_room():
        queue(wire.ends[0], b"m" * 4096)
    wire.settle()
    assert not wire.ends[0].has_room()
    while wire.ends[1].pop() is not None:
        pass
    wire.settle()
    assert wire.ends[0].settled


def test_a_peer_that_ignores_the_window_is_cut():
    wire = Wire()
    wire.settle()
    flood = (pack(Kind.PIECE, [b"x" * 4096], sequence=sequence, total=4096) for sequence in range(3000))
    with pytest.raises(RemoteProtocolError, match="back-pressure"):
        take_all(wire.ends[1], flood)


def test_a_peer_that_floods_a_side_which_accepts_everything_is_cut():
    """Such a peer acknowledges nothing, so that this side is blocked in sending, and sends without end itself."""
    wire = Wire(other=link(BOB, ALICE, limits=replace(TINY, most_bytes=100_000)))
    wire.settle()
    victim = wire.ends[1]
    victim.accepting = True

    def flood():
        for sequence in range(1000):
            victim.next_packet()
            yield pack(Kind.PIECE, [b"x" * 4096], sequence=sequence, total=4096)

    with pytest.raises(RemoteProtocolError, match="sends without end and takes in nothing"):
        take_all(victim, flood())
    assert victim._held < 200_000


def test_a_message_given_up_by_its_sender_never_arrives():
    wire = Wire()
    wire.ends[0].queue_piece(9000, 0, [b"x" * 4096])
    queue(wire.ends[0], b"next")
    wire.settle()
    assert bytes(wire.ends[1].pop()) == b"next"
    assert wire.ends[1].pop() is None


def test_a_goodbye_is_numbered_and_final():
    wire = Wire()
    queue(wire.ends[0], b"last")
    wire.ends[0].queue_bye()
    wire.settle()
    assert wire.ends[1].peer_left
    assert wire.ends[0].settled
    with pytest.raises(RemoteProtocolError, match="after its goodbye"):
        wire.ends[1].take(unpack(pack(Kind.PIECE, sequence=2), sender="alice"))


def test_an_acknowledgement_that_was_cut_with_its_stream_is_not_taken_for_heard():
    """Or a party could leave whose peer waits for that word of it."""
    wire = Wire()
    alice, bob = wire.ends
    assert bob.peer_lacks_nothing
    queue(alice, b"last message")
    for side in (0, 1):
        wire.write(side, 5)
    for side in (0, 1):
        wire.deliver(side, 1)
    wire.write(0, 5)
    wire.deliver(0, 5)
    wire.write(1, 5)  # the acknowledgement, which nobody gets
    assert (bob.settled, bob.peer_lacks_nothing, alice.settled) == (True, False, False)
    wire.reconnect()
    wire.write(0, 5)
    wire.write(1, 5)
    wire.deliver(0, 5)  # Alice's greeting says nothing about whether she got Bob's
    assert not bob.peer_lacks_nothing
    wire.deliver(1, 5)
    assert alice.settled
    alice.queue_bye()
    wire.write(0, 5)
    wire.deliver(0, 5)
    assert bob.peer_left
    bob.open()
    assert not bob.peer_lacks_nothing, "now her goodbye is what she may wait for"


def test_a_restarted_peer_cannot_continue_and_says_so():
    old, bob = link(), link(BOB, ALICE)
    Wire(old, bob).settle()
    fresh = link(epoch=b"another process")
    wire = Wire(fresh, bob)
    wire.write(0, 1)
    wire.write(1, 1)
    with pytest.raises(PeerUnreachable, match="alice restarted; resume the job"):
        wire.deliver(0, 1)
    assert not fresh.take(unpack(wire.flying[1].popleft(), sender="bob")), "the fresh side waits for a fresh peer"
    Wire(fresh, link(BOB, ALICE, epoch=b"fresh too")).settle()
    assert fresh.welcomed


def hello(**changes):
    values = {
        "sender": "alice", "receiver": "bob", "epoch": b"e" * 16, "known": b"", "expected": 0, "window": 1000,
    }  # fmt: skip
    return pack(Kind.HELLO, encode(Hello(**(values | changes))))


@pytest.mark.parametrize(
    "packet",
    [
        hello(sender="carol"),
        hello(receiver="carol"),
        hello(epoch=b"short"),
        hello(expected=1),
        hello(expected=-1),
        hello(window=0),
        hello(window=1 << 40),
        hello()[:-1],
        pack(Kind.ACK),
        pack(Kind.PIECE),
        b"",
        b"UL",
        b"XX" + hello()[2:],
        b"UL\x02" + hello()[3:],
        b"UL\x01\x63" + hello()[4:],
        b"\0" * (MAX_PACKET_BYTES + 1),
    ],
)
def test_a_bad_first_packet_is_refused(packet):
    bob = link(BOB, ALICE)
    bob.open()
    with pytest.raises(RemoteProtocolError):
        bob.take(unpack(packet, sender="alice"))


@pytest.mark.parametrize(
    ("packets", "complaint"),
    [
        ([hello()], "does not fit"),
        ([pack(Kind.ACK, sequence=1)], "never sent"),
        ([pack(Kind.PIECE, [b"x"], sequence=1, total=1)], "packet 1 came where 0 was due"),
        ([pack(Kind.PIECE, [b"xy"], total=1)], "1 are missing"),
        ([pack(Kind.PIECE, [b"xy"], total=1000)], "1000 are missing"),
        ([pack(Kind.PIECE, [b"xy"], total=2, offset=1)], "does not continue"),
        ([pack(Kind.PIECE, total=1 << 62)], "allowed are 50000"),
        ([pack(Kind.PIECE, [b"x" * 4096], total=9000), pack(Kind.PIECE, [b"x" * 4096], sequence=1, total=9001,
                                                           offset=4096)], "does not continue"),
        ([pack(Kind.NOTICE, [b"x" * 70_000])], "notices"),
        ([pack(Kind.NOTICE, sequence=number) for number in range(20)], "at most 16 notices"),
    ],
)  # fmt: skip
def test_a_packet_that_breaks_the_rules_is_refused(packets, complaint):
    bob = link(BOB, ALICE)
    bob.open()
    bob.take(unpack(hello(), sender="alice"))
    with pytest.raises(RemoteProtocolError, match=complaint):
        take_all(bob, packets)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: hello()[:40] + tail))
def test_garbage_is_a_protocol_error_and_nothing_else(data):
    bob = link(BOB, ALICE)
    bob.open()
    try:
        packet = unpack(data, sender="alice")
        if packet.kind is Kind.REFUSAL:
            read_refusal(packet, sender="alice")
        else:
            bob.take(packet)
    except RemoteProtocolError:
        pass


@given(st.lists(st.binary(max_size=50), max_size=8), st.integers(1, 40))
def test_pieces_are_full_but_for_the_last(parts, size):
    pieces = [b"".join(piece) for piece in cut(parts, size)]
    assert b"".join(pieces) == b"".join(parts)
    assert all(len(piece) == size for piece in pieces[:-1])
    assert len(pieces[-1]) <= size


def test_a_refusal_survives_the_wire_without_control_characters():
    assert read_refusal(unpack(refusal(Why.PROTOCOL, "no\x1b[31m\nway"), sender="bob"), sender="bob") == (
        Why.PROTOCOL,
        "no[31mway",
    )


def test_limits_that_cannot_work_are_refused():
    for bad in ({"packet_bytes": 1}, {"packet_bytes": 1 << 23}, {"window_bytes": 0}, {"inbox_bytes": 0}):
        with pytest.raises(UsageError):
            Limits(**bad)
    with pytest.raises(UsageError, match="a notice has at most"):
        link().queue_notice(b"x" * 70_000)
