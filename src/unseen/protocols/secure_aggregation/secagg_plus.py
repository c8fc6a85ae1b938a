"""Sums with pairwise masks, of which a malicious server learns the total over those that stayed, and nothing else.

K. Bonawitz and others, "Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017), figure 4 with
the consistency check of section 6.2; masks and shares along the sparse graph of J. Bell and others, "Secure
Single-Server Aggregation with (Poly)Logarithmic Overhead" (CCS 2020), see ``graph``. The clients that are left after
each step are U1 ⊇ U2 ⊇ U3; n is the size of the cohort, q = ⌊2n/3⌋ + 1, t the shares that open a secret.

0. *Keys.* A client signs two fresh X25519 keys with its identity. The server sends all of U1 with signatures: the
   roster. Clients check it against identities they already know, and hash it to the graph.
1. *Shares.* A client draws a seed b, and seals shares of b and of its secret mask key s for each neighbour.
2. *Masked vectors.* Told U2, a client sends x + F(b) + Σ ± F(k), with the pairwise key k of each neighbour in U2 (HKDF
   of X25519, bound to context, roster and U2). Session, round, attempt and digest of the model are in the context.
3. *Consistency.* Told U3, a client signs (roster, U2, U3).
4. *Opening.* Shown q signatures of the same, it opens its shares: of b for owners in U3, of s for those that are not.
   The server takes F(b) off, and F(k) of pairs whose other end is gone.

*Security model*: the server and less than n/3 clients, chosen in advance, may do anything and work together (random
oracle model, gap Diffie–Hellman in X25519; for a sparse graph also ``Assumptions``). They learn the sum over all honest
clients of one set U3 with |U3| ≥ q, or nothing. *Not promised*: that the server tells the right sum, that vectors make
sense, or that nobody can make it fail. ``docs/security/secure_aggregation.md`` has the argument.

*Leakage*: to everybody, who takes part and who dropped out when. *Rounds*: 5. *Bytes* up: the vector and 119 k + 640;
down: 208 n + 82 k. *Work* of a client: k + 1 masks, 2 k X25519, 2 n Ed25519 verifications, 2 K·t products modulo a
prime; of the server: a mask for everybody in U3 and for every neighbour in U3 of a client in U2 ∖ U3.

One attempt has one set of keys. They follow from the client's generator, the context *and the vector*, so that a
client that runs again answers the same messages with the same bytes, and another vector gets other keys. A client that
restarts may replay what it *received and kept*; otherwise it has to stay away until an attempt with a new name: else a
server could have it answer two different U3. What a role has answered once it does not answer again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.hashing import framed_digest
from unseen.crypto.prg import Prg
from unseen.errors import LocalProtocolError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.secure_aggregation import masks, shamir
from unseen.protocols.secure_aggregation.keys import (
    KEY_BYTES,
    SEAL_BYTES,
    SIGNATURE_BYTES,
    EphemeralKey,
    seal,
    sign,
    unseal,
)
from unseen.protocols.secure_aggregation.port import (
    Contribution,
    reduce_words,
    to_bytes,
)
from unseen.protocols.secure_aggregation.roster import (
    SIGNED_KEYS,
    SIGNED_SURVIVORS,
    Bytes,
    Places,
    Roster,
    RosterOf,
    Terms,
    as_places,
    as_rows,
)

SEALED_BYTES = 2 * shamir.SHARE_BYTES + SEAL_BYTES


# --- messages: clients are told by their places in the roster, ascending -------------------------------------------


@message("secagg_plus/keys")
class Keys:
    """A client's public keys for this sum, and its identity's signature of them."""

    cipher_key: Annotated[Bytes, Shape(KEY_BYTES)]
    mask_key: Annotated[Bytes, Shape(KEY_BYTES)]
    signature: Annotated[Bytes, Shape(SIGNATURE_BYTES)]


@message("secagg_plus/shares")
class Shares:
    """For each of the sender's neighbours, ascending: shares of mask key and seed, sealed."""

    sealed: Annotated[Bytes, Shape(None, SEALED_BYTES)]


@message("secagg_plus/delivery")
class Delivery:
    """U2, and the shares that the receiver's neighbours in it sealed for the receiver."""

    members: Annotated[Places, Shape(None)]
    sealed: Annotated[Bytes, Shape(None, SEALED_BYTES)]


@message("secagg_plus/masked")
class Masked:
    """A masked vector and a masked weight."""

    words: Annotated[Bytes, Shape(None)]
    weight: Annotated[NDArray[np.uint64], Shape(1)]


