"""What only links over gRPC have: broken connections, restarts, and those who are not let in."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import grpc
import numpy as np
import pytest

from unseen.errors import (
    DeadlineExceeded,
    HandshakeRefused,
    PeerUnreachable,
    RemoteProtocolError,
    TransportError,
    UsageError,
)
from unseen.ids import PartyId
from unseen.transport.diagnosis import diagnose, split_endpoint
from unseen.transport.grpc import METHOD, SERVICE, GrpcChannel, Options
from unseen.transport.link import Kind, pack
from unseen.transport.tls import host_name, issue, make_authority

ALICE, BOB, CAROL = PartyId("alice"), PartyId("bob"), PartyId("carol_2")
NOBODY = {BOB: None}


@pytest.fixture
def listener(identities, quick, stack):
    """Alice, who is dialled by Bob."""
    return stack.enter_context(GrpcChannel(identities[ALICE], NOBODY, listen="127.0.0.1:0", options=quick))


@pytest.fixture
def dial(quick, stack):
    """Dial Alice at a port and return the channel."""

    def dialled(identity, port, options=quick):
        channel = GrpcChannel(identity, {ALICE: f"127.0.0.1:{port}"}, options=options)
        return stack.enter_context(channel)

    return dialled


# --- broken connections


def test_connections_cut_in_mid_message_lose_and_repeat_nothing(identities, listener, dial, chaos, together):
    proxy = chaos(listener.port, [700_000, 300_000, 1_500_000, 5_000, 900_000, 90_000])
    bob = dial(identities[BOB], proxy.port)
    rng = np.random.default_rng(2)
    there = [rng.bytes(size) for size in (100, 3_000_000, 0, 70_000, 2_000_000, 1)]
    back = [rng.bytes(size) for size in (5, 1_500_000, 65_536, 0)]

    def send(channel, peer, texts):
        for text in texts:
            channel.send(peer, [text])

    *_, got_there, got_back = together(
        lambda: send(bob, ALICE, there),
        lambda: send(listener, BOB, back),
        lambda: [bytes(listener.receive(BOB, 30)) for _ in there],
        lambda: [bytes(bob.receive(ALICE, 30)) for _ in back],
    )
    assert got_there == there
    assert got_back == back
    assert proxy.done >= 3, "the proxy was meant to cut"
    bob.flush(10)
    listener.flush(10)


def test_a_link_survives_an_idle_cut(identities, listener, dial, chaos):
    proxy = chaos(listener.port)
    bob = dial(identities[BOB], proxy.port)
    for number in range(3):
        bob.send(ALICE, [b"%d" % number])
        assert bytes(listener.receive(BOB, 10)) == b"%d" % number
        proxy.cut_all()
        listener.send(BOB, [b"back"])
        assert bytes(bob.receive(ALICE, 10)) == b"back"


def test_a_peer_that_stays_away_is_out_of_reach_after_the_grace(identities, stack, quick):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bob = stack.enter_context(
        GrpcChannel(identities[BOB], {ALICE: f"127.0.0.1:{port}"}, options=replace(quick, connect_grace=0.5))
    )
    with pytest.raises(DeadlineExceeded):
        bob.receive(ALICE, 0.1)
    with pytest.raises(PeerUnreachable, match=r"out of reach for 0\.5 s: alice at .* connection refused"):
        bob.receive(ALICE, 10)
    with pytest.raises(PeerUnreachable):
        bob.send(ALICE, [b"x"])
    with pytest.raises(PeerUnreachable):
        bob.notify(ALICE, b"x")


def test_a_party_may_come_late(identities, quick, stack):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bob = stack.enter_context(GrpcChannel(identities[BOB], {ALICE: f"127.0.0.1:{port}"}, options=quick))
    bob.send(ALICE, [b"early"])
    time.sleep(0.3)
    alice = stack.enter_context(GrpcChannel(identities[ALICE], NOBODY, listen=f"127.0.0.1:{port}", options=quick))
    assert bytes(alice.receive(BOB, 10)) == b"early"


def test_a_restarted_peer_ends_the_link(identities, listener, dial, quick):
    first = dial(identities[BOB], listener.port)
    first.send(ALICE, [b"hi"])
    assert bytes(listener.receive(BOB, 10)) == b"hi"
    second = dial(identities[BOB], listener.port, replace(quick, connect_grace=1.0))
    with pytest.raises(PeerUnreachable, match="bob restarted; resume the job"):
        listener.receive(BOB, 10)
    with pytest.raises(PeerUnreachable, match="alice"):
        second.receive(ALICE, 10)


def test_a_blocked_sender_keeps_looking_and_its_message_is_given_up(identities, listener, dial, quick):
    bob = dial(identities[BOB], listener.port)
    looks = []

    def look():
        looks.append(1)
        if len(looks) > 3:
            raise TransportError("enough")

    size = quick.limits.window_bytes

    def send_until_blocked():
        for _ in range(100):
            bob.send(ALICE, [bytes(size)], waiting=look)

    count = 0

    def read_until_silent():
        nonlocal count
        while len(listener.receive(BOB, 1.0)) == size:
            count += 1

    with pytest.raises(TransportError, match="enough"):
        send_until_blocked()
    bob.notify(ALICE, b"overtakes")
    with pytest.raises(DeadlineExceeded):
        read_until_silent()
    assert 1 <= count < 100
    assert list(listener.notices()) == [(BOB, b"overtakes")]
    bob.send(ALICE, [b"after it"])
    assert bytes(listener.receive(BOB, 5)) == b"after it"


def test_closing_waits_for_the_slower_side(identities, listener, dial, quick, together):
    bob = dial(identities[BOB], listener.port)
    size, count = quick.limits.inbox_bytes, 4

    def send():
        for _ in range(count):
            bob.send(ALICE, [bytes(size)])
        bob.flush(20)
        bob.close()

    def receive():
        got = []
        for _ in range(count):
            time.sleep(0.2)
            got.append(len(listener.receive(BOB, 20)))
        return got

    assert together(send, receive)[1] == [size] * count


def test_flush_says_who_is_late(identities, stack, quick):
    alice = stack.enter_context(
        GrpcChannel(identities[ALICE], NOBODY, listen="127.0.0.1:0", options=replace(quick, close_grace=0.1))
    )
    alice.send(BOB, [b"x"])
    with pytest.raises(DeadlineExceeded, match="bob did not take in everything"):
        alice.flush(0.2)


def test_a_message_beyond_the_limit_is_refused_on_both_sides(identities, listener, dial, quick):
    generous = replace(quick, limits=replace(quick.limits, message_bytes=1 << 30))
    bob = dial(identities[BOB], listener.port, generous)
    limit = quick.limits.message_bytes
    with pytest.raises(UsageError, match="at most"):
        listener.send(BOB, [bytes(limit + 1)])
    with suppress(TransportError):
        bob.send(ALICE, [bytes(limit + 1)])
    with pytest.raises(TransportError, match=r"alice ended the link: bob broke the rules .* a message of"):
        bob.receive(ALICE, 10)
    with pytest.raises(RemoteProtocolError, match="bob broke the rules of the link: a message of"):
        listener.receive(BOB, 10)


# --- who is not let in


def refused(channel, peer=ALICE, error=HandshakeRefused):
    with pytest.raises(error) as caught:
        channel.receive(peer, 15)
    return str(caught.value)


def test_a_listener_with_another_authority_is_refused(identities, listener, dial, now):
    stranger = issue(make_authority("Elsewhere", days=1, now=now), BOB, days=1, now=now)
    text = refused(dial(stranger, listener.port))
    assert "their certificate is from another authority (CN=Test federation)" in text
    assert "all need one authority" in text


def test_a_dialer_whose_authority_the_listener_does_not_know_is_refused(identities, listener, dial, now):
    stranger = issue(make_authority("Elsewhere", days=1, now=now), BOB, days=1, now=now)
    forged = replace(stranger, ca_pem=identities[BOB].ca_pem)
    text = refused(dial(forged, listener.port))
    assert "the certificate of bob on this side is not from the authority beside it" in text
    with pytest.raises(DeadlineExceeded):
        listener.receive(BOB, 0.1)


def test_an_expired_dialer_is_refused_with_its_dates(authority, listener, dial, now):
    old = issue(authority, BOB, days=2, now=now - timedelta(days=5))
    text = refused(dial(old, listener.port))
    assert "the certificate of bob on this side expired: it is valid from" in text
    assert f"to {now - timedelta(days=3):%Y-%m-%d}" in text


def test_an_expired_listener_is_refused_with_its_dates(identities, authority, quick, stack, dial, now):
    old = issue(authority, ALICE, days=2, now=now - timedelta(days=5))
    alice = stack.enter_context(GrpcChannel(old, NOBODY, listen="127.0.0.1:0", options=quick))
    text = refused(dial(identities[BOB], alice.port))
    assert "their certificate expired: it is valid from" in text
    assert f"to {now - timedelta(days=3):%Y-%m-%d}" in text


def test_a_listener_with_another_partys_name_is_refused(identities, quick, stack, dial):
    carol = stack.enter_context(GrpcChannel(identities[CAROL], NOBODY, listen="127.0.0.1:0", options=quick))
    text = refused(dial(identities[BOB], carol.port))
    assert f"their certificate is for {host_name(CAROL)}, expected {host_name(ALICE)}" in text


def test_a_dialer_who_is_no_peer_is_refused_and_logged(identities, listener, dial, caplog):
    with caplog.at_level(logging.WARNING):
        text = refused(dial(identities[CAROL], listener.port))
    assert "alice refused carol_2" in text
    assert "is not one of its peers" in text
    assert "no peer of ours" in caplog.text


def test_two_sides_that_both_dial_are_told(identities, quick, stack):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    alice = stack.enter_context(
        GrpcChannel(identities[ALICE], {BOB: f"127.0.0.1:{port}"}, listen="127.0.0.1:0", options=quick)
    )
    bob = stack.enter_context(
        GrpcChannel(identities[BOB], {ALICE: f"127.0.0.1:{alice.port}"}, listen=f"127.0.0.1:{port}", options=quick)
    )
    assert "both sides dial each other" in refused(bob)
    assert "both sides dial each other" in refused(alice, BOB)


def handshake(port, identity, tmp_path, *, version=ssl.TLSVersion.TLSv1_3, certificate=True):
    """Return what Python's own TLS gets for its first HTTP/2 bytes."""
    identity.save(tmp_path)
    context = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    if certificate:
        context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=host_name(ALICE)) as secured,
    ):
        secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        return secured.recv(9)


