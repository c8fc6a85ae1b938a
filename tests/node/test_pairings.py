"""Pairing at the port of nodes that run: guests come in beside partners, and can do nothing but pair."""

from __future__ import annotations

# First: it sets what gRPC reads when it is imported.
from unseen.transport.endpoints import EXCHANGE, FACTS, METHOD, PAIR, SERVICE, dialled

import grpc  # isort: skip

import pickle
import time
from contextlib import suppress
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from tests.transport.conftest import QUICK_PORT, Letters

from unseen.codec import decode, encode_bytes
from unseen.errors import HandshakeRefused, PeerFailed, PermissionDenied, TransportError, UsageError
from unseen.ids import PartyId
from unseen.node import meeting
from unseen.node.domain import Duty, Person
from unseen.node.folder import Node
from unseen.node.invitation import MOST_ANSWERS, Invitation
from unseen.node.meeting import Host
from unseen.node.pairing import Answer, Joiner
from unseen.node.usecases import pairings as pairings_module
from unseen.node.usecases.pairings import MOST_OPEN, Pairings, Stage
from unseen.transport.facts import Facts
from unseen.transport.mail import Exchange
from unseen.transport.port import Port

BANK, PARTNER, THIRD = PartyId("bank"), PartyId("partner"), PartyId("third")
ADMIN = Person("ada", frozenset({Duty.ADMIN}), datetime(2026, 1, 1, tzinfo=UTC))


class Running:
    """A node with an open port, and its pairings."""

    def __init__(self, node, folder):
        self.node, self.letters, self.pairings = node, Letters(), Pairings(node)
        self.port = Port(
            node.identity(),
            listen=node.config.listen,
            partners=node.partners.endpoints,
            mail=self.letters,
            relay=folder,
            admits=lambda peer, job: True,
            guests=self.pairings,
            options=QUICK_PORT,
        )
        self.pairings.after_each(self.port.look)

    def invite(self, joiner=PARTNER):
        return self.pairings.invite(ADMIN, joiner=joiner, address=None, minutes=5)

    def reaches(self, name, stage):
        until = time.monotonic() + 20
        while (seen := self.pairings.get(ADMIN, name)).stage is not stage:
            assert time.monotonic() < until, seen
            time.sleep(0.01)
        return seen


@pytest.fixture
def run(tmp_path, stack):
    def started(node):
        running = Running(node, tmp_path / f"{node.name}.run")
        stack.callback(running.port.close)
        return running

    return started


def compared(here, there, mine, theirs):
    """Let the people of both nodes type what the others read."""
    one = here.pairings.get(ADMIN, mine)
    other = there.reaches(theirs, Stage.COMPARING)
    here.pairings.confirm(ADMIN, mine, other.read_out)
    there.pairings.confirm(ADMIN, theirs, one.read_out)


def test_two_running_nodes_pair_and_write_letters_at_once_and_no_more_once_struck_off(bank, partner, run, caplog):
    caplog.set_level("INFO")
    here, there = run(bank), run(partner)
    invited, line = here.invite()
    joined = there.pairings.join(ADMIN, line)
    assert (invited.stage, joined.stage, joined.peer) == (Stage.WAITING, Stage.COMPARING, BANK)
    compared(there, here, joined.name, invited.name)
    assert here.reaches(invited.name, Stage.PAIRED).peer == PARTNER
    there.reaches(joined.name, Stage.PAIRED)
    here.letters.post(PARTNER, b"welcome")
    there.letters.post(BANK, b"thank you")
    assert there.letters.wait_for(BANK, 1) == [b"welcome"]
    assert here.letters.wait_for(PARTNER, 1) == [b"thank you"]

    here.pairings.strike(ADMIN, PARTNER)
    there.letters.post(BANK, b"too late")
    here.letters.wait_until(lambda: "partner was struck off" in caplog.text or "no mail with bank" in caplog.text)
    assert here.letters.taken[PARTNER] == [b"thank you"]
    secret = Invitation.read(line).secret
    assert line not in caplog.text
    assert secret.hex() not in caplog.text
    assert repr(secret) not in caplog.text


def test_a_stopped_node_joins_one_that_runs_and_a_running_one_a_stopped_one(bank, partner, run, tmp_path, now):
    there = run(partner)
    with Host(bank, lifetime=pairings_module.timedelta(minutes=5)) as host:
        joined = there.pairings.join(ADMIN, host.invitation.line())
        with host.wait() as encounter:
            there.pairings.confirm(ADMIN, joined.name, encounter.found.read_out)
            encounter.conclude(joined.read_out)
    there.reaches(joined.name, Stage.PAIRED)
    here, third = run(bank), Node.create(tmp_path / "third", THIRD, None, now)
    invited, line = here.invite(joiner=None)
    with meeting.join(third, Invitation.read(line)) as encounter:
        seen = here.reaches(invited.name, Stage.COMPARING)
        here.pairings.confirm(ADMIN, invited.name, encounter.found.read_out)
        encounter.conclude(seen.read_out)
    here.reaches(invited.name, Stage.PAIRED)
    assert set(bank.partners.endpoints()) == {PARTNER, THIRD}


