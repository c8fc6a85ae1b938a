"""Models' updates as words that can be summed exactly, and sums of words as means.

A number x of an update of weight w becomes the word round(w·clip(x)·2^f) modulo 2^b. The rounding is stochastic: up
with the probability of the fractional part, so that means are unbiased whatever the number of clients (S. Gupta, A.
Agrawal, K. Gopalakrishnan, P. Narayanan, "Deep Learning with Limited Numerical Precision", ICML 2015, section 3). Its
randomness is cryptographic, since who could predict it could read more from a sum than the sum. f is the largest number
of fractional bits for which no sum of the agreed number of clients can reach 2^(b−1), whatever their updates are, so
that sums never wrap. Clients that break the rule can wrap any entry: that is manipulation like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.errors import DataError, UsageError
from unseen.kernels.blocks import pieces
from unseen.kernels.stochastic import from_words, to_words
from unseen.protocols.secure_aggregation.port import word_type

_PIECE = 1 << 14
"""Random words that are drawn at a time: they stay in the cache until they are used."""
_MAX_WEIGHT = 1 << 28
"""Products of a weight and a 24-bit float are exact as doubles."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """How the numbers of updates become words; the same at server and clients.

    Raises:
        UsageError: A parameter cannot be, or so many clients and weights leave no bit for the numbers.
    """

    clip: float
    """Numbers are clipped to [−clip, clip]."""
    clients: int
    """How many words are summed at most."""
    bits: int = 32
    """Sums are taken modulo 2^bits; 2 to 62."""
    max_weight: int = 1
    """Weights lie between 0 and this."""

    def __post_init__(self) -> None:
        if not 1e-100 <= self.clip <= 1e100:
            raise UsageError(f"numbers are clipped to a range of 1e-100 to 1e100, found {self.clip}")
        if not (self.clients >= 1 and 2 <= self.bits <= 62 and 1 <= self.max_weight <= _MAX_WEIGHT):
            raise UsageError(
                f"expected at least one client, 2 to 62 bits and weights of 1 to {_MAX_WEIGHT}, found {self}"
            )
        # A word is at most ⌈clip·max_weight·2^f⌉ in magnitude, less than this room allows each client.
        if self.room < 1:
            raise UsageError(
                f"words of {self.bits} bits cannot hold sums of {self.clients} clients: use more bits (62 at most)"
            )

    @property
    def room(self) -> int:
        """What a single word may have in magnitude: the sum of all stays below 2^(bits − 1)."""
        room = ((1 << (self.bits - 1)) - 1) // self.clients
        return room - (room >> 50)  # beyond 2^50, for the rounding of doubles

    @property
    def fraction_bits(self) -> int:
        """The number f of fractional bits of a word; it may be negative."""
        # The largest f with clip·max_weight·2^f ≤ room, in integers: no word is larger than the room.
        numerator, denominator = self.clip.as_integer_ratio()
        largest, room = numerator * self.max_weight, self.room * denominator
        if largest <= room:
            return (room // largest).bit_length() - 1
        return -(-(-largest // room) - 1).bit_length()

    @property
    def step(self) -> float:
        """The distance of two neighbouring numbers of weight 1: an update's entry is off by less than step/weight."""
        return math.ldexp(1.0, -self.fraction_bits)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the words: of 16 bits if they fit, else of 32 or 64."""
        return word_type(self.bits)

    def encode(self, values: NDArray[np.floating], weight: int, prg: Prg) -> NDArray[Any]:
        """Return the words, shape (n,), of the numbers (n,) of an update.

        Args:
            values: 32-bit or 64-bit floats.
            weight: How much the update counts.
            prg: Serves for nothing else; 8 bytes a number.

        Raises:
            DataError: A number is NaN; infinite ones are clipped.
            UsageError: The weight is out of range, or the numbers are no floats in one row.
        """
        if not 0 <= weight <= self.max_weight:
            raise UsageError(f"a weight lies between 0 and {self.max_weight}, found {weight}")
        if values.ndim != 1 or values.dtype not in (np.float32, np.float64):
            raise UsageError(f"expected a flat vector of floats, found {values.dtype} of shape {values.shape}")
        out = np.empty(len(values), self.dtype)
        random = np.empty(min(len(values), _PIECE), "<u8")
        factor, mask, wrong = math.ldexp(float(weight), self.fraction_bits), np.uint64((1 << self.bits) - 1), 0
        for piece in pieces(len(values), _PIECE):
            part = random[: piece.stop - piece.start]
            prg.fill(part)
            wrong += to_words(values[piece], factor, self.clip, part, mask, out[piece])
        random.fill(0)
        if wrong:
            first = int(np.flatnonzero(np.isnan(values))[0])
            raise DataError(f"{wrong} numbers of an update are NaN, the first at {first}: the training has diverged")
        return out

    def decode_sum(self, words: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sum Σ w·x, shape (n,), that a sum of words modulo 2^bits stands for."""
        out = np.empty(len(words), np.float64)
        from_words(words, self.bits, self.step, out)
        return out

    def decode_mean(self, words: NDArray[Any], weight: int) -> NDArray[np.float64]:
        """Return the weighted mean Σ w·x / Σ w, shape (n,); ``weight`` is the sum of weights.

        Raises:
            UsageError: The weights sum to nothing.
        """
        if weight < 1:
            raise UsageError(f"a mean needs a positive sum of weights, found {weight}")
        return self.decode_sum(words) / weight
