"""Partners who know more than this node, since its database comes from a backup; and what was compared with them.

A node that was put back has forgotten letters, charges and agreements of which its partners know. Until it has heard
from a partner what that one holds, it sends it nothing and starts nothing with it:

1. The partner says how many letters it has received: letters that were written since are numbered after those
   (``MailRows.delivered``). Before that, none is sent.
2. The partner shows the receipts it holds, and what they show to be lost is put back (``trust.budgets``). Whoever
   does that says so with ``compared``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import sqlalchemy as sql

from unseen.ids import PartyId
from unseen.node.store.schema import inbox, outbox, posted, recovering


class RecoveryRows:
    """Partners with whom this node's memory has to be compared."""

    def __init__(self, connection: sql.Connection) -> None:
        self._connection = connection

    def begin(self, peers: Iterable[PartyId], now: datetime) -> None:
        """Note that this node's memory was put back: all of these, and whoever wrote or was written to, know more."""
        known = {
            PartyId(name)
            for table in (posted, inbox, outbox)
            for name in self._connection.execute(sql.select(table.c.peer).distinct()).scalars()
        }
        self._connection.execute(sql.delete(recovering))
        for peer in sorted(known | set(peers)):
            self._connection.execute(sql.insert(recovering).values(peer=peer, since=now, counted=False, compared=False))

    def open(self) -> tuple[PartyId, ...]:
        """Return the partners whose receipts have not been compared; nothing may be charged or started with them."""
        asked = sql.select(recovering.c.peer).where(recovering.c.compared.is_(False)).order_by(recovering.c.peer)
        return tuple(map(PartyId, self._connection.execute(asked).scalars()))

    def compared(self, peer: PartyId) -> None:
        """Note that this node has again all charges of which a partner holds receipts."""
        self._set(peer, compared=True)

    def is_counted(self, peer: PartyId) -> bool:
        """Return whether it is known how many letters the partner has received."""
        asked = sql.select(recovering.c.counted).where(recovering.c.peer == peer)
        return bool(self._connection.execute(asked).scalar_one_or_none() in (None, True))

    def counted(self, peer: PartyId) -> None:
        """Note that it is known."""
        self._set(peer, counted=True)

    def may_skip(self, peer: PartyId) -> bool:
        """Return whether letters of the partner may be missing, since they came before the database was put back."""
        asked = sql.select(recovering.c.peer).where(recovering.c.peer == peer)
        return self._connection.execute(asked).one_or_none() is not None

    def _set(self, peer: PartyId, **values: bool) -> None:
        mine = recovering.c.peer == peer
        self._connection.execute(sql.update(recovering).where(mine).values(**values))
        done = sql.delete(recovering).where(mine, recovering.c.counted, recovering.c.compared)
        self._connection.execute(done)