def test_tls_1_3_with_a_certificate_is_the_only_way_in(identities, listener, tmp_path):
    assert handshake(listener.port, identities[BOB], tmp_path)[3:4] == b"\x04", "HTTP/2 SETTINGS"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        handshake(listener.port, identities[BOB], tmp_path, version=ssl.TLSVersion.TLSv1_2)
    with suppress(ConnectionError):
        assert handshake(listener.port, identities[BOB], tmp_path, certificate=False) == b""


def test_an_unencrypted_client_is_refused(listener):
    with grpc.insecure_channel(f"127.0.0.1:{listener.port}") as plain:
        call = plain.stream_stream(f"/{SERVICE}/{METHOD}")(iter([b"hello"]))
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def stream_as(identity, port, packets):
    """Write raw packets to Alice as a party that knows the certificates but not the rules; return her answers."""
    credentials = grpc.ssl_channel_credentials(identity.ca_pem, identity.key_pem, identity.certificate_pem)
    options = [("grpc.ssl_target_name_override", host_name(ALICE))]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        return list(channel.stream_stream(f"/{SERVICE}/{METHOD}")(iter(packets), timeout=10))


@pytest.mark.parametrize("packet", [b"", b"garbage" * 10, pack(Kind.ACK), pack(Kind.HELLO, [b"?"])])
def test_a_malformed_packet_ends_the_stream_and_surfaces(identities, listener, packet):
    answers = stream_as(identities[BOB], listener.port, [packet])
    assert answers[-1][3] == Kind.REFUSAL
    with pytest.raises(RemoteProtocolError, match="bob"):
        listener.receive(BOB, 5)


