"""The four messages of a pairing, and everybody who deviates from them."""

from __future__ import annotations

import base64
import copy
import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.codec import decode, encode_bytes
from unseen.errors import HandshakeRefused, PermissionDenied, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.node.invitation import MOST_ANSWERS, Door, Invitation
from unseen.node.pairing import (
    Answer,
    Commitment,
    Inviter,
    Joiner,
    Opening,
    Welcome,
    plain_code,
)
from unseen.transport.tls import issue, make_authority, read_certificate

BANK, PARTNER, EVE = PartyId("bank"), PartyId("partner"), PartyId("eve")
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SECRET = b"0123456789abcdef"


def der(pem):
    return read_certificate(pem).public_bytes(serialization.Encoding.DER)


def organisation(name, **changes):
    root = make_authority(f"Unseen node {name}", **{"days": 99, "now": NOW, "party": name, **changes})
    return issue(root, name, days=90, now=NOW)


@pytest.fixture(scope="module")
def sides():
    return {name: organisation(name) for name in (BANK, PARTNER, EVE)}


def invitation_of(identity, **changes):
    made = Invitation(
        endpoint="bank.example:7443",
        inviter=identity.party,
        joiner=None,
        root=hashlib.sha256(der(identity.ca_pem)).digest(),
        expires=NOW + timedelta(hours=1),
        secret=SECRET,
    )
    return replace(made, **changes)


def nonce(letter):
    return letter.encode() * 32


@pytest.fixture
def door(sides):
    return Door(invitation_of(sides[BANK]))


def meet(inviter, joiner, certificate):
    """Carry the messages and return what both sides found."""
    answer = inviter.answer(joiner.commitment(NOW), NOW)
    welcome, at_inviter = inviter.welcome(joiner.opening(answer, certificate, NOW), NOW)
    return at_inviter, joiner.found(welcome)


# --- who keeps to them


def test_both_sides_learn_each_others_root_and_read_what_the_other_expects(sides, door):
    inviter = Inviter(door, sides[BANK], nonce("i"))
    joiner = Joiner(door.invitation, sides[PARTNER], nonce("j"))
    at_bank, at_partner = meet(inviter, joiner, der(sides[BANK].certificate_pem))
    assert (at_bank.peer, at_bank.root_pem) == (PARTNER, sides[PARTNER].ca_pem)
    assert (at_partner.peer, at_partner.root_pem) == (BANK, sides[BANK].ca_pem)
    assert at_bank.is_heard(at_partner.read_out)
    assert at_partner.is_heard(f" {at_bank.read_out[:3].lower()}-{at_bank.read_out[3:]}")
    assert at_bank.read_out != at_partner.read_out, "a person cannot type what stands on its own screen"
    assert not at_bank.is_heard(at_bank.read_out)
    assert not at_bank.is_heard("")
    assert plain_code("o0-iL1") == "00111"


def test_the_code_depends_on_every_nonce_and_identity(sides):
    def code(inviter="i", joiner="j", party=PARTNER):
        door = Door(invitation_of(sides[BANK]))
        sides_met = Inviter(door, sides[BANK], nonce(inviter)), Joiner(door.invitation, sides[party], nonce(joiner))
        return meet(*sides_met, der(sides[BANK].certificate_pem))[0].read_out

    assert code() == code()
    assert len({code(), code(inviter="x"), code(joiner="x"), code(party=EVE)}) == 4


# --- the invitation


def test_an_invitation_is_one_line_that_survives_wrapping_and_does_not_print_its_secret(sides):
    made = invitation_of(sides[BANK], joiner=PARTNER)
    line = made.line()
    assert Invitation.read(f"  {line[:40]}\n   {line[40:]} \n") == made
    assert line.isprintable()
    assert " " not in line
    assert "0123456789abcdef" not in repr(made)
    for leak in (pickle.dumps, copy.deepcopy):
        with pytest.raises(UsageError, match="holds a secret"):
            leak(made)


