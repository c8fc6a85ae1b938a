"""Products of whitened columns with other parties' vectors, modulo a power of two that the scheme carries.

One linear map for each pair of parties serves two purposes: vectors that a party knows (they are small enough not to
wrap), and its *share* of a vector that nobody knows, uniform residues whose products are shares again. The owner of
the columns learns the result. All parties send before they wait, so that both directions travel at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.data.fixed_point import LARGEST_BITS, from_fixed, to_fixed
from unseen.dialogue import Dialogue, receive, send
from unseen.errors import LocalProtocolError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.learners.vertical.columns import Columns
from unseen.learners.vertical.products import Exponent
from unseen.learners.vertical.setting import DIVERGING, Setting, finite
from unseen.protocols.linear_map.matrices import DenseMatrix
from unseen.protocols.linear_map.port import (
    Bounds,
    LinearMap,
    MatrixSide,
    Recipient,
    VectorSide,
    hold_matrix,
    hold_vectors,
)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_MATRIX_BITS = range(13, 2, -1)
_LARGEST_WRAP = 62
# Vectors carry so many more bits than the matrix: shares are rounded anew in every iteration, the matrix once.
_EXTRA_BITS = 4
_LARGEST_EXPONENT = 500
_OWN_BITS = 24


@dataclass(frozen=True, slots=True)
class Residues:
    """Fractional bits of one party's matrix, the modulus 2^wrap, and bits for vectors of root mean square 1."""

    matrix_bits: int
    wrap: int
    vector_bits: int

    def bounds(self, rows: int, columns: int) -> Bounds:
        """Return the public bounds of a linear map; ½ an entry is for the rounding, the rest for single precision."""
        norm = math.sqrt(rows) * (2.0**self.matrix_bits * (1 + 1e-4) + 0.5)
        return Bounds(
            rows, columns, norm, math.sqrt(rows) * 2.0**self.wrap, wrap=self.wrap, recipient=Recipient.MATRIX_HOLDER
        )

    def residues(self, integers: Integers) -> Integers:
        """Return integers modulo 2^wrap, in [0, 2^wrap)."""
        return integers & np.int64((1 << self.wrap) - 1)

    def centred(self, integers: Integers) -> Integers:
        """Return the residues of least magnitude."""
        unused = 64 - self.wrap
        centred: Integers = (integers << unused) >> unused
        return centred


def choose_residues(scheme: LinearMap, rows: int, columns: int) -> Residues:
    """Return the best precision that ``scheme`` carries; all parties find the same one from public facts.

    Raises:
        UsageError: Even three fractional bits do not fit.
    """
    reason = ""
    for bits in _MATRIX_BITS:
        for wrap in range(_LARGEST_WRAP, bits, -1):
            room = math.floor(wrap - 1 - math.log2(rows) - math.log2(2.0**bits + 1))
            found = Residues(bits, wrap, min(room, 40))
            if room < bits + _EXTRA_BITS:
                break
            try:
                scheme.check(found.bounds(rows, columns))
            except UsageError as error:
                reason = str(error)
            else:
                return found
    raise UsageError(
        f"scheme {scheme.name} cannot carry {rows} rows × {columns} columns with 3 fractional bits: {reason}"
    )


