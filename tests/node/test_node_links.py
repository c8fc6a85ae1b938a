"""Links between two nodes, each under its own root: who is let in, who is not, and from when on not any more."""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import pytest
import yaml

from unseen.errors import HandshakeRefused, UsageError
from unseen.ids import PartyId
from unseen.node.app import PartyConfig, completed, run_party
from unseen.transport.diagnosis import Cause, pinned
from unseen.transport.doctor import visit

# First: it sets what gRPC reads when it is imported.
from unseen.transport.grpc import GrpcChannel, Options
from unseen.transport.tls import Authority, Identity, host_name, issue, make_authority, read_certificate

BANK, PARTNER, TELCO = PartyId("bank"), PartyId("partner"), PartyId("telco")
QUICK = Options(connect_grace=20.0, close_grace=1.0, recheck=0.05)


def authority(node):
    return Authority((node.folder / "root.pem").read_bytes(), (node.folder / "root-key.pem").read_bytes())


def under(node, party, root=None, **dates) -> Identity:
    """Return an identity that trusts what the node trusts, and shows what is asked for."""
    made = issue(root or authority(node), party, **dates)
    return replace(made, ca_pem=node.identity().ca_pem, trust=node.partners)


@pytest.fixture
def listen(paired, stack):
    def listening(identity=None, peers=(PARTNER,)):
        bank = paired[0]
        channel = GrpcChannel(
            identity or bank.identity(), dict.fromkeys(peers), listen=bank.config.listen, options=QUICK
        )
        return stack.enter_context(channel)

    return listening


@pytest.fixture
def dial(paired, stack):
    def dialled(identity=None):
        bank, partner = paired
        channel = GrpcChannel(identity or partner.identity(), {BANK: bank.config.listen}, options=QUICK)
        return stack.enter_context(channel)

    return dialled


def talk(listener, dialer):
    dialer.send(BANK, [b"hello"])
    assert bytes(listener.receive(PARTNER, 15)) == b"hello"
    listener.send(PARTNER, [b"and back"])
    assert bytes(dialer.receive(BANK, 15)) == b"and back"


def refused(channel, peer):
    with pytest.raises(HandshakeRefused) as caught:
        channel.receive(peer, 15)
    return str(caught.value)


def test_two_nodes_talk_without_a_common_authority(listen, dial):
    talk(listen(), dial())


def test_a_renewed_node_is_known_by_its_root(paired, listen, dial, now):
    for node in paired:
        node.renew(now)
    talk(listen(), dial())


# --- the listener's certificate


@pytest.mark.parametrize(
    ("shift", "complaint"), [(-99, "their certificate expired"), (99, "their certificate is not valid yet")]
)
def test_a_listener_at_the_wrong_time_is_refused(paired, listen, dial, shift, complaint, now):
    root = make_authority("Unseen node bank", days=400, now=now - timedelta(days=150), party=BANK)
    bank, partner = paired
    partner.partners.strike(BANK, now)
    partner.partners.add(BANK, root.certificate_pem, bank.config.listen, now)
    listen(under(bank, BANK, root, days=9, now=now + timedelta(days=shift)))
    assert complaint in refused(dial(), BANK)


def test_a_listener_under_another_root_is_refused(paired, listen, dial, now):
    other = make_authority("Unseen node bank", days=9, now=now, party=BANK)
    listen(under(paired[0], BANK, other, days=9, now=now))
    assert "than the one agreed when pairing" in refused(dial(), BANK)


def test_a_revoked_listener_is_refused_by_those_who_know(paired, listen, dial, now):
    bank, partner = paired
    listen()
    bank.revoke(now)
    partner.partners.learn(BANK, bank.partners.own_list())
    assert "this certificate of bank was revoked by bank on" in refused(dial(), BANK)


def test_a_dialer_trusts_the_one_certificate_that_it_has_judged(paired, listen, dial, monkeypatch, now):
    """Between the look and the link somebody with a revoked key takes the place of the listener."""
    bank, partner = paired
    stolen = bank.identity()
    bank.revoke(now)
    partner.partners.learn(BANK, bank.partners.own_list())
    listen(stolen)
    monkeypatch.setattr("unseen.transport.guard.pinned", lambda *_: bank.identity().certificate_pem)
    with pytest.raises(HandshakeRefused, match="was revoked by bank"):
        dial().receive(BANK, 15)


