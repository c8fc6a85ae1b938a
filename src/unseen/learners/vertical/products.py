"""Products F'v of one party's columns with another party's vectors, through a linear map; the column owner learns them.

Every vector goes with a public exponent (a power of two that fits its size): the only thing said about its length.
Both directions travel at once where the scheme's vector holders send without waiting; otherwise pairs of parties take
their turns in one order that all know, so that nobody waits in a circle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.codec import message
from unseen.data.fixed_point import from_fixed
from unseen.dialogue import Dialogue, receive, send
from unseen.errors import LocalProtocolError, RemoteProtocolError
from unseen.ids import PartyId
from unseen.learners.vertical.setting import Setting, finite
from unseen.learners.vertical.whitening import Block, Precision, choose_precision
from unseen.protocols.linear_map.matrices import DenseMatrix
from unseen.protocols.linear_map.port import MatrixSide, Recipient, VectorSide, hold_matrix, hold_vectors

Floats = NDArray[np.float64]

_LARGEST_EXPONENT = 500


@message("vertical_logistic/exponent")
class Exponent:
    """The vector that follows stands for integers · 2^-value."""

    value: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Whose columns meet whose vectors."""

    matrix: PartyId
    vector: PartyId


@dataclass(frozen=True, slots=True)
class Products:
    """This party's sides of all linear maps it takes part in."""

    pairs: tuple[Pair, ...]
    precisions: Mapping[PartyId, Precision]
    matrix_sides: Mapping[Pair, MatrixSide]
    vector_sides: Mapping[Pair, VectorSide]
    at_once: bool
    """Whether all vectors may be sent before any is awaited."""

    def exchange(
        self, me: PartyId, values: Floats | None, senders: Iterable[PartyId]
    ) -> Dialogue[dict[PartyId, Floats]]:
        """Submit ``values`` if this party is among the senders; return F'v for the vector of each other sender.

        Raises:
            RemoteProtocolError: An exponent is out of range, or a product is enormous.
        """
        speaking = frozenset(senders)
        if me in speaking and values is None:
            raise LocalProtocolError(f"{me} is to send a vector and has none")
        turns = [pair for pair in self.pairs if pair.vector in speaking]
        found: dict[PartyId, Floats] = {}
        for together in [turns] if self.at_once else [[pair] for pair in turns]:
            mine = [pair for pair in together if pair.vector == me]
            for pair in mine:
                yield from self._submit(pair, np.asarray(values))
            for pair in together:
                if pair.vector != me:
                    found[pair.vector] = yield from self._obtain(pair)
            for pair in mine:
                yield from self.vector_sides[pair].collect()
        return found

    def _submit(self, pair: Pair, values: Floats) -> Dialogue[None]:
        integers, exponent = self.precisions[pair.matrix].vector(values)
        yield from send(pair.matrix, Exponent(exponent))
        yield from self.vector_sides[pair].submit(integers[None, :], Recipient.MATRIX_HOLDER)

    def _obtain(self, pair: Pair) -> Dialogue[Floats]:
        exponent = (yield from receive(pair.vector, Exponent)).value
        if abs(exponent) > _LARGEST_EXPONENT:
            raise RemoteProtocolError(f"{pair.vector}: a vector's exponent is {exponent}, at most ±500 is allowed")
        product = yield from self.matrix_sides[pair].multiply(1, Recipient.MATRIX_HOLDER)
        if product is None:
            raise LocalProtocolError(f"the linear map with {pair.vector} gave its recipient nothing")
        values = from_fixed(product[0], exponent + self.precisions[pair.matrix].matrix_bits)
        return finite(values, pair.vector, "a product with its vector")


def set_up(block: Block, widths: Mapping[PartyId, int], pairs: Iterable[Pair], setting: Setting) -> Dialogue[Products]:
    """Return this party's sides of the linear maps of ``pairs``; ``widths`` are the parties' numbers of columns."""
    # The active party's vectors come first: where a scheme lets the vector holder send without waiting, they travel
    # with its last decision, and an iteration is one round trip.
    order = {party: place for place, party in enumerate(setting.parties)}
    mine = tuple(
        sorted(
            (pair for pair in pairs if setting.me in (pair.matrix, pair.vector) and widths[pair.matrix]),
            key=lambda pair: (order[pair.vector], order[pair.matrix]),
        )
    )
    matrix_sides: dict[Pair, MatrixSide] = {}
    vector_sides: dict[Pair, VectorSide] = {}
    if not mine or setting.scheme is None:
        return Products((), {}, {}, {}, at_once=True)
    rows, scheme = len(block.columns), setting.scheme
    precisions = {holder: choose_precision(scheme, rows, widths[holder]) for holder in {pair.matrix for pair in mine}}
    for pair in mine:
        prg = setting.prg.derive("vertical_logistic", pair.matrix.encode(), pair.vector.encode())
        precision = precisions[pair.matrix]
        bounds = precision.bounds(rows, widths[pair.matrix])
        if pair.matrix == setting.me:
            matrix = DenseMatrix.of(precision.matrix(block))
            matrix_sides[pair] = yield from hold_matrix(scheme, matrix, bounds, peer=pair.vector, prg=prg)
        else:
            vector_sides[pair] = yield from hold_vectors(scheme, bounds, peer=pair.matrix, prg=prg)
    return Products(mine, precisions, matrix_sides, vector_sides, at_once=scheme.sends_ahead)
