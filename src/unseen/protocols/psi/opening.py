"""What the schemes from VOLE have in common at their beginning: sizes, a joint salt, items as random blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.hashing import framed_digest
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, receive_all, send_all
from unseen.errors import DataError, RemoteProtocolError
from unseen.ids import PartyId
from unseen.protocols.psi.agreed import agree
from unseen.protocols.psi.port import Meeting
from unseen.protocols.psi.vole_oprf import Functions, buckets_for

Words = NDArray[np.uint64]

SALT_BYTES = 32
MAX_ITEMS = 1 << 28


@message("psi_join.vole/opening")
class Opening:
    """What a party brings to a session."""

    session: Annotated[NDArray[np.uint8], Shape(32)]
    """Digest of the scheme and of ``Meeting.session``."""
    salt: Annotated[NDArray[np.uint8], Shape(SALT_BYTES)]
    count: int


@dataclass(frozen=True, slots=True)
class Session:
    """What one party knows after the openings."""

    meeting: Meeting
    sizes: Mapping[PartyId, int]
    functions: Functions
    prg: Prg
    """This party's own randomness for this session with these salts."""

    @property
    def buckets(self) -> int:
        """How many buckets all lists are thrown into."""
        return buckets_for(max(self.sizes.values()))

    @property
    def asker(self) -> PartyId:
        """Of those who learn the result the party with the fewest items, the first by name of several."""
        told = [party for party in self.meeting.parties if self.meeting.learns(party)]
        return min(told, key=lambda party: (self.sizes[party], party))


def open_session(scheme: bytes, digests: Words, meeting: Meeting) -> Dialogue[Session]:
    """Agree on the scheme, the sizes, and a salt that no single party chose; ``digests`` are those of the own items.

    Raises:
        DataError: All lists together are too long.
        RemoteProtocolError: A peer belongs elsewhere, or has a negative number of items.
        PermissionDenied: A peer brings more items than this party evaluates of it.
    """
    name = framed_digest(b"unseen/psi_join.vole/session/1\0", scheme, meeting.session)
    salt = meeting.prg.derive("psi_join.vole/salt").bytes(SALT_BYTES)
    mine = Opening(np.frombuffer(name, np.uint8), np.frombuffer(salt, np.uint8), len(digests))
    yield from send_all(meeting.peers, mine)
    openings = yield from receive_all(meeting.peers, Opening)
    for peer, opening in openings.items():
        if opening.session.tobytes() != name:
            raise RemoteProtocolError(
                f"{peer}: expected an intersection of the same parties in the same context as ours"
            )
        if not 0 <= opening.count <= MAX_ITEMS:
            raise RemoteProtocolError(f"{peer}: a set has {opening.count} items, expected 0 to {MAX_ITEMS}")
        meeting.admit(peer, opening.count)
    openings[meeting.me] = mine
    sizes = {party: openings[party].count for party in meeting.parties}
    if sum(sizes.values()) > MAX_ITEMS:
        raise DataError(f"the parties bring {sizes} items, together at most {MAX_ITEMS} can be intersected at once")
    salts = sorted(opening.salt.tobytes() for opening in openings.values())
    joint = framed_digest(b"unseen/psi_join.vole/joint/1\0", name, *salts)
    yield from agree(joint, meeting)
    # Safety: with another salt of a peer, or other items, a resumed step draws anew all that is secret.
    prg = meeting.prg.derive("psi_join.vole/session", joint, framed_digest(b"unseen/psi_join.vole/own/1\0", digests))
    return Session(meeting, sizes, Functions(joint), prg)