def test_an_invitation_is_written_as_ever():
    """Both sides hash what it says, and may be of different releases."""
    made = Invitation("b:1", BANK, PARTNER, bytes(range(32)), NOW, SECRET)
    line = "AQAAAABp9JXAAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8wMTIzNDU2Nzg5YWJjZGVmA2I6MQRiYW5rB3BhcnRuZXLumEks"
    assert made.line() == f"unseen-{line}"
    content = b"\2" + made._content()[1:]
    check = hashlib.sha256(b"unseen invitation checksum" + content).digest()[:4]
    with pytest.raises(UsageError, match="has format 2, this version knows 1: update the older side"):
        Invitation.read("unseen-" + base64.urlsafe_b64encode(content + check).decode())
    with pytest.raises(UsageError, match="expected host:port"):
        Invitation.read(replace(made, endpoint="nowhere").line())


@settings(max_examples=60, deadline=None)
@given(place=st.integers(7, 160), letter=st.sampled_from("Ax0-_"))
def test_a_bad_copy_is_told(place, letter):
    line = Invitation("b:1", BANK, None, bytes(32), NOW, SECRET).line()
    place = min(place, len(line) - 2)  # the last letter has bits that say nothing
    for bad in (line[:place], line[:place] + letter + line[place:], line[:place] + letter + line[place + 1 :]):
        if bad != line:
            with pytest.raises(UsageError, match="damaged"):
                Invitation.read(bad)


@pytest.mark.parametrize("text", ["", "bank.example:7443", "Unseen-AQ"])
def test_something_else_is_no_invitation(text):
    with pytest.raises(UsageError, match="not an invitation"):
        Invitation.read(text)


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=90))
def test_no_content_with_a_right_checksum_does_more_than_be_refused(content):
    check = hashlib.sha256(b"unseen invitation checksum" + content).digest()[:4]
    with pytest.raises(UsageError):
        Invitation.read("unseen-" + base64.urlsafe_b64encode(content + check).decode())


@pytest.mark.parametrize(
    ("endpoint", "more"),
    [(b"b\xff:1", b""), (b"b\x1b[2J:1", b""), (b"b\n:1", b""), (b"b:1", b"more"), (b"b:1", None)],
    ids=["no-ascii", "escapes", "two-lines", "more-behind-it", "less"],
)
def test_an_invitation_that_no_inviter_would_write_is_refused(endpoint, more):
    """Else the two sides could take one line for two invitations, or a terminal obey it."""
    content = Invitation("b:1", BANK, None, bytes(32), NOW, SECRET)._content()
    fixed = content[: -len(b"\x03b:1\x04bank\x00")]
    texts = b"".join(bytes([len(text)]) + text for text in (endpoint, b"bank", b""))
    made = fixed + (texts[:-1] if more is None else texts + more)
    check = hashlib.sha256(b"unseen invitation checksum" + made).digest()[:4]
    with pytest.raises(UsageError, match="not as an inviter writes one"):
        Invitation.read("unseen-" + base64.urlsafe_b64encode(made + check).decode())


# --- who deviates


def test_an_invitation_works_once(sides, door):
    certificate = der(sides[BANK].certificate_pem)
    late = Inviter(door, sides[BANK], nonce("l")), Joiner(door.invitation, sides[EVE], nonce("e"))
    opening = late[1].opening(late[0].answer(late[1].commitment(NOW), NOW), certificate, NOW)
    meet(Inviter(door, sides[BANK], nonce("i")), Joiner(door.invitation, sides[PARTNER], nonce("j")), certificate)
    with pytest.raises(PermissionDenied, match="has been used; it works once"):
        late[0].welcome(opening, NOW)
    with pytest.raises(PermissionDenied, match="has been used"):
        Inviter(door, sides[BANK], nonce("k")).answer(late[1].commitment(NOW), NOW)


