"""Pairing over real sockets: two nodes, those who dial without being invited, and a relay."""

from __future__ import annotations

import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from unseen.codec import decode, encode_bytes
from unseen.errors import (
    HandshakeRefused,
    PeerFailed,
    PeerUnreachable,
    PermissionDenied,
    RemoteProtocolError,
    TransportError,
    UsageError,
)
from unseen.ids import PartyId
from unseen.node import meeting, wires
from unseen.node.folder import Node
from unseen.node.invitation import MOST_ANSWERS
from unseen.node.meeting import Host, join
from unseen.node.pairing import Answer, Joiner, Opening
from unseen.node.wires import SocketWire
from unseen.transport.tls import make_authority

BANK, PARTNER = PartyId("bank"), PartyId("partner")
HOUR = timedelta(hours=1)


@pytest.fixture
def host(bank, stack):
    return stack.enter_context(Host(bank, lifetime=HOUR))


def conclude(*turns):
    """Let both people type at the same time; return what came of it at each side."""
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(encounter.conclude, heard) for encounter, heard in turns]
        return [future.exception(timeout=20) for future in asked]


def test_two_nodes_pair_and_each_has_the_others_root(bank, partner, host):
    here = join(partner, host.invitation)
    there = host.wait()
    assert conclude((here, there.found.read_out), (there, here.found.read_out)) == [None, None]
    assert partner.partners.get(BANK).root.encode() == bank.identity().ca_pem
    assert partner.partners.get(BANK).endpoint == bank.config.listen
    assert bank.partners.get(PARTNER).root.encode() == partner.identity().ca_pem
    assert bank.partners.get(PARTNER).endpoint is None
    with pytest.raises(PeerFailed, match="bank refused: the invitation has been used; it works once"):
        join(partner, host.invitation)


def test_a_code_that_one_person_did_not_hear_leaves_nothing_at_either_side(bank, partner, host):
    here, there = join(partner, host.invitation), host.wait()
    errors = conclude((here, "000000"), (there, here.found.read_out))
    assert [type(error) for error in errors] == [PermissionDenied, PermissionDenied]
    assert "not the one that bank has to read: nothing was kept" in str(errors[0])
    assert "at partner the code was not confirmed" in str(errors[1])
    assert not bank.partners.all()
    assert not partner.partners.all()


def test_whoever_leaves_the_conversation_leaves_nothing(bank, partner, host):
    with join(partner, host.invitation):
        there = host.wait()
    with pytest.raises(PermissionDenied, match="at partner the code was not confirmed"):
        there.conclude(there.found.hear)
    assert not bank.partners.all()


def test_a_partner_with_another_root_is_not_replaced(bank, partner, host, now):
    other = make_authority("Unseen node partner", days=9, now=now, party=PARTNER).certificate_pem
    bank.partners.add(PARTNER, other, None, now)
    here = join(partner, host.invitation)
    with pytest.raises(PermissionDenied, match="is a partner already, with another root"), host.wait() as there:
        there.conclude(here.found.read_out)
    with pytest.raises(PermissionDenied, match="at bank the code was not confirmed"):
        here.conclude(here.found.hear)
    assert not partner.partners.all()


def test_those_who_guess_end_the_invitation(partner, host):
    guess = replace(host.invitation, secret=bytes(16))
    for _ in range(MOST_ANSWERS):
        with pytest.raises(PeerFailed, match="the secret is not that of the invitation"):
            join(partner, guess)
    with pytest.raises(
        PermissionDenied, match="it answers 5 joiners at most, and so many came; nobody was paired with"
    ):
        host.wait()


def test_an_invitation_that_ran_out_ends_the_wait(bank, stack):
    host = stack.enter_context(Host(bank, lifetime=timedelta(seconds=-5)))
    with pytest.raises(PermissionDenied, match=r"the invitation expired at .*; nobody was paired with"):
        host.wait()