# --- what cannot work


def test_a_port_in_use_is_a_usage_error(identities, listener, quick):
    with pytest.raises(UsageError, match="cannot listen at"):
        GrpcChannel(identities[CAROL], NOBODY, listen=f"127.0.0.1:{listener.port}", options=quick)


@pytest.mark.parametrize("endpoint", ["", "bank", "bank:", ":80", "bank:99999", "http://bank:80", "::1:80", "b:x"])
def test_a_bad_endpoint_is_a_usage_error(identities, endpoint):
    with pytest.raises(UsageError, match="expected host:port"):
        GrpcChannel(identities[BOB], {ALICE: endpoint})


def test_endpoints_of_both_families_are_understood():
    assert split_endpoint("bank.example:7443") == ("bank.example", 7443)
    assert split_endpoint("[::1]:7443") == ("::1", 7443)


def test_a_peer_that_nobody_could_reach_is_a_usage_error(identities):
    with pytest.raises(UsageError, match="does not listen"):
        GrpcChannel(identities[ALICE], NOBODY)
    with pytest.raises(UsageError, match="own peer"):
        GrpcChannel(identities[ALICE], {ALICE: None}, listen="127.0.0.1:0")


# --- diagnosis of what gRPC does not serve


@pytest.fixture
def serve(stack):
    """Serve the first connection with a function of a socket, on a free port."""

    def start(handle):
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def run():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    handle(connection)

        threading.Thread(target=run, daemon=True).start()
        stack.callback(server.shutdown, socket.SHUT_RDWR)
        return f"127.0.0.1:{server.getsockname()[1]}"

    return start


