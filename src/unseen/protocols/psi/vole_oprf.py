"""An oblivious pseudo-random function (OPRF) on whole lists, from VOLE and an oblivious key-value store.

S. Raghuraman, P. Rindal, "Blazing Fast PSI from Improved OKVS and Subfield VOLE" (CCS 2022, eprint 2022/320), section
5, for semi-honest parties over GF(2^128); the silent VOLE is that of ``protocols.vole``.

1. The *asker* gets vectors A and C, the *answerer* gets Δ and B = C + Δ·A.
2. The asker encodes a public one-way value v(x) for each of its items x in a random store P (``crypto.okvs``) and sends
   P + A.
3. The answerer has K = B + Δ·(P + A) = C + Δ·P. Its function is F(y) = hash(K(y) + Δ·v(y), y), for any y. If the asker
   holds y, then K(y) + Δ·v(y) = C(y), so that it knows F(y) = hash(C(y), y); of all others it can predict nothing.

Items are random blocks, the same for the same item. By them they are thrown into *buckets*, each of which is a protocol
of its own after joint base transfers, so that memory stays bounded.

*Security model*: semi-honest; what ``protocols.vole`` needs, and AES-128 with public keys of the session as ideal
permutations: P + A is uniform, and F on other items random to the asker, since Δ is secret and the hash tweakable and
circular correlation robust. An asker that deviates cannot learn Δ (see there), hence not evaluate F at will; but it can
fit more items into P than it said it has, up to the 1.4 n columns of the store: budgets have to count those
(``points``). There is no proof against deviating parties for the whole. *Leakage*: how many items the asker has.

*Rounds*: two for the base transfers and a first bucket's VOLE, then two a bucket. *Bytes*: 21.7 an item of the asker
(more if it has fewer than 10^5), 2.7 MB a bucket.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape as ArrayShape
from unseen.crypto.expand_convolute import Code
from unseen.crypto.fixed_key import KEY_BYTES, Permutation
from unseen.crypto.hashing import framed_digest
from unseen.crypto.okvs import CLUSTER, Shape, encode_uniform, read
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, receive_array, send_array
from unseen.ids import PartyId
from unseen.kernels.gf128 import add_products, tables
from unseen.kernels.okvs import count_parts, part_keys
from unseen.protocols.vole import (
    Asked,
    KeyHolder,
    VectorHolder,
    ask,
    grant,
    obtain,
    open_key_holder,
    open_vector_holder,
)

BUCKET = 1 << 20
"""Items of the longest list in each bucket, on average."""
_CONTEXT = b"unseen/psi_join.vole/1\0"

Words = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a list of some length is cut up; it follows from the length, so that both parties make the same one."""

    buckets: int
    clusters: int
    """In each bucket."""
    shape: Shape
    """Of a store for the whole list."""

    @classmethod
    def of(cls, count: int, buckets: int) -> Layout:
        """Return the layout for ``count`` items in as many buckets."""
        clusters = max(1, -(-count // (buckets * CLUSTER)))
        return cls(buckets, clusters, Shape.of(count, buckets * clusters))

    @property
    def size(self) -> int:
        """Elements of one bucket's store."""
        return self.clusters * self.shape.width


def points(asked: int, answered: int) -> int:
    """Return on how many items an asker can have F evaluated if it says it has ``asked`` and deviates otherwise.

    ``answered`` is the length of the other list: the longer one decides how many buckets there are.
    """
    buckets = buckets_for(max(asked, answered))
    return buckets * Layout.of(asked, buckets).size


def buckets_for(longest: int) -> int:
    """Return into how many buckets lists are thrown of which the longest has so many items."""
    return max(1, -(-longest // BUCKET))


@dataclass(frozen=True, slots=True)
class Functions:
    """The public functions of a session: they come from a digest that no single party chose."""

    joint: bytes

    def permutation(self, label: bytes) -> Permutation:
        """Return the public permutation called ``label``."""
        return Permutation(framed_digest(_CONTEXT, self.joint, label)[:KEY_BYTES])

    def one_way(self, label: bytes, keys: Words) -> Words:
        """Return what the one-way function called ``label`` makes of ``keys``, shape (n, 2)."""
        return self.permutation(label).one_way(keys)

    def exchange(self, answerer: PartyId) -> Functions:
        """Return the functions of the exchange with one answerer, which are independent of those with others."""
        return Functions(framed_digest(_CONTEXT, self.joint, b"exchange", answerer.encode()))

    def code(self, layout: Layout) -> Code:
        """Return the code that all buckets use."""
        return Code.at_least(layout.size, framed_digest(_CONTEXT, self.joint, b"code"))


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Items as random blocks, sorted by the clusters of a layout: those of one bucket, or all of them."""

    keys: Words = field(repr=False)
    rows: NDArray[np.int32] = field(repr=False)
    """Which item each block is."""
    starts: NDArray[np.int64]
    """Where each cluster begins."""

    @classmethod
    def of(cls, keys: Words, layout: Layout) -> Blocks:
        """Return all blocks in order."""
        starts = np.empty(layout.buckets * layout.clusters + 1, np.int64)
        count_parts(keys, starts)
        ordered, rows = np.empty_like(keys), np.empty(len(keys), np.int32)
        part_keys(keys, starts, ordered, rows)
        return cls(ordered, rows, starts)

    def bucket(self, number: int, layout: Layout) -> Blocks:
        """Return those of one bucket."""
        starts = self.starts[number * layout.clusters : (number + 1) * layout.clusters + 1]
        inside = slice(starts[0], starts[-1])
        return Blocks(self.keys[inside], self.rows[inside], starts - starts[0])


# --- the asker ---------------------------------------------------------------------------------------------------


class Asker:
    """The party whose items F is evaluated on, bucket after bucket."""

    def __init__(self, functions: Functions, layout: Layout, blocks: Blocks, holder: VectorHolder) -> None:
        self._functions, self._layout, self._blocks, self._holder = functions, layout, blocks, holder
        self._code = functions.code(layout)
        self._asked: Asked | None = None

    @classmethod
    def open(cls, functions: Functions, layout: Layout, keys: Words, peer: PartyId, prg: Prg) -> Dialogue[Self]:
        """Return the asker, after the base transfers."""
        exchange = functions.exchange(peer)
        holder = yield from open_vector_holder(peer, prg, exchange.joint)
        return cls(exchange, layout, Blocks.of(keys, layout), holder)

    def evaluate(self, number: int) -> Dialogue[tuple[Blocks, Words]]:
        """Return the own items of bucket ``number`` and F of each, shape (n, 2); 0, 1, … in their order.

        The next bucket's VOLE is asked for before this one's store is sent: the answerer has time for it now.
        """
        layout, bucket = self._layout, self._blocks.bucket(number, self._layout)
        asked = self._asked or (yield from ask(self._holder, self._code, number))
        vectors = (yield from obtain(self._holder, asked))[: layout.size]
        last = number + 1 == layout.buckets
        self._asked = None if last else (yield from ask(self._holder, self._code, number + 1))
        places = self._functions.one_way(b"places", bucket.keys)
        yield from self._send_store(number, bucket, places, vectors)
        known = read(bucket.keys, places, bucket.starts, np.ascontiguousarray(vectors[:, :2]), layout.shape)
        return bucket, self._functions.permutation(b"outputs").tweaked(known, bucket.keys)

    def _send_store(self, number: int, bucket: Blocks, places: Words, vectors: Words) -> Dialogue[None]:
        values, shape = self._functions.one_way(b"values", bucket.keys), self._layout.shape
        prg = self._holder.prg.derive("store", number.to_bytes(4, "little"))
        store = encode_uniform(bucket.keys, places, values, bucket.starts, shape, prg)
        store ^= vectors[:, 2:]
        yield from send_array(self._holder.peer, store)


# --- the answerer ------------------------------------------------------------------------------------------------


class Answerer:
    """The party that can evaluate F on any items, bucket after bucket: here on its own ones."""

    def __init__(self, functions: Functions, layout: Layout, blocks: Blocks, holder: KeyHolder) -> None:
        self._functions, self._layout, self._blocks, self._holder = functions, layout, blocks, holder
        self._code, self._factor = functions.code(layout), tables(holder.key)
        self._leaves: Words | None = None

    @classmethod
    def open(
        cls, functions: Functions, layout: Layout, keys: Words, parties: tuple[PartyId, PartyId], prg: Prg
    ) -> Dialogue[Self]:
        """Return the answerer, after the base transfers; ``layout`` is the asker's, ``parties`` this one and that."""
        me, peer = parties
        exchange = functions.exchange(me)
        holder = yield from open_key_holder(peer, prg, exchange.joint)
        return cls(exchange, layout, Blocks.of(keys, layout), holder)

    def evaluate(self, number: int) -> Dialogue[tuple[Blocks, Words]]:
        """Return the own items of bucket ``number`` and F of each, shape (n, 2); 0, 1, … in their order.

        Raises:
            RemoteProtocolError: The asker sent something of another form.
        """
        layout, bucket = self._layout, self._blocks.bucket(number, self._layout)
        leaves = self._leaves if self._leaves is not None else (yield from grant(self._holder, self._code, number))
        vector = self._code.compress(leaves)[: layout.size]
        last = number + 1 == layout.buckets
        self._leaves = None if last else (yield from grant(self._holder, self._code, number + 1))
        yield from self._add_store(vector)
        places = self._functions.one_way(b"places", bucket.keys)
        outputs = read(bucket.keys, places, bucket.starts, vector, layout.shape)
        add_products(self._factor, self._functions.one_way(b"values", bucket.keys), outputs)
        return bucket, self._functions.permutation(b"outputs").tweaked(outputs, bucket.keys)

    def _add_store(self, vector: Words) -> Dialogue[None]:
        """Add Δ times the masked store to B as it comes in; this makes K of it."""

        def take(first: int, rows: Words) -> None:
            add_products(self._factor, rows, vector[first : first + len(rows)])

        yield from receive_array(self._holder.peer, np.uint64, ArrayShape(len(vector), 2), each=take)