def test_a_wrong_code_may_be_typed_twice_and_the_third_leaves_nothing_at_either_side(bank, partner, run):
    here, there = run(bank), run(partner)
    invited, line = here.invite()
    joined = there.pairings.join(ADMIN, line)
    seen = here.reaches(invited.name, Stage.COMPARING)
    for left in (2, 1):
        with pytest.raises(UsageError, match=rf"that is not the code; listen again \({left} more\)"):
            here.pairings.confirm(ADMIN, invited.name, "000-000")
    here.pairings.confirm(ADMIN, invited.name, "000-000")
    there.pairings.confirm(ADMIN, joined.name, seen.read_out)
    assert "not the one that partner has to read" in here.reaches(invited.name, Stage.ENDED).reason
    assert "at bank the code was not confirmed" in there.reaches(joined.name, Stage.ENDED).reason
    assert not bank.partners.all()
    assert not partner.partners.all()


def test_an_invitation_that_was_taken_back_lets_nobody_in(bank, partner, run):
    here, there = run(bank), run(partner)
    invited, line = here.invite()
    assert here.pairings.cancel(ADMIN, invited.name).reason == "ada took it back"
    with pytest.raises(HandshakeRefused, match=r"the node of bank at .* does not know the invitation \(any more\)"):
        there.pairings.join(ADMIN, line)
    assert [seen.stage for seen in there.pairings.all(ADMIN)] == [Stage.ENDED]
    invited, line = here.invite()
    joined = there.pairings.join(ADMIN, line)
    there.pairings.cancel(ADMIN, joined.name)
    seen = here.reaches(invited.name, Stage.COMPARING)
    here.pairings.confirm(ADMIN, invited.name, joined.read_out)
    assert seen.read_out
    assert "at partner the code was not confirmed" in here.reaches(invited.name, Stage.ENDED).reason


def guest_of(here, line):
    invitation = Invitation.read(line)
    guest = invitation.guest(datetime.now(UTC))
    return dialled(invitation.endpoint, guest, BANK, here.node.identity().certificate_pem)


def test_those_who_leave_once_they_have_a_nonce_end_the_invitation(bank, partner, run):
    """The bound on nonces holds at a port that runs as it does at one that waits."""
    here = run(bank)
    invited, line = here.invite()
    for _ in range(MOST_ANSWERS):
        side = Joiner(Invitation.read(line), partner.identity(), bytes(32))
        with guest_of(here, line) as connection:
            call = connection.stream_stream(f"/{SERVICE}/{PAIR}")(iter([b"\0" + side.commitment(datetime.now(UTC))]))
            assert decode(Answer, next(call)[1:]).name == BANK
    assert "it answers 5 joiners at most" in here.reaches(invited.name, Stage.ENDED).reason
    with pytest.raises(TransportError):
        meeting.join(partner, Invitation.read(line))


def test_a_guest_that_knows_the_secret_and_lies_uses_it_up(bank, partner, run, tmp_path, now):
    """It brings somebody else's certificate, whose key it does not hold."""
    here = run(bank)
    invited, line = here.invite(joiner=None)
    thief = partner.identity()
    other = Node.create(tmp_path / "third", THIRD, None, now).identity()
    stolen = type(thief)(THIRD, other.certificate_pem, other.key_pem, other.ca_pem)
    object.__setattr__(stolen, "key_pem", thief.key_pem)

    class Thief:
        identity = staticmethod(lambda: stolen)

    with pytest.raises(PeerFailed, match="third does not hold the key"):
        meeting.join(Thief(), Invitation.read(line))
    assert "it works once; nobody was paired with" in here.reaches(invited.name, Stage.ENDED).reason
    assert not bank.partners.all()


def test_a_guest_can_do_nothing_but_pair_and_a_partner_does_not_come_as_a_guest(paired, run):
    bank, partner = paired
    here = run(bank)
    _, line = here.invite(joiner=None)
    with guest_of(here, line) as connection:
        with pytest.raises(grpc.RpcError, match=r"bank.* is not a partner of bank"):
            connection.unary_unary(f"/{SERVICE}/{EXCHANGE}")(encode_bytes(Exchange(0, (), 0.0, "")), timeout=20)
        told = decode(Facts, connection.unary_unary(f"/{SERVICE}/{FACTS}")(b"", timeout=20))
        assert "is not a partner" in told.objection
        with pytest.raises(grpc.RpcError, match="is not a partner"):
            list(connection.stream_stream(f"/{SERVICE}/{METHOD}")(iter([]), metadata=(("unseen-job", "job-1"),)))
    with (
        dialled(bank.config.listen, partner.identity(), BANK, bank.identity().certificate_pem) as connection,
        pytest.raises(grpc.RpcError, match="was not invited by bank"),
    ):
        list(connection.stream_stream(f"/{SERVICE}/{PAIR}")(iter([]), timeout=20))