@dataclass(frozen=True, slots=True, eq=False)
class Maps:
    """This party's sides of the linear maps with every other party."""

    me: PartyId
    residues: Mapping[PartyId, Residues]
    matrix: DenseMatrix
    matrix_sides: Mapping[PartyId, MatrixSide]
    """By the peer whose vectors come in."""
    vector_sides: Mapping[PartyId, VectorSide]
    """By the peer whose columns they meet."""
    at_once: bool
    """Whether all vectors may be sent before any is awaited."""
    peers_width: int
    """Whitened columns of all others."""
    scale: float
    """Products of integers divided by 2^(matrix_bits + exponent) and by this are F'v."""

    @property
    def own(self) -> Residues:
        """The precision of this party's matrix."""
        return self.residues[self.me]

    def products(self, vector: Floats) -> Dialogue[dict[PartyId, Floats]]:
        """Send ``vector`` (n,) to all; return F'v (r,) for each peer's vector.

        Raises:
            RemoteProtocolError: An exponent is out of range, or a product is enormous.
        """
        found: dict[PartyId, Floats] = {}
        for sending, waiting in self._turns():
            yield from self.submit(vector, sending)
            found |= yield from self.collect(waiting)
            yield from self.settle(sending)
        return found

    def _turns(self) -> list[tuple[list[PartyId], list[PartyId]]]:
        """Return to whom to send and from whom to wait next, in one order for all parties where order matters."""
        if self.at_once:
            return [(list(self.vector_sides), list(self.matrix_sides))]
        pairs = [(holder, other) for holder in self.residues for other in self.residues if holder != other]
        return [
            ([holder] if other == self.me else [], [other] if holder == self.me else [])
            for holder, other in pairs
            if self.me in (holder, other)
        ]

    def submit(self, vector: Floats, peers: Iterable[PartyId]) -> Dialogue[None]:
        """Send ``vector`` to be multiplied by the columns of ``peers``."""
        for peer in peers:
            integers, exponent = fixed(vector, self.residues[peer].vector_bits)
            yield from send(peer, Exponent(exponent))
            yield from self._send(peer, integers)

    def collect(self, peers: Iterable[PartyId]) -> Dialogue[dict[PartyId, Floats]]:
        """Return F'v for the vectors v of ``peers``."""
        found = {}
        for peer in peers:
            exponent = (yield from receive(peer, Exponent)).value
            if abs(exponent) > _LARGEST_EXPONENT:
                raise RemoteProtocolError(f"{peer}: a vector's exponent is {exponent}, at most ±500 is allowed")
            product = yield from self._take(peer)
            found[peer] = finite(self.real(product, exponent), peer, "a product with its vector")
        return found

    def settle(self, peers: Iterable[PartyId]) -> Dialogue[None]:
        """End what ``submit`` began."""
        for peer in peers:
            yield from self.vector_sides[peer].collect()

    def own_product(self, vector: Floats) -> Floats:
        """Return F'v for the party's own vector, with the same rounded columns as everybody's."""
        integers, exponent = fixed(vector, _OWN_BITS)
        return self.real(self._times(integers), exponent)

    def shared_products(self, share: Integers, exponent: int, near: Floats) -> Dialogue[Floats]:
        """Return F'v for the vector of which every party holds an additive share of integers · 2^-exponent.

        Of the values that are equal modulo 2^wrap, it is those closest to ``near`` (r,).

        Raises:
            RemoteProtocolError: ``near`` has no place among so many bits, whoever asked for them.
        """
        bits = exponent + self.own.matrix_bits
        largest = float(np.abs(near).max(initial=0.0)) * self.scale
        if largest > 0 and math.log2(largest) + bits >= LARGEST_BITS:
            peers = ", ".join(self.vector_sides)
            raise RemoteProtocolError(f"{peers}: {bits} fractional bits are too many for such a gradient: {DIVERGING}")
        total: Integers | None = None
        for sending, waiting in self._turns():
            for peer in sending:
                yield from self._send(peer, share)
            # What has been sent travels while this is worked out.
            total = self._times(share) if total is None else total
            for peer in waiting:
                total = total + (yield from self._take(peer))
            yield from self.settle(sending)
        total = self._times(share) if total is None else total
        middle = to_fixed(near * self.scale, bits)
        return self.real(middle + self.own.centred(total - middle), exponent)

    def real(self, product: Integers, exponent: int) -> Floats:
        """Return the product that integers stand for."""
        return from_fixed(product, exponent + self.own.matrix_bits) / self.scale

    def _times(self, integers: Integers) -> Integers:
        product: Integers = self.matrix.products(integers.view(np.uint64)[None])[0].view(np.int64)
        return product

    def _send(self, peer: PartyId, integers: Integers) -> Dialogue[None]:
        residues = self.residues[peer].residues(integers)
        yield from self.vector_sides[peer].submit(residues[None], Recipient.MATRIX_HOLDER)

    def _take(self, peer: PartyId) -> Dialogue[Integers]:
        product = yield from self.matrix_sides[peer].multiply(1, Recipient.MATRIX_HOLDER)
        if product is None:
            raise LocalProtocolError(f"the linear map with {peer} gave its recipient nothing")
        only: Integers = product[0]
        return only


def fixed(vector: Floats, bits: int) -> tuple[Integers, int]:
    """Return integers of root mean square at most 2^bits and their exponent e: vector ≈ integers · 2^-e."""
    size = math.sqrt(float(vector @ vector) / max(1, len(vector)))
    if size == 0:
        return np.zeros(len(vector), np.int64), 0
    exponent = bits - math.frexp(size)[1]
    return to_fixed(vector, exponent), exponent


def set_up(columns: Columns, widths: Mapping[PartyId, int], setting: Setting) -> Dialogue[Maps]:
    """Return this party's sides of all linear maps; ``widths`` are the parties' numbers of whitened columns."""
    scheme, scale = setting.scheme, math.sqrt(columns.curvature)
    if scheme is None or not setting.peers:
        residues = Residues(_MATRIX_BITS[0], _LARGEST_WRAP, 40)
        return Maps(
            setting.me,
            {setting.me: residues},
            columns.matrix(residues.matrix_bits),
            {},
            {},
            at_once=True,
            peers_width=0,
            scale=scale,
        )
    residue = {party: choose_residues(scheme, columns.rows, widths[party]) for party in setting.parties}
    matrix = columns.matrix(residue[setting.me].matrix_bits)
    matrix_sides: dict[PartyId, MatrixSide] = {}
    vector_sides: dict[PartyId, VectorSide] = {}
    # Everybody takes the pairs in one order, so that no scheme can make parties wait in a circle.
    for holder in setting.parties:
        for other in setting.parties:
            if setting.me not in (holder, other) or holder == other:
                continue
            prg = setting.prg.derive("vertical_glm", holder.encode(), other.encode())
            bounds = residue[holder].bounds(columns.rows, widths[holder])
            if holder == setting.me:
                matrix_sides[other] = yield from hold_matrix(scheme, matrix, bounds, peer=other, prg=prg)
            else:
                vector_sides[holder] = yield from hold_vectors(scheme, bounds, peer=holder, prg=prg)
    others = sum(widths[peer] for peer in setting.peers)
    return Maps(setting.me, residue, matrix, matrix_sides, vector_sides, scheme.sends_ahead, others, scale)