def test_what_is_pinned_was_judged(paired, listen, now):
    bank, partner = paired
    before, trust = bank.identity(), partner.identity()
    listen(before)
    assert read_certificate(pinned(bank.config.listen, trust, BANK)) == read_certificate(before.certificate_pem)
    bank.revoke(now)
    partner.partners.learn(BANK, bank.partners.own_list())
    assert pinned(bank.config.listen, trust, BANK) is None


# --- the dialer's certificate


@pytest.mark.parametrize("shift", [-99, 99], ids=["expired", "not yet valid"])
def test_a_dialer_at_the_wrong_time_is_refused(paired, listen, dial, shift, now):
    listen()
    wrong = under(paired[1], PARTNER, days=9, now=now + timedelta(days=shift))
    assert "the certificate of partner on this side" in refused(dial(wrong), BANK)


def test_a_dialer_under_another_root_of_its_name_is_refused(paired, listen, dial, now):
    listen()
    other = make_authority("Unseen node partner", days=9, now=now, party=PARTNER)
    wrong = under(paired[1], PARTNER, other, days=9, now=now)
    assert "the certificate of partner on this side is not from the authority beside it" in refused(dial(wrong), BANK)


def test_a_partner_cannot_certify_itself_as_another_partner(paired, listen, stack, now):
    """Its root may certify its own name only, which TLS enforces, and the listener looks at whose root it is."""
    bank, _ = paired
    telco = make_authority("Unseen node telco", days=9, now=now, party=TELCO)
    greedy = make_authority("Unseen node telco", days=9, now=now)  # could certify everybody: pairing refuses it
    for root in (telco, greedy):
        bank.partners.strike(TELCO, now) if TELCO in bank.partners.all() else None
        bank.partners.add(TELCO, root.certificate_pem, None, now)
        listener = GrpcChannel(bank.identity(), {PARTNER: None, TELCO: None}, listen=bank.config.listen, options=QUICK)
        as_partner = under(paired[1], PARTNER, root, days=9, now=now)
        with listener, GrpcChannel(as_partner, {BANK: bank.config.listen}, options=QUICK) as dialer:
            text = refused(dialer, BANK)
            if root is greedy:
                assert "the certificate of partner is not from the root that was agreed when pairing" in text
        assert listener._guard.watched(PARTNER) is None


def test_a_revoked_dialer_is_refused_by_those_who_know(paired, listen, dial, now):
    bank, partner = paired
    stolen = partner.identity()
    partner.revoke(now)
    bank.partners.learn(PARTNER, partner.partners.own_list())
    listen()
    assert "bank refused partner: this certificate of partner was revoked" in refused(dial(stolen), BANK)


def test_right_root_and_another_partys_name_is_refused(paired, listen, dial, now):
    bank, partner = paired
    root = make_authority("Unseen node partner", days=9, now=now)
    wrong = replace(issue(root, TELCO, days=9, now=now), trust=partner.partners)
    bank.partners.strike(PARTNER, now)
    bank.partners.add(PARTNER, root.certificate_pem, None, now)
    listen()
    text = refused(dial(wrong), BANK)
    assert "bank refused telco" in text
    assert "['telco.party.unseen.internal'] is not one of its peers" in text


def test_a_partner_that_was_struck_off_is_refused(paired, listen, dial, now):
    bank, _ = paired
    listener = listen()
    bank.partners.strike(PARTNER, now)
    assert "bank refused partner: partner was struck off the partner list" in refused(dial(), BANK)
    assert listener._guard.watched(PARTNER) is None


def test_old_tls_and_no_certificate_are_refused(paired, listen):
    bank, _ = paired
    listen()
    name, port = bank.config.listen.split(":")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = version
        context.load_verify_locations(cadata=bank.identity().ca_pem.decode())
        context.set_alpn_protocols(["h2"])
        got = b""
        with suppress(ssl.SSLError, ConnectionError):
            plain = socket.create_connection((name, int(port)), timeout=5)
            with plain, context.wrap_socket(plain, server_hostname=host_name(BANK)) as secured:
                secured.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
                got = secured.recv(9)
        assert got == b""


# --- from when on


@pytest.mark.parametrize("who", ["the dialer revokes", "the listener revokes"])
def test_a_list_travels_with_the_link_and_stops_the_revoked_certificate(paired, listen, dial, who, now):
    bank, partner = paired
    revoker, other = (partner, bank) if who == "the dialer revokes" else (bank, partner)
    before = revoker.identity()
    revoker.revoke(now)
    talk(listen(), dial())
    assert other.partners.get(revoker.name).revocations(revoker.name).number == int(now.timestamp())
    assert "was revoked" in other.identity().objection(revoker.name, before.certificate_pem)