@message("secagg_plus/survivors")
class Survivors:
    """U3."""

    members: Annotated[Places, Shape(None)]


@message("secagg_plus/consent")
class Consent:
    """The sender's signature of U1, U2 and U3."""

    signature: Annotated[Bytes, Shape(SIGNATURE_BYTES)]


@message("secagg_plus/consents")
class Consents:
    """What members of U3 signed."""

    members: Annotated[Places, Shape(None)]
    signatures: Annotated[Bytes, Shape(None, SIGNATURE_BYTES)]


@message("secagg_plus/openings")
class Openings:
    """Shares of the owners' seeds, if they are in U3, or of their mask keys, if they are not."""

    owners: Annotated[Places, Shape(None)]
    shares: Annotated[Bytes, Shape(None, shamir.SHARE_BYTES)]


# --- the client ----------------------------------------------------------------------------------------------------


class Client:
    """One client of one sum; a ``ClientRole``.

    Args:
        terms: What is agreed.
        me: Who this is.
        contribution: Its vector and weight.
        identity: Its Ed25519 key, whose public key is in the terms.
        prg: Serves for this attempt and no other.

    Raises:
        UsageError: The contribution does not suit the setting, or the identity is not that of the terms.
    """

    def __init__(
        self, terms: Terms, me: PartyId, contribution: Contribution, identity: Ed25519PrivateKey, prg: Prg
    ) -> None:
        if identity.public_key().public_bytes_raw() != terms.identities.get(me):
            raise UsageError(f"{me}: this identity is not the one that the others know")
        self._terms, self._me, self._identity = terms, me, identity
        self._contribution = contribution.checked(terms.setting)
        weight = contribution.weight.to_bytes(8, "little")
        data = framed_digest(b"unseen/secagg_plus/1/data", to_bytes(contribution.words), weight)
        # Safety: two vectors never meet under one key, not even if a generator is used twice.
        self._prg = prg.derive("secagg_plus/client", terms.context, me.encode(), data)
        self._cipher = EphemeralKey.draw(self._prg.derive("cipher key"))
        self._mask = EphemeralKey.draw(self._prg.derive("mask key"))
        self._steps: list[tuple[type, Callable[[Any], object]]] = [
            (RosterOf, self._share),
            (Delivery, self._hide),
            (Survivors, self._consent),
            (Consents, self._open),
        ]
        self._begun = False
        self._left: list[int] = []
        self._agreed: dict[int, bytes] = {}
        self._held: dict[int, tuple[bytes, bytes]] = {}
        """Shares of mask key and seed, by owner."""

    @property
    def hears(self) -> type[Any] | None:
        """The kind of message it waits for."""
        return self._steps[0][0] if self._begun and self._steps else None

    @property
    def left(self) -> tuple[PartyId, ...] | None:
        """U3, once this client has consented to it."""
        return tuple(self._roster.members[place] for place in self._left) if self._left else None

    def begin(self) -> Keys:
        """Return this client's signed keys.

        Raises:
            LocalProtocolError: It has begun already.
        """
        if self._begun:
            raise LocalProtocolError(f"{self._me}: a sum was about to begin twice with the same keys")
        self._begun = True
        keys = self._cipher.public, self._mask.public
        signature = sign(self._identity, SIGNED_KEYS, self._terms.context, self._me.encode(), *keys)
        return Keys(*(np.frombuffer(part, np.uint8) for part in (*keys, signature)))

    def answer(self, message: object) -> object:
        """Return the answer to the server's next message; see ``ClientRole``."""
        expected = self.hears
        if expected is None or type(message) is not expected:
            wanted = expected.__name__ if expected else "nothing more"
            raise self._bad(f"{self._me} expected {wanted}, found {type(message).__name__}: each comes once, in order")
        # Safety: a client that has met an error answers nothing any more.
        (_, step), *rest = self._steps
        self._steps = []
        found = step(message)
        self._steps = rest
        return found

    def _bad(self, what: str) -> RemoteProtocolError:
        return RemoteProtocolError(f"{self._terms.server}: {what}")

    def _share(self, told: RosterOf) -> Shares:
        """Check the roster, and seal shares of this client's secrets for its neighbours."""
        self._roster = roster = Roster.read(self._terms, told, self._terms.server)
        if self._me not in roster.members:
            raise self._bad(f"it sent {self._me} a roster without {self._me}")
        self._place = me = roster.members.index(self._me)
        if (roster.cipher_keys[me], roster.mask_keys[me]) != (self._cipher.public, self._mask.public):
            raise self._bad(f"the roster has keys of {self._me} that belong to another attempt")
        self._neighbours = roster.graph.neighbours(me)
        self._seed = self._prg.derive("seed", roster.digest).bytes(shamir.SECRET_BYTES)
        pairs = self._split()
        self._held[me] = pairs[me]
        for peer in self._neighbours:
            self._agreed[peer] = self._cipher.agree(roster.cipher_keys[peer], roster.members[peer])
        sealed = [
            seal(roster.seal_key(self._agreed[peer], me, peer), b"".join(pairs[peer])) for peer in self._neighbours
        ]
        return Shares(as_rows(sealed, SEALED_BYTES))

    def _split(self) -> dict[int, tuple[bytes, bytes]]:
        """Return each holder's shares of this client's mask key and seed."""
        graph, digest = self._roster.graph, self._roster.digest
        holders = graph.holders(self._place)
        points = [holder + 1 for holder in holders]
        of_key = shamir.split(self._mask.secret(), graph.threshold, points, self._prg.derive("key shares", digest))
        of_seed = shamir.split(self._seed, graph.threshold, points, self._prg.derive("seed shares", digest))
        return dict(zip(holders, zip(of_key, of_seed, strict=True), strict=True))

    def _hide(self, told: Delivery) -> Masked:
        """Take the shares of neighbours that are left, and mask the vector."""
        setting, me = self._terms.setting, self._place
        self._sharing = self._roster.places(told.members, setting.quorum, self._terms.server)
        left = sorted(set(self._neighbours).intersection(self._sharing))
        if me not in self._sharing or len(left) + 1 < self._roster.graph.threshold:
            raise self._bad(f"too few neighbours of {self._me} are left: {len(left)} of {len(self._neighbours)}")
        if len(told.sealed) != len(left):
            raise self._bad(f"expected the shares of {len(left)} neighbours, found {len(told.sealed)}")
        for owner, sealed in zip(left, told.sealed, strict=True):
            self._take(owner, sealed.tobytes())
        self._view = view = self._roster.view(self._sharing)
        # The lower end of a pair adds its mask, the higher one subtracts it.
        pairs = {peer: self._roster.pair_mask(self._mask, me, peer, view) for peer in left}
        added = [self._roster.own_mask(self._seed, view), *(mask for peer, mask in pairs.items() if peer > me)]
        words = self._contribution.words.copy()
        weight = np.array([self._contribution.weight], "<u8")
        masks.apply(words, weight, added, [mask for peer, mask in pairs.items() if peer < me])
        reduce_words(words, setting)
        return Masked(to_bytes(words), weight)

    def _take(self, owner: int, sealed: bytes) -> None:
        """Keep a neighbour's shares; one that sealed nonsense harms itself only, as others hold shares too."""
        plain = unseal(self._roster.seal_key(self._agreed[owner], owner, self._place), sealed)
        if plain is not None:
            self._held[owner] = plain[: shamir.SHARE_BYTES], plain[shamir.SHARE_BYTES :]

    def _consent(self, told: Survivors) -> Consent:
        """Sign who is left, once."""
        least = self._terms.setting.quorum
        self._left = self._roster.places(told.members, least, self._terms.server)
        if self._place not in self._left or not set(self._left) <= set(self._sharing):
            raise self._bad(f"it names survivors without {self._me}, or some that were not there before")
        survivors = as_places(self._left).tobytes()
        return Consent(np.frombuffer(sign(self._identity, SIGNED_SURVIVORS, self._view, survivors), np.uint8))

    def _open(self, told: Consents) -> Openings:
        """Open the shares, after a quorum has signed the same survivors."""
        signers = self._roster.places(told.members, self._terms.setting.quorum, self._terms.server)
        if len(told.signatures) != len(signers) or not set(signers) <= set(self._left):
            raise self._bad("expected one signature of each of some survivors")
        for signer, signature in zip(signers, told.signatures, strict=True):
            if not self._roster.has_signed(signer, signature.tobytes(), self._view, self._left):
                raise self._bad(f"{self._roster.members[signer]} has not signed the survivors that we were told of")
        owners = sorted(owner for owner in self._held if owner in self._sharing)
        # Safety: of each owner one secret only. Both together would lay its vector bare.
        shares = [self._held[owner][1 if owner in self._left else 0] for owner in owners]
        return Openings(as_places(owners), as_rows(shares, shamir.SHARE_BYTES))

    def __repr__(self) -> str:
        return f"Client({self._me!r}, <secret>)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a client holds secret keys and cannot be pickled")