def test_a_relay_without_the_inviters_key_gets_nowhere(bank, partner, host, tmp_path, now, stack):
    """The network leads the joiner to somebody who made a node of the same name."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    mallory = Node.create(tmp_path / "mallory", BANK, f"127.0.0.1:{port}", now)
    between = stack.enter_context(Host(mallory, lifetime=HOUR))
    misled = replace(host.invitation, endpoint=f"127.0.0.1:{port}")
    with pytest.raises(HandshakeRefused, match=r"its root is another one. Somebody may be between"):
        join(partner, misled)
    assert not partner.partners.all()
    assert not between.door.taken
    # Nothing that the joiner said there opens the door here.
    assert (host.door.answered, host.door.taken) == (0, False)


def dial(host, *, version=ssl.TLSVersion.TLSv1_3, protocols=(meeting.PROTOCOL,)):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(list(protocols))
    name, port = host.invitation.endpoint.split(":")
    return context.wrap_socket(socket.create_connection((name, int(port)), timeout=5))


def begin(node, host):
    """Dial as somebody who knows the invitation, up to the nonce; return connection, side and answer."""
    guest, side = dial(host), Joiner(host.invitation, node.identity(), bytes(32))
    wire = SocketWire(guest)
    wire.send(side.commitment(datetime.now(UTC)))
    return guest, side, wire.receive(BANK)


def test_those_who_leave_once_they_have_a_nonce_end_the_invitation(partner, host):
    """Each nonce tells them a code; they would come again until one suits them."""
    for _ in range(MOST_ANSWERS):
        guest, _, answer = begin(partner, host)
        guest.close()
        assert decode(Answer, answer).name == BANK
    with pytest.raises(PermissionDenied, match="it answers 5 joiners at most, and so many came; nobody was paired"):
        host.wait()
    with pytest.raises(PeerFailed, match="bank refused: the invitation has ended"):
        join(partner, host.invitation)


def test_the_last_one_answered_is_waited_for(partner, host):
    guests = [begin(partner, host)[0] for _ in range(MOST_ANSWERS - 1)]
    with join(partner, host.invitation) as here, host.wait() as there:
        assert (here.found.peer, there.found.peer) == (BANK, PARTNER)
    for guest in guests:
        guest.close()


def test_one_that_uses_the_invitation_up_and_goes_wrong_ends_the_wait(partner, host):
    """It knows the secret, and does not hold the key of the certificate that it shows."""
    guest, side, answer = begin(partner, host)
    opening = decode(Opening, side.opening(answer, guest.getpeercert(binary_form=True), datetime.now(UTC)))
    SocketWire(guest).send(encode_bytes(replace(opening, signature=b"0")))
    with guest, pytest.raises(PeerFailed, match="partner does not hold the key"):
        SocketWire(guest).receive(BANK)
    with pytest.raises(PermissionDenied, match="has been used; it works once; nobody was paired with"):
        host.wait()


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 64, b"\0\0\0\5\0hello", b"\0\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n", b""],
    ids=["long", "text", "empty", "http", "nothing"],
)
def test_garbage_ends_its_own_connection_and_counts_as_no_guess(partner, host, data):
    with dial(host) as noise:
        noise.sendall(data)
        if not data:
            noise.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while noise.recv(1000):
                pass
    assert host.door.answered == 0
    with join(partner, host.invitation) as here:
        assert here.found.peer == BANK


def test_old_tls_is_refused(host):
    with pytest.raises((ssl.SSLError, ConnectionError)):
        dial(host, version=ssl.TLSVersion.TLSv1_2)


def test_many_silent_guests_are_let_go_and_the_joiner_still_comes_in(partner, host, stack):
    for _ in range(meeting._MOST_GUESTS // 2):
        stack.enter_context(socket.create_connection(("127.0.0.1", int(host.invitation.endpoint.split(":")[1]))))
    with join(partner, host.invitation) as here:
        assert here.found.peer == BANK


def test_a_guest_that_says_nothing_is_hung_up_on(host, monkeypatch):
    monkeypatch.setattr(wires, "PATIENCE", 0.1)
    monkeypatch.setattr(meeting, "PATIENCE", 0.1)
    with dial(host) as silent, suppress(ConnectionError):
        assert silent.recv(1) == b""


def serve_once(handle, stack):
    server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def run():
        with suppress(OSError), server.accept()[0] as connection:
            handle(connection)

    threading.Thread(target=run, daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_a_joiner_says_what_is_wrong_with_the_other_end(bank, partner, host, stack, now):
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"

    def joined_at(endpoint):
        join(partner, replace(host.invitation, endpoint=endpoint))

    with pytest.raises(PeerUnreachable, match=r"connection refused.*does bank still wait there\?"):
        joined_at(nobody)
    with pytest.raises(HandshakeRefused, match=r"bank: no TLS 1\.3 at its port"):
        joined_at(serve_once(lambda connection: connection.sendall(b"HTTP/1.1 400\r\n\r\n"), stack))
    context = meeting._server_context(bank.identity())

    def answer(text):
        def handle(connection):
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(1000)
                secured.sendall(text)

        return serve_once(handle, stack)

    with pytest.raises(PeerFailed, match=r"bank refused: \\x1b\[31mred"):
        joined_at(answer(b"\0\0\0\x08\1\x1b[31mred"))
    with pytest.raises(RemoteProtocolError, match="this is no pairing"):
        joined_at(answer(b"\xff\xff\xff\xff\0"))
    with pytest.raises(TransportError, match="hung up: nothing was kept"):
        joined_at(answer(b"\0"))
    context.set_alpn_protocols(["http/1.1"])
    with pytest.raises(HandshakeRefused, match="does not wait for a partner"):
        joined_at(answer(b""))


def test_who_cannot_invite_is_told(partner, bank, stack, host):
    with pytest.raises(UsageError, match="partner does not listen, so nobody can join it: let the partner invite"):
        Host(partner, lifetime=HOUR)
    with pytest.raises(UsageError, match=r"the node in .* runs: let it invite by `unseen partner invite`"):
        Host(bank, lifetime=HOUR)


def test_a_port_that_something_else_uses_is_told_and_the_place_is_given_back(bank):
    host, port = bank.config.listen.split(":")
    with socket.create_server((host, int(port))), pytest.raises(UsageError, match=r"cannot wait at .* uses the port"):
        Host(bank, lifetime=HOUR)
    with Host(bank, lifetime=HOUR):
        pass


def test_an_address_for_the_partner_is_needed_where_the_port_is_everybodys(tmp_path, now, free_port, stack):
    node = Node.create(tmp_path / "any", BANK, f"0.0.0.0:{free_port}", now)
    with pytest.raises(UsageError, match="no address that a partner can dial: say --address HOST:PORT"):
        Host(node, lifetime=HOUR)
    with pytest.raises(UsageError, match="expected host:port"):
        Host(node, lifetime=HOUR, address="bank.example")
    with pytest.raises(UsageError, match="write its name in ASCII"):
        Host(node, lifetime=HOUR, address="bänk.example:7443")
    host = stack.enter_context(Host(node, lifetime=HOUR, address="bank.example:7443"))
    assert host.invitation.endpoint == "bank.example:7443"