def tls_server(identity, tmp_path, **settings):
    identity.save(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    context.set_alpn_protocols(["h2"])
    for name, value in settings.items():
        setattr(context, name, value)

    def handle(connection):
        context.wrap_socket(connection, server_side=True).close()

    return context, handle


def test_an_old_tls_version_is_named(identities, serve, tmp_path):
    _, handle = tls_server(identities[ALICE], tmp_path, maximum_version=ssl.TLSVersion.TLSv1_2)
    assert "they do not speak TLS 1.3" in diagnose(serve(handle), identities[BOB], ALICE)


def test_names_in_a_strangers_certificate_are_escaped(identities, serve, tmp_path, now):
    """Nobody has vouched for it yet: whoever answers at the endpoint chooses what is in it."""
    stranger = issue(make_authority("\x1b]0;owned\x07", days=1, now=now), ALICE, days=1, now=now)
    _, handle = tls_server(stranger, tmp_path)
    text = diagnose(serve(handle), identities[BOB], ALICE)
    assert "from another authority (CN=" in text
    assert text.isprintable()


def test_a_port_without_tls_is_named(identities, serve):
    endpoint = serve(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    assert "does not speak TLS" in diagnose(endpoint, identities[BOB], ALICE)


def test_an_alert_about_our_certificate_is_named(identities, serve, tmp_path, now):
    context, handle = tls_server(identities[ALICE], tmp_path)
    other = make_authority("Elsewhere", days=1, now=now).certificate_pem
    context.load_verify_locations(cadata=other.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    text = diagnose(serve(handle), identities[BOB], ALICE)
    assert "they refused the certificate of bob: they do not know its authority" in text


def test_a_silent_hang_up_is_a_suspicion(identities, serve, tmp_path):
    _, handle = tls_server(identities[ALICE], tmp_path)
    assert "they hung up after seeing the certificate of bob" in diagnose(serve(handle), identities[BOB], ALICE)


def test_a_healthy_link_and_a_missing_host_are_told_apart(identities, listener):
    assert "are in order" in diagnose(f"127.0.0.1:{listener.port}", identities[BOB], ALICE)
    assert "cannot be resolved" in diagnose("no-such-host.invalid:1", identities[BOB], ALICE)


def test_a_process_that_imported_grpc_first_is_told_so():
    program = (
        "import grpc\n"
        "from datetime import UTC, datetime\n"
        "from unseen.ids import PartyId\n"
        "from unseen.transport.grpc import GrpcChannel\n"
        "from unseen.transport.tls import issue, make_authority\n"
        "now = datetime.now(UTC)\n"
        "one = issue(make_authority('x', days=1, now=now), PartyId('one'), days=1, now=now)\n"
        "GrpcChannel(one, {PartyId('two'): None}, listen='127.0.0.1:0')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_SSL_CIPHER_SUITES"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    assert ran.returncode == 1
    assert "UsageError: gRPC was imported before unseen.transport.grpc and may accept TLS 1.2" in ran.stderr


def test_a_process_that_forgets_to_close_its_channels_still_ends(identities, tmp_path):
    for party in (ALICE, BOB):
        identities[party].save(tmp_path / party)
    program = (
        "import sys; from pathlib import Path\n"
        "from unseen.ids import PartyId\n"
        "from unseen.transport.grpc import GrpcChannel\n"
        "from unseen.transport.tls import Identity\n"
        "alice, bob = (Identity.load(Path(sys.argv[1], name)) for name in ('alice', 'bob'))\n"
        "one = GrpcChannel(alice, {bob.party: None}, listen='127.0.0.1:0')\n"
        "other = GrpcChannel(bob, {alice.party: f'127.0.0.1:{one.port}'})\n"
        "other.send(alice.party, [b'x']); one.receive(bob.party, 10)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_default_options_are_those_promised():
    options = Options()
    assert (options.connect_grace, options.limits.window_bytes, options.limits.inbox_bytes) == (30, 64 << 20, 256 << 20)
    assert options.limits.message_bytes == 4 << 30
