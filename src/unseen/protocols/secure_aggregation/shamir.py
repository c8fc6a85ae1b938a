"""Shares of a secret, of which any ``threshold`` give it back and fewer say nothing.

A. Shamir, "How to Share a Secret" (CACM 1979). The secret is the value at 0 of a random polynomial of degree
threshold − 1 over the prime field of 2^256 + 297 (the smallest prime above 2^256, so that any 32 bytes are an element);
the share of holder x ≥ 1 is its value at x. Secrecy is perfect. Python's integers do not work in constant time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np

from unseen.crypto.prg import Prg
from unseen.errors import UsageError

PRIME = (1 << 256) + 297
SECRET_BYTES = 32
SHARE_BYTES = 33
MAX_POINT = 1 << 14


def split(secret: bytes, threshold: int, points: Sequence[int], prg: Prg) -> list[bytes]:
    """Return one share of 33 bytes for each of ``points``.

    ``prg`` must serve for nothing else: the polynomial is read from its beginning.

    Raises:
        UsageError: The secret does not have 32 bytes, or points are not distinct, out of range, or too few.
    """
    if len(secret) != SECRET_BYTES or len(set(points)) != len(points):
        raise UsageError("a secret has 32 bytes, and its holders are distinct")
    if not 1 <= min(points, default=1) <= max(points, default=1) <= MAX_POINT:
        raise UsageError(f"holders are numbers of 1 to {MAX_POINT}, found {points}")
    if not 1 <= threshold <= len(points):
        raise UsageError(f"{len(points)} holders cannot have a threshold of {threshold}")
    # 127 bits more than the prime has: each is within 2^-127 of uniform.
    tail = [int.from_bytes(prg.bytes(48), "little") % PRIME for _ in range(threshold - 1)]
    polynomial = [int.from_bytes(secret, "little"), *tail]
    return [evaluate(polynomial, point, PRIME).to_bytes(SHARE_BYTES, "little") for point in points]


def join(shares: Sequence[bytes], points: Sequence[int]) -> bytes:
    """Return the secret of as many shares as the threshold.

    Raises:
        UsageError: The shares do not belong together: no secret of 32 bytes has them.
    """
    values = [int.from_bytes(share, "little") for share in shares]
    secret = interpolate(values, tuple(points), PRIME)
    if secret >> (8 * SECRET_BYTES) or any(value >= PRIME for value in values):
        raise UsageError(f"the shares of holders {list(points)} do not belong together")
    return secret.to_bytes(SECRET_BYTES, "little")


def evaluate(polynomial: Sequence[int], point: int, prime: int) -> int:
    """Return the value of a polynomial, its constant term first, modulo ``prime``."""
    value = 0
    for coefficient in reversed(polynomial):
        value = (value * point + coefficient) % prime
    return value


def interpolate(values: Sequence[int], points: tuple[int, ...], prime: int) -> int:
    """Return the value at 0 of the polynomial of least degree that has ``values`` at ``points``, modulo ``prime``.

    Points are distinct, not 0, and less than 2^14 apart from each other and from 0.
    """
    weights = _weights(points, prime)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) % prime


@lru_cache(maxsize=256)
def _weights(points: tuple[int, ...], prime: int) -> tuple[int, ...]:
    """Return Lagrange's λ_i = Π_{j≠i} x_j / (x_j − x_i) for the value at 0; points are public."""
    here = np.array(points, np.int64)
    differences = here[None, :] - here[:, None]
    np.fill_diagonal(differences, here)
    # Row i is to give x_i·Π_{j≠i} (x_j − x_i); four differences below 2^15 make a word.
    words = np.ones((len(points), -(-len(points) // 4) * 4), np.int64)
    words[:, : len(points)] = differences
    rows = words.reshape(len(points), -1, 4).prod(axis=2).tolist()
    product = math.prod(points) % prime
    return tuple(product * inverse % prime for inverse in _inverses([math.prod(row) % prime for row in rows], prime))


def _inverses(values: Sequence[int], prime: int) -> list[int]:
    """Return the inverses of all values by a single inversion (P. Montgomery, 1987)."""
    before = list(accumulate(values, lambda left, right: left * right % prime, initial=1))
    rest = pow(before.pop(), -1, prime)
    inverses = []
    for value, product in zip(reversed(values), reversed(before), strict=True):
        inverses.append(rest * product % prime)
        rest = rest * value % prime
    return inverses[::-1]
