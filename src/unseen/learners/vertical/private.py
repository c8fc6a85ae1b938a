"""Gradients of which each party learns its own part only, from residuals that nobody sees.

``JointResiduals`` (families whose residuals add up over the parties: Gaussian without weights; any number of parties)
    Every party sends its scores (the active one: less its targets) through the linear map to each other one. No
    products of two parties' values are needed.

``SharedResiduals`` (all families, weights; one active and one passive party)
    d = Σ_r f_r(a)·g_r(b) + h(a) with scores a and b (``families``). Slot-wise products (``protocols.slot_products``)
    give both parties integer shares of Σ f_r·g_r, exactly; the active party adds h to its own. Both round their shares
    to the bits that the linear map carries, reduce them modulo 2^wrap, multiply their own by their own columns and
    send them through the linear map to the other's: each obtains its own part of the gradient, F'd modulo 2^wrap, and
    that is the value itself, since residuals are bounded.

    *Errors*: rounding to ``exponent`` bits adds noise of mean ~0 and deviation 2^-exponent/√6 to each row's residual,
    independent over rows; factors are rounded to 17 to 20 bits, at random, so that errors are independent as well; for
    the binomial family σ is off by about 2e-4 of its largest value on ranges up to ±8 (``factorisation``), and
    scores more than 8 from the middle of their range are clipped there; columns are rounded once.

    *Rows that come out wrong*: with a probability of at most 2^-8 a gradient, a row's products are wrong by t. All
    that follows is modulo a power of two that divides 2^62 = t + 65535, so that such a row's residual is off by
    65535·2^-B of the largest product, B being the bits of products, 34 to 40: less than what rounding does to every
    row. More bits make this likelier and smaller in proportion.

    *Precision*: residuals have as many bits as let any gradient fit into the maps' modulus. Close to the minimum
    gradients are small and so are their changes, of which alone the residue has to be unambiguous: residuals get more
    bits then (``Anchor``), and a gradient that is not small after all is asked for again without them.

    *Leakage*, per gradient: the passive party tells (``Reach``) the size of its largest score in powers of √2, whether
    that is more than 2.8 times their root mean square (``narrow``), and whether more than one in a thousand exceeds 8.
    The active party's table of functions (binomial family) follows from the range of its scores, half-width in powers
    of √2 and middle in steps of half of that, and from whether it is narrow, so that the table tells these. Its
    exponents tell how large residuals can become and how small the gradient is, in powers of two. Whether scores of
    either were clipped, the passive party learns only if a training ends for that reason (its note). Masks are perfect
    (``slot_products``).

    *Rounds*: per gradient two round trips for the ranges and the products' set-up, one and one for every 32,768 rows
    for the products, one for the linear maps. *Bytes*: 24·R + 48 a row for the products of rank R (1 for Poisson, 2
    for Tweedie, 4 to 16 for the binomial family), 7¾ a row each way for the maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, receive, send
from unseen.errors import RemoteProtocolError
from unseen.ids import PartyId
from unseen.kernels.blocks import in_parallel
from unseen.kernels.tables import rounded_at_random
from unseen.learners.vertical.columns import Columns
from unseen.learners.vertical.factorisation import LEAST_HALF, MAX_RANK, Interval
from unseen.learners.vertical.families import Binomial, Contribution, Family
from unseen.learners.vertical.residues import Maps
from unseen.learners.vertical.setting import DIVERGING, Floats, Setting, finite
from unseen.protocols.slot_products import Evaluator, KeyHolder, ProductBounds

Integers = NDArray[np.int64]

_SHARE_BITS, _FACTOR_BITS = 62, 28
# A row comes out wrong with a probability of 2^(bits − 62): among all rows of a gradient it is one with 2^-8 at most,
# up to a million of them. Fewer rows average fewer rounding errors, and have room for finer products.
_LEAST_RESULT_BITS, _MOST_RESULT_BITS, _BITS_AND_ROWS = 34, 40, 54
# Fractional bits: 2^60 is the largest size of residuals that is taken, and some remain below them.
_LEAST_EXPONENT, _LARGEST_EXPONENT = -100, 60
_MAX_COEFFICIENTS, _LARGEST_COEFFICIENT = 256, 2.0
_LARGEST_REACH = 2.0**40
# Residuals may grow to this multiple of those of the first model before products wrap; gradients, where an anchor
# is given, may change by this multiple of the norm there.
_MARGIN_BITS, _CHANGE_BITS = 3, 6


@message("vertical_glm/reach")
class Reach:
    """The passive party's scores lie within ± half, a power of √2, unless exceeded; ``narrow`` as in ``Interval``."""

    half: float
    narrow: bool
    exceeded: bool


