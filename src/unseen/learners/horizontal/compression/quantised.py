"""Stochastic quantisation: every number becomes one of a few levels, right on average.

Source: D. Alistarh, D. Grubic, J. Li, R. Tomioka, M. Vojnovic, "QSGD: Communication-Efficient SGD via Gradient
Quantization and Encoding", NeurIPS 2017, section 3.1, in the variant of section 4 that works by buckets and scales by
the largest magnitude instead of the norm. With s = 2^(bits − 1) − 1, x becomes scale·l/s where l is x·s/scale rounded
up with the probability of its fraction: no bias, variance at most (scale/2s)² a number.

Message: ``numbers`` are the scales of all buckets of ``bucket`` numbers; ``packed`` are l + s in ``bits`` bits each,
the high bit first, the last byte filled with zeros. 1 byte a number for 8 bits, and 4 bytes a bucket.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.errors import RemoteProtocolError, UsageError
from unseen.learners.horizontal.compression.encoded import Encoded, check
from unseen.learners.horizontal.process import Vector

Codes = NDArray[np.uint8]

_WORK = 1 << 16
"""Numbers whose bits are spread out at a time, one byte a bit; a multiple of 8."""


@dataclass(frozen=True, slots=True)
class Quantised:
    """Levels of so many ``bits``, scaled by bucket; unless ``stochastic``, numbers go to the nearest, with a bias.

    Raises:
        UsageError: ``bits`` are not 2 to 8, or a bucket is empty.
    """

    bits: int = 8
    bucket: int = 512
    stochastic: bool = True

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8 or self.bucket < 1:
            raise UsageError(
                f"quantisation takes 2 to 8 bits and buckets of 1 number or more, found {self.bits} and {self.bucket}"
            )

    @property
    def scheme(self) -> str:
        """Name and parameters; how numbers were rounded, their reader need not know."""
        return f"quantised {self.bits} {self.bucket}"

    @property
    def unbiased(self) -> bool:
        """Whether rounding is stochastic."""
        return self.stochastic

    @property
    def levels(self) -> int:
        """How many levels lie above 0."""
        return (1 << self.bits - 1) - 1

    def encode(self, vector: Vector, rng: np.random.Generator) -> Encoded:
        """Return levels and scales; one 32-bit uniform number is drawn for every number."""
        blocks = self._blocks(vector)
        scales = np.abs(blocks).max(axis=1, initial=0.0)
        # A bucket whose numbers are too small to be scaled counts as zeros.
        scales[scales < np.finfo(np.float32).tiny] = 0
        inverse = np.divide(1.0, scales, out=np.zeros(len(scales)), where=scales > 0)
        exact = blocks * (inverse * self.levels)[:, None]
        low = np.floor(exact)
        draws = rng.random(len(vector), np.float32) if self.stochastic else np.full(len(vector), 0.5, np.float32)
        level = low + (self._blocks(draws) < exact - low)
        codes = (np.clip(level, -self.levels, self.levels) + self.levels).astype(np.uint8)
        return Encoded(self.scheme, len(vector), scales, pack(codes.reshape(-1)[: len(vector)], self.bits))

    def decode(self, encoded: Encoded, size: int) -> Vector:
        """Return the numbers that the levels stand for.

        Raises:
            RemoteProtocolError: The message is not one that ``encode`` makes.
        """
        check(encoded, self.scheme, size, -(-size // self.bucket), (size * self.bits + 7) // 8)
        codes = unpack(encoded.packed, self.bits, size)
        if (codes > 2 * self.levels).any() or (encoded.numbers < 0).any():
            raise RemoteProtocolError(
                f"{self.scheme}: expected levels to {2 * self.levels} and scales from 0 on, found others"
            )
        steps = (encoded.numbers.astype(np.float64) / self.levels)[:, None]
        numbers = (self._blocks(codes.astype(np.float32)) - self.levels) * steps
        return numbers.astype(np.float32).reshape(-1)[:size]

    def _blocks(self, vector: Vector) -> Vector:
        """Return a vector by buckets, shape (buckets, bucket), filled up with zeros."""
        rows = -(-len(vector) // self.bucket)
        padded = np.zeros(rows * self.bucket, np.float32)
        padded[: len(vector)] = vector
        return padded.reshape(rows, self.bucket)


def pack(codes: Codes, bits: int) -> Codes:
    """Return numbers below 2^bits as a string of bits, the high ones first."""
    if bits == 8:
        return codes
    parts = [
        np.packbits(np.unpackbits(codes[start : start + _WORK, None], axis=1)[:, 8 - bits :])
        for start in range(0, len(codes), _WORK)
    ]
    return np.concatenate(parts) if parts else codes


def unpack(packed: Codes, bits: int, count: int) -> Codes:
    """Return the ``count`` numbers that were packed.

    Raises:
        RemoteProtocolError: The last byte is not filled with zeros.
    """
    if bits == 8:
        return packed
    codes, step = np.empty(count, np.uint8), _WORK * bits // 8
    for start in range(0, len(packed), step):
        spread = np.unpackbits(packed[start : start + step])
        first = start * 8 // bits
        here = min(_WORK, count - first)
        if spread[here * bits :].any():
            raise RemoteProtocolError("the last byte of quantised numbers is not filled with zeros")
        codes[first : first + here] = np.packbits(_padded(spread[: here * bits].reshape(here, bits)), axis=1)[:, 0]
    return codes


def _padded(bits: Codes) -> Codes:
    return np.pad(bits, ((0, 0), (8 - bits.shape[1], 0)))
