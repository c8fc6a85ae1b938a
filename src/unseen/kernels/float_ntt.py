"""Products of 64-bit words and small integers in Z[X]/(X^n + 1), modulo 2^64, by transforms in floating point.

A word is split into two halves, signed integers of at most 2^31 in magnitude. Each half is multiplied modulo one prime
p just below 2^44, so that a product, of a magnitude below p/2, is determined; the words are put together from both
modulo 2^64. Residues are signed integers in doubles. A product of residues takes six operations (J. van der Hoeven,
G. Lecerf, G. Quintin, "Modular SIMD arithmetic in Mathemagix", ACM TOMS 2016, section 3.2)::

    h = fl(x·y);  l = fma(x, y, −h);  q = ⌈fl(h/p)⌋;  r = fma(−q, p, h) + l

*All of it is exact.* Let |y| ≤ p/2 and |x| ≤ 2^50, u = 2^-53. Then l = x·y − h exactly, and |l| ≤ 2^40 since
|h| ≤ 2^93. The computed h/p is off by at most 3.01·u·2^49 < 0.19, so that |x·y − q·p| ≤ 0.69p. The difference h − q·p
is an integer (h is one: an integer was rounded) below 0.69p + 2^40 < 2^53, hence not rounded, and so is its sum with
l: r = x·y − q·p, |r| ≤ 0.69p. Sums of residues below 2^53 are exact in any case. It remains to see that no factor x
ever exceeds 2^50 = 64p:

* The forward transform (Cooley–Tukey) adds a product to an input at each layer: after L layers at most
  2^31 + 0.69·L·p, below 10p for n ≤ 2^13. The results are reduced to p/2 + 1.
* A contraction adds up to 5 products of reduced residues, of at most 0.51p each: 2.55p.
* The inverse transform (Gentleman–Sande) doubles the bound at each layer, sums being kept and differences multiplied;
  every fourth layer reduces its sums. From 2.55p the differences reach 2.55·16p = 40.8p in the fourth layer, and from
  0.69p afterwards 11.1p.

Eight polynomials lie side by side, one a lane: arrays (…, n, 8). No lane ever meets another one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.kernels.jit import compiled, inlined
from unseen.kernels.vectors import (
    LANES,
    add,
    bits,
    fused,
    load,
    nearest,
    negative,
    shifted_up,
    splat,
    store,
    subtract,
    times,
)

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Words = NDArray[np.uint64]

# The largest prime below 2^44 that is 1 modulo 2^14.
PRIME = 17592186028033
# Terms of a sum of products of a half and {−1, 0, 1} that stay below p/2, with room for rounding: 0.32p.
TERMS = 2560
_P = float(PRIME)
_P_INVERSE = 1 / _P
# Added to an integer below 2^51, it leaves the integer in the lower bits of the double.
_MAGIC = 1.5 * 2**52
_MAGIC_BITS = np.uint64(np.array(_MAGIC).view(np.uint64))
_HALF = np.int64(1 << 31)
_LOWER = np.int64(32)
_UPPER = np.uint64(32)
# The degrees, up to 2^13, that have an odd number of layers.
_ODD_LOGARITHM = 0x2AAA


@dataclass(frozen=True, slots=True)
class Roots:
    """The powers of a 2n-th root of unity and of its inverse, bit-reversed and at most p/2 in magnitude; and 1/n."""

    forward: Doubles
    inverse: Doubles
    scale: float


@cache
def roots(degree: int) -> Roots:
    """Return the roots of unity for polynomials of ``degree``, a power of two of at most 8192."""
    exponent = (PRIME - 1) // (2 * degree)
    root = next(r for r in (pow(base, exponent, PRIME) for base in range(2, PRIME)) if pow(r, degree, PRIME) != 1)
    bits_ = degree.bit_length() - 1
    order = [int(f"{i:0{bits_}b}"[::-1], 2) for i in range(degree)]
    forward, inverse = ([_centred(pow(base, i, PRIME)) for i in order] for base in (root, pow(root, -1, PRIME)))
    return Roots(np.array(forward), np.array(inverse), _centred(pow(degree, -1, PRIME)))


def _centred(residue: int) -> float:
    return float(residue - PRIME if residue > PRIME // 2 else residue)


def fill_halves(words: Integers, out: Doubles) -> None:
    """Write the spectra of the halves of polynomials (blocks, rank, n) to ``out`` (⌈blocks/8⌉, rank, 2, n, 8)."""
    _spread_halves(words, out)
    forward(out.reshape(-1), words.shape[-1], roots(words.shape[-1]).forward)


def spectra(polynomials: Integers) -> Doubles:
    """Return the spectra of polynomials of small integers (…, n), divided by n, shape (…, n)."""
    degree = polynomials.shape[-1]
    rows = polynomials.reshape(-1, degree)
    lanes = np.zeros((-(-len(rows) // LANES), LANES, degree))
    lanes.reshape(-1, degree)[: len(rows)] = rows
    spread = np.ascontiguousarray(lanes.swapaxes(1, 2))
    forward(spread.reshape(-1), degree, roots(degree).forward)
    scale_by(spread.reshape(-1), roots(degree).scale)
    return spread.swapaxes(1, 2).reshape(-1, degree)[: len(rows)].reshape(polynomials.shape).copy()


@inlined
def product(x: Any, y: Any, p: Any, p_inverse: Any) -> Any:
    """Return x·y modulo p, at most 0.69p in magnitude."""
    high = times(x, y)
    quotient = nearest(times(high, p_inverse))
    return add(fused(negative(quotient), p, high), fused(x, y, negative(high)))


@inlined
def reduced(x: Any, p: Any, p_inverse: Any) -> Any:
    """Return x modulo p, at most p/2 + 1 in magnitude."""
    return fused(negative(nearest(times(x, p_inverse))), p, x)


@compiled
def _spread_halves(words: Integers, out: Doubles) -> None:
    """Write the halves of polynomials (blocks, rank, n) side by side; lanes without a block are zero."""
    blocks, rank, degree = words.shape
    for block in range(len(out) * LANES):
        group, lane = block // LANES, block % LANES
        for k in range(rank):
            for j in range(degree):
                word = words[block, k, j] if block < blocks else np.int64(0)
                # The lower half is taken as signed; the upper one is what then is missing.
                out[group, k, 0, j, lane] = np.int32(word)
                out[group, k, 1, j, lane] = np.int32((word + _HALF) >> _LOWER)


@compiled
def forward(values: Doubles, degree: int, powers: Doubles) -> None:
    """Transform polynomials (count, n, 8), given flat, in place; the spectra are in bit-reversed order, reduced."""
    p, p_inverse = splat(_P), splat(_P_INVERSE)
    step = degree * LANES
    for start in range(0, len(values), step):
        groups = 1
        if degree & _ODD_LOGARITHM:
            _forward_2(values, start, degree, powers)
            groups = 2
        while groups < degree:
            _forward_4(values, start, degree, powers, groups)
            groups *= 4
        for i in range(start, start + step, LANES):
            store(values, i, reduced(load(values, i), p, p_inverse))


@compiled
def _forward_2(values: Doubles, start: int, degree: int, powers: Doubles) -> None:
    """The first layer."""
    p, p_inverse, root = splat(_P), splat(_P_INVERSE), splat(powers[1])
    half = degree // 2 * LANES
    for i in range(start, start + half, LANES):
        low, high = load(values, i), product(load(values, i + half), root, p, p_inverse)
        store(values, i, add(low, high))
        store(values, i + half, subtract(low, high))


@compiled
def _forward_4(values: Doubles, start: int, degree: int, powers: Doubles, groups: int) -> None:
    """Two layers: the one of ``groups`` groups and the next one."""
    p, p_inverse = splat(_P), splat(_P_INVERSE)
    quarter = degree // (4 * groups) * LANES
    for group in range(groups):
        root = splat(powers[groups + group])
        left, right = splat(powers[2 * (groups + group)]), splat(powers[2 * (groups + group) + 1])
        first = start + 4 * quarter * group
        for i in range(first, first + quarter, LANES):
            a, b = load(values, i), load(values, i + quarter)
            c = product(load(values, i + 2 * quarter), root, p, p_inverse)
            d = product(load(values, i + 3 * quarter), root, p, p_inverse)
            e, f = add(a, c), product(add(b, d), left, p, p_inverse)
            g, h = subtract(a, c), product(subtract(b, d), right, p, p_inverse)
            store(values, i, add(e, f))
            store(values, i + quarter, subtract(e, f))
            store(values, i + 2 * quarter, add(g, h))
            store(values, i + 3 * quarter, subtract(g, h))


@compiled
def inverse(values: Doubles, degree: int, powers: Doubles) -> None:
    """Transform spectra (count, n, 8), given flat, of at most 2.55p in magnitude back in place; n times too large.

    ``powers`` are the inverses of those of ``forward``. The results are reduced.
    """
    p, p_inverse = splat(_P), splat(_P_INVERSE)
    step = degree * LANES
    for start in range(0, len(values), step):
        groups, passes = degree // 4, 0
        while groups:
            passes += 1
            _inverse_4(values, start, powers, groups, degree // (4 * groups) * LANES, passes % 2 == 0)
            groups //= 4
        if degree & _ODD_LOGARITHM:
            _inverse_2(values, start, degree, powers)
        for i in range(start, start + step, LANES):
            store(values, i, reduced(load(values, i), p, p_inverse))


@compiled
def _inverse_2(values: Doubles, start: int, degree: int, powers: Doubles) -> None:
    """The last layer."""
    p, p_inverse, root = splat(_P), splat(_P_INVERSE), splat(powers[1])
    half = degree // 2 * LANES
    for i in range(start, start + half, LANES):
        low, high = load(values, i), load(values, i + half)
        store(values, i, add(low, high))
        store(values, i + half, product(subtract(low, high), root, p, p_inverse))


@compiled
def _inverse_4(values: Doubles, start: int, powers: Doubles, groups: int, quarter: int, reduce: bool) -> None:
    """Two layers, the second one of ``groups`` groups with four quarters each; it may reduce its sums."""
    p, p_inverse = splat(_P), splat(_P_INVERSE)
    for group in range(groups):
        root = splat(powers[groups + group])
        left, right = splat(powers[2 * (groups + group)]), splat(powers[2 * (groups + group) + 1])
        first = start + 4 * quarter * group
        for i in range(first, first + quarter, LANES):
            a, b = load(values, i), load(values, i + quarter)
            c, d = load(values, i + 2 * quarter), load(values, i + 3 * quarter)
            e, f = add(a, b), product(subtract(a, b), left, p, p_inverse)
            g, h = add(c, d), product(subtract(c, d), right, p, p_inverse)
            total, other = add(e, g), add(f, h)
            if reduce:
                total, other = reduced(total, p, p_inverse), reduced(other, p, p_inverse)
            store(values, i, total)
            store(values, i + quarter, other)
            store(values, i + 2 * quarter, product(subtract(e, g), root, p, p_inverse))
            store(values, i + 3 * quarter, product(subtract(f, h), root, p, p_inverse))


@compiled
def scale_by(values: Doubles, factor: float) -> None:
    """Multiply reduced residues in place by one of at most p/2 in magnitude, and reduce them."""
    p, p_inverse, factors = splat(_P), splat(_P_INVERSE), splat(factor)
    for i in range(0, len(values), LANES):
        store(values, i, reduced(product(load(values, i), factors, p, p_inverse), p, p_inverse))


@compiled
def _contract(x: Doubles, y: Doubles, out: Doubles) -> None:
    """Write Σ_κ x[κ]·y[κ] for both halves to ``out`` (2·n·8,), for x (rank, 2, n, 8) and y (rank, n)."""
    p, p_inverse = splat(_P), splat(_P_INVERSE)
    rank, degree = y.shape
    step = degree * LANES
    for j in range(degree):
        lower, upper = splat(0.0), splat(0.0)
        place = j * LANES
        for k in range(rank):
            factor = splat(y[k, j])
            first = 2 * k * step + place
            lower = add(lower, product(load(x, first), factor, p, p_inverse))
            upper = add(upper, product(load(x, first + step), factor, p, p_inverse))
        store(out, place, lower)
        store(out, step + place, upper)


@compiled
def _join(halves: Doubles, words: Words) -> None:
    """Write lower + 2^32·upper modulo 2^64 to ``words`` (n·8,) for reduced halves (2·n·8,)."""
    magic, magic_bits, upwards = splat(_MAGIC), splat(_MAGIC_BITS), splat(_UPPER)
    for i in range(0, len(words), LANES):
        lower = subtract(bits(add(load(halves, i), magic)), magic_bits)
        upper = shifted_up(bits(add(load(halves, i + len(words)), magic)), upwards)
        store(words, i, add(lower, upper))


@compiled
def _add_lanes(words: Words, out: Words, first: int, degree: int) -> None:
    """Add polynomials (n·8,) that lie side by side to ``out``, one after the other from ``first`` on, up to its end."""
    for lane in range(LANES):
        start = first + lane * degree
        for i in range(min(degree, len(out) - start)):
            out[start + i] += words[i * LANES + lane]


@compiled
def add_products(out: Words, group: int, x: Doubles, y: Doubles, powers: Doubles) -> None:
    """Add Σ_κ x[κ]·y[k, κ] modulo 2^64 to out[k], from row 8·n·``group`` on and up to its end.

    Args:
        out: Shape (K, rows).
        group: Index of the eight polynomials in ``x``.
        x: Spectra of the halves of these, shape (rank, 2, n, 8).
        y: ``spectra`` of K tuples of small integers, shape (K, rank, n): no more than 2560 in {−1, 0, 1} a tuple.
        powers: The inverse roots.
    """
    degree = x.shape[2]
    buffer, words = np.empty(2 * degree * LANES), np.empty(degree * LANES, np.uint64)
    for k in range(len(y)):
        _contract(x, y[k], buffer)
        inverse(buffer, degree, powers)
        _join(buffer, words)
        _add_lanes(words, out[k], group * LANES * degree, degree)
    for i in range(len(words)):
        buffer[i] = buffer[i + len(words)] = 0.0
        words[i] = 0
