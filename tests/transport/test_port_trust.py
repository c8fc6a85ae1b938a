"""Who is let in at a node's port, from when on not any more, and how little anybody can have of it."""

from __future__ import annotations

# First: it sets what gRPC reads when it is imported.
from unseen.transport.endpoints import EXCHANGE, FACTS, METHOD, SERVICE

import grpc  # isort: skip

import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unseen.codec import decode, encode_bytes
from unseen.errors import HandshakeRefused, PeerUnreachable, RemoteProtocolError
from unseen.ids import JobId, PartyId
from unseen.node.folder import Node
from unseen.transport.diagnosis import Cause
from unseen.transport.doctor import visit
from unseen.transport.facts import Facts
from unseen.transport.grpc import GrpcChannel
from unseen.transport.link import MAX_PACKET_BYTES, Kind, pack
from unseen.transport.mail import LETTER_BYTES, MOST_LETTERS, MOST_WAIT, Exchange, Letter
from unseen.transport.tls import host_name, issue, make_authority
from unseen.transport.visits import CALLS, LINES_PER_MINUTE, Complaints, Visits

ALICE, BOB, CAROL = PartyId("alice"), PartyId("bob"), PartyId("carol_2")
JOB = JobId("job-1")


@pytest.fixture
def nodes(tmp_path, now, new_site):
    """Return nodes with folders of their own, and their open ports; nobody is paired."""

    def made(*parties):
        found = []
        for party in parties:
            node = Node.create(tmp_path / party, party, None, now)
            site = new_site(party, node.identity(), tmp_path / f"{party}.run", partners_of(node))
            found.append((node, site))
        return found

    return made


def partners_of(node):
    return lambda: {name: found.endpoint for name, found in node.partners.all().items() if found.struck is None}


def pair(listener, dialer, now):
    """Let one node dial another."""
    (one, site), (other, _) = listener, dialer
    one.partners.add(other.name, other.identity().ca_pem, None, now)
    other.partners.add(one.name, one.identity().ca_pem, f"127.0.0.1:{site.port.port}", now)


def hello(one, other):
    one.send(other.party, [b"hello"])
    assert bytes(other.receive(one.party, 20)) == b"hello"
    other.send(one.party, [b"and back"])
    assert bytes(one.receive(other.party, 20)) == b"and back"


