"""Letters to partners until they have them, and what partners sent, so that nothing is acted upon twice."""

from __future__ import annotations

import hashlib

import sqlalchemy as sql

from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.node.store.schema import inbox, outbox, posted


class MailRows:
    """Letters by partner, numbered from 1."""

    def __init__(self, connection: sql.Connection) -> None:
        self._connection = connection

    def post(self, peer: PartyId, body: bytes) -> int:
        """Put a letter into the outbox; return its number."""
        last = self._connection.execute(sql.select(posted.c.number).where(posted.c.peer == peer)).scalar_one_or_none()
        number = (last or 0) + 1
        if last is None:
            self._connection.execute(sql.insert(posted).values(peer=peer, number=number))
        else:
            self._connection.execute(sql.update(posted).where(posted.c.peer == peer).values(number=number))
        self._connection.execute(sql.insert(outbox).values(peer=peer, number=number, body=body))
        return number

    def waiting(self, peer: PartyId, limit: int = 64) -> tuple[tuple[int, bytes], ...]:
        """Return the letters that the partner may not have, the oldest first."""
        asked = sql.select(outbox).where(outbox.c.peer == peer).order_by(outbox.c.number).limit(limit)
        return tuple((row.number, bytes(row.body)) for row in self._connection.execute(asked))

    def delivered(self, peer: PartyId, up_to: int) -> None:
        """Forget the letters that the partner has."""
        self._connection.execute(sql.delete(outbox).where(outbox.c.peer == peer, outbox.c.number <= up_to))

    def received(self, peer: PartyId) -> int:
        """Return the number of the last letter that the partner sent."""
        asked = sql.select(sql.func.max(inbox.c.number)).where(inbox.c.peer == peer)
        return self._connection.execute(asked).scalar_one() or 0

    def take(self, peer: PartyId, number: int, body: bytes) -> bool:
        """Note a letter; return whether it is new.

        Raises:
            RemoteProtocolError: One before it is missing, or it is another one than came under this number.
        """
        digest, last = hashlib.sha256(body).hexdigest(), self.received(peer)
        if number == last + 1:
            self._connection.execute(sql.insert(inbox).values(peer=peer, number=number, digest=digest))
            return True
        asked = sql.select(inbox.c.digest).where(inbox.c.peer == peer, inbox.c.number == number)
        seen = self._connection.execute(asked).scalar_one_or_none()
        if seen != digest:
            fault = "another letter came under this number" if seen else f"letter {last + 1} has not come"
            raise RemoteProtocolError(f"{peer}: letter {number}: {fault}")
        return False
