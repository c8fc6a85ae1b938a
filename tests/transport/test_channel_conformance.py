"""What every channel has to do."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from unseen.errors import DeadlineExceeded, PeerUnreachable, UsageError
from unseen.ids import PartyId

ALICE, BOB = PartyId("alice"), PartyId("bob")


def test_messages_arrive_in_order_exactly_once_and_whole(channels, together):
    sent = [bytes([number]) * number for number in range(100)] + [b""]

    def talk(party):
        channel = channels[party]
        for text in sent:
            for peer in sorted(channel.peers):
                channel.send(peer, [text[:3], text[3:], b""])
        got = {peer: [bytes(channel.receive(peer, 10)) for _ in sent] for peer in channel.peers}
        with pytest.raises(DeadlineExceeded):
            channel.receive(next(iter(channel.peers)), 0.01)
        return got

    for got in together(*(lambda party=party: talk(party) for party in channels)):
        assert all(texts == sent for texts in got.values())


def test_a_large_message_is_one_aligned_buffer(channels, together):
    data = np.random.default_rng(1).integers(0, 256, 20_000_003, dtype=np.uint8)
    _, got = together(
        lambda: channels[ALICE].send(BOB, [b"head", data.data, np.empty(0, np.uint8).data]),
        lambda: channels[BOB].receive(ALICE, 20),
    )
    array = np.frombuffer(got, np.uint8)
    assert bytes(got[:4]) == b"head"
    assert np.array_equal(array[4:], data)
    assert array.ctypes.data % 8 == 0
    assert channels[BOB].traffic(ALICE) >= len(data)


def test_a_small_message_is_aligned_too(channels):
    channels[ALICE].send(BOB, [b"12345678"])
    assert np.frombuffer(channels[BOB].receive(ALICE, 5), np.uint8).ctypes.data % 8 == 0


def test_a_sender_may_change_its_buffers_at_once(channels):
    buffer = bytearray(b"before")
    channels[ALICE].send(BOB, [buffer])
    buffer[:] = b"after!"
    assert bytes(channels[BOB].receive(ALICE, 5)) == b"before"


def test_parties_that_send_more_than_all_limits_at_once_do_not_deadlock(channels, together, quick):
    size = 4 * (quick.limits.window_bytes + quick.limits.inbox_bytes)

    def talk(party):
        channel = channels[party]
        for number in range(3):
            for peer in sorted(channel.peers):
                channel.send(peer, [bytes([number]) * (size // 3)])
        return [
            (len(got := channel.receive(peer, 20)), bytes(got[:1])) for peer in sorted(channel.peers) for _ in range(3)
        ]

    expected = [(size // 3, bytes([number])) for number in range(3)]
    for got in together(*(lambda party=party: talk(party) for party in channels)):
        assert got == expected * (len(channels) - 1)


def test_receiving_times_out(channels):
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"alice sent nothing for 0\.15 s"):
        channels[BOB].receive(ALICE, 0.15)
    assert 0.1 < time.monotonic() - begin < 2


def test_what_was_sent_before_closing_is_still_received(channels):
    channels[ALICE].send(BOB, [b"last words"])
    channels[ALICE].flush(10)
    channels[ALICE].close()
    channels[ALICE].close()
    assert bytes(channels[BOB].receive(ALICE, 5)) == b"last words"
    with pytest.raises(PeerUnreachable, match="alice has closed its channel"):
        channels[BOB].receive(ALICE, 5)
    with pytest.raises(PeerUnreachable, match="alice has closed its channel"):
        channels[BOB].send(ALICE, [b"hello?"])


def test_a_closed_channel_refuses_work_and_wakes_those_who_wait(channels):
    woken = threading.Event()

    def wait():
        with pytest.raises(UsageError, match="closed"):
            channels[ALICE].receive(BOB, 20)
        woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    for channel in channels.values():
        channel.close()
    thread.join(5)
    assert woken.is_set()
    with pytest.raises(UsageError, match="closed"):
        channels[ALICE].send(BOB, [b"x"])


def test_only_peers_can_be_talked_to(channels):
    with pytest.raises(UsageError, match="no link to alice"):
        channels[ALICE].send(ALICE, [b"to myself"])


def test_many_threads_share_a_channel(channels, together):
    senders, each = 4, 25
    texts = {(sender, number): bytes([sender, number]) * 70_000 for sender in range(senders) for number in range(each)}

    def send(sender):
        for number in range(each):
            channels[ALICE].send(BOB, [texts[sender, number]])

    def read():
        return [bytes(channels[BOB].receive(ALICE, 20)) for _ in range(senders * each // 2)]

    *_, first, second = together(*(lambda s=sender: send(s) for sender in range(senders)), read, read)
    assert sorted(first + second) == sorted(texts.values())


def test_notices_overtake_messages_that_nobody_has_read(channels):
    for _ in range(5):
        channels[ALICE].send(BOB, [b"unread"])
    channels[ALICE].notify(BOB, b"stop")
    deadline = time.monotonic() + 10
    found = []
    while not found and time.monotonic() < deadline:
        found = list(channels[BOB].notices())
        time.sleep(0.01)
    assert found == [(ALICE, b"stop")]
    assert list(channels[BOB].notices()) == []
    assert bytes(channels[BOB].receive(ALICE, 5)) == b"unread"
