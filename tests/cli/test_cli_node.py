"""``unseen node`` and ``unseen doctor`` at the terminal; the guide for two organisations is run by tests/docs."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta

import pytest

from unseen.cli import node as commands
from unseen.cli.node_commands import LOOPBACK
from unseen.errors import PermissionDenied
from unseen.ids import PartyId
from unseen.node.folder import Node
from unseen.node.invitation import Invitation
from unseen.node.meeting import Host, join
from unseen.transport.tls import Authority, issue

BANK, PARTNER = PartyId("bank"), PartyId("partner")


@pytest.fixture
def bank(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return Node.create(tmp_path / "bank", BANK, f"127.0.0.1:{port}", datetime.now(UTC))


@pytest.fixture
def partner(tmp_path, bank):
    made = Node.create(tmp_path / "partner", PARTNER, None, datetime.now(UTC))
    bank.partners.add(PARTNER, made.identity().ca_pem, None, datetime.now(UTC))
    made.partners.add(BANK, bank.identity().ca_pem, bank.config.listen, datetime.now(UTC))
    return made


@pytest.fixture
def typed(monkeypatch):
    """Let somebody type what these functions return, and then nothing more."""

    def prepare(*lines):
        left = list(lines)

        def ask(_):
            if not left:
                raise EOFError
            return left.pop(0)()

        monkeypatch.setattr("builtins.input", ask)

    return prepare


def at_once(work):
    """Start work, and return what it will return."""
    future = Future()

    def run():
        future.set_result(work())

    threading.Thread(target=run, daemon=True).start()
    return future


def test_a_node_is_made_looked_at_and_renewed(unseen, tmp_path):
    made = unseen("node", "init", tmp_path / "n", "--name", "bank")
    assert made.code == 0
    assert "the node listens nowhere: it can join others, not invite" in made.out
    seen = unseen("node", "status", tmp_path / "n")
    assert "listens at   nowhere: it dials its partners" in seen.out
    assert "89 days left" in seen.out
    renewed = unseen("node", "renew", tmp_path / "n", "--days", 20)
    assert "new key and certificate, valid until" in renewed.out
    assert f"19 days left: unseen node renew {tmp_path / 'n'}" in unseen("node", "status", tmp_path / "n").out


def test_status_says_what_is_wrong(unseen, bank, partner):
    before = (bank.folder / "node.pem").read_bytes()
    bank.revoke(datetime.now(UTC))
    bank.partners.strike(PARTNER, datetime.now(UTC))
    (bank.folder / "node.pem").write_bytes(before)
    seen = unseen("node", "status", bank.folder).out
    assert f"REVOKED: unseen node renew {bank.folder}" in seen
    assert "dials this node, since" in seen
    assert "STRUCK OFF on" in seen
    root = Authority((bank.folder / "root.pem").read_bytes(), (bank.folder / "root-key.pem").read_bytes())
    old = issue(root, BANK, days=1, now=datetime.now(UTC) - timedelta(days=3))
    (bank.folder / "node.pem").write_bytes(old.key_pem + old.certificate_pem)
    assert "EXPIRED: unseen node renew" in unseen("node", "status", bank.folder).out


def test_lists_are_taken_from_partners_only(unseen, bank, partner, tmp_path):
    partner.revoke(datetime.now(UTC))
    taken = unseen("node", "revoke", bank.folder, "--take", partner.folder / "revoked.crl")
    assert "is a list of partner: kept" in taken.out
    assert "has revoked 1" in unseen("node", "status", bank.folder).out
    (tmp_path / "any").write_bytes(b"x")
    refused = unseen("node", "revoke", bank.folder, "--take", tmp_path / "any")
    assert refused.code == 2
    assert "is not the revocation list of any partner of bank" in refused.err
    both = unseen("node", "revoke", bank.folder, "--take", tmp_path / "any", "--partner", "partner")
    assert both.code == 2
    assert "give one of them" in both.err
    stranger = unseen("node", "revoke", bank.folder, "--partner", "telco")
    assert stranger.code == 2
    assert "it was paired with partner" in stranger.err


def test_revoking_tells_who_could_not_be_told(unseen, partner):
    ended = unseen("node", "revoke", partner.folder)
    assert "1 certificate(s) revoked" in ended.out
    assert f"bank: will be told at the next link; or send {partner.folder / 'revoked.crl'}" in ended.out


def test_the_doctor_ends_with_a_code_of_its_own(unseen, partner, bank):
    ended = unseen("doctor", "--at", partner.folder)
    assert ended.code == 4
    assert "  BROKEN  bank at" in ended.out
    assert "connection refused" in ended.out
    assert "no link to bank; above is why" in ended.err
    fine = unseen("doctor", "--at", bank.folder)
    assert fine.code == 0
    assert "run `unseen doctor bank` there" in fine.out


def test_programs_read_json(unseen, partner, bank):
    seen = json.loads(unseen("node", "status", partner.folder, "--json").out)
    assert (seen["name"], seen["days_left"], seen["revoked"]) == ("partner", 89, False)
    assert seen["partners"]["bank"]["endpoint"] == bank.config.listen
    ended = unseen("doctor", "bank", "--at", partner.folder, "--json")
    (found,) = json.loads(ended.out)["peers"]
    assert (ended.code, found["peer"], found["fine"], found["passed"]) == (4, "bank", False, ["name"])


def test_a_misheard_code_may_be_typed_again(unseen, bank, typed, tmp_path):
    with Host(bank, lifetime=timedelta(hours=1), joiner=PARTNER) as host:
        met = at_once(host.wait)
        typed(lambda: "nonsense", lambda: met.result(20).found.read_out.lower())  # noqa: PLW0108  # later
        agreed = at_once(lambda: met.result(20).conclude(met.result(20).found.hear))
        ended = unseen("node", "join", host.invitation.line(), tmp_path / "new")
        agreed.result(20)
    assert ended.code == 0
    assert "that is not the code; listen again" in ended.out
    assert f"bank is a partner: this node dials it at {bank.config.listen}" in ended.out
    assert Node(tmp_path / "new").partners.get(BANK).endpoint == bank.config.listen
    assert Node(tmp_path / "new").config.http == LOOPBACK


def test_without_a_code_nothing_is_kept(unseen, bank, typed, tmp_path):
    with Host(bank, lifetime=timedelta(hours=1), joiner=PARTNER) as host:
        typed(host.invitation.line)
        refused = at_once(lambda: raised(host))
        ended = unseen("node", "join", "-", tmp_path / "new")
        assert "at partner the code was not confirmed" in refused.result(20)
    assert ended.code == 3
    assert "nothing was kept" in ended.err
    assert not Node(tmp_path / "new").partners.all()


def raised(host):
    encounter = host.wait()
    with pytest.raises(PermissionDenied) as caught:
        encounter.conclude(encounter.found.hear)
    return str(caught.value)


def test_what_cannot_be_joined_is_refused_before_a_node_is_made(unseen, bank, partner, tmp_path):
    with Host(bank, lifetime=timedelta(hours=1)) as host:
        line = host.invitation.line()
    for arguments, complaint in [
        ((line[:-9], tmp_path / "x"), "the invitation is damaged"),
        ((line, tmp_path / "x"), "say --name, so that one can be made"),
        ((line, tmp_path / "x", "--name", "bank"), "the invitation is not for bank"),
        ((line, partner.folder, "--name", "telco"), f"the node in {partner.folder} is partner, not telco"),
    ]:
        ended = unseen("node", "join", *arguments)
        assert ended.code == 2
        assert complaint in ended.err
    assert not (tmp_path / "x").exists()


def test_an_invitation_that_nobody_takes_up_ends_with_a_reason(unseen, bank, monkeypatch):
    monkeypatch.setattr("unseen.cli.node.timedelta", lambda minutes: timedelta(seconds=-minutes))
    ended = unseen("node", "invite", bank.folder)
    assert ended.code == 3
    assert ended.out.splitlines()[1].startswith("unseen-")
    assert "the invitation expired at" in ended.err


def test_inviting_shows_the_code_and_keeps_the_partner(unseen, bank, partner, typed, monkeypatch):
    bank.partners.strike(PARTNER, datetime.now(UTC))
    say, line = commands._say, Future()

    def listen_in(text):
        say(text)
        if text.startswith("unseen-"):
            line.set_result(text)

    monkeypatch.setattr(commands, "_say", listen_in)
    here = at_once(lambda: join(partner, Invitation.read(line.result(20))))
    typed(lambda: here.result(20).found.read_out)
    agreed = at_once(lambda: here.result(20).conclude(here.result(20).found.hear))
    ended = unseen("node", "invite", bank.folder, "--to", "partner", "--minutes", 5)
    agreed.result(20)
    assert ended.code == 0
    assert ended.out.splitlines()[-1] == "partner is a partner: it dials this node"
    assert bank.partners.get(PARTNER).struck is None
