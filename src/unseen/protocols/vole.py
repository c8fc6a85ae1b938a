"""Vector oblivious linear evaluation (VOLE) over GF(2^128): one party gets vectors A, C, the other Δ and B = C + Δ·A.

E. Boyle, G. Couteau, N. Gilboa, Y. Ishai, L. Kohl, P. Rindal, P. Scholl, "Efficient Two-Round OT Extension and Silent
Non-Interactive Secure Computation" (CCS 2019, eprint 2019/1159), section 4, with the code of
``crypto.expand_convolute``. A is long and looks random, but comes from 1024 errors β in places α:

1. For each error the key holder grows a tree (Goldreich, Goldwasser, Micali) whose leaves are random v. By an oblivious
   transfer a level, of the sums of left and of right nodes, the vector holder learns all leaves but that at α
   (punctured pseudo-random function).
2. For the errors' values both get shares of Δ·β, c + b = Δ·β: N. Gilboa, "Two Party RSA Key Generation" (CRYPTO 1999),
   with 128 base transfers, in which Δ chooses. The sum of all leaves plus b lets the vector holder complete leaf α as
   v + Δ·β. A vector holder that used other values for some bits of Δ than for others could learn those bits from what
   goes wrong later. So it proves that it did not, as in ``oblivious_transfer``: by a polynomial of all values, of which
   one is spare, and of the streams for every bit of Δ, at a point that comes from a digest of what was sent.
3. Both compress their leaves with the code, the vector holder the errors too: A = H·β, C = H·(v + Δβ), B = H·v.

*Security model*: LPN for the code, AES-128 with public keys of the session as an ideal permutation (generator of the
trees), and what ``oblivious_transfer`` needs. A and Δ stay hidden from a semi-honest party. Δ stays hidden from a
vector holder that deviates, too: whatever it sends, B is C + Δ·A for some A, or a check fails, but for a probability of
2^-k after which it has learned k bits of Δ. A key holder that deviates can make trees that do not fit together, and
learn from what goes wrong later something about the places α of this one vector: nothing here keeps it from that.

*Rounds*: one for the base transfers, then one for each pair of vectors. *Bytes* of such a pair: 2.1 MB for the errors'
values, and 49 kB for each level of the trees, of which there are 12 for 10^6 elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.expand_convolute import NOISE, Code
from unseen.crypto.fixed_key import KEY_BYTES, Permutation
from unseen.crypto.hashing import framed_digest
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, receive, send
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.kernels.blocks import in_parallel
from unseen.kernels.gf128 import evaluate, horner
from unseen.kernels.ggm import children
from unseen.protocols.oblivious_transfer import (
    WIDTH,
    Chosen,
    Extension,
    Pairs,
    choose,
    extend_choices,
    extend_pairs,
    offer,
)

Words = NDArray[np.uint64]
_TREES = 16
"""Trees that are grown at once: their nodes stay in a cache."""


# --- messages ----------------------------------------------------------------------------------------------------


@message("vole/request")
class Request:
    """What the vector holder asks: corrections of the transfers for its places, and its values in disguise."""

    transfers: Extension
    products: Annotated[NDArray[np.uint64], Shape(WIDTH, NOISE + 1, 2)]
    values: Annotated[NDArray[np.uint64], Shape(2)]
    """The polynomial of its values, the spare one included."""
    streams: Annotated[NDArray[np.uint64], Shape(WIDTH, 2)]
    """The polynomial of the first stream of each base transfer."""


@message("vole/trees")
class Trees:
    """For every tree and level the sums of its left and right nodes, each under a key; then of leaves and share."""

    sums: Annotated[NDArray[np.uint64], Shape(NOISE, None, 2, 2)]
    ends: Annotated[NDArray[np.uint64], Shape(NOISE, 2)]


# --- set-up ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class KeyHolder:
    """What the party with Δ keeps after the base transfers."""

    peer: PartyId
    prg: Prg
    session: bytes
    key: Words = field(repr=False)
    """Δ, two words."""
    products: Chosen = field(repr=False)
    transfers: Chosen = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class VectorHolder:
    """What the party with A and C keeps after the base transfers."""

    peer: PartyId
    prg: Prg
    session: bytes
    products: Pairs = field(repr=False)
    transfers: Pairs = field(repr=False)


def open_key_holder(peer: PartyId, prg: Prg, session: bytes) -> Dialogue[KeyHolder]:
    """Return the set-up with a fresh Δ; ``session`` is the same at both parties and never used again."""
    choices = np.unpackbits(prg.derive("vole/key").words(4).view(np.uint8), bitorder="little").astype(np.bool_)
    chosen = yield from choose(choices, peer=peer, prg=prg.derive("vole/base"), session=session)
    products, transfers = (Chosen(choices[part], chosen.keys[part]) for part in (slice(WIDTH), slice(WIDTH, None)))
    key = np.packbits(products.choices, bitorder="little").view("<u8")
    return KeyHolder(peer, prg, session, key, products, transfers)


def open_vector_holder(peer: PartyId, prg: Prg, session: bytes) -> Dialogue[VectorHolder]:
    """Return the set-up of the other party."""
    pairs = yield from offer(2 * WIDTH, peer=peer, prg=prg.derive("vole/base"), session=session)
    return VectorHolder(
        peer, prg, session, Pairs(pairs.keys[:WIDTH], pairs.heard), Pairs(pairs.keys[WIDTH:], pairs.heard)
    )


def _context(session: bytes, number: int) -> bytes:
    return framed_digest(b"unseen/vole/1\0", session, number.to_bytes(8, "little"))


def _levels(code: Code) -> int:
    return (code.block - 1).bit_length()


# --- the party with A and C --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What the vector holder remembers of a request."""

    code: Code
    context: bytes
    places: NDArray[np.int64] = field(repr=False)
    values: Words = field(repr=False)
    shares: Words = field(repr=False)
    keys: Words = field(repr=False)


