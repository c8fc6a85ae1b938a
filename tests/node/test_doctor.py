"""``unseen doctor`` names the cause of every kind of broken link: here each is broken on purpose, with real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
import yaml

from unseen.codec import encode_bytes
from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.node.checkup import Patient, examine_peer, warnings
from unseen.node.meeting import Host
from unseen.transport import diagnosis
from unseen.transport.facts import Facts, complaint

# First: it sets what gRPC reads when it is imported.
from unseen.transport.grpc import GrpcChannel
from unseen.transport.link import FORMAT
from unseen.transport.tls import Authority, issue, make_authority

BANK, PARTNER, TELCO = PartyId("bank"), PartyId("partner"), PartyId("telco")
TO_TLS = ("name", "connection")
TO_LINK = ("name", "connection", "TLS 1.3", "their certificate", "our certificate")


@pytest.fixture(autouse=True)
def short_patience(monkeypatch):
    monkeypatch.setattr(diagnosis, "_TIMEOUT", 0.4)


@pytest.fixture
def at(paired):
    """Let the partner's doctor walk to the bank at an endpoint."""

    def examined(endpoint=None):
        bank, partner = paired
        partner.partners.add(BANK, bank.identity().ca_pem, endpoint or bank.config.listen, partner_time(partner))
        return examine_peer(Patient.at(partner.folder), BANK)

    return examined


def partner_time(node):
    return node.partners.get(BANK).since


@pytest.fixture
def serve(stack):
    def start(handle, backlog=8):
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=backlog))

        def run():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    handle(connection)

        if handle is not None:
            threading.Thread(target=run, daemon=True).start()
        stack.callback(lambda: suppress(OSError).__enter__() or server.close())
        return f"127.0.0.1:{server.getsockname()[1]}"

    return start


def authority(node):
    return Authority((node.folder / "root.pem").read_bytes(), (node.folder / "root-key.pem").read_bytes())


@pytest.fixture
def listen(paired, stack):
    def listening(identity):
        shown = replace(identity, ca_pem=paired[0].identity().ca_pem, trust=paired[0].partners)
        return stack.enter_context(GrpcChannel(shown, {PARTNER: None}, listen=paired[0].config.listen))

    return listening


def broken(found, passed, *words):
    assert not found.fine
    assert found.passed == passed
    for word in words:
        assert word in found.text
    return found


def test_1_a_name_that_cannot_be_resolved(at):
    broken(at("bank.invalid:7443"), (), "the name 'bank.invalid' cannot be resolved", "check the spelling and the DNS")


def test_2_nobody_listens(at):
    broken(at(), ("name",), "connection refused; is the party's process running")


def test_3_a_firewall_that_drops(at, serve, stack):
    """A full queue of connections drops what comes, as a firewall does."""
    endpoint = serve(None, backlog=0)
    name, port = endpoint.split(":")
    for _ in range(4):
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex((name, int(port)))
    broken(at(endpoint), ("name",), "no answer within 0.4 s: a firewall drops the connection", "ask their network")


def test_4_a_port_that_accepts_and_stays_silent(at, serve):
    broken(at(serve(None)), TO_TLS, "accepts connections and says nothing", "a firewall or proxy between")


