"""What the two holders of a linear map say to each other in every scheme, so that both mean the same thing.

In the set-up each may state its ``Terms``; before every call the vector holder announces it with a ``Call``. Both tell
the peer only what ``port`` lists as known to both.
"""

from __future__ import annotations

from unseen.codec import encode_bytes, message, shown
from unseen.dialogue import Dialogue, receive
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.protocols.linear_map.port import Bounds, Recipient


@message("linear_map/call")
class Call:
    """Announces how many vectors follow, and who learns their products."""

    count: int
    recipient: str

    @classmethod
    def of(cls, count: int, recipient: Recipient) -> Call:
        """Return the announcement of ``count`` vectors."""
        return cls(count, recipient.value)


@message("linear_map/terms")
class Terms:
    """The bounds as the sender understands them."""

    rows: int
    columns: int
    column_norm: float
    vector_norm: float

    @classmethod
    def of(cls, bounds: Bounds) -> Terms:
        """Return the bounds in the form in which they are sent; equal bounds have equal bytes."""
        return cls(bounds.rows, bounds.columns, float(bounds.column_norm), float(bounds.vector_norm))


def expect_call(peer: PartyId, count: int, recipient: Recipient) -> Dialogue[None]:
    """Receive the peer's announcement of a call.

    Raises:
        RemoteProtocolError: It announces another number of vectors or another recipient.
    """
    call = yield from receive(peer, Call)
    if (call.count, call.recipient) != (count, recipient.value):
        raise RemoteProtocolError(
            f"{peer}: expected {count} vectors for the {recipient.value}, "
            f"announced are {call.count} for the {shown(call.recipient)}"
        )


def check_terms(peer: PartyId, bounds: Bounds, terms: Terms) -> None:
    """Raise ``RemoteProtocolError`` unless ``terms``, which ``peer`` sent, are these bounds, bit for bit."""
    expected = Terms.of(bounds)
    if encode_bytes(terms) != encode_bytes(expected):
        raise RemoteProtocolError(f"{peer}: it set up a linear map with {terms}, this side with {expected}")
