"""Which noise belongs to a round: keyed by a secret seed, the round, and what is being protected.

A run must give the same bits again after a restart, and must never put the same noise on two different sums: their
difference would be exact. So noise comes from a key that is derived of the secret seed, the round *and a digest of the
values*: a round that is played again with the same updates gives the same result, and with other updates gets noise
that has nothing to do with the first. To whoever does not know the seed, the output of HMAC-SHA-256 on different inputs
is as good as independent (the idea of deterministic signatures, RFC 6979).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.learners.horizontal.process import Aggregate, Vector

Reals = NDArray[np.float64]

LOW = "dp/low"
"""What a sum of 32-bit floats misses of the sum in 64 bits: an extra of an ``Aggregate``."""


def fresh(prg: Prg, purpose: str, place: tuple[str | int, ...], values: NDArray[np.generic]) -> Prg:
    """Return the generator for noise on ``values`` at a place of a run: a round, a client, a step."""
    digest = hashlib.sha256(np.ascontiguousarray(values).data).digest()
    return prg.derive(purpose, *(str(part).encode() for part in place), digest)


def total(aggregate: Aggregate) -> Reals:
    """Return a sum of updates in 64 bits."""
    values = aggregate.delta.astype(np.float64)
    low = aggregate.extra.get(LOW)
    return values if low is None else values + low


def split(values: Reals) -> tuple[Vector, Vector]:
    """Return two vectors of 32-bit floats that add up to ``values`` within 2^-48."""
    high = values.astype(np.float32)
    return high, (values - high).astype(np.float32)
