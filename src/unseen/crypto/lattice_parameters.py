"""The parameters of the lattice schemes, each with its security.

``docs/security/linear_map.md`` argues those for Mᵀv, ``docs/security/slot_products.md`` those for slot-wise products.

Bits are log2 of the cheapest of a primal (uSVP) and a dual attack, lattice reduction costed as in the
homomorphic-encryption standard (Albrecht and others, 2018): 0.292 β + 16.4 + log2(8 d), sieving after Becker, Ducas,
Gama and Laarhoven (SODA 2016). A test recomputes them and compares its estimator with the rows of that standard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from unseen.kernels.upper_bits import DROPPED

WORD_BITS = 64

# The two largest primes below 2^62 that are 1 modulo 16384, so that rings of degree up to 8192 split modulo both.
PRIMES = (4611686018427322369, 4611686018427289601)
MODULUS = PRIMES[0] * PRIMES[1]

REQUIRED_BITS = 128


@dataclass(frozen=True, slots=True)
class LatticeParameters:
    """One (module- or ring-) LWE problem with a uniform ternary secret.

    ``deviation`` is the standard deviation of its noise for the estimate; ``bits`` the estimate.
    """

    name: str
    degree: int
    rank: int
    modulus: int
    deviation: float
    bits: int

    @property
    def dimension(self) -> int:
        """Number of coefficients of the secret."""
        return self.degree * self.rank


# The noise of the vectors. Half of it remains in the estimate after the hints of Hint-LWE (see the document).
VECTOR_DEVIATION = 8
INNER = LatticeParameters(
    "vectors", degree=512, rank=5, modulus=1 << WORD_BITS, deviation=VECTOR_DEVIATION / 2, bits=137
)

# Vectors are rounded before they are sent. The error of a uniform word is distributed as the sum of DROPPED signed bits
# ±2^(j−1), j < DROPPED, and a signed half, all independent: sub-Gaussian with their variances, 4^(j−1) and 1/4, added.
ROUNDING_VARIANCE = (4**DROPPED + 2) / 12

OUTER_DEVIATION = 3.2
OUTER = LatticeParameters("hint", degree=8192, rank=1, modulus=MODULUS, deviation=OUTER_DEVIATION, bits=242)

# Flooding noise is uniform in [−2^58, 2^58): with the noise of the ciphertext it stays below Q/2^65 > 2^58.99.
FLOOD_BITS = 58

# A result is wrong with a probability of at most 2^-64 a vector: half for the noise, half for the rounding.
FAILURE_BITS = 64

# Slot-wise products: plaintext modulus t, then p1 and p2; the three largest primes below 2^62 that are 1 modulo 16384.
SLOT_PRIMES = (*PRIMES, 4611686018426454017)
# Noise is binomial, a sum of 42 fair bits less 21: no coefficient exceeds 21.
SLOT_NOISE_BITS = 42
SLOTS = LatticeParameters(
    "slots",
    degree=8192,
    rank=1,
    modulus=math.prod(SLOT_PRIMES),
    deviation=math.sqrt(SLOT_NOISE_BITS) / 2,
    bits=152,
)

SETS = (INNER, OUTER, SLOTS)