@message("vertical_glm/factors")
class Factors:
    """What the passive party needs to contribute: functions g, and the scales of products and residuals."""

    rank: int
    table: Annotated[Floats, Shape(None, None)]
    product_exponent: int
    residual_exponent: int


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What the active party alone has: targets, and weights of mean 1."""

    target: Floats
    weights: Floats
    family: Family

    def residuals(self, scores: Floats) -> Floats:
        """Return the residuals of these scores."""
        return self.weights * self.family.slope(scores, self.target)

    def contribution(self, scores: Floats, active: Interval, passive: Interval) -> tuple[Contribution, Floats]:
        """Return the active party's contribution to the residuals, and the table for the passive one."""
        separation = self.family.separation(active, passive)
        return separation.active(scores, self.target, self.weights), separation.table


@dataclass(frozen=True, slots=True, eq=False)
class Knowledge:
    """The family, the size of residuals at the beginning (root mean square), and targets at the active party."""

    family: Family
    size: float
    truth: Truth | None


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """A point nearby: own parts of it and of the gradient there, and the norm that gradients are expected to have."""

    point: Floats
    gradient: Floats
    norm: float


class JointResiduals:
    """Gradients of least squares, d = Σ_p z_p − y."""

    def __init__(self, columns: Columns, maps: Maps, truth: Truth | None) -> None:
        self._columns, self._maps, self._truth = columns, maps, truth

    @property
    def noise(self) -> float:
        """What remains of rounding errors of scores of about 1."""
        return 2.0 ** (1 - self._maps.own.vector_bits) / math.sqrt(self._columns.rows)

    def gradient(self, point: Floats, index: int, anchor: Anchor | None = None) -> Dialogue[Floats]:
        """Return this party's part of the gradient."""
        del index, anchor  # nothing random is involved, and whole vectors fit
        vector = self._columns.scores(point)
        if self._truth is not None:
            vector = self._truth.residuals(vector)
        received = yield from self._maps.products(vector)
        total: Floats = self._maps.own_product(vector) + sum(received.values())
        return total / self._columns.rows + self._columns.penalty @ point