def test_a_listener_that_shows_what_its_own_list_revokes_is_left(paired, listen, dial, now):
    bank, _ = paired
    before = bank.identity()
    bank.revoke(now)
    listen(before)
    assert "this certificate of bank was revoked by bank" in refused(dial(), BANK)


@pytest.mark.parametrize("side", ["listener", "dialer"])
def test_a_link_that_is_up_ends_when_the_partner_is_struck_off(paired, listen, dial, side, now):
    listener, dialer = listen(), dial()
    talk(listener, dialer)
    node, channel, peer = (paired[0], listener, PARTNER) if side == "listener" else (paired[1], dialer, BANK)
    node.partners.strike(peer, now)
    assert f"the link to {peer} was ended: {peer} was struck off" in refused(channel, peer)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (b"}", b"", "partners.json is missing or damaged"),
        (b'"revoked": ""', b'"revoked": "?"', "partners.json: the revocation list of partner is damaged"),
        (b'"revoked": ""', b'"revoked": "AAAA"', "partners.json: the revocation list of partner is damaged"),
    ],
    ids=["no-json", "a-list-that-is-no-base64", "a-list-that-is-none"],
)
def test_a_link_ends_when_the_partner_list_cannot_be_read_any_more(paired, listen, dial, old, new, found):
    listener, dialer = listen(), dial()
    talk(listener, dialer)
    path = paired[0].folder / "partners.json"
    path.write_bytes(path.read_bytes().replace(old, new))
    assert found in refused(listener, PARTNER)


def test_a_partner_is_not_told_what_is_wrong_with_files_here(paired, listen, dial, caplog):
    bank, partner = paired
    listen()
    (bank.folder / "partners.json").write_text("{")
    told = [visit(bank.config.listen, partner.identity(), BANK).text, refused(dial(), BANK)]
    for text in told:
        assert "partner cannot be judged here at present: bank has to look into its log" in text
        assert "partners.json" not in text
    assert "partners.json is missing or damaged" in caplog.text


def test_a_doctors_visit_does_not_change_whose_certificate_is_watched(paired, listen, dial, now):
    bank, partner = paired
    listener, dialer = listen(), dial()
    talk(listener, dialer)
    partner.renew(now)
    assert visit(bank.config.listen, partner.identity(), BANK).cause is Cause.FINE
    before = listener._guard.watched(PARTNER)
    assert before != partner.identity().certificate_pem
    partner.revoke(now)
    bank.partners.learn(PARTNER, partner.partners.own_list())
    assert "was revoked by partner" in refused(listener, PARTNER)


# --- party files


@pytest.fixture
def party_file(paired, tmp_path):
    """The partner's party file, with the node as identity."""

    def written(**more):
        steps = {"read": {"use": "read_table", "in": {"source": "tables.t"}}}
        roles = {"bank": "active", "partner": "passive", **more.pop("roles", {})}
        (tmp_path / "flow.yaml").write_text(yaml.safe_dump({"name": "f", "parties": roles, "steps": steps}))
        (tmp_path / "t.csv").write_text("id,x\n1,2\n")
        file = {"party": "partner", "flow": "flow.yaml", "job": "j", "workspace": "w", "identity": "partner"}
        (tmp_path / "party.yaml").write_text(yaml.safe_dump({**file, "tables": {"t": "t.csv"}, **more}))
        return PartyConfig.read(tmp_path / "party.yaml")

    return written


def test_a_party_file_may_leave_to_the_node_what_the_node_knows(paired, party_file):
    bank = paired[0]
    config = completed(party_file())
    assert (config.peers, config.listen) == ({BANK: bank.config.listen}, None)
    said = completed(party_file(peers={"bank": "elsewhere:1"}, listen="127.0.0.1:5"))
    assert (said.peers, said.listen) == ({BANK: "elsewhere:1"}, "127.0.0.1:5")
    there = completed(party_file().model_copy(update={"party": BANK, "identity": bank.folder}))
    assert (there.peers, there.listen) == ({PARTNER: None}, bank.config.listen)


def test_a_party_that_was_not_paired_with_is_named_with_the_remedy(party_file):
    with pytest.raises(UsageError, match="does not say how to reach telco; pair with them: `unseen node invite`"):
        run_party(party_file(roles={"telco": "passive"}))
