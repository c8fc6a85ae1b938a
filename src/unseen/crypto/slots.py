"""Slots under ring-LWE: masked sums of slot-wise products with plaintexts, that betray nothing but their value.

The ring is Z_Q[X]/(X^8192 + 1), Q = t·p1·p2 ≈ 2^186, plaintexts are polynomials modulo the prime t ≈ 2^62, which splits
the ring: a plaintext is a vector of 8192 slots in Z_t, its spectrum. The scheme is scale-invariant (Brakerski, CRYPTO
2012; Fan and Vercauteren, eprint 2012/144): a ciphertext (a, b) of m satisfies b + a·s = Δ·m + e with Δ = Q/t = p1·p2.
Since t divides Q, Δ is an integer and nothing is ever rounded: Δ·m vanishes modulo p1 and p2, so that e is known from
these two residues, and m from the third; a product with a plaintext f is Δ·(m·f mod t) + e·f, without further noise.
All parts are spectra, arrays (…, 3, 8192), the limb modulo t first.

*Noise.* Fresh coefficients are at most 21 in magnitude. A plaintext has coefficients of any size modulo t, at most t/2
centred, so that a sum of R products has noise at most R·8192·21·t/2, and an encryption of zero adds at most
2·8192·21. Flooding is uniform over p1·(p2 − 2^23) integers around zero; together they stay below p1·⌊p2/2⌋, so
that decryption never fails (``noise_bound``, tests).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.gaussian import ternary
from unseen.crypto.lattice_parameters import SLOT_NOISE_BITS, SLOT_PRIMES, SLOTS, WORD_BITS
from unseen.crypto.prg import Prg
from unseen.crypto.ring import Ring, ring
from unseen.errors import UsageError
from unseen.kernels import slots as kernels

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]

DEGREE = SLOTS.degree
LIMBS = len(SLOT_PRIMES)
T, P1, P2 = SLOT_PRIMES
DELTA = P1 * P2
# Products that may be summed in one ciphertext: for these the flooding is 2^40 times the noise.
MAX_RANK = 16
# What of p2 the flooding leaves for the noise: 2^22·p1 on either side.
FLOOD_MARGIN = 1 << 23
FLOOD_QUOTIENTS = P2 - FLOOD_MARGIN
_LARGEST_NOISE = SLOT_NOISE_BITS // 2

_PRIMES = np.array(SLOT_PRIMES, np.uint64)[:, None]


def _montgomery(value: int, p: int) -> int:
    return (value << WORD_BITS) % p


_MODULI = np.array([[p, pow(p, -1, 1 << WORD_BITS)] for p in SLOT_PRIMES], np.uint64)
_SCALE = np.uint64(_montgomery(DELTA, T))
_LIFTING = np.array([[_montgomery(1 << WORD_BITS, p), _montgomery(T, p)] for p in (P1, P2)], np.uint64)
_FLOODING = np.array([_montgomery(P1, T), _montgomery(P1, P2)], np.uint64)
_OPENING = np.array(
    [_montgomery(pow(P1, -1, P2), P2), _montgomery(P1, T), DELTA % T, _montgomery(pow(DELTA, -1, T), T)], np.uint64
)


# Tables of roots are computed at the first use, not at import.
def _whole() -> Ring:
    return ring(DEGREE, SLOT_PRIMES)


def _plain() -> Ring:
    return ring(DEGREE, (T,))


def _rest() -> Ring:
    return ring(DEGREE, (P1, P2))


def noise_bound(rank: int) -> int:
    """Return what no coefficient of the noise of ``rank`` summed products exceeds before flooding."""
    product = DEGREE * _LARGEST_NOISE * (T // 2)
    of_zero = 2 * DEGREE * _LARGEST_NOISE
    return rank * product + of_zero


def public_parts(seed: bytes, count: int) -> Words:
    """Return the uniform parts a of ``count`` ciphertexts, shape (count, 3, 8192), that a public seed stands for."""
    stream = Prg(seed).derive("slots/public-parts")
    parts = stream.words(count * LIMBS * DEGREE).reshape(count, LIMBS, DEGREE)
    np.right_shift(parts, np.uint64(2), out=parts)
    # The primes are so close to 2^62 that this happens once in 2^42 words.
    if not are_residues(parts):
        for index, limb, place in np.argwhere(parts >= _PRIMES):
            parts[index, limb, place] = stream.below(SLOT_PRIMES[limb], 1)[0]
    return parts


def are_residues(values: Words) -> bool:
    """Return whether values (…, 3, 8192) lie below the primes they belong to."""
    return bool((values < _PRIMES).all())


class SecretKey:
    """A ternary key. It may encrypt any number of batches, each with parts a and noise of its own."""

    __slots__ = ("_negated", "_spectrum")

    def __init__(self, prg: Prg) -> None:
        secret = ternary(prg, DEGREE)
        self._spectrum, self._negated = _whole().spectrum(secret), _whole().spectrum(-secret)
        secret.fill(0)
        for spectrum in (self._spectrum, self._negated):
            _whole().to_montgomery(spectrum)

    def encrypt(self, public: Words, slots: Integers, prg: Prg) -> Words:
        """Return the parts b that belong to the parts a in ``public`` and to slots (count, 8192) of magnitudes below t.

        ``prg`` must serve for nothing else: the noise is read from its beginning.
        """
        spectra = _noise(prg, len(public))
        _whole().forward(spectra)
        _whole().contract(public[None], self._negated[None, None], spectra[:, None])
        kernels.add_slots(spectra, np.ascontiguousarray(slots), _SCALE, _MODULI)
        return spectra

    def decrypt(self, ciphertext: Words) -> Words:
        """Return the slots (8192,), below t, of a ciphertext (2, 3, 8192) whose noise is below p1·⌊p2/2⌋."""
        total = ciphertext[1:, None].copy()
        _whole().contract(ciphertext[None, :1], self._spectrum[None, None], total)
        _whole().inverse(total)
        polynomial = np.empty((1, DEGREE), np.uint64)
        kernels.opened(total[0, 0], polynomial[0], _OPENING, _MODULI)
        _plain().forward(polynomial)
        slots: Words = polynomial[0]
        return slots

    def __repr__(self) -> str:
        return "SecretKey(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a secret key cannot be pickled")


def _noise(prg: Prg, count: int) -> Words:
    """Return the residues (count, 3, 8192) of fresh noise."""
    bits = prg.words(count * DEGREE).reshape(count, DEGREE)
    np.bitwise_and(bits, np.uint64((1 << SLOT_NOISE_BITS) - 1), out=bits)
    out = np.empty((count, LIMBS, DEGREE), np.uint64)
    kernels.centred(np.bitwise_count(bits), np.uint64(_LARGEST_NOISE), out, _MODULI)
    bits.fill(0)
    return out


@dataclass(frozen=True, slots=True, repr=False)
class Rerandomisation:
    """What hides the factors in a ciphertext: a fresh encryption of zero under the public key, and flooding.

    ``secret`` is the ternary u of the encryption of zero, ``noise`` its part in a (residues); in b the flooding
    covers it. The flooding is low + p1·(high − ⌊(p2 − 2^23)/2⌋).
    """

    secret: Integers
    noise: Words
    low: Words
    high: Words

    @classmethod
    def draw(cls, prg: Prg) -> Rerandomisation:
        """Return fresh randomness for a ciphertext; ``prg`` must serve for nothing else."""
        secret, noise = ternary(prg.derive("secret"), DEGREE), _noise(prg.derive("noise"), 1)[0]
        flood = prg.derive("flood")
        return cls(secret, noise, flood.below(P1, DEGREE), flood.below(FLOOD_QUOTIENTS, DEGREE))

    def spectra(self) -> Words:
        """Return the spectra (2, 3, 8192) of what is added to the parts a and b."""
        out = np.empty((2, LIMBS, DEGREE), np.uint64)
        out[0] = self.noise
        kernels.flood(self.low, self.high, np.uint64(FLOOD_QUOTIENTS // 2), out[1], _FLOODING, _MODULI)
        _whole().forward(out)
        return out

    def destroy(self) -> None:
        """Overwrite the randomness."""
        for array in (self.secret, self.noise, self.low, self.high):
            array.fill(0)

    def __repr__(self) -> str:
        return "Rerandomisation(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("the randomness of a ciphertext cannot be pickled")


@dataclass(frozen=True, slots=True)
class Ciphertexts:
    """Parts a and b of any number of ciphertexts, arrays (count, 3, 8192) each."""

    a: Words
    b: Words

    def evaluate(self, public_key: Words, factors: Integers, mask: Integers, randomness: Rerandomisation) -> Words:
        """Return a ciphertext (2, 3, 8192) of Σ_r m_r∘factors_r + mask, slot by slot modulo t.

        Args:
            public_key: A ciphertext of zero, (2, 3, 8192).
            factors: Integers of magnitudes below t, (count, 8192) with a count of at most ``MAX_RANK``.
            mask: Integers in [0, t), (8192,).
            randomness: Fresh; a ciphertext that is sent without it gives the factors away.

        Raises:
            UsageError: There are more than ``MAX_RANK`` ciphertexts.
        """
        if len(self.a) > MAX_RANK:
            raise UsageError(f"at most {MAX_RANK} products can be summed, found {len(self.a)}")
        total = randomness.spectra()
        secret = _whole().spectrum(randomness.secret)
        _whole().to_montgomery(secret)
        _whole().contract(public_key[None], secret[None, None], total[:, None])
        spectra = _factor_spectra(factors)[:, None]
        _whole().contract(self.a[:, None], spectra, total[:1, None])
        _whole().contract(self.b[:, None], spectra, total[1:, None])
        kernels.add_slots(total[1:], mask[None], _SCALE, _MODULI)
        return total


def _factor_spectra(factors: Integers) -> Words:
    """Return the spectra (R, 3, 8192), in Montgomery form, of the polynomials with these slots, lifted centred."""
    out = np.empty((len(factors), LIMBS, DEGREE), np.uint64)
    rest = np.empty((1, LIMBS - 1, DEGREE), np.uint64)
    for spectrum, slots in zip(out, factors, strict=True):
        spectrum[0] = np.where(slots < 0, slots + T, slots)
        polynomial = spectrum[:1].copy()
        _plain().inverse(polynomial)
        kernels.lifted(polynomial, rest, _LIFTING, _MODULI)
        _rest().forward(rest)
        spectrum[1:] = rest[0]
        _plain().to_montgomery(spectrum[:1])
    return out