def test_5_a_port_that_speaks_http(at, serve):
    endpoint = serve(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    broken(at(endpoint), TO_TLS, "this port does not speak TLS; is it the port of a party?")


def test_6_another_authority(at, listen, now):
    listen(issue(make_authority("Unseen node bank", days=9, now=now, party=BANK), BANK, days=9, now=now))
    broken(at(), (*TO_TLS, "TLS 1.3"), "another authority", "than the one agreed when pairing", "pair again")


@pytest.mark.parametrize(
    ("shift", "word"),
    [(-20, "their certificate expired: it is valid from"), (20, "their certificate is not valid yet")],
)
def test_7_an_expired_certificate_and_8_a_wrong_clock(paired, at, listen, shift, word, now):
    bank, partner = paired
    root = make_authority("Unseen node bank", days=99, now=now - timedelta(days=50), party=BANK)
    partner.partners.strike(BANK, now)
    partner.partners.add(BANK, root.certificate_pem, bank.config.listen, now)
    listen(issue(root, BANK, days=9, now=now + timedelta(days=shift)))
    found = examine_peer(Patient.at(partner.folder), BANK)
    broken(found, (*TO_TLS, "TLS 1.3"), word, f"the clock here says {now:%Y-%m-%d}", "renew it, or set the clock")


def test_9_the_right_authority_and_another_partys_name(paired, at, stack, now):
    bank, partner = paired
    root = make_authority("Unseen node bank", days=99, now=now)
    partner.partners.strike(BANK, now)
    partner.partners.add(BANK, root.certificate_pem, bank.config.listen, now)
    telco = replace(issue(root, TELCO, days=9, now=now), trust=bank.partners)
    stack.enter_context(GrpcChannel(telco, {PARTNER: None}, listen=bank.config.listen))
    found = examine_peer(Patient.at(partner.folder), BANK)
    text = "their certificate is for telco.party.unseen.internal, expected bank.party.unseen.internal"
    broken(found, (*TO_TLS, "TLS 1.3"), text, "is it the right endpoint?")


def test_10_an_older_version_that_answers_no_questions(at, paired, listen, monkeypatch):
    monkeypatch.setattr("unseen.transport.grpc.FACTS", "Later")
    listen(paired[0].identity())
    broken(at(), TO_LINK, "they run an older version of unseen, or another program: update their side")


def test_11_another_protocol_under_the_right_certificate(at, paired, stack):
    stack.enter_context(Host(paired[0], lifetime=timedelta(hours=1)))
    broken(at(), TO_LINK, "does not speak the protocol of a link", "an invitation that waits there")


def test_12_old_tls(at, paired, serve):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with diagnosis.in_memory(paired[0].identity().certificate_pem + paired[0].identity().key_pem) as path:
        context.load_cert_chain(path)
    endpoint = serve(lambda connection: context.wrap_socket(connection, server_side=True).close())
    broken(at(endpoint), TO_TLS, "they do not speak TLS 1.3; update their side or the proxy between")


def test_13_a_certificate_that_they_revoked(paired, at, listen, now):
    bank, partner = paired
    before = bank.identity()
    bank.revoke(now)
    partner.partners.learn(BANK, bank.partners.own_list())
    listen(before)
    broken(at(), (*TO_TLS, "TLS 1.3"), "this certificate of bank was revoked by bank")


def test_14_a_partner_that_struck_us_off(paired, at, listen, now):
    paired[0].partners.strike(PARTNER, now)
    listen(paired[0].identity())
    broken(at(), TO_LINK, "they refuse a link: partner was struck off the partner list of this node")


def test_15_our_own_certificate_ran_out(paired, at, listen, now):
    bank, partner = paired
    listen(bank.identity())
    old = issue(authority(partner), PARTNER, days=2, now=now - timedelta(days=9))
    (partner.folder / "node.pem").write_bytes(old.key_pem + old.certificate_pem)
    broken(at(), TO_LINK[:4], "the certificate of partner on this side expired")


def test_a_healthy_link_is_fine_and_lists_are_exchanged(paired, at, listen, now):
    bank, partner = paired
    partner.revoke(now)
    listen(bank.identity())
    found = at()
    assert (found.fine, found.passed) == (True, (*TO_LINK, "version and clock"))
    assert "all is in order" in found.text
    assert bank.partners.get(PARTNER).revoked


def test_versions_and_clocks_are_compared(now):
    def said(**changes):
        return complaint(
            Facts(**{"version": "1", "link": FORMAT, "now": int(now.timestamp()), "objection": ""} | changes), now
        )

    assert said() is None
    assert said(now=int(now.timestamp()) + 59) is None
    assert "their clock is 300 s ahead of the one here" in said(now=int(now.timestamp()) + 300)
    assert "their clock is 90 s behind the one here; set both" in said(now=int(now.timestamp()) - 90)
    assert "both sides need the same major version" in said(link=FORMAT + 1, version="9\x1b")
    assert "9\\x1b" in said(link=FORMAT + 1, version="9\x1b")


def test_an_answer_in_other_words_is_a_matter_of_versions(paired, at, listen, monkeypatch):
    monkeypatch.setattr("unseen.transport.grpc.facts", lambda _: encode_bytes(Facts("2", 1, 0, ""))[:-1])
    listen(paired[0].identity())
    broken(at(), TO_LINK, "words that this version does not know", "bring both sides to one version")


def test_a_peer_that_dials_us_is_examined_there(paired):
    bank, _ = paired
    found = examine_peer(Patient.at(bank.folder), PARTNER)
    assert found.fine
    assert f"partner dials this side at {bank.config.listen}: run `unseen doctor bank` there" in found.text
    with pytest.raises(UsageError, match="telco is not a peer of bank: it knows partner"):
        examine_peer(Patient.at(bank.folder), TELCO)
    deaf = Patient(bank.identity(), {PARTNER: None}, None)
    assert "which does not listen" in examine_peer(deaf, PARTNER).text


def test_a_side_that_waits_is_told_what_is_wrong_with_itself(paired, now):
    bank, _ = paired
    old = issue(authority(bank), BANK, days=2, now=now - timedelta(days=9))
    (bank.folder / "node.pem").write_bytes(old.key_pem + old.certificate_pem)
    found = examine_peer(Patient.at(bank.folder), PARTNER)
    assert not found.fine
    assert "the certificate of bank on this side expired" in found.text
    bank.partners.strike(PARTNER, now)
    assert not Patient.at(bank.folder).peers


def test_a_certificate_that_runs_out_soon_is_told(paired, now):
    bank, _ = paired
    patient = Patient.at(bank.folder)
    assert not list(warnings(patient, now))
    assert list(warnings(patient, now + timedelta(days=80))) == [
        "the certificate of bank expires in 9 days: unseen node renew"
    ]


def test_a_party_file_is_examined_too(paired, tmp_path):
    bank, partner = paired
    parties, steps = "{bank: active, partner: passive}", "{read: {use: read_table, in: {source: tables.t}}}"
    flow = f"name: f\nparties: {parties}\nsteps: {steps}\n"
    (tmp_path / "flow.yaml").write_text(flow)
    file = {"party": "partner", "flow": "flow.yaml", "job": "j", "workspace": "w", "identity": "partner"}
    (tmp_path / "party.yaml").write_text(yaml.safe_dump(file))
    patient = Patient.at(tmp_path / "party.yaml")
    assert patient.peers == {BANK: bank.config.listen}
    assert patient.identity == partner.identity()
    with pytest.raises(UsageError, match="is neither the folder of a node nor a party file"):
        Patient.at(tmp_path / "nothing")
