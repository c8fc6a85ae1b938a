"""A node's one port: letters and streams between nodes over real TLS."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Annotated

import numpy as np
import pytest
from numpy.typing import NDArray

from unseen.codec import Shape, encode, message
from unseen.dialogue import Checkpoint, MemoryCheckpoints, progress, receive, resume, send
from unseen.errors import (
    HandshakeRefused,
    LocalProtocolError,
    PeerFailed,
    PeerUnreachable,
    TransportError,
    UsageError,
)
from unseen.ids import JobId, PartyId

# First: it sets what gRPC reads when it is imported.
from unseen.transport.mail import LETTER_BYTES, MOST_LETTERS
from unseen.transport.relay import Call, Frame, RelayChannel, connect, read_frame, write_frame
from unseen.transport.session import Session

ALICE, BOB, CAROL = PartyId("alice"), PartyId("bob"), PartyId("carol_2")
JOB, OTHER_JOB = JobId("job-1"), JobId("job-2")


@message("test-port/block")
class Block:
    data: Annotated[NDArray[np.uint64], Shape(None)]


@message("test-port/state")
class State:
    round: int


# --- letters


def numbered(text, count):
    return [b"%s %d" % (text, number) for number in range(count)]


def test_letters_go_both_ways_though_only_one_side_can_be_dialled(sites):
    alice, bob = sites(ALICE, BOB)
    for there, back in zip(numbered(b"to bob", 200), numbered(b"to alice", 200), strict=True):
        alice.letters.post(BOB, there)
        bob.letters.post(ALICE, back)
    assert bob.letters.wait_for(ALICE, 200) == numbered(b"to bob", 200)
    assert alice.letters.wait_for(BOB, 200) == numbered(b"to alice", 200)


def test_a_letter_takes_a_round_trip_and_no_poll(sites):
    """With half a second for each the test would run out of time."""
    alice, bob = sites(ALICE, BOB)
    alice.letters.patience = bob.letters.patience = 30.0
    for count in range(1, 61):
        alice.letters.post(BOB, b"ping")
        bob.letters.wait_for(ALICE, count)
        bob.letters.post(ALICE, b"pong")
        alice.letters.wait_for(BOB, count)


def test_letters_come_once_and_in_order_though_connections_are_cut_and_answers_lost(sites, chaos):
    """Every seventh letter the connection is cut after the letter was acted upon, before the answer is out."""
    alice, bob = sites(ALICE, BOB)
    proxy = chaos(alice.port.port)
    bob.known[ALICE] = f"127.0.0.1:{proxy.port}"
    for site in (alice, bob):
        site.letters.after_take = lambda number: proxy.cut_all() if number % 7 == 0 else None
    for there, back in zip(numbered(b"to bob", 30), numbered(b"to alice", 30), strict=True):
        alice.letters.post(BOB, there)
        bob.letters.post(ALICE, back)
    assert bob.letters.wait_for(ALICE, 30) == numbered(b"to bob", 30)
    assert alice.letters.wait_for(BOB, 30) == numbered(b"to alice", 30)


@pytest.mark.parametrize("who", [0, 1], ids=["the listener", "the dialer"])
def test_letters_wait_for_a_node_that_was_started_anew(sites, who):
    pair = sites(ALICE, BOB)
    alice, bob = pair
    alice.letters.post(BOB, b"1")
    bob.letters.wait_for(ALICE, 1)
    pair[who].port.close()
    alice.letters.post(BOB, b"2")
    bob.letters.post(ALICE, b"back")
    pair[who].open()
    assert bob.letters.wait_for(ALICE, 2) == [b"1", b"2"]
    assert alice.letters.wait_for(BOB, 1) == [b"back"]


def test_a_letter_that_is_not_taken_stays_and_both_sides_log_why(sites, caplog):
    alice, bob = sites(ALICE, BOB)
    alice.letters.refuses = b"nonsense"
    bob.letters.refuses = b"nonsense"
    for site, peer in ((alice, BOB), (bob, ALICE)):
        for body in (b"sense", b"nonsense", b"more"):
            site.letters.post(peer, body)
    caplog.set_level("WARNING")
    alice.letters.wait_until(lambda: "bob does not take a letter of this node: alice's letter 2" in caplog.text)
    bob.letters.wait_until(lambda: "alice does not take a letter of this node: bob's letter 2" in caplog.text)
    assert alice.letters.taken[BOB] == bob.letters.taken[ALICE] == [b"sense"]
    assert "a letter of bob was not taken" in caplog.text
    assert "a letter of alice was not taken" in caplog.text
    alice.letters.refuses = bob.letters.refuses = None
    assert alice.letters.wait_for(BOB, 3) == bob.letters.wait_for(ALICE, 3) == [b"sense", b"nonsense", b"more"]


def test_an_error_of_the_mailroom_is_logged_here_and_not_told_there(sites, caplog):
    alice, bob = sites(ALICE, BOB)
    alice.letters.after_take = bob.letters.after_take = lambda _: int("row 7 of the secret table")
    alice.letters.post(BOB, b"x")
    bob.letters.post(ALICE, b"x")
    bob.letters.wait_until(lambda: "no mail with alice: INTERNAL: an error at this node" in caplog.text)
    said = [record.getMessage() for record in caplog.records]
    assert not any("secret" in text for text in said)
    assert any(record.exc_info and "secret" in str(record.exc_info[1]) for record in caplog.records)
    alice.letters.after_take = bob.letters.after_take = lambda _: None
    bob.letters.post(ALICE, b"y")
    assert alice.letters.wait_for(BOB, 2) == [b"x", b"y"]


def test_many_and_large_letters_travel_in_several_calls(sites):
    alice, bob = sites(ALICE, BOB)
    bodies = [bytes([number]) * LETTER_BYTES for number in range(7)] + [b""] * (2 * MOST_LETTERS)
    for body in bodies:
        bob.letters.post(ALICE, body)
    assert alice.letters.wait_for(BOB, len(bodies)) == bodies
    sent, received = bob.port.traffic.all()[ALICE][0], alice.port.traffic.all()[BOB][1]
    assert 7 * LETTER_BYTES < received <= sent < 15 * LETTER_BYTES, "none of them more than twice"


# --- streams of jobs


def hello(one, other):
    one.send(other.party, [b"hello"])
    assert bytes(other.receive(one.party, 20)) == b"hello"
    other.send(one.party, [b"and back"])
    assert bytes(one.receive(other.party, 20)) == b"and back"


def exchange(peer, blocks, *, checkpoints=True):
    """Swap blocks with a peer, one a round; return the rounds done in this run, and the sum of what came."""
    state = (yield from resume(State, [peer])) if checkpoints else None
    begin, total = (state.round if state else 0), 0
    for number in range(begin, len(blocks)):
        yield from send(peer, Block(blocks[number]))
        answer = yield from receive(peer, Block)
        total += int(answer.data.sum())
        if checkpoints:
            yield Checkpoint(State(number + 1))
        yield from progress(number + 1, len(blocks))
    return len(blocks) - begin, total


def test_a_session_with_large_messages_goes_on_through_a_cut_network(sites, together, chaos):
    alice, bob = sites(ALICE, BOB)
    proxy = chaos(alice.port.port, [40_000_000, 5_000_000])
    bob.known[ALICE] = f"127.0.0.1:{proxy.port}"
    blocks = [np.full((64 << 20) // 8, 3, np.uint64)]

    def run(site, peer):
        with Session(site.worker(peer), job=JOB) as session:
            return session.run(exchange(peer, blocks, checkpoints=False))

    assert together(lambda: run(alice, BOB), lambda: run(bob, ALICE)) == [(1, 3 * len(blocks[0]))] * 2
    assert proxy.done == 2, "the proxy was meant to cut"


def test_two_jobs_at_once_do_not_meet(sites, together):
    alice, bob = sites(ALICE, BOB)

    def run(site, peer, job, value):
        with Session(site.worker(peer, job=job), job=job) as session:
            return session.run(exchange(peer, [np.full(1000, value, np.uint64)] * 20, checkpoints=False))[1]

    got = together(
        *(lambda job=job, value=value: run(alice, BOB, job, value) for job, value in ((JOB, 1), (OTHER_JOB, 2))),
        *(lambda job=job, value=value: run(bob, ALICE, job, value) for job, value in ((JOB, 3), (OTHER_JOB, 4))),
    )
    assert got == [60_000, 80_000, 20_000, 40_000]
    for site, peer in ((alice, BOB), (bob, ALICE)):
        (known,) = site.port.traffic.all()
        assert known == peer
        assert min(site.port.traffic.all()[peer]) > 2 * 20 * 8000, "both jobs, each way"


def test_three_nodes_run_a_job_and_write_letters(sites, together):
    made = sites(ALICE, BOB, CAROL)
    for site in made:
        for other in made:
            if other is not site:
                site.letters.post(other.party, site.party.encode())
    channels = {site.party: site.worker(*(other.party for other in made if other is not site)) for site in made}

    def talk(party):
        channel = channels[party]
        for peer in sorted(channel.peers):
            channel.send(peer, [party.encode()])
        got = {peer: bytes(channel.receive(peer, 20)) for peer in channel.peers}
        channel.flush(10)
        channel.close()
        return all(text == peer.encode() for peer, text in got.items())

    assert together(*(lambda party=party: talk(party) for party in channels)) == [True] * 3
    for site in made:
        for other in made:
            if other is not site:
                assert site.letters.wait_for(other.party, 1) == [other.party.encode()]


def test_if_both_can_be_dialled_the_lower_name_dials(sites, together):
    alice, bob = sites(ALICE, BOB)
    bob.port.close()
    bob.listen = "127.0.0.1:0"
    bob.open()
    alice.known[BOB] = bob.listen
    a, b = alice.worker(BOB), bob.worker(ALICE)
    hello(b, a)
    together(a.close, b.close)


def test_a_killed_worker_is_noticed_and_a_new_one_begins_anew(sites):
    alice, bob = sites(ALICE, BOB)
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from unseen.ids import JobId, PartyId\n"
        "from unseen.transport.relay import RelayChannel\n"
        "alice = PartyId('alice')\n"
        "channel = RelayChannel(PartyId('bob'), [alice], Path(sys.argv[1]), sys.stdin.read(), JobId('job-1'))\n"
        "channel.send(alice, [b'last words'])\n"
        "channel.receive(alice, 30)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    token = bob.port.admit_worker(JOB, 1)
    a = alice.worker(BOB)
    with subprocess.Popen([sys.executable, "-c", program, str(bob.port.socket)], stdin=subprocess.PIPE) as process:
        process.stdin.write(token.encode())
        process.stdin.close()
        assert bytes(a.receive(BOB, 20)) == b"last words"
        a.send(BOB, [b"go"])
    assert process.returncode == -signal.SIGKILL
    bob.fence = 1
    b = bob.worker(ALICE)
    with pytest.raises(PeerUnreachable, match="bob restarted; resume the job"):
        a.receive(BOB, 20)
    a.close()
    a = alice.worker(BOB)
    with a, b:
        hello(a, b)


def test_new_workers_resume_a_job_from_its_checkpoints(sites, together):
    """The first workers are fenced off in mid-job; those with the next tokens go on where all checkpoints are."""
    alice, bob = sites(ALICE, BOB)
    kept = {ALICE: MemoryCheckpoints(), BOB: MemoryCheckpoints()}
    blocks = [np.full(5000, 7, np.uint64)] * 10
    tokens = []

    def run(site, peer, fence_off_at=None):
        def observe(event):
            if getattr(event, "done", None) == fence_off_at:
                tokens.append(site.port.admit_worker(JOB, site.fence + 1))
                site.fence += 1

        with Session(site.worker(peer), job=JOB, checkpoints=kept[site.party], observe=observe) as session:
            return session.run(exchange(peer, blocks))

    def lives(site, peer, fence_off_at=None):
        with pytest.raises((TransportError, PeerFailed)):
            run(site, peer, fence_off_at)
        return run(site, peer)

    (first, _), (second, _) = together(lambda: lives(alice, BOB, 4), lambda: lives(bob, ALICE))
    assert len(tokens) == 1
    assert first == second
    assert 1 <= first < 10


def test_an_old_workers_token_is_worth_nothing(sites, caplog):
    alice, bob = sites(ALICE, BOB)
    old = alice.worker(BOB)
    new, b = alice.worker(BOB), bob.worker(ALICE)
    with pytest.raises(HandshakeRefused, match=r"a newer worker runs this job|the token is not"):
        old.receive(BOB, 20)
    hello(new, b)
    again = RelayChannel(ALICE, [BOB], alice.port.socket, old._token, JOB)
    with pytest.raises(HandshakeRefused, match="the token is not"):
        again.receive(BOB, 20)
    hello(new, b)
    assert "a worker of job job-1 that calls bob was refused" in caplog.text
    assert old._token not in caplog.text
    with pytest.raises(LocalProtocolError, match="a worker with fence 1 comes after one with 2"):
        alice.port.admit_worker(JOB, 1)
    alice.port.forget_worker(JOB)
    with pytest.raises(HandshakeRefused, match="the job is over at this node"):
        new.receive(BOB, 20)
    for channel in (old, new, again, b):
        channel.close()


@pytest.mark.parametrize(
    "first",
    [
        b"garbage",
        b"",
        b"".join(encode(Call("0" * 64, "Not a job", "bob"))),
        b"".join(encode(Call("", "job-1", "bob"))),
        b"".join(encode(Call("0" * 64, "job-1", "bob"))),
        b"".join(encode(Call("0" * 64, "job-9", "nobody"))),
    ],
)
def test_nobody_comes_in_at_the_workers_socket_without_a_token(sites, first):
    (alice,) = sites(ALICE)
    alice.worker(BOB).close()
    assert (alice.folder.stat().st_mode & 0o777, alice.port.socket.stat().st_mode & 0o777) == (0o700, 0o600)
    with connect(alice.port.socket) as plain:
        write_frame(plain, Frame.PACKET, first)
        plain.shutdown(socket.SHUT_WR)
        frame = read_frame(plain)
        assert frame is None or frame[0] is Frame.REFUSED


def test_a_worker_without_its_node_says_so(tmp_path, quick):
    channel = RelayChannel(ALICE, [BOB], tmp_path / "none" / "jobs.sock", "t", JOB, options=quick_to_give_up(quick))
    with channel, pytest.raises(PeerUnreachable, match="the node of alice does not answer at"):
        channel.receive(BOB, 20)


def quick_to_give_up(options):
    return type(options)(connect_grace=0.3, close_grace=0.1, limits=options.limits)


# --- what cannot work


def test_a_port_in_use_is_a_usage_error_and_the_socket_stays_the_first_nodes(sites, together):
    alice, bob = sites(ALICE, BOB)
    first = alice.port
    with pytest.raises(UsageError, match="alice cannot listen at"):
        alice.open()
    alice.port = first
    a, b = alice.worker(BOB), bob.worker(ALICE)
    hello(a, b)
    together(a.close, b.close)


def test_a_relay_that_cannot_be_is_a_usage_error_and_gives_the_port_back(sites):
    (alice,) = sites(ALICE)
    alice.port.close()
    alice.listen = "127.0.0.1:0"
    alice.folder = alice.folder / "jobs.txt"
    alice.folder.write_text("a file")
    with pytest.raises(UsageError, match="no worker could connect at"):
        alice.open()


def threads():
    return {thread for thread in threading.enumerate() if thread.is_alive()}


def test_closing_gives_everything_back(sites):
    """However busy: letters on their way, a stream that is up, another that waits for its worker, a silent client."""
    before, open_before = threads(), len(os.listdir("/proc/self/fd"))
    alice, bob = sites(ALICE, BOB)
    alice.letters.post(BOB, b"x")
    bob.letters.wait_for(ALICE, 1)
    a, b, alone = alice.worker(BOB), bob.worker(ALICE), bob.worker(ALICE, job=OTHER_JOB)
    hello(a, b)
    with socket.create_connection(("127.0.0.1", alice.port.port)):
        alice.port.close()
        bob.port.close()
        bob.port.close()
    assert not alice.port.socket.exists()
    for channel in (a, b, alone):
        channel.close()
    for thread in threads() - before:
        thread.join(3)
    assert {thread.name for thread in threads() - before} == set()
    assert len(os.listdir("/proc/self/fd")) <= open_before + 8, "gRPC keeps a few of its own"