class SharedResiduals:
    """Gradients from additive shares of residuals, between the active and one passive party."""

    def __init__(self, columns: Columns, maps: Maps, setting: Setting, knowledge: Knowledge) -> None:
        self._columns, self._maps, self._setting = columns, maps, setting
        self._family, self._truth = knowledge.family, knowledge.truth
        room = min(residues.vector_bits for residues in maps.residues.values()) - _MARGIN_BITS
        self._exponent = room - math.frexp(knowledge.size)[1]
        # Shortened by so many bits, shares still add up modulo what the maps work with, and t is all but 0 there.
        self._spare = _SHARE_BITS - max(residues.wrap for residues in maps.residues.values())
        self._room = min(residues.wrap - residues.matrix_bits for residues in maps.residues.values())
        self._row_noise, self._exceeded = 0.0, False

    @property
    def noise(self) -> float:
        """Twice the norm of the rounding noise of the last gradient; infinite if scores of many rows were clipped."""
        if self._exceeded:
            return math.inf
        columns = self._columns
        widths = columns.width + self._maps.peers_width
        return 2 * self._row_noise * math.sqrt(widths / (columns.rows * columns.curvature))

    def gradient(self, point: Floats, index: int, anchor: Anchor | None = None) -> Dialogue[Floats]:
        """Return this party's part of the gradient; with an ``anchor`` more precise, provided that it is near."""
        columns = self._columns
        finite(point, self._setting.others, "a point that follows from decisions")
        scores = columns.scores(point)
        if self._truth is not None:
            share, exponent = yield from self._active_share(scores, self._truth, index, anchor)
        else:
            share, exponent = yield from self._passive_share(scores, index)
        near = np.zeros_like(point)
        if anchor is not None:
            near = (anchor.gradient - columns.penalty @ anchor.point) * columns.rows
        total = yield from self._maps.shared_products(share, exponent, near)
        return total / columns.rows + columns.penalty @ point

    def _residual_exponent(self, anchor: Anchor | None) -> int:
        """Return the fractional bits of residuals for which products with columns are unambiguous."""
        if anchor is None or not anchor.norm < math.inf:
            return self._exponent
        columns = self._columns
        change = columns.rows * math.sqrt(columns.curvature) * max(anchor.norm, 1e-300)
        return max(self._exponent, math.floor(self._room - 1 - _CHANGE_BITS - math.log2(change)))

    def _active_share(
        self, scores: Floats, truth: Truth, index: int, anchor: Anchor | None
    ) -> Dialogue[tuple[Integers, int]]:
        peer = self._setting.peers[0]
        reach = yield from receive(peer, Reach)
        if not LEAST_HALF <= reach.half <= min(self._family.largest_passive, _LARGEST_REACH):
            raise RemoteProtocolError(f"{peer}: scores reach {reach.half}, that is not possible")
        mine = Interval.around(scores, centred=False, largest=self._family.largest_active)
        self._exceeded = reach.exceeded or mine.exceeded(scores)
        contribution, table = truth.contribution(scores, mine, Interval(0.0, reach.half, reach.narrow))
        wanted = self._residual_exponent(anchor)
        exponent = min(_product_exponent(contribution), wanted + self._spare)
        kept = min(wanted, exponent)
        if kept < _LEAST_EXPONENT:
            raise RemoteProtocolError(f"{peer}: residuals would reach 2^{-kept}: {DIVERGING}")
        rank = len(contribution.factors)
        yield from send(peer, Factors(rank, table, exponent, kept))
        self._row_noise = _row_noise(contribution.factors, exponent, kept)
        prg = self._setting.prg.derive("vertical_glm/products", index.to_bytes(8, "little"))
        factors = _dithered(contribution.factors, exponent - _passive_bits(len(scores)), prg)
        evaluator = yield from Evaluator.set_up(peer=peer, prg=prg)
        share = yield from evaluator.multiply(factors, _bounds(len(scores), rank))
        return _shortened(share + _rounded(contribution.rest, exponent), exponent - kept), kept

    def _passive_share(self, scores: Floats, index: int) -> Dialogue[tuple[Integers, int]]:
        active = self._setting.active
        mine = Interval.around(scores, centred=True, largest=self._family.largest_passive)
        yield from send(active, Reach(mine.half, mine.narrow, mine.exceeded(scores)))
        asked = _checked((yield from receive(active, Factors)), active, self._family)
        values = self._family.passive_factors(scores, mine, asked.table)
        if values.shape != (asked.rank, len(scores)):
            raise RemoteProtocolError(f"{active}: {self._family.name} residuals have no {asked.rank} products")
        prg = self._setting.prg.derive("vertical_glm/products", index.to_bytes(8, "little"))
        factors = _dithered(np.clip(values, -1.0, 1.0, out=values), _passive_bits(len(scores)), prg)
        holder = yield from KeyHolder.set_up(peer=active, prg=prg)
        share = yield from holder.multiply(factors, _bounds(len(scores), asked.rank))
        exponent = asked.product_exponent
        return _shortened(share, exponent - asked.residual_exponent), asked.residual_exponent