def call(identity, port, method, request=b"", *, metadata=(), expected=ALICE):
    """Call Alice's port as a party that keeps to no rules; return the answer, or code and details."""
    credentials = grpc.ssl_channel_credentials(
        identity.authority_of(expected), identity.key_pem, identity.certificate_pem
    )
    options = [("grpc.ssl_target_name_override", host_name(expected)), ("grpc.max_send_message_length", 1 << 30)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        try:
            if method == METHOD:
                stream = channel.stream_stream(f"/{SERVICE}/{METHOD}")
                return list(stream(iter(request), timeout=20, metadata=metadata))
            return channel.unary_unary(f"/{SERVICE}/{method}")(request, timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return error.code().name, error.details()


# --- partners come and go while the port is up


def test_a_partner_that_was_paired_with_while_the_port_is_up_is_let_in(nodes, now):
    """And the calls of those who were there before go on."""
    alice, bob, carol = nodes(ALICE, BOB, CAROL)
    pair(alice, bob, now)
    a, b = alice[1].worker(BOB), bob[1].worker(ALICE)
    hello(a, b)
    pair(alice, carol, now)
    alice[1].letters.post(CAROL, b"welcome")
    assert carol[1].letters.wait_for(ALICE, 1) == [b"welcome"]
    hello(a, b)
    carol[1].letters.post(ALICE, b"thanks")
    bob[1].letters.post(ALICE, b"still here")
    assert alice[1].letters.wait_for(CAROL, 1) == [b"thanks"]
    assert alice[1].letters.wait_for(BOB, 1) == [b"still here"]


@pytest.mark.parametrize("striker", [0, 1], ids=["the listener strikes", "the dialer strikes"])
def test_a_partner_that_was_struck_off_has_neither_streams_nor_letters(nodes, now, caplog, striker):
    alice, bob = nodes(ALICE, BOB)
    pair(alice, bob, now)
    a, b = alice[1].worker(BOB), bob[1].worker(ALICE)
    hello(a, b)
    (node, site), other = (alice, bob)[striker], (bob, alice)[striker]
    struck = other[0].name
    node.partners.strike(struck, now)
    with pytest.raises(HandshakeRefused, match=rf"{struck} was struck off|{struck} is not a partner"):
        (a if site is alice[1] else b).receive(struck, 20)
    with pytest.raises(HandshakeRefused, match=f"{node.name} refused {struck}: {struck} "):
        (b if site is alice[1] else a).receive(node.name, 20)
    taken = len(site.letters.taken.get(struck, []))
    other[1].letters.post(node.name, b"hello?")
    if striker == 0:  # the other way round there is nobody who dials any more
        site.letters.wait_until(lambda: "no mail with alice" in caplog.text)
    assert len(site.letters.taken.get(struck, [])) == taken
    assert f"ends the stream of job job-1 to {struck}" in caplog.text


def test_a_stolen_certificate_is_of_no_use_once_its_owner_has_revoked_it(nodes, now, new_site, tmp_path):
    """The thief has a stream that is up; the owner comes with its new certificate and the list."""
    alice, bob = nodes(ALICE, BOB)
    pair(alice, bob, now)
    bob[1].port.close()
    thief = new_site(BOB, bob[0].identity(), tmp_path / "thief", partners_of(bob[0]))
    a, stolen = alice[1].worker(BOB), thief.worker(ALICE)
    hello(a, stolen)
    bob[0].revoke(now)
    bob[1].identity = bob[0].identity()
    bob[1].open()
    bob[1].letters.post(ALICE, b"it was stolen")
    assert alice[1].letters.wait_for(BOB, 1) == [b"it was stolen"]
    with pytest.raises(HandshakeRefused, match="this certificate of bob was revoked by bob"):
        a.receive(BOB, 20)
    with pytest.raises(HandshakeRefused, match="alice refused bob"):
        stolen.receive(ALICE, 20)
    assert call(thief.identity, alice[1].port.port, EXCHANGE)[0] == "PERMISSION_DENIED"


def test_a_revoked_listener_is_not_dialled(nodes, now, caplog):
    alice, bob = nodes(ALICE, BOB)
    alice[0].revoke(now)  # its port still shows the certificate from before
    pair(alice, bob, now)
    bob[0].partners.learn(ALICE, alice[0].partners.own_list())
    bob[1].letters.post(ALICE, b"secret")
    bob[1].letters.wait_until(lambda: "this certificate of alice was revoked by alice" in caplog.text)
    assert alice[1].letters.taken == {}
    alice[1].port.show(alice[0].identity())
    assert alice[1].letters.wait_for(BOB, 1) == [b"secret"]


def test_a_renewed_certificate_is_shown_without_a_restart(nodes, now):
    alice, bob = nodes(ALICE, BOB)
    pair(alice, bob, now)
    a, b = alice[1].worker(BOB), bob[1].worker(ALICE)
    hello(a, b)
    for node, site in (alice, bob):
        node.renew(now)
        site.port.show(node.identity())
    alice[1].letters.post(BOB, b"after it")
    assert bob[1].letters.wait_for(ALICE, 1) == [b"after it"]
    hello(a, b)


# --- strangers


def test_strangers_do_not_come_as_far_as_a_call(sites, identities, now):
    alice, _ = sites(ALICE, BOB)
    port = alice.port.port
    stranger = issue(make_authority("Elsewhere", days=1, now=now), BOB, days=1, now=now)
    assert call(replace(stranger, ca_pem=identities[ALICE].ca_pem), port, FACTS)[0] == "UNAVAILABLE"
    with grpc.insecure_channel(f"127.0.0.1:{port}") as plain, pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
        plain.unary_unary(f"/{SERVICE}/{FACTS}")(b"", timeout=20)


@pytest.mark.parametrize("method", [EXCHANGE, METHOD])
def test_somebody_whom_nobody_paired_with_is_turned_away(sites, identities, caplog, method):
    """Its certificate is of an authority that is known, its name is not."""
    alice, _ = sites(ALICE, BOB)
    code, details = call(identities[CAROL], alice.port.port, method, b"")
    assert code == "PERMISSION_DENIED"
    assert "['carol_2.party.unseen.internal'] is not a partner of alice" in details
    lines = [record.getMessage() for record in caplog.records if "turned a call" in record.getMessage()]
    assert len(lines) == 1
    assert "carol_2" in lines[0]


def test_a_partner_cannot_call_as_another_one(nodes, now):
    """Carol's root could certify anybody; the root of whose name it is decides."""
    alice, bob = nodes(ALICE, BOB)
    pair(alice, bob, now)
    greedy = make_authority("greedy", days=9, now=now)
    alice[0].partners.add(CAROL, greedy.certificate_pem, None, now)
    as_bob = replace(issue(greedy, BOB, days=9, now=now), trust=bob[0].partners)
    alice[1].letters.wait_until(lambda: call(as_bob, alice[1].port.port, FACTS) != ("UNAVAILABLE", ""))
    for method in (EXCHANGE, METHOD):
        found = call(as_bob, alice[1].port.port, method, b"", metadata=(("unseen-job", JOB),))
        assert found[0] in ("PERMISSION_DENIED", "UNAVAILABLE"), found


# --- the doctor


def test_the_doctor_works_against_a_nodes_port(nodes, now):
    alice, bob = nodes(ALICE, BOB)
    pair(alice, bob, now)
    endpoint = bob[0].partners.get(ALICE).endpoint
    bob[1].letters.post(ALICE, b"x")
    alice[1].letters.wait_for(BOB, 1)
    assert visit(endpoint, bob[0].identity(), ALICE).cause is Cause.FINE
    stolen = bob[0].identity()
    bob[0].revoke(now)
    alice[0].partners.learn(BOB, bob[0].partners.own_list())
    assert "they refuse a link: this certificate of bob was revoked" in visit(endpoint, stolen, ALICE).text
    assert visit(endpoint, bob[0].identity(), ALICE).cause is Cause.FINE


def test_a_stranger_learns_nothing_from_the_facts(sites, identities):
    alice, _ = sites(ALICE, BOB)
    found = decode(Facts, call(identities[CAROL], alice.port.port, FACTS))
    assert "is not a partner of alice" in found.objection


# --- jobs that a partner takes no part in


@pytest.mark.parametrize("who", [0, 1], ids=["the listener", "the dialer"])
def test_a_partner_waits_until_it_is_admitted_to_the_job(sites, who, caplog):
    pair_of = sites(ALICE, BOB)
    site, other = pair_of[who], pair_of[1 - who]
    site.not_admitted.add((other.party, JOB))
    theirs = other.worker(site.party)
    if who == 1:
        own = site.worker(other.party)
        with pytest.raises(HandshakeRefused, match="bob does not admit alice to job job-1"):
            own.receive(other.party, 20)
        own.close()
    else:
        site.letters.wait_until(
            lambda: "alice turned a call of bob away: alice does not admit bob to job job-1" in caplog.text
        )
    site.not_admitted.clear()
    own = site.worker(other.party)
    hello(own, theirs)


def test_a_partner_that_is_never_admitted_reads_why(sites, caplog, quick):
    alice, bob = sites(ALICE, BOB)
    alice.not_admitted.add((BOB, JOB))
    theirs = bob.worker(ALICE, options=replace(quick, connect_grace=0.5))
    with pytest.raises(PeerUnreachable, match=r"alice ended the stream.*PERMISSION_DENIED: alice does not admit bob"):
        theirs.receive(ALICE, 20)


@pytest.mark.parametrize("who", [0, 1], ids=["the listener", "the dialer"])
def test_a_job_that_is_not_allowed_any_more_ends_in_mid_stream_at_both(sites, who, caplog):
    pair_of = sites(ALICE, BOB)
    site, other = pair_of[who], pair_of[1 - who]
    own, theirs = site.worker(other.party), other.worker(site.party)
    hello(own, theirs)
    site.not_admitted.add((other.party, JOB))
    reason = f"{site.party} does not admit {other.party} to job job-1"
    with pytest.raises(HandshakeRefused, match=reason):
        own.receive(other.party, 20)
    with pytest.raises(HandshakeRefused, match=f"{site.party} refused {other.party}: {reason}"):
        theirs.receive(site.party, 20)
    assert caplog.text.count(f"{site.party} ends the stream of job job-1 to {other.party}: {reason}") == 1


def test_a_job_whose_admission_cannot_be_judged_is_not_allowed(sites, caplog, quick):
    alice, bob = sites(ALICE, BOB)
    a, b = alice.worker(BOB), bob.worker(ALICE, options=replace(quick, connect_grace=0.5))
    hello(a, b)
    alice.not_admitted = None  # what is asked raises an error that nobody expected
    with pytest.raises((HandshakeRefused, PeerUnreachable)):
        b.receive(ALICE, 21)
    a.close()
    assert "job job-1 cannot be judged" in caplog.text


@pytest.mark.parametrize("job", [("Job 1",), ("../x",), ("job-1", "job-1"), ("",)])
def test_a_stream_names_one_job(sites, identities, job):
    alice, _ = sites(ALICE, BOB)
    found = call(identities[BOB], alice.port.port, METHOD, [], metadata=[("unseen-job", name) for name in job])
    assert found == ("INVALID_ARGUMENT", "bob named no job")


def test_a_process_that_runs_a_job_without_a_node_is_told(sites, identities, quick):
    alice, _ = sites(ALICE, BOB)
    channel = GrpcChannel(identities[BOB], {ALICE: alice.listen}, options=quick)
    with channel, pytest.raises(HandshakeRefused, match="a node listens here, for jobs of nodes"):
        channel.receive(ALICE, 20)


# --- floods


def test_a_partner_has_so_many_streams_and_no_more(sites, identities, caplog):
    """Each names a job that has no worker, so that they wait."""
    alice, bob = sites(ALICE, BOB)
    identity, most = identities[BOB], alice.port._options.streams
    credentials = grpc.ssl_channel_credentials(identity.ca_pem, identity.key_pem, identity.certificate_pem)
    options = [("grpc.ssl_target_name_override", host_name(ALICE))]
    bob.port.close()
    with grpc.secure_channel(f"127.0.0.1:{alice.port.port}", credentials, options) as channel:
        streams = [
            channel.stream_stream(f"/{SERVICE}/{METHOD}")(iter([]), metadata=(("unseen-job", f"job-{number}"),))
            for number in range(most + 20)
        ]
        alice.letters.wait_until(lambda: sum(stream.done() for stream in streams) == 20)
        refused = [stream for stream in streams if stream.done()]
        assert {stream.code().name for stream in refused} == {"RESOURCE_EXHAUSTED"}
    assert caplog.text.count(f"bob has more than {most} calls of Stream at once") == 1
    bob.open()
    a, b = alice.worker(BOB), bob.worker(ALICE)
    hello(a, b)


def test_a_stream_that_nobody_reads_fills_no_memory(sites, identities):
    """The peer ignores every window, and the worker takes nothing in: what waits is what sockets hold."""
    alice, bob = sites(ALICE, BOB)
    bob.port.close()
    a = alice.worker(BOB)
    a._lines[BOB].take = lambda *_: time.sleep(60)  # a worker that hangs
    sent = []

    def flood():
        for _ in range(100):
            sent.append(1)
            yield bytes(MAX_PACKET_BYTES)

    flooding = threading.Thread(
        target=lambda: call(identities[BOB], alice.port.port, METHOD, flood(), metadata=(("unseen-job", JOB),))
    )
    flooding.start()
    alice.letters.wait_until(lambda: len(sent) > 1)
    time.sleep(0.5)
    assert len(sent) < 15
    alice.port.close()
    flooding.join(20)
    assert not flooding.is_alive()


@pytest.mark.parametrize(
    ("packets", "complaint"),
    [([b"garbage"], "a packet has 7 bytes"), ([pack(Kind.ACK)], "came before the greeting")],
)
def test_a_peer_that_breaks_the_rules_of_a_link_ends_the_job_and_nothing_else(sites, identities, packets, complaint):
    alice, bob = sites(ALICE, BOB)
    bob.port.close()
    a = alice.worker(BOB)
    call(identities[BOB], alice.port.port, METHOD, packets, metadata=(("unseen-job", JOB),))
    with pytest.raises(RemoteProtocolError, match=complaint):
        a.receive(BOB, 20)
    bob.open()
    bob.letters.post(ALICE, b"x")
    alice.letters.wait_for(BOB, 1)


def test_a_message_beyond_the_limit_is_refused_before_it_is_read(sites, identities):
    alice, _ = sites(ALICE, BOB)
    found = call(identities[BOB], alice.port.port, EXCHANGE, bytes(MAX_PACKET_BYTES + 1))
    assert found[0] == "RESOURCE_EXHAUSTED"


BAD_EXCHANGES = [
    Exchange(-1, (), 0.0, ""),
    Exchange(1, (), 0.0, ""),  # acknowledges what was never written
    Exchange(0, (), MOST_WAIT + 1, ""),
    Exchange(0, (), -1.0, ""),
    Exchange(0, (), float("nan"), ""),
    Exchange(0, (Letter(1, bytes(LETTER_BYTES + 1)),), 0.0, ""),
    Exchange(0, (Letter(1, b""),) * (MOST_LETTERS + 1), 0.0, ""),
]


@pytest.mark.parametrize("exchange", BAD_EXCHANGES)
def test_an_impossible_exchange_is_refused_and_changes_nothing(sites, identities, exchange):
    alice, bob = sites(ALICE, BOB)
    bob.port.close()
    found = call(identities[BOB], alice.port.port, EXCHANGE, encode_bytes(exchange))
    assert found[0] == "INVALID_ARGUMENT"
    assert alice.letters.taken == {}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60), cut=st.integers(0, 40))