def test_a_wrong_secret_is_counted_and_few_are_allowed(sides, door):
    guess = replace(door.invitation, secret=bytes(16))
    certificate = der(sides[BANK].certificate_pem)
    for count in range(1, MOST_ANSWERS + 1):
        with pytest.raises(PermissionDenied, match="the secret is not that of the invitation"):
            meet(Inviter(door, sides[BANK], nonce("i")), Joiner(guess, sides[EVE], nonce("j")), certificate)
        assert door.answered == count
    with pytest.raises(PermissionDenied, match="has ended: it answers 5 joiners at most, and so many came"):
        Inviter(door, sides[BANK], nonce("i")).answer(
            Joiner(door.invitation, sides[PARTNER], nonce("j")).commitment(NOW), NOW
        )


def test_whoever_knows_the_invitation_cannot_collect_nonces_until_a_code_suits(sides, door):
    """Eve read the line, commits, computes the code from the nonce that she gets, and leaves before she opens."""
    commitment = Joiner(door.invitation, sides[EVE], nonce("e")).commitment(NOW)
    seen = set()

    def collect(number):
        try:
            with Inviter(door, sides[BANK], bytes([number]) * 32) as inviter:
                seen.add(decode(Answer, inviter.answer(commitment, NOW)).nonce)
        except PermissionDenied as error:
            return str(error)
        return None

    with ThreadPoolExecutor(8) as pool:
        refused = [reason for reason in pool.map(collect, range(24)) if reason]
    assert len(seen) == MOST_ANSWERS
    assert len(refused) == 24 - MOST_ANSWERS
    assert all("it answers 5 joiners at most" in reason for reason in refused)
    assert (door.answered, door.talking, door.taken) == (MOST_ANSWERS, 0, False)


def test_the_last_of_those_that_are_answered_may_still_join(sides, door):
    for _ in range(MOST_ANSWERS - 1):
        Inviter(door, sides[BANK], nonce("i")).answer(
            Joiner(door.invitation, sides[EVE], nonce("e")).commitment(NOW), NOW
        )
    last = Inviter(door, sides[BANK], nonce("k")), Joiner(door.invitation, sides[PARTNER], nonce("j"))
    assert meet(*last, der(sides[BANK].certificate_pem))[0].peer == PARTNER


def test_no_joiner_is_answered_twice_by_one_nonce_nor_opens_twice(sides, door):
    """A second commitment could be chosen by the nonce that the first one was answered with."""
    inviter, joiner = Inviter(door, sides[BANK], nonce("i")), Joiner(door.invitation, sides[EVE], nonce("e"))
    answer = inviter.answer(joiner.commitment(NOW), NOW)
    with pytest.raises(RemoteProtocolError, match="a second commitment, after it has seen the nonce"):
        inviter.answer(Joiner(door.invitation, sides[EVE], nonce("f")).commitment(NOW), NOW)
    assert door.answered == 1
    opening = joiner.opening(answer, der(sides[BANK].certificate_pem), NOW)
    wrong = replace(decode(Opening, opening), proof=bytes(32))
    with pytest.raises(PermissionDenied, match="the secret is not that of the invitation"):
        inviter.welcome(encode_bytes(wrong), NOW)
    with pytest.raises(RemoteProtocolError, match="or a second time"):
        inviter.welcome(opening, NOW)
    assert not door.taken


def test_no_inviter_answers_twice(sides, door):
    """A second nonce could be chosen by that of the joiner, which the first one made it open."""
    joiner = Joiner(door.invitation, sides[PARTNER], nonce("j"))
    certificate = der(sides[BANK].certificate_pem)
    answer = Inviter(door, sides[BANK], nonce("i")).answer(joiner.commitment(NOW), NOW)
    joiner.opening(answer, certificate, NOW)
    with pytest.raises(RemoteProtocolError, match="a second answer, after it has seen the nonce"):
        joiner.opening(answer, certificate, NOW)


def test_the_commitment_hides_the_joiners_nonce_and_stands_before_the_inviters(sides, door):
    """Vaudenay 2005: neither nonce may be chosen by the other one."""
    joiner = Joiner(door.invitation, sides[PARTNER], nonce("j"))
    first = joiner.commitment(NOW)
    assert nonce("j") not in first
    assert decode(Commitment, first).nonce_hash == hashlib.sha256(b"unseen pairing commitment" + nonce("j")).digest()
    with pytest.raises(RemoteProtocolError, match="before its commitment"):
        Inviter(door, sides[BANK], nonce("i")).welcome(first, NOW)
    assert door.answered == 0