def ask(holder: VectorHolder, code: Code, number: int) -> Dialogue[Asked]:
    """Ask for vectors as long as ``code`` says; each ``number`` is used once."""
    context, levels = _context(holder.session, number), _levels(code)
    # Safety: whoever resumes and was sent other choices draws other noise.
    prg = holder.prg.derive("vole/noise", context, holder.transfers.heard)
    places = prg.derive("vole/places").below(code.block, NOISE).astype(np.int64)
    values = prg.derive("vole/values").words(2 * (NOISE + 1)).reshape(-1, 2)
    # Of each level the sum on the side that is left is wanted.
    wanted = ~(places[:, None] >> np.arange(levels - 1, -1, -1) & 1).astype(np.bool_)
    transfers, keys = extend_choices(holder.transfers, wanted.reshape(-1), context, prg.derive("vole/spare"))
    masks = np.stack([[_stream(key, context) for key in pair] for pair in holder.products.keys])
    products = masks[:, 0] ^ masks[:, 1] ^ values
    point = _point(products, context)
    (sum_of_values,) = evaluate(values[:, None], point)
    yield from send(
        holder.peer, Request(transfers, products, sum_of_values, evaluate(masks[:, 0].swapaxes(0, 1), point))
    )
    shares = horner(masks[:, 0, :NOISE])
    return Asked(code, context, places, values[:NOISE], shares, keys.reshape(NOISE, levels, 2))