@pytest.mark.parametrize("packets", [[], [b""], [b"\0garbage"], [b"\7x"], [b"\0" + bytes(1 << 15)], [b"\0x"] * 40])
def test_what_is_no_pairing_ends_the_stream_and_not_the_invitation(bank, partner, run, packets, monkeypatch):
    monkeypatch.setattr("unseen.node.wires.PATIENCE", 0.5)
    here = run(bank)
    invited, line = here.invite()
    with guest_of(here, line) as connection:
        list(connection.stream_stream(f"/{SERVICE}/{PAIR}")(iter(packets), timeout=20))
    seen = here.pairings.get(ADMIN, invited.name)
    assert (seen.stage, seen.reason) == (Stage.WAITING, "")


def test_only_admins_pair_and_not_without_end(bank, partner, run):
    here = run(bank)
    for duty in set(Duty) - {Duty.ADMIN}:
        somebody = Person("eve", frozenset({duty}), ADMIN.created)
        for refused in (
            lambda by: here.pairings.invite(by, joiner=None, address=None, minutes=5),
            lambda by: here.pairings.join(by, "unseen-x"),
            here.pairings.all,
            lambda by: here.pairings.get(by, "x"),
            lambda by: here.pairings.confirm(by, "x", "y"),
            lambda by: here.pairings.cancel(by, "x"),
            lambda by: here.pairings.strike(by, PARTNER),
        ):
            with pytest.raises(PermissionDenied, match="eve may not do this"):
                refused(somebody)
    for _ in range(MOST_OPEN):
        here.pairings._add(
            pairings_module.Pairing(
                meeting.new_invitation(bank, lifetime=pairings_module.timedelta(1)), "ada", inviting=True
            )
        )
    with pytest.raises(PermissionDenied, match="16 pairings are under way"):
        here.invite()
    for minutes in (0, 1441):
        with pytest.raises(UsageError, match="good for 1 to 1440 minutes"):
            here.pairings.invite(ADMIN, joiner=None, address=None, minutes=minutes)
    with pytest.raises(UsageError, match="there is no pairing nowhere"):
        here.pairings.get(ADMIN, "nowhere")
    with pytest.raises(UsageError):
        pickle.dumps(Invitation.read(meeting.new_invitation(bank, lifetime=pairings_module.timedelta(1)).line()))


def test_an_error_while_the_partner_is_kept_ends_the_pairing(bank, partner, run, monkeypatch):
    """A full disk: the thread breaks down, and nobody waits for ever."""

    def full(*_):
        raise OSError(28, "No space left on device")

    here, there = run(bank), run(partner)
    invited, line = here.invite()
    joined = there.pairings.join(ADMIN, line)
    monkeypatch.setattr(bank.partners, "add", full)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    compared(there, here, joined.name, invited.name)
    assert here.reaches(invited.name, Stage.ENDED).reason == "an error at this node, which its log tells"


class Agreed:
    """An encounter in which the other side has confirmed."""

    found = SimpleNamespace(is_heard=lambda text: text == "right", peer=PARTNER, read_out="x")

    def __init__(self):
        self.kept = False

    def conclude(self, heard):
        self.kept = self.found.is_heard(heard)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_what_is_confirmed_while_somebody_takes_it_back_is_not_called_off(bank, monkeypatch):
    """Else the partner would be kept, and people be told that nothing came of it."""
    invitation = meeting.new_invitation(bank, lifetime=pairings_module.timedelta(1))
    pairing, encounter = pairings_module.Pairing(invitation, "ada", inviting=True), Agreed()
    pairing.begin(encounter)
    seen = pairings_module.Pairing.seen

    def confirmed_after(self):
        found = seen(self)
        with suppress(UsageError):
            self.confirm("right")
        return found

    monkeypatch.setattr(pairings_module.Pairing, "seen", confirmed_after)
    with suppress(UsageError):
        pairing.cancel("ada took it back")
    monkeypatch.undo()
    pairing.settle(encounter)
    assert encounter.kept == (pairing.seen().stage is Stage.PAIRED)


def test_guests_may_call_only_as_often_as_one_partner(bank, partner, run, monkeypatch):
    here = run(bank)
    _, line = here.invite()
    monkeypatch.setattr(here.port._visits, "may", lambda peer: False)
    with guest_of(here, line) as connection, pytest.raises(grpc.RpcError, match="calls too often"):
        list(connection.stream_stream(f"/{SERVICE}/{PAIR}")(iter([]), timeout=20))


def test_an_error_while_this_node_dials_ends_the_pairing_and_takes_no_place(bank, partner, run, monkeypatch):
    def broken(*_):
        raise OSError(24, "Too many open files")

    here, there = run(bank), run(partner)
    _, line = here.invite()
    monkeypatch.setattr(pairings_module, "join", broken)
    for _ in range(MOST_OPEN + 1):
        with pytest.raises(OSError, match="Too many open files"):
            there.pairings.join(ADMIN, line)
    assert {seen.stage for seen in there.pairings.all(ADMIN)} == {Stage.ENDED}