def test_an_expired_invitation_is_refused_on_both_sides(sides, door):
    late = NOW + timedelta(hours=2)
    joiner = Joiner(door.invitation, sides[PARTNER], nonce("j"))
    with pytest.raises(PermissionDenied, match=r"expired at 2026-05-01 13:00 UTC, and the clock here says .* 14:00"):
        joiner.commitment(late)
    with pytest.raises(PermissionDenied, match="the invitation expired at 2026-05-01 13:00 UTC"):
        Inviter(door, sides[BANK], nonce("i")).answer(joiner.commitment(NOW), late)


def test_an_invitation_to_somebody_is_for_nobody_else(sides):
    door = Door(invitation_of(sides[BANK], joiner=PARTNER))
    with pytest.raises(PermissionDenied, match="is not for eve, but for partner"):
        Joiner(door.invitation, sides[EVE], nonce("e")).commitment(NOW)
    anybody = replace(door.invitation, joiner=None)
    with pytest.raises(PermissionDenied, match="is not for eve, but for partner"):
        Inviter(door, sides[BANK], nonce("i")).answer(Joiner(anybody, sides[EVE], nonce("e")).commitment(NOW), NOW)


def test_nobody_pairs_with_itself(sides, door):
    with pytest.raises(PermissionDenied, match="is not for bank"):
        Joiner(door.invitation, sides[BANK], nonce("j")).commitment(NOW)


def test_whoever_answers_in_place_of_the_inviter_is_refused_before_anything_is_proved(sides, door):
    """Its root is not the one in the invitation."""
    joiner = Joiner(door.invitation, sides[PARTNER], nonce("j"))
    joiner.commitment(NOW)
    eve = encode_bytes(Answer(BANK, der(sides[EVE].ca_pem), nonce("e")))
    with pytest.raises(HandshakeRefused, match=r"its root is another one. Somebody may be between"):
        joiner.opening(eve, der(sides[EVE].certificate_pem), NOW)


def test_a_relay_that_shows_the_right_root_and_its_own_certificate_is_refused(sides, door):
    joiner = Joiner(door.invitation, sides[PARTNER], nonce("j"))
    answer = Inviter(door, sides[BANK], nonce("i")).answer(joiner.commitment(NOW), NOW)
    with pytest.raises(RemoteProtocolError, match="not from the root"):
        joiner.opening(answer, der(sides[EVE].certificate_pem), NOW)


def test_a_stolen_invitation_gives_two_codes_that_differ(sides):
    """Eve read the line, so knows the secret, and gave the partner a line of her own that leads to her."""
    eve_as_bank = organisation(BANK)
    to_bank, to_eve = Door(invitation_of(sides[BANK])), Door(invitation_of(eve_as_bank))
    eve_as_partner = organisation(PARTNER)
    at_bank, _ = meet(
        Inviter(to_bank, sides[BANK], nonce("i")),
        Joiner(to_bank.invitation, eve_as_partner, nonce("e")),
        der(sides[BANK].certificate_pem),
    )
    _, at_partner = meet(
        Inviter(to_eve, eve_as_bank, nonce("i")),
        Joiner(to_eve.invitation, sides[PARTNER], nonce("j")),
        der(eve_as_bank.certificate_pem),
    )
    assert not at_bank.is_heard(at_partner.read_out)
    assert not at_partner.is_heard(at_bank.read_out)


def test_a_joiner_cannot_choose_its_nonce_after_it_has_seen_the_inviters(sides, door):
    inviter = Inviter(door, sides[BANK], nonce("i"))
    honest, other = (Joiner(door.invitation, sides[EVE], nonce(letter)) for letter in "jk")
    answer = inviter.answer(honest.commitment(NOW), NOW)
    other.commitment(NOW)
    ground = other.opening(answer, der(sides[BANK].certificate_pem), NOW)
    with pytest.raises(RemoteProtocolError, match="not the one that it was bound to"):
        inviter.welcome(ground, NOW)
    assert not door.taken