def obtain(holder: VectorHolder, asked: Asked) -> Dialogue[Words]:
    """Return C and A side by side, shape (size, 4).

    Raises:
        RemoteProtocolError: The key holder's trees have another depth.
    """
    code, levels = asked.code, _levels(asked.code)
    answer = yield from receive(holder.peer, Trees)
    if answer.sums.shape[1] != levels:
        raise RemoteProtocolError(f"{holder.peer}: expected trees of {levels} levels, found {answer.sums.shape[1]}")
    sides = 1 - (asked.places[:, None] >> np.arange(levels - 1, -1, -1) & 1)
    sums = np.take_along_axis(answer.sums, sides[:, :, None, None], axis=2)[:, :, 0] ^ asked.keys
    leaves = np.zeros((NOISE, code.block, 4), np.uint64)
    forest = _Forest(code, asked.context)

    def work(piece: int) -> None:
        trees = slice(piece * _TREES, (piece + 1) * _TREES)
        forest.complete(leaves[trees], asked.places[trees], sums[trees])

    in_parallel(work, NOISE // _TREES)
    rows = np.arange(NOISE)
    leaves[rows, asked.places, :2] ^= answer.ends ^ asked.shares
    leaves[rows, asked.places, 2:] = asked.values
    return code.compress(leaves.reshape(-1, 4))


# --- the party with Δ and B --------------------------------------------------------------------------------------


def grant(holder: KeyHolder, code: Code, number: int) -> Dialogue[Words]:
    """Answer a request and return the leaves of all trees, which ``Code.compress`` makes B of.

    Raises:
        RemoteProtocolError: The request is for another number of transfers, or is not the same in all its places.
    """
    context, levels = _context(holder.session, number), _levels(code)
    request = yield from receive(holder.peer, Request)
    keys = extend_pairs(holder.transfers, request.transfers, NOISE * levels, context, peer=holder.peer)
    shares = _shares(holder, request, context)
    leaves, sums = np.empty((NOISE, code.block, 2), np.uint64), np.empty((NOISE, levels, 2, 2), np.uint64)
    # Safety: whoever resumes and is sent another request grows other trees: with one tree, two places open all of it.
    roots = holder.prg.derive("vole/roots", context, _heard(request)).words(2 * NOISE).reshape(NOISE, 1, 2)
    forest = _Forest(code, context)

    def work(piece: int) -> None:
        trees = slice(piece * _TREES, (piece + 1) * _TREES)
        forest.grow(roots[trees], leaves[trees], sums[trees])

    in_parallel(work, NOISE // _TREES)
    ends = sums[:, -1, 0] ^ sums[:, -1, 1] ^ shares
    yield from send(holder.peer, Trees(sums ^ keys.reshape(sums.shape), ends))
    return leaves.reshape(-1, 2)


def _heard(request: Request) -> bytes:
    sent, label = request.transfers, b"unseen/vole/request/1\0"
    transfers = framed_digest(label, sent.corrections, sent.choices, sent.columns)
    return framed_digest(label, transfers, request.products, request.values, request.streams)


def _shares(holder: KeyHolder, request: Request, context: bytes) -> Words:
    """Return this party's shares of Δ times the values, once it is sure that these are the same for all bits of Δ."""
    choices = holder.products.choices[:, None].astype(np.uint64)
    masks = np.stack([_stream(key, context) for key in holder.products.keys]) ^ (request.products * choices[:, :, None])
    found = evaluate(masks.swapaxes(0, 1), _point(request.products, context))
    if not np.array_equal(found, request.streams ^ (request.values * choices)):
        raise RemoteProtocolError(f"{holder.peer}: used different values in different places of one product")
    return horner(masks[:, :NOISE])


def _stream(key: Prg, context: bytes) -> Words:
    return key.derive("vole/product", context).words(2 * (NOISE + 1)).reshape(-1, 2)


def _point(products: Words, context: bytes) -> Words:
    """Return where the polynomials of a request are evaluated: an element that nobody chose."""
    return np.frombuffer(framed_digest(b"unseen/vole/check/1\0", context, products)[:16], "<u8")


# --- trees -------------------------------------------------------------------------------------------------------


class _Forest:
    """How trees grow in one exchange: their size, and the permutations of left and right children."""

    def __init__(self, code: Code, context: bytes) -> None:
        self._block, self._levels = code.block, _levels(code)
        self._sides = [Permutation(framed_digest(context, side)[:KEY_BYTES]) for side in (b"left", b"right")]

    def grow(self, roots: Words, leaves: Words, sums: Words) -> None:
        """Grow trees from their roots, shape (trees, 1, 2); write their leaves, and the sums of each level's sides."""
        nodes, none = roots, np.full(len(roots), -1)
        for level, target in self._targets(leaves):
            nodes = self._children(nodes, none, target, sums[:, level])

    def complete(self, leaves: Words, places: NDArray[np.int64], sums: Words) -> None:
        """Write all leaves but those in ``places``, of which this gets the sum of all others.

        ``sums``, shape (trees, levels, 2), are those of the nodes of each level on the side that does not lead there.
        """
        rows, known = np.arange(len(leaves)), np.empty((len(leaves), 2, 2), np.uint64)
        nodes = np.zeros((len(leaves), 1, 2), np.uint64)
        for level, target in self._targets(leaves):
            path = places >> (self._levels - 1 - level)
            nodes = self._children(nodes, path >> 1, target, known)
            there = (path ^ 1) < target.shape[1]
            missing = sums[:, level] ^ known[rows, 1 - (path & 1)]
            target[rows[there], (path ^ 1)[there], :2] = missing[there]
        leaves[rows, places, :2] = np.bitwise_xor.reduce(leaves[:, :, :2], axis=1)

    def _targets(self, leaves: Words) -> Iterator[tuple[int, Words]]:
        """Yield each level and the array for its nodes: of the last one, the leaves."""
        for level in range(self._levels):
            count = -(-self._block // (1 << (self._levels - 1 - level)))
            yield level, leaves if level == self._levels - 1 else np.empty((len(leaves), count, 2), np.uint64)

    def _children(self, nodes: Words, skipped: NDArray[np.int64], target: Words, sums: Words) -> Words:
        left, right = (side.permuted(nodes) for side in self._sides)
        children(nodes, left, right, skipped, target, sums)
        return target