def _result_bits(rows: int) -> int:
    return min(max(_BITS_AND_ROWS - rows.bit_length(), _LEAST_RESULT_BITS), _MOST_RESULT_BITS)


def _passive_bits(rows: int) -> int:
    """Return the fractional bits of the passive party's factors: half of what products have."""
    return _result_bits(rows) // 2


def _bounds(rows: int, rank: int) -> ProductBounds:
    return ProductBounds(rows, rank, _result_bits(rows), _FACTOR_BITS)


def _product_exponent(contribution: Contribution) -> int:
    """Return the fractional bits of products for which sums stay below 2^result_bits, factors below 2^28."""
    rows = len(contribution.rest)
    largest = max(float(contribution.factors.max(initial=0.0)), -float(contribution.factors.min(initial=0.0)))
    for_sums = _result_bits(rows) - 0.2 - math.log2(max(contribution.bound, 1e-300))
    for_factors = _FACTOR_BITS - 0.1 + _passive_bits(rows) - math.log2(max(largest, 1e-300))
    return math.floor(min(for_sums, for_factors, _LARGEST_EXPONENT))


def _rounded(values: Floats, bits: int) -> Integers:
    return np.rint(np.ldexp(values, bits)).astype(np.int64)


def _dithered(values: Floats, bits: int, prg: Prg) -> Integers:
    """Return values · 2^bits rounded up or down at random, right on average: scores that repeat cause no bias."""
    stream = prg.derive("dither")
    words = stream.words(values.size).reshape(values.shape)
    out = np.empty(values.shape, np.int64)

    def work(index: int) -> None:
        out[index] = rounded_at_random(values[index], 2.0**bits, words[index])

    in_parallel(work, len(values))
    return out


def _row_noise(factors: Floats, exponent: int, kept: int) -> float:
    """Return the standard deviation that rounding gives a row's residual; the peer's factors count as ⅓ squared."""
    squares = float(np.einsum("rn,rn->", factors, factors)) / max(1, factors.shape[1])
    bits = _passive_bits(factors.shape[1])
    of_passive = squares * 4.0**-bits / 6
    of_active = len(factors) / 3 * 4.0 ** (bits - exponent) / 6
    return math.sqrt(of_passive + of_active + 4.0**-kept / 6)


def _shortened(share: Integers, bits: int) -> Integers:
    """Return the share divided by 2^bits, rounded to nearest: the sum of both is off by less than 1, on average 0."""
    if bits == 0:
        return share
    return (share + np.int64(1 << (bits - 1))) >> bits


def _checked(asked: Factors, active: PartyId, family: Family) -> Factors:
    finite(asked.table, active, "a table of functions")
    # Chebyshev coefficients of a function within ±1 are within ±2; only one family has any.
    least, most = (1, _MAX_COEFFICIENTS) if isinstance(family, Binomial) else (0, 0)
    sound = (
        1 <= asked.rank <= MAX_RANK
        and asked.table.shape[0] == asked.rank
        and least <= asked.table.shape[1] <= most
        and float(np.abs(asked.table).max(initial=0.0)) <= _LARGEST_COEFFICIENT
        and _LEAST_EXPONENT <= asked.residual_exponent <= asked.product_exponent <= _LARGEST_EXPONENT
        and asked.product_exponent - asked.residual_exponent < 62
    )
    if not sound:
        raise RemoteProtocolError(
            f"{active}: {asked.rank} products with a table {asked.table.shape} of coefficients up to "
            f"{np.abs(asked.table).max(initial=0.0):.3g} and exponents "
            f"{asked.residual_exponent}, {asked.product_exponent} are not possible: {DIVERGING}"
        )
    return asked
