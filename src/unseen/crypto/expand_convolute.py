"""Expand-convolute codes: they make long vectors that look random of noise that is nearly everywhere zero.

S. Raghuraman, P. Rindal, T. Tanguy, "Expand-Convolute Codes for Pseudorandom Correlation Generators from LPN" (CRYPTO
2023, eprint 2023/882). That they look random is the assumption of learning parity with noise (LPN) for these codes.
For n outputs there are 2n inputs e = (e', e''), of which e'' is convoluted, expanded and added to e' (systematic form,
rate ½): H·e = e' + B·A·e''.

* A: each element takes in the 24 before it, each or not by a random bit, and the 25th (state size m = 24). This is done
  twice, with independent bits, and runs over the end into the beginning, so that no place weighs less than others.
* B: each output is the sum of w = 7 elements chosen at random.

*Parameters*: w = 7, m = 24 is the authors' set ExConv 7×24 with a relative pseudo-distance of δ = 0.15: an estimate,
not a proof (Silver, whose codes were as fast, fell because its distance was too low; same paper). Noise is regular: one
error in each of t equal blocks. The authors count with t = 256 for noise of bits. Here errors are elements of GF(2^128)
while the code's coefficients are bits, so that A is 128 binary vectors with errors in the same places, an *interleaved*
code, and an attacker may look at any of the 2^128 sums of some of them:

* *Linear tests*: in such a sum an error is gone with probability ½, so that bias is (1 − δ)^t, not (1 − 2δ)^t.
* *Information sets*: n places of 2n hold about t/2 errors. If they hold fewer than 128, some sum is free of all of them
  and decodes by linear algebra (J. Metzner, E. Kapturowski, IEEE Transactions on Information Theory 36, 1990; A. Porwal
  and others, "Interleaved Prange", PQCrypto 2022). With t = 256 this succeeds in every second try; a test does it.

With t = 1024 ``security_bits`` is 240 by the former and 298 by the latter, which leaves a margin for refinements of
information set decoding.

The code is public: it is drawn from a seed of the session, AES-256 in counter mode.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.errors import UsageError
from unseen.kernels.blocks import in_parallel
from unseen.kernels.expand_convolute import CHOICES, STATE, convolute, expand

Words = NDArray[np.uint64]

PSEUDO_DISTANCE = 0.15
ELEMENT_BITS = 128
NOISE = 1024
"""Errors in the 2n inputs, one in each of as many equal blocks: regular noise."""
SECURITY_BITS = 128
LEAST = 1 << 14
"""Outputs at the least; with fewer, blocks would hold too few places for an error."""
_ROWS = 1 << 15
"""Outputs for which random choices are made at once: they stay in a cache."""


def security_bits(noise: int = NOISE, distance: float = PSEUDO_DISTANCE) -> float:
    """Return the security in bits against linear tests and against information sets of interleaved codes."""
    linear = -noise * math.log2(1 - distance)
    tries = sum(math.comb(noise, inside) * 2.0 ** min(0, ELEMENT_BITS - 1 - inside) for inside in range(noise + 1))
    return min(linear, noise - math.log2(tries))


@dataclass(frozen=True, slots=True)
class Code:
    """One code: ``size`` outputs of twice as many inputs. ``seed`` (32 bytes) is public and the same at both parties.

    Raises:
        UsageError: ``size`` is below ``LEAST`` or no multiple of half the noise, which cuts the inputs into blocks.
    """

    size: int
    seed: bytes

    def __post_init__(self) -> None:
        if self.size < LEAST or 2 * self.size % NOISE:
            raise UsageError(f"a code has at least {LEAST} outputs, in multiples of {NOISE // 2}, found {self.size}")

    @classmethod
    def at_least(cls, count: int, seed: bytes) -> Code:
        """Return the smallest code with ``count`` outputs or more."""
        step = NOISE // 2
        return cls(max(LEAST, -(-count // step) * step), seed)

    @property
    def block(self) -> int:
        """Inputs in each block of the noise."""
        return 2 * self.size // NOISE

    def compress(self, inputs: Words) -> Words:
        """Return H·e for ``inputs`` e of shape (2·size, 2 or 4); it takes the place of their first half.

        Raises:
            UsageError: There are not twice as many inputs as outputs.
        """
        if len(inputs) != 2 * self.size or self.size <= STATE + 1:
            raise UsageError(f"a code of {self.size} outputs takes {2 * self.size} inputs, found {len(inputs)}")
        prg, outputs, rest = Prg(self.seed), inputs[: self.size], inputs[self.size :]
        for turn in (b"1", b"2"):
            taps = prg.derive("expand_convolute/taps", turn).words(-(-self.size // 2))
            convolute(rest, taps.view(np.uint32)[: self.size])

        def work(piece: int) -> None:
            target = outputs[piece * _ROWS : (piece + 1) * _ROWS]
            choices = prg.derive("expand_convolute/choices", piece.to_bytes(4, "little")).words(4 * len(target))
            expand(rest, choices.view(np.uint32).reshape(len(target), CHOICES + 1), target)

        in_parallel(work, -(-self.size // _ROWS))
        return outputs
