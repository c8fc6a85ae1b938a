"""What every scheme for private set intersection offers.

Each party brings a list of distinct items; at the end every party knows which of its own items all parties hold, and
how many items each party brought. What else a scheme lets slip is written at the head of its module. No scheme can
stop a party from bringing items that it made up in order to find out who is in the others' lists: the node's budgets
for sizes, runs and new ids guard against that, in front of the protocol.

Schemes: ``ecdh``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue
from unseen.errors import DataError
from unseen.ids import PartyId


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """Which rows of one party's list are shared by all, in the order that is the same at every party.

    The order is random for each session and tells nothing about the items.
    """

    rows: NDArray[np.int64]
    """Positions in the party's own list; the k-th belongs to the same item at every party."""
    sizes: Mapping[PartyId, int]
    """How many items each party brought, this one included."""


class PrivateSetIntersection(Protocol):
    """One scheme, as one party runs it; all parties of a session run the same one."""

    def __call__(
        self, items: Sequence[bytes], *, me: PartyId, peers: Sequence[PartyId], prg: Prg, context: bytes
    ) -> Dialogue[Alignment]:
        """Return the alignment of ``items`` with the lists of ``peers``, which are all other parties.

        ``context`` names the session and is the same at all parties; ``prg`` is this party's own, used for this
        session and no other.

        Raises:
            DataError: An item occurs twice. Nothing has been sent.
            UsageError: ``peers`` is empty, or names a party twice or this one. Nothing has been sent.
            RemoteProtocolError: A peer broke the rules of the scheme; the message names it.
        """
        ...


def check_items(items: Sequence[bytes]) -> None:
    """Pass if all items are distinct; the message gives rows only, since items may be people's names.

    Raises:
        DataError: Some items are duplicates.
    """
    distinct = len(set(items))
    if distinct == len(items):
        return
    first: dict[bytes, int] = {}
    for row, item in enumerate(items):
        if item in first:
            raise DataError(
                f"{len(items) - distinct} of {len(items)} items are duplicates, the first at rows {first[item]} and "
                f"{row} (from 0): each item may stand once; remove the others or join on more columns"
            )
        first[item] = row
