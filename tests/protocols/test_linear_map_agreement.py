"""What the holders of a linear map tell each other first; a peer that means something else is told so."""

import re
from dataclasses import replace

import pytest

from unseen.codec import decode, encode_bytes
from unseen.dialogue import converse, send
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.protocols.linear_map.agreement import Call, Terms, check_terms, expect_call
from unseen.protocols.linear_map.port import Bounds, Recipient

VICKY, MAX = PartyId("vicky"), PartyId("max")
BOUNDS = Bounds(rows=3, columns=2, column_norm=5.0, vector_norm=0.1)


def announce(call):
    converse({VICKY: send(MAX, call), MAX: expect_call(VICKY, 2, Recipient.VECTOR_HOLDER)})


def test_the_agreed_call_passes():
    announce(Call.of(2, Recipient.VECTOR_HOLDER))


@pytest.mark.parametrize(
    ("call", "announced"),
    [
        (Call.of(3, Recipient.VECTOR_HOLDER), "3 for the vector_holder"),
        (Call.of(2, Recipient.MATRIX_HOLDER), "2 for the matrix_holder"),
        (Call(-2, ""), "-2 for the "),
        (Call(2, "\x1b[2J" + "x" * 1000), r"2 for the \x1b[2J"),
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


def test_terms_survive_the_wire():
    sent = decode(Terms, encode_bytes(Terms.of(BOUNDS)))
    check_terms(MAX, BOUNDS, sent)
    check_terms(MAX, replace(BOUNDS, column_norm=5), sent)


@pytest.mark.parametrize(
    "change",
    [{"rows": 4}, {"columns": 0}, {"column_norm": 5.000000000000001}, {"vector_norm": float("nan")}],
    ids=lambda change: next(iter(change)),
)
def test_other_terms_are_the_peers_fault(change):
    other = replace(Terms.of(BOUNDS), **change)
    name, value = next(iter(change.items()))
    with pytest.raises(
        RemoteProtocolError, match=rf"^max: it set up a linear map with .*{name}={re.escape(repr(value))}"
    ):
        check_terms(MAX, BOUNDS, other)
