"""What the two holders of a linear map say to each other in every scheme, so that both mean the same thing.

In the set-up each may state its ``Terms``; before every call the vector holder announces it with a ``Call``. Both tell
the peer only what ``port`` lists as known to both.
"""

from __future__ import annotations

from dataclasses import replace

from unseen.codec import encode_bytes, message, shown
from unseen.dialogue import Dialogue, receive
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.linear_map.port import Bounds, Recipient


@message("linear_map/call", version=2)
class Call:
    """Announces how many vectors follow, who learns their products, and under which set-up."""

    count: int
    recipient: str
    setup: bytes

    @classmethod
    def of(cls, count: int, recipient: Recipient, setup: bytes) -> Call:
        """Return the announcement of ``count`` vectors under the set-up of this name."""
        return cls(count, recipient.value, setup)


@message("linear_map/terms", version=2)
class Terms:
    """The bounds as the sender understands them; ``recipient`` is empty if any may be asked for."""

    rows: int
    columns: int
    column_norm: float
    vector_norm: float
    entry: float
    vector_sum: float
    wrap: int | None
    recipient: str

    @classmethod
    def of(cls, bounds: Bounds) -> Terms:
        """Return the bounds in the form in which they are sent; equal bounds have equal bytes."""
        return cls(
            bounds.rows,
            bounds.columns,
            float(bounds.column_norm),
            float(bounds.vector_norm),
            float(bounds.entry),
            float(bounds.vector_sum),
            bounds.wrap,
            "" if bounds.recipient is None else bounds.recipient.value,
        )

    @property
    def bounds(self) -> Bounds:
        """The bounds; for terms that this side has kept."""
        return Bounds(
            self.rows,
            self.columns,
            self.column_norm,
            self.vector_norm,
            entry=self.entry,
            vector_sum=self.vector_sum,
            wrap=self.wrap,
            recipient=Recipient(self.recipient) if self.recipient else None,
        )


def expect_call(peer: PartyId, call: Call) -> Dialogue[None]:
    """Receive the peer's announcement of a call, which has to be ``call``.

    Raises:
        RemoteProtocolError: It announces another number of vectors, another recipient or another set-up.
    """
    announced = yield from receive(peer, Call)
    if (announced.count, announced.recipient) != (call.count, call.recipient):
        raise RemoteProtocolError(
            f"{peer}: expected {call.count} vectors for the {call.recipient}, "
            f"announced are {announced.count} for the {shown(announced.recipient)}"
        )
    if announced.setup != call.setup:
        raise RemoteProtocolError(
            f"{peer}: it uses the set-up {shown(announced.setup.hex())}, this side {call.setup.hex()}: set up again"
        )


def check_recipient(bounds: Bounds, recipient: Recipient) -> None:
    """Raise ``UsageError`` unless ``recipient`` was agreed on."""
    if not bounds.admits(recipient):
        agreed = bounds.recipient.value if bounds.recipient else "any"
        raise UsageError(f"the {recipient.value} was to learn a product, agreed is the {agreed}")


def check_terms(peer: PartyId, bounds: Bounds, terms: Terms) -> None:
    """Raise ``RemoteProtocolError`` unless ``terms``, which ``peer`` sent, are these bounds, bit for bit."""
    expected = Terms.of(bounds)
    if encode_bytes(terms) != encode_bytes(expected):
        found = shown(replace(terms, recipient=shown(terms.recipient, limit=20)), limit=300)
        raise RemoteProtocolError(f"{peer}: it set up a linear map with {found}, this side with {expected}")
