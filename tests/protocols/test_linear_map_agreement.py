"""What the holders of a linear map tell each other first; a peer that means something else is told so."""

import re
from dataclasses import replace

import pytest

from unseen.codec import decode, encode_bytes
from unseen.dialogue import converse, send
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.linear_map.agreement import Call, Terms, check_recipient, check_terms, expect_call
from unseen.protocols.linear_map.port import Bounds, Recipient

VICKY, MAX = PartyId("vicky"), PartyId("max")
BOUNDS = Bounds(rows=3, columns=2, column_norm=5.0, vector_norm=0.1)
WIDE = Bounds(9, 1, 1.0, 2.0, entry=3.0, vector_sum=4.0, wrap=20, recipient=Recipient.SHARED)
CALL = Call.of(2, Recipient.VECTOR_HOLDER, b"name")


def announce(call):
    converse({VICKY: send(MAX, call), MAX: expect_call(VICKY, CALL)})


def test_the_agreed_call_passes():
    announce(Call.of(2, Recipient.VECTOR_HOLDER, b"name"))


@pytest.mark.parametrize(
    ("call", "announced"),
    [
        (Call.of(3, Recipient.VECTOR_HOLDER, b"name"), "3 for the vector_holder"),
        (Call.of(2, Recipient.MATRIX_HOLDER, b"name"), "2 for the matrix_holder"),
        (Call(-2, "", b"name"), "-2 for the "),
        (Call(2, "\x1b[2J" + "x" * 1000, b""), r"2 for the \x1b[2J"),
    ],
    ids=["count", "recipient", "empty", "hostile"],
)
def test_another_call_is_the_peers_fault(call, announced):
    with pytest.raises(RemoteProtocolError) as refused:
        announce(call)
    said = str(refused.value)
    assert said.startswith(f"vicky: expected 2 vectors for the vector_holder, announced are {announced}")
    assert len(said) < 200
    assert said.isprintable()


@pytest.mark.parametrize("setup", [b"", b"other", b"\xff" * 1000])
def test_another_set_up_is_told(setup):
    with pytest.raises(
        RemoteProtocolError, match=r"^vicky: it uses the set-up .*, this side 6e616d65: set up"
    ) as refused:
        announce(replace(CALL, setup=setup))
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("recipient", list(Recipient))
def test_only_the_agreed_recipient_may_learn_products(recipient):
    check_recipient(BOUNDS, recipient)
    alone = replace(BOUNDS, recipient=Recipient.VECTOR_HOLDER)
    if recipient is Recipient.VECTOR_HOLDER:
        check_recipient(alone, recipient)
    else:
        with pytest.raises(UsageError, match=f"the {recipient.value} was to learn a product, agreed is the vector_h"):
            check_recipient(alone, recipient)


@pytest.mark.parametrize("bounds", [BOUNDS, WIDE])
def test_bounds_can_be_had_back_from_terms(bounds):
    assert decode(Terms, encode_bytes(Terms.of(bounds))).bounds == bounds


def test_terms_survive_the_wire():
    sent = decode(Terms, encode_bytes(Terms.of(BOUNDS)))
    check_terms(MAX, BOUNDS, sent)
    check_terms(MAX, replace(BOUNDS, column_norm=5), sent)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 4},
        {"columns": 0},
        {"column_norm": 5.000000000000001},
        {"vector_norm": float("nan")},
        {"entry": 1.0},
        {"vector_sum": 1.0},
        {"wrap": 3},
        {"recipient": "shared"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_terms_are_the_peers_fault(change):
    other = replace(Terms.of(BOUNDS), **change)
    name, value = next(iter(change.items()))
    with pytest.raises(
        RemoteProtocolError, match=rf"^max: it set up a linear map with .*{name}={re.escape(repr(value))}"
    ):
        check_terms(MAX, BOUNDS, other)


def test_hostile_terms_are_not_repeated_in_full():
    other = replace(Terms.of(BOUNDS), recipient="\x1b[2J" + "x" * 10**6)
    with pytest.raises(RemoteProtocolError) as refused:
        check_terms(MAX, BOUNDS, other)
    assert len(str(refused.value)) < 700
    assert str(refused.value).isprintable()