def test_an_exchange_is_refused_or_understood(sites_once, identities, data, cut):
    frame = bytearray(encode_bytes(Exchange(0, (), 0.0, "")))
    frame[cut : cut + len(data)] = data
    found = call(identities[BOB], sites_once.port.port, EXCHANGE, bytes(frame))
    assert isinstance(found, bytes) or found[0] == "INVALID_ARGUMENT"


def test_calls_are_counted_by_partner():
    visits = Visits()
    assert [visits.may(BOB) for _ in range(int(CALLS) + 20)].count(True) in range(int(CALLS), int(CALLS) + 15)
    assert visits.may(CAROL)


@pytest.mark.parametrize("answer", [Exchange(0, (), 0.0, ""), Exchange(0, (Letter(1, b"again"),) * 3, 0.0, "")])
def test_a_listener_that_answers_at_once_and_takes_nothing_keeps_nobody_busy(sites, monkeypatch, answer):
    alice, bob = sites(ALICE, BOB)
    asked = []
    monkeypatch.setattr(alice.port._clerk, "hear", lambda *_: asked.append(1) or answer)
    monkeypatch.setattr(alice.port._clerk, "say", lambda *_, **__: encode_bytes(answer))
    bob.letters.post(ALICE, b"x")
    alice.letters.wait_until(lambda: len(asked) > 4)
    time.sleep(0.6)
    assert len(asked) < 25


