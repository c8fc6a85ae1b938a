"""Sums without a server, around a ring: each peer sends two vectors in all, however many peers there are.

Ring all-reduce (P. Patarasuk, X. Yuan, "Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations", JPDC
2009) lets partial sums pass through every peer, so that each would read the vector of the one before it. Hence vectors
are masked first, as in K. Bonawitz and others (CCS 2017, section 4): every two peers agree on a stream that the one
adds and the other subtracts; the masks cancel in the total, and in no other sum.

0. Every peer sends a fresh X25519 key to every other one, and masks its vector.
1. The vector is cut into n pieces. In n − 1 steps each peer passes one piece on to the next and adds the one that
   comes: at the end each has one piece of the total (reduce-scatter).
2. In n − 1 steps the finished pieces go around (all-gather). Masked weights go to everybody at once.

*Security model*: any number of peers may work together, and learn the sum of the vectors of all others; with two others
left, that sum is all that hides each. Links are authenticated, which makes the keys so. Gap Diffie–Hellman in X25519,
HKDF in the random oracle model. A peer that deviates can make the total wrong, and learns no more. *Leakage*: nothing
else. *Rounds*: 2 n. *Bytes*: 2 (n − 1)/n vectors and 100 (n − 1). *Work*: n − 1 masks and X25519. Nobody may drop
out: if a peer is lost, begin again with a new session among the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.hashing import framed_digest
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, progress, receive, receive_all, send, send_all
from unseen.errors import RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.secure_aggregation import masks
from unseen.protocols.secure_aggregation.keys import KEY_BYTES, EphemeralKey, derive_key
from unseen.protocols.secure_aggregation.port import Contribution, Setting, Total, Words, reduce_words, to_bytes

Bytes = NDArray[np.uint8]


# --- messages ----------------------------------------------------------------------------------------------------


@message("ring_sum/key")
class Key:
    """The sender's key for this sum."""

    context: Annotated[Bytes, Shape(32)]
    """Digest of the setting."""
    public: Annotated[Bytes, Shape(KEY_BYTES)]


@message("ring_sum/weight")
class MaskedWeight:
    """The sender's masked weight."""

    weight: Annotated[NDArray[np.uint64], Shape(1)]


@message("ring_sum/piece")
class Piece:
    """A partial sum, or a finished one, of a piece of the masked vectors."""

    words: Annotated[Bytes, Shape(None)]


# --- the dialogue ------------------------------------------------------------------------------------------------


def ring_all_reduce(me: PartyId, contribution: Contribution, setting: Setting, prg: Prg) -> Dialogue[Total]:
    """Return the total over all peers; a ``PeerSum``.

    Raises:
        UsageError: ``me`` is no peer, or the contribution does not suit the setting.
        RemoteProtocolError: A peer takes another sum, or sent a piece of another size or a key of low order.
    """
    if me not in setting.clients:
        raise UsageError(f"{me} is not among the {len(setting.clients)} peers of this sum")
    peers = [peer for peer in setting.clients if peer != me]
    mine = _draw_key(me, contribution.checked(setting), setting, prg)
    context = np.frombuffer(setting.context, np.uint8)
    yield from send_all(peers, Key(context, np.frombuffer(mine.public, np.uint8)))
    keys = yield from receive_all(peers, Key)
    words, weight = _masked(me, contribution, setting, mine, keys)
    yield from send_all(peers, MaskedWeight(weight.copy()))
    for other in (yield from receive_all(peers, MaskedWeight)).values():
        weight += other.weight
    yield from _Circle(me, setting, words).reduce()
    return Total(words, int(weight[0]), setting.clients)


def _draw_key(me: PartyId, contribution: Contribution, setting: Setting, prg: Prg) -> EphemeralKey:
    weight = contribution.weight.to_bytes(8, "little")
    data = framed_digest(b"unseen/ring_sum/1/data", to_bytes(contribution.words), weight)
    # Safety: another vector has other masks, even if a generator is used twice.
    return EphemeralKey.draw(prg.derive("ring_sum/key", setting.context, me.encode(), data))


def _masked(
    me: PartyId, contribution: Contribution, setting: Setting, mine: EphemeralKey, keys: dict[PartyId, Key]
) -> tuple[Words, NDArray[np.uint64]]:
    """Return vector and weight with the masks of all pairs; of each, the peer that comes first by name adds it."""
    added: list[Prg] = []
    taken: list[Prg] = []
    for peer, key in keys.items():
        if key.context.tobytes() != setting.context:
            raise RemoteProtocolError(f"{peer}: expected a sum with the same peers, sizes, session and model as ours")
        public = key.public.tobytes()
        ends = sorted([(me.encode(), mine.public), (peer.encode(), public)])
        bound = [part for end in ends for part in end]
        agreed = mine.agree(public, peer)
        mask = Prg(derive_key(agreed, setting.context, b"unseen/ring_sum/1/mask", *bound))
        (added if me < peer else taken).append(mask)
    words, weight = contribution.words.copy(), np.array([contribution.weight], "<u8")
    masks.apply(words, weight, added, taken)
    reduce_words(words, setting)
    return words, weight


@dataclass(frozen=True, slots=True)
class _Circle:
    """One peer's place on the ring and its vector, whose pieces are replaced by those of the total."""

    me: PartyId
    setting: Setting
    words: Words

    def reduce(self) -> Dialogue[None]:
        """Let all pieces go around twice."""
        count = len(self.setting.clients)
        here = self.setting.clients.index(self.me)
        for step in range(2 * (count - 1)):
            finished = step >= count - 1
            # A piece that came last is the one to be passed on.
            going, coming = self._piece(here - step), self._piece(here - step - 1)
            yield from send(self.setting.clients[(here + 1) % count], Piece(to_bytes(going)))
            found = yield from self._take(self.setting.clients[here - 1], len(coming))
            if finished:
                coming[:] = found
            else:
                np.add(coming, found, out=coming)
                reduce_words(coming, self.setting)
            yield from progress(step + 1, 2 * (count - 1), "pieces of the sum")

    def _piece(self, index: int) -> Words:
        count = len(self.setting.clients)
        index %= count
        return self.words[self.setting.length * index // count : self.setting.length * (index + 1) // count]

    def _take(self, sender: PartyId, length: int) -> Dialogue[Words]:
        piece = yield from receive(sender, Piece)
        if piece.words.nbytes != length * self.words.itemsize:
            raise RemoteProtocolError(
                f"{sender}: expected a piece of {length * self.words.itemsize} bytes, found {piece.words.nbytes}"
            )
        words: Words = piece.words.view(self.words.dtype)
        if int(words.max(initial=0)) > self.setting.modulus_mask:
            raise RemoteProtocolError(f"{sender}: a piece holds words of more than {self.setting.bits} bits")
        return words
