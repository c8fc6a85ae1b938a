"""The scheme for an intersection, chosen by the number of parties and of items, the same at all parties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

from unseen.codec import message
from unseen.dialogue import Dialogue, receive_all, send_all
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.protocols.psi import ecdh, star, vole, vole_oprf
from unseen.protocols.psi.port import Alignment, Intersect, Items, Meeting

Scheme: TypeAlias = Literal["ecdh", "vole"]
Choice: TypeAlias = Literal["auto", "ecdh", "vole"]

SMALL = 1000
"""Items of the longest list up to which ``auto`` takes ECDH, the simpler one: there both take a tenth of a second."""


@message("psi_join/size")
class Size:
    """How many items the sender brings."""

    count: int


def choose(protocol: Choice, sizes: Mapping[PartyId, int]) -> Scheme:
    """Return the scheme that parties with so many items each run."""
    if protocol != "auto":
        return protocol
    return "vole" if max(sizes.values()) > SMALL else "ecdh"


def points(protocol: Choice, count: int, longest: int) -> int:
    """Return how many ids a party can come to test that says it brings ``count``, whatever it does.

    ``longest`` is the length of the longest list of all parties, at most.
    """
    if choose(protocol, {PartyId("longest"): max(count, longest)}) == "vole":
        return vole_oprf.points(count, longest)
    return count


def intersect(items: Items, meeting: Meeting, *, protocol: Choice = "auto") -> Dialogue[Alignment]:
    """Return which of ``items`` all parties hold, by the scheme asked for or chosen; raises what ``Intersect`` does."""
    sizes = (yield from _sizes(len(items), meeting)) if protocol == "auto" else {}
    scheme: Intersect = ecdh.intersect
    if choose(protocol, sizes) == "vole":
        scheme = vole.intersect if len(meeting.parties) == 2 else star.intersect
    found = yield from scheme(items, meeting)
    for party, size in sizes.items():
        if found.sizes[party] != size:
            raise RemoteProtocolError(f"{party}: said it has {size} items, then brought {found.sizes[party]}")
    return found


def _sizes(count: int, meeting: Meeting) -> Dialogue[dict[PartyId, int]]:
    yield from send_all(meeting.peers, Size(count))
    answers = yield from receive_all(meeting.peers, Size)
    for peer, answer in answers.items():
        if answer.count < 0:
            raise RemoteProtocolError(f"{peer}: a set has {answer.count} items")
        # A peer that only says that its list is long would choose the scheme, by which it can test more.
        meeting.admit(peer, answer.count)
    return {meeting.me: count, **{peer: answer.count for peer, answer in answers.items()}}