def test_nobody_fills_the_log(caplog):
    complaints = Complaints()
    for number in range(3 * LINES_PER_MINUTE):
        complaints.say(BOB, f"bob sent letter {number}")
        complaints.say(BOB, "bob again")
    complaints.say(CAROL, "carol\x1b[2J")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == LINES_PER_MINUTE + 2
    assert said.count("bob again") == 1
    assert said[-2:] == ["there is more to say about bob, which is left out for a minute", "carol\\x1b[2J"]


def test_a_partner_that_calls_too_often_is_turned_away(sites, identities, monkeypatch, caplog):
    monkeypatch.setattr("unseen.transport.visits.CALLS", 3.0)
    monkeypatch.setattr("unseen.transport.visits.CALLS_PER_SECOND", 0.01)
    alice, bob = sites(ALICE, BOB)
    bob.port.close()
    found = [call(identities[BOB], alice.port.port, EXCHANGE, encode_bytes(Exchange(0, (), 0.0, ""))) for _ in range(6)]
    assert ("RESOURCE_EXHAUSTED", "bob calls too often") in found


def test_silent_connections_of_strangers_do_not_keep_partners_out(sites):
    alice, bob = sites(ALICE, BOB)
    silent = [socket.create_connection(("127.0.0.1", alice.port.port)) for _ in range(100)]
    try:
        a, b = alice.worker(BOB), bob.worker(ALICE)
        hello(a, b)
    finally:
        for connection in silent:
            with suppress(OSError):
                connection.close()
