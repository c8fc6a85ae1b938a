"""All pairs of rows that share a key, after the keys themselves have been intersected, for two parties or more.

Each party tells the others how often every shared key occurs in its list, in the order of the alignment. From these
multiplicities all parties derive the same list of pairs (of tuples, if they are more than two): key by key, and for
each key every combination of occurrences, those of the party whose name comes last changing fastest.

*Security model*: semi-honest parties. Multiplicities of the wrong number or below one are refused. A party that lies
about its own makes pairs that do not exist, and cannot make others give more than their multiplicities.

*Leakage*: how often each shared key occurs at every party; about keys that are not shared, nothing.

*Rounds*: one. *Bytes*: 8 for every shared key to each peer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape
from unseen.dialogue import Dialogue, receive_array, send_array
from unseen.errors import DataError, RemoteProtocolError
from unseen.ids import PartyId
from unseen.protocols.psi.port import Meeting

MAX_PAIRS = 1 << 28
"""The most pairs that can be asked for; one takes some dozen bytes while they are made."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The pairs in the order that is the same at every party, seen from one of them."""

    keys: NDArray[np.int64]
    """Which of the shared keys each pair belongs to."""
    occurrences: NDArray[np.int64]
    """Which of this party's occurrences of that key stands in the pair, from 0."""


def pair_up(counts: NDArray[np.int64], meeting: Meeting, *, limit: int = MAX_PAIRS) -> Dialogue[Pairs]:
    """Return all pairs of occurrences of the shared keys; ``counts`` says how often each occurs here, shape (shared,).

    Raises:
        DataError: There are more pairs than ``limit``.
        RemoteProtocolError: A peer sent multiplicities that cannot be.
    """
    for peer in meeting.peers:
        yield from send_array(peer, counts)
    every = {meeting.me: counts}
    for peer in meeting.peers:
        every[peer] = yield from receive_array(peer, np.int64, Shape(len(counts)))
        _check_counts(peer, every[peer])
    ordered = {party: every[party] for party in meeting.parties}
    _check_total(ordered, min(limit, MAX_PAIRS))
    return _expand(ordered, meeting.me)


def _check_counts(peer: PartyId, counts: NDArray[np.int64]) -> None:
    least = int(counts.min(initial=1))
    if least < 1:
        raise RemoteProtocolError(f"{peer}: a shared key occurs {least} times in its list, expected once or more")


def _check_total(every: Mapping[PartyId, NDArray[np.int64]], limit: int) -> None:
    """Pass if the products of the multiplicities add up to at most ``limit``."""
    with np.errstate(over="ignore"):  # a peer may make up counts whose product no number holds
        total = float(np.stack(list(every.values())).astype(np.float64).prod(axis=0).sum())
    if total > limit:
        most = ", ".join(f"{counts.max()} times at {party}" for party, counts in every.items())
        raise DataError(
            f"the shared keys make about {total:.3g} pairs, at most {limit} are allowed (a key occurs up to {most}): "
            "join on more columns, keep the first row of each key only, or raise the limit"
        )


def _expand(every: Mapping[PartyId, NDArray[np.int64]], me: PartyId) -> Pairs:
    """Return the pairs of checked multiplicities, whose parties are in the common order."""
    shape = np.stack(list(every.values()))
    place = list(every).index(me)
    repeats = shape.prod(axis=0)
    keys = np.repeat(np.arange(shape.shape[1]), repeats)
    combination = np.arange(len(keys)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
    # A combination is a number whose digits are the parties' occurrences; its base changes from digit to digit.
    lower = shape[place + 1 :].prod(axis=0)
    return Pairs(keys, combination // lower[keys] % shape[place][keys])
