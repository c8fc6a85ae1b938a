"""Letters to partners until they have them, and what partners sent, so that nothing is acted upon twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import sqlalchemy as sql

from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.node.store.recovery import RecoveryRows
from unseen.node.store.schema import inbox, outbox, posted

_MOST_LETTERS = 1 << 62


class MailRows:
    """Letters by partner, numbered from 1."""

    def __init__(self, connection: sql.Connection) -> None:
        self._connection = connection
        self._recovery = RecoveryRows(connection)

    def post(self, peer: PartyId, body: bytes) -> int:
        """Put a letter into the outbox; return its number."""
        number = self._posted(peer) + 1
        self._count(peer, number)
        self._connection.execute(sql.insert(outbox).values(peer=peer, number=number, body=body))
        return number

    def waiting(self, peer: PartyId, limit: int = 64) -> tuple[tuple[int, bytes], ...]:
        """Return the letters that the partner may not have, the oldest first; none while their numbers may be taken."""
        if not self._recovery.is_counted(peer):
            return ()
        asked = sql.select(outbox).where(outbox.c.peer == peer).order_by(outbox.c.number).limit(limit)
        return tuple((row.number, bytes(row.body)) for row in self._connection.execute(asked))

    def lengths(self) -> Mapping[PartyId, int]:
        """Return how many letters wait for each partner that has any."""
        asked = sql.select(outbox.c.peer, sql.func.count()).group_by(outbox.c.peer)
        return {PartyId(row[0]): row[1] for row in self._connection.execute(asked)}

    def delivered(self, peer: PartyId, up_to: int) -> None:
        """Forget the letters that the partner has, ``up_to`` being how many it has received.

        If this node's database was put back, letters that the partner may not have are numbered after those, and are
        sent once more: better twice than never.

        Raises:
            RemoteProtocolError: So many were never sent.
        """
        if not self._recovery.is_counted(peer) and up_to <= _MOST_LETTERS:
            self._renumber(peer, up_to)
            self._recovery.counted(peer)
        elif up_to > self._posted(peer):
            raise RemoteProtocolError(
                f"{peer}: has received {up_to} letters and was sent {self._posted(peer)}: if this node's database is "
                "an old copy, run `unseen node reconcile`"
            )
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
        if not 1 <= number <= _MOST_LETTERS:
            raise RemoteProtocolError(f"{peer}: {number} is no number of a letter")
        digest, last = hashlib.sha256(body).hexdigest(), self.received(peer)
        if number == last + 1 or (last < number and self._recovery.may_skip(peer)):
            self._connection.execute(sql.insert(inbox).values(peer=peer, number=number, digest=digest))
            return True
        asked = sql.select(inbox.c.digest).where(inbox.c.peer == peer, inbox.c.number == number)
        seen = self._connection.execute(asked).scalar_one_or_none()
        if seen != digest:
            fault = "another letter came under this number" if seen else f"letter {last + 1} has not come"
            raise RemoteProtocolError(f"{peer}: letter {number}: {fault}")
        return False

    def _posted(self, peer: PartyId) -> int:
        asked = sql.select(posted.c.number).where(posted.c.peer == peer)
        return self._connection.execute(asked).scalar_one_or_none() or 0

    def _count(self, peer: PartyId, number: int) -> None:
        if (
            self._connection.execute(sql.update(posted).where(posted.c.peer == peer).values(number=number)).rowcount
            == 0
        ):
            self._connection.execute(sql.insert(posted).values(peer=peer, number=number))

    def _renumber(self, peer: PartyId, received: int) -> None:
        """Let all letters in the outbox follow those that the partner has received, unless they do."""
        found = sql.select(outbox.c.number, outbox.c.body).where(outbox.c.peer == peer).order_by(outbox.c.number)
        letters = [(row.number, bytes(row.body)) for row in self._connection.execute(found)]
        first = letters[0][0] if letters else self._posted(peer) + 1
        if received < first:
            return
        self._connection.execute(sql.delete(outbox).where(outbox.c.peer == peer))
        self._count(peer, received)
        for _, body in letters:
            self.post(peer, body)
