"""Who takes part in a sum of ``secagg_plus``: terms known before, and the roster of signed keys made from them.

Clients are told by their places in the cohort until the roster is known, and by their places in it afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.hashing import framed_digest
from unseen.crypto.prg import Prg
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.secure_aggregation.graph import Assumptions, Graph, draw
from unseen.protocols.secure_aggregation.keys import KEY_BYTES, SIGNATURE_BYTES, EphemeralKey, derive_key, is_signed
from unseen.protocols.secure_aggregation.port import Setting

SIGNED_KEYS = b"unseen/secagg_plus/1/keys"
SIGNED_SURVIVORS = b"unseen/secagg_plus/1/survivors"
_SEAL = b"unseen/secagg_plus/1/seal"
_MASK = b"unseen/secagg_plus/1/mask"

Bytes = NDArray[np.uint8]
Places = NDArray[np.uint32]


@message("secagg_plus/roster")
class RosterOf:
    """The keys of U1. Here alone clients are told by their places in the cohort."""

    members: Annotated[Places, Shape(None)]
    keys: Annotated[Bytes, Shape(None, 2, KEY_BYTES)]
    """Cipher key and mask key of each member."""
    signatures: Annotated[Bytes, Shape(None, SIGNATURE_BYTES)]


@dataclass(frozen=True, slots=True)
class Terms:
    """What is agreed before a sum begins, the same at everybody.

    Raises:
        UsageError: The identity of a client is missing or has no 32 bytes.
    """

    setting: Setting
    identities: Mapping[PartyId, bytes] = field(repr=False)
    """Ed25519 public keys of all clients, known from elsewhere: never from the server."""
    assumptions: Assumptions = field(default_factory=Assumptions)
    server: PartyId = field(default_factory=lambda: PartyId("server"))

    def __post_init__(self) -> None:
        for client in self.setting.clients:
            if len(self.identities.get(client, b"")) != KEY_BYTES:
                raise UsageError(f"{client}: expected its Ed25519 public key of {KEY_BYTES} bytes among the identities")

    @property
    def context(self) -> bytes:
        """Digest of the terms (32 bytes)."""
        keys = [self.identities[client] for client in self.setting.clients]
        return framed_digest(b"unseen/secagg_plus/1", self.setting.context, repr(self.assumptions).encode(), *keys)


@dataclass(frozen=True, slots=True)
class Roster:
    """U1: who takes part, with which keys, and the graph that follows; clients are told by their places in it."""

    terms: Terms
    context: bytes
    members: tuple[PartyId, ...]
    cipher_keys: tuple[bytes, ...]
    mask_keys: tuple[bytes, ...]
    digest: bytes
    graph: Graph

    @classmethod
    def read(cls, terms: Terms, told: RosterOf, sender: PartyId) -> Roster:
        """Return the roster of a message; every signature is checked.

        Raises:
            RemoteProtocolError: It is too short or malformed, a signature is wrong, or a key occurs twice.
        """
        setting, context = terms.setting, terms.context
        places = read_places(told.members, len(setting.clients), setting.quorum, sender)
        if len(told.keys) != len(places) or len(told.signatures) != len(places):
            raise RemoteProtocolError(f"{sender}: the roster's {len(places)} members do not all have keys")
        members = tuple(setting.clients[place] for place in places)
        keys = [(pair[0].tobytes(), pair[1].tobytes()) for pair in told.keys]
        for member, pair, signature in zip(members, keys, told.signatures, strict=True):
            check_keys(terms, context, member, pair, signature.tobytes())
        cipher_keys, mask_keys = zip(*keys, strict=True)
        if len({*cipher_keys, *mask_keys}) != 2 * len(members):
            raise RemoteProtocolError(f"{sender}: a key stands twice in the roster")
        digest = framed_digest(b"unseen/secagg_plus/1/roster", context, told.members, told.keys)
        graph = draw(digest, len(members), len(setting.clients), terms.assumptions)
        return cls(terms, context, members, cipher_keys, mask_keys, digest, graph)

    def places(self, told: Places, least: int, sender: PartyId) -> list[int]:
        """Return a list of at least ``least`` members that a peer sent."""
        return read_places(told, len(self.members), least, sender)

    def view(self, sharing: Sequence[int]) -> bytes:
        """Return the digest of U1 and U2, to which all masks are bound."""
        return framed_digest(b"unseen/secagg_plus/1/view", self.digest, as_places(sharing).tobytes())

    def pair_mask(self, mine: EphemeralKey, me: int, peer: int, view: bytes) -> Prg:
        """Return the mask that two neighbours share."""
        low, high = sorted((me, peer))
        ends = as_places([low, high]).tobytes() + self.mask_keys[low] + self.mask_keys[high]
        agreed = mine.agree(self.mask_keys[peer], self.members[peer])
        return Prg(derive_key(agreed, self.context, _MASK, view, ends))

    def seal_key(self, agreed: bytes, sender: int, receiver: int) -> bytes:
        """Return the key under which one member seals shares for another, of what their cipher keys agree on."""
        return derive_key(agreed, self.context, _SEAL, self.digest, as_places([sender, receiver]).tobytes())

    def own_mask(self, seed: bytes, view: bytes) -> Prg:
        """Return the mask of a client's own seed."""
        return Prg(seed).derive("secagg_plus/own", self.context, view)

    def has_signed(self, member: int, signature: bytes, view: bytes, survivors: Sequence[int]) -> bool:
        """Return whether a member signed U1, U2 and U3."""
        public = self.terms.identities[self.members[member]]
        return is_signed(public, signature, SIGNED_SURVIVORS, view, as_places(survivors).tobytes())


def check_keys(terms: Terms, context: bytes, member: PartyId, keys: tuple[bytes, bytes], signature: bytes) -> None:
    """Pass if a client's keys are signed for these terms.

    Raises:
        RemoteProtocolError: They are not: the server, or somebody else, made them up.
    """
    if not is_signed(terms.identities[member], signature, SIGNED_KEYS, context, member.encode(), *keys):
        raise RemoteProtocolError(
            f"{member}: its keys are not signed by its identity for this sum: expected the same session, round, model, "
            "cohort and assumptions everywhere, and identities that its owner gave us"
        )


def as_places(members: Sequence[int]) -> Places:
    """Return members as messages have them."""
    return np.array(members, "<u4")


def as_rows(parts: Sequence[bytes], size: int) -> Bytes:
    """Return byte strings of equal size as messages have them, shape (count, size)."""
    return np.frombuffer(b"".join(parts), np.uint8).reshape(-1, size)


def read_places(told: Places, bound: int, least: int, sender: PartyId) -> list[int]:
    """Return members that a peer sent.

    Raises:
        RemoteProtocolError: They are not ascending, too large, or too few.
    """
    members: list[int] = told.tolist()
    if any(after <= before for before, after in pairwise(members)):
        raise RemoteProtocolError(f"{sender}: a list of clients is not ascending")
    if members and members[-1] >= bound:
        raise RemoteProtocolError(f"{sender}: a list names client number {members[-1]} of {bound}")
    if len(members) < least:
        raise RemoteProtocolError(f"{sender}: a list names {len(members)} clients, at least {least} have to be left")
    return members
