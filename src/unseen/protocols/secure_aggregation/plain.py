"""Sums without any protection: **the server sees every vector**. For tests, simulations and as a baseline only.

There is one message: the contribution. *Leakage*: everything. *Rounds*: 1. *Bytes*: the vector. Any number of clients
above two may drop out. Whoever makes a role has to write down that nothing is protected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.errors import LocalProtocolError, PeerUnreachable, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.secure_aggregation.port import (
    WEIGHT_MODULUS,
    Contribution,
    Setting,
    Total,
    from_bytes,
    reduce_words,
    to_bytes,
)


@message("plain_sum/contribution")
class Open:
    """A vector and its weight, for everybody to read."""

    words: Annotated[NDArray[np.uint8], Shape(None)]
    weight: Annotated[NDArray[np.uint64], Shape(1)]


def _check_label(unprotected: bool) -> None:
    if not unprotected:
        raise UsageError("this scheme protects nothing: say unprotected=True, or use secagg_plus")


class Client:
    """One client; a ``ClientRole`` whose only message is its contribution.

    Raises:
        UsageError: ``unprotected`` is not set, or the contribution does not suit the setting.
    """

    def __init__(self, setting: Setting, contribution: Contribution, *, unprotected: bool = False) -> None:
        _check_label(unprotected)
        self._contribution = contribution.checked(setting)

    @property
    def hears(self) -> type[Any] | None:
        """Nothing."""
        return None

    def begin(self) -> Open:
        """Return the contribution."""
        return Open(to_bytes(self._contribution.words), np.array([self._contribution.weight], "<u8"))

    def answer(self, message: object) -> object:
        """Refuse: the server has nothing to say."""
        raise RemoteProtocolError(f"server: expected nothing more, found {type(message).__name__}")


class Server:
    """The server; a ``ServerRole`` of one phase.

    Raises:
        UsageError: ``unprotected`` is not set.
    """

    def __init__(self, setting: Setting, *, unprotected: bool = False) -> None:
        _check_label(unprotected)
        self._setting, self._over = setting, False
        self._waiting = set(setting.clients)
        self._words, self._weight = np.zeros(setting.length, setting.dtype), 0

    @property
    def expects(self) -> type[Any] | None:
        """A contribution."""
        return None if self._over else Open

    @property
    def waiting(self) -> frozenset[PartyId]:
        """Who has not sent one."""
        return frozenset(self._waiting)

    def accept(self, client: PartyId, message: object) -> None:
        """Add a contribution."""
        if self._over or type(message) is not Open or client not in self._waiting:
            raise RemoteProtocolError(
                f"{client}: its {type(message).__name__} is refused: late, a duplicate, or of no client"
            )
        np.add(self._words, from_bytes(message.words, self._setting, client), out=self._words)
        self._weight += int(message.weight[0])
        self._waiting.remove(client)

    def advance(self) -> Mapping[PartyId, object]:
        """End the only phase."""
        count = len(self._setting.clients) - len(self._waiting)
        if count < self._setting.least:
            raise PeerUnreachable(f"{count} clients contributed, at least {self._setting.least} have to")
        reduce_words(self._words, self._setting)
        self._over = True
        return {}

    def total(self) -> Total:
        """Return the sum."""
        if not self._over:
            raise LocalProtocolError("the sum is not known yet")
        left = tuple(client for client in self._setting.clients if client not in self._waiting)
        return Total(self._words, self._weight % WEIGHT_MODULUS, left)