def test_a_replayed_conversation_is_refused(sides, door):
    certificate = der(sides[BANK].certificate_pem)
    joiner = Joiner(door.invitation, sides[PARTNER], nonce("j"))
    commitment = joiner.commitment(NOW)
    opening = joiner.opening(Inviter(door, sides[BANK], nonce("i")).answer(commitment, NOW), certificate, NOW)
    again = Inviter(door, sides[BANK], nonce("k"))
    again.answer(commitment, NOW)
    with pytest.raises(PermissionDenied, match="the secret is not that of the invitation"):
        again.welcome(opening, NOW)


def test_somebody_elses_identity_cannot_be_brought(sides, door):
    """Eve shows the partner's public certificates, without the key."""
    inviter = Inviter(door, sides[BANK], nonce("i"))
    partner = sides[PARTNER]
    borrowed = Joiner(door.invitation, partner, nonce("j"))
    answer = inviter.answer(borrowed.commitment(NOW), NOW)
    opening = decode(Opening, borrowed.opening(answer, der(sides[BANK].certificate_pem), NOW))
    signed = replace(opening, signature=opening.signature[:-1] + bytes([opening.signature[-1] ^ 1]))
    with pytest.raises(RemoteProtocolError, match="partner does not hold the key of the certificate"):
        inviter.welcome(encode_bytes(signed), NOW)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: organisation(PARTNER, party=None), "may certify others than partner"),
        (lambda: organisation(PARTNER, days=1, now=NOW - timedelta(days=9)), "has expired"),
        (lambda: replace(organisation(PARTNER), ca_pem=organisation(PARTNER).ca_pem), "not from the root"),
    ],
    ids=["a-root-of-everybody", "an-expired-root", "a-root-of-another-certificate"],
)
def test_a_joiner_with_a_wrong_root_is_refused(sides, door, make, complaint):
    inviter = Inviter(door, sides[BANK], nonce("i"))
    with pytest.raises(RemoteProtocolError, match=complaint):
        inviter.answer(Joiner(door.invitation, make(), nonce("j")).commitment(NOW), NOW)


def test_an_inviter_that_does_not_know_the_secret_is_refused(sides, door):
    other = Door(replace(door.invitation, secret=bytes(16)))
    joiner = Joiner(door.invitation, sides[PARTNER], nonce("j"))
    answer = Inviter(other, sides[BANK], nonce("i")).answer(joiner.commitment(NOW), NOW)
    joiner.opening(answer, der(sides[BANK].certificate_pem), NOW)
    with pytest.raises(HandshakeRefused, match="bank does not know the secret"):
        joiner.found(encode_bytes(Welcome(bytes(32))))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_garbage_is_refused_with_a_declared_error(sides, data):
    door = Door(invitation_of(sides[BANK]))
    inviter = Inviter(door, sides[BANK], nonce("i"))
    joiner = Joiner(door.invitation, sides[PARTNER], nonce("j"))
    name = data.draw(st.one_of(st.just("partner"), st.text(max_size=9)))
    root = data.draw(st.one_of(st.just(der(sides[PARTNER].ca_pem)), st.binary(max_size=40)))
    leaf = data.draw(st.one_of(st.just(der(sides[EVE].certificate_pem)), st.binary(max_size=40)))
    for garbage in (data.draw(st.binary(max_size=60)), encode_bytes(Commitment(name, root, leaf, bytes(32)))):
        with pytest.raises((RemoteProtocolError, PermissionDenied)):
            inviter.answer(garbage, NOW)
    with pytest.raises(RemoteProtocolError, match="before its commitment"):
        inviter.welcome(b"", NOW)
    joiner.commitment(NOW)
    with pytest.raises((RemoteProtocolError, HandshakeRefused)):
        joiner.opening(encode_bytes(Answer(name, root, bytes(32))), leaf, NOW)
