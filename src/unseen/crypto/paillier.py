"""Paillier's additively homomorphic encryption, for the party that owns the key and the party that computes under it.

P. Paillier, "Public-Key Cryptosystems Based on Composite Degree Residuosity Classes", EUROCRYPT 1999: with n = p·q,
``c = (1 + n)^m · r^n mod n²`` (section 4, Scheme 1 with g = 1 + n); decryption by the Chinese remainder theorem is its
section 7. Semantically secure under the decisional composite residuosity assumption; nobody is protected against
chosen ciphertexts. A modulus of 3072 bits stands for 128 bits of security, 2048 for 112 (NIST SP 800-57 part 1).

Plaintexts are signed: the integers nearest to zero modulo n. All randomness comes from a ``Prg`` argument: **whoever
calls must never let two different plaintexts, or answers, meet the same stream**, since the quotient of two ciphertexts
with the same r reveals the difference of their plaintexts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from gmpy2 import gcd, invert, is_power, is_prime, mpz, powmod, powmod_sec, primorial
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.errors import RemoteProtocolError, UsageError

KEY_BITS = 3072
MIN_KEY_BITS = 2048
MAX_KEY_BITS = 8192

_TRIAL_BOUND = 1 << 16
_MILLER_RABIN_ROUNDS = 40
_CLOSEST_PRIMES = 100


def check_key_bits(bits: int) -> None:
    """Raise ``UsageError`` unless keys of this size can be made."""
    if not MIN_KEY_BITS <= bits <= MAX_KEY_BITS or bits % 16:
        raise UsageError(
            f"a Paillier modulus has {MIN_KEY_BITS} to {MAX_KEY_BITS} bits, a multiple of 16; found {bits}: "
            f"leave it at {KEY_BITS} unless you must"
        )


def uniform_below(bound: mpz, prg: Prg) -> mpz:
    """Return a uniform integer in [0, ``bound``), exactly, by rejection."""
    bits = (mpz(bound) - 1).bit_length()
    mask = (mpz(1) << bits) - 1
    while True:
        drawn = mpz.from_bytes(prg.bytes((bits + 7) // 8), "big") & mask
        if drawn < bound:
            return drawn


def integers_to_rows(values: Iterable[mpz], width: int) -> NDArray[np.uint8]:
    """Return non-negative integers as big-endian rows of ``width`` bytes, shape (count, width)."""
    raw = b"".join(mpz(value).to_bytes(width, "big") for value in values)
    return np.frombuffer(raw, np.uint8).reshape(-1, width)


def integers_from_rows(rows: NDArray[np.uint8]) -> list[mpz]:
    """Return the integers that ``integers_to_rows`` wrote."""
    raw, width = rows.tobytes(), rows.shape[1]
    return [mpz.from_bytes(raw[start : start + width], "big") for start in range(0, len(raw), width)]


# --- the public key ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A modulus n, and everything that can be computed without its factors.

    A key of a peer comes from ``from_bytes``, which validates it. Ciphertexts are units modulo n²; a peer's come from
    ``unpack``, which validates them.
    """

    modulus: mpz
    square: mpz = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "square", self.modulus * self.modulus)

    @property
    def plaintext_bytes(self) -> int:
        """Bytes that hold any residue modulo n."""
        return int((self.modulus.bit_length() + 7) // 8)

    @property
    def ciphertext_bytes(self) -> int:
        """Bytes that hold any ciphertext."""
        return int((self.square.bit_length() + 7) // 8)

    def to_bytes(self) -> bytes:
        """Return the modulus, big-endian, without leading zeros."""
        return bytes(self.modulus.to_bytes(self.plaintext_bytes, "big"))

    @classmethod
    def from_bytes(cls, raw: bytes, *, sender: str = "peer") -> PublicKey:
        """Return the validated key that ``sender`` wrote with ``to_bytes``.

        Raises:
            RemoteProtocolError: The bytes are no modulus that ``validate`` accepts.
        """
        if len(raw) > MAX_KEY_BITS // 8 or raw[:1] in (b"", b"\0"):
            raise RemoteProtocolError(f"{sender}: a Paillier modulus of {len(raw)} bytes is too long or not canonical")
        key = cls(mpz.from_bytes(raw, "big"))
        key.validate(sender=sender)
        return key

    def validate(self, *, sender: str = "peer") -> None:
        """Raise ``RemoteProtocolError`` if the modulus of ``sender`` is visibly none.

        Checked are its size, and that it is odd, composite, no perfect power, and free of factors below 2^16. This is
        no proof that n is a product of two primes: a key owner who cheats here is outside the semi-honest model.
        """
        n, fault = self.modulus, None
        if not MIN_KEY_BITS <= n.bit_length() <= MAX_KEY_BITS:
            fault = f"has {n.bit_length()} bits, expected {MIN_KEY_BITS} to {MAX_KEY_BITS}"
        elif n.is_even():
            fault = "is even"
        elif gcd(n, primorial(_TRIAL_BOUND)) != 1:
            fault = f"has a prime factor below {_TRIAL_BOUND}"
        elif is_power(n):
            fault = "is a perfect power"
        elif is_prime(n, _MILLER_RABIN_ROUNDS):
            fault = "is prime"
        if fault:
            raise RemoteProtocolError(f"{sender}: its Paillier modulus {fault}; it must make a new key")

    def encrypt(self, value: int, prg: Prg) -> mpz:
        """Return a fresh ciphertext of ``value``.

        Raises:
            UsageError: The value is not smaller than n/2.
        """
        return self.rerandomise(self.shift(mpz(1), self._plaintext(value)), prg)

    def rerandomise(self, ciphertext: mpz, prg: Prg) -> mpz:
        """Return a ciphertext of the same plaintext that is independent of how ``ciphertext`` came about."""
        # A drawn factor that is no unit would factor n: it has probability about 2^(1 - bits/2).
        noise = powmod(1 + uniform_below(self.modulus - 1, prg), self.modulus, self.square)
        return ciphertext * noise % self.square

    def shift(self, ciphertext: mpz, value: mpz) -> mpz:
        """Return a ciphertext of the plaintext plus ``value`` modulo n; adds no randomness."""
        return ciphertext * (1 + value * self.modulus) % self.square

    def add(self, left: mpz, right: mpz) -> mpz:
        """Return a ciphertext of the sum; adds no randomness."""
        return left * right % self.square

    def multiply(self, ciphertext: mpz, factor: int) -> mpz:
        """Return a ciphertext of ``factor`` times the plaintext; adds no randomness."""
        base = ciphertext if factor >= 0 else invert(ciphertext, self.square)
        return powmod(base, abs(factor), self.square)

    def combine(self, ciphertexts: Sequence[mpz], weights: NDArray[np.int64]) -> mpz:
        """Return a ciphertext of Σ weightᵢ · plaintextᵢ; adds no randomness, and its time depends on the weights.

        Zeros cost nothing, ±1 one multiplication, and all negative weights together one inversion.
        """
        magnitudes = np.abs(weights).view(np.uint64)  # the magnitude of -2^63 is right only as an unsigned word
        gains = _power_product(ciphertexts, np.where(weights > 0, magnitudes, 0), self.square)
        losses = _power_product(ciphertexts, np.where(weights < 0, magnitudes, 0), self.square)
        return gains if losses == 1 else gains * invert(losses, self.square) % self.square

    def pack(self, ciphertexts: Sequence[mpz]) -> NDArray[np.uint8]:
        """Return ciphertexts as rows of ``ciphertext_bytes``."""
        return integers_to_rows(ciphertexts, self.ciphertext_bytes)

    def unpack(self, rows: NDArray[np.uint8], *, sender: str = "peer") -> list[mpz]:
        """Return the ciphertexts that ``sender`` wrote with ``pack``.

        Raises:
            RemoteProtocolError: One of them is not in (0, n²), or shares a factor with n.
        """
        ciphertexts = integers_from_rows(rows)
        product = mpz(1)
        for index, ciphertext in enumerate(ciphertexts):
            if not 0 < ciphertext < self.square:
                raise RemoteProtocolError(f"{sender}: ciphertext {index} is zero or not smaller than the modulus n²")
            product = product * (ciphertext % self.modulus) % self.modulus
        # One test for all: the product is a unit exactly if every factor is one.
        if gcd(product, self.modulus) != 1:
            index = next(i for i, ciphertext in enumerate(ciphertexts) if gcd(ciphertext, self.modulus) != 1)
            raise RemoteProtocolError(f"{sender}: ciphertext {index} shares a factor with the modulus")
        return ciphertexts

    def centred(self, residue: mpz) -> int:
        """Return the integer nearest to zero that is ``residue`` modulo n."""
        reduced = residue % self.modulus
        return int(reduced - self.modulus if 2 * reduced > self.modulus else reduced)

    def _plaintext(self, value: int) -> mpz:
        if 2 * abs(value) >= self.modulus:
            raise UsageError(f"a plaintext is smaller than n/2, found one of {int(value).bit_length()} bits")
        return mpz(value)


def _power_product(bases: Sequence[mpz], exponents: NDArray[np.uint64], modulus: mpz) -> mpz:
    """Return Π baseᵢ^exponentᵢ by the bucket method (Pippenger, "On the Evaluation of Powers and Monomials", 1980)."""
    rows = np.flatnonzero(exponents)
    product = mpz(1)
    if not len(rows):
        return product
    used, chosen = exponents[rows], [bases[row] for row in rows.tolist()]
    bits = int(used.max()).bit_length()
    width = _window(len(rows), bits)
    for low in reversed(range(0, bits, width)):
        digits = (used >> np.uint64(low)) & np.uint64((1 << width) - 1)
        product = powmod(product, 1 << width, modulus) * _digit_product(chosen, digits, modulus) % modulus
    return product


def _digit_product(bases: Sequence[mpz], digits: NDArray[np.uint64], modulus: mpz) -> mpz:
    """Return Π baseᵢ^digitᵢ with about one multiplication a base and two a possible digit."""
    buckets = [mpz(1)] * (int(digits.max()) + 1)
    for base, digit in zip(bases, digits.tolist(), strict=True):
        buckets[digit] = buckets[digit] * base % modulus
    product = suffix = mpz(1)
    for bucket in reversed(buckets[1:]):
        suffix = suffix * bucket % modulus
        product = product * suffix % modulus
    return product


def _window(count: int, bits: int) -> int:
    """Return the digit width with the fewest multiplications."""
    return min(range(1, bits + 1), key=lambda width: -(-bits // width) * (count + (2 << width)))


# --- the private key ---------------------------------------------------------------------------------------------


class PrivateKey:
    """The factors of a modulus: decrypts, and encrypts four times faster than the public key does.

    The factors are secret: they are not shown and cannot be pickled.
    """

    __slots__ = (
        "_p",
        "_p_square",
        "_p_unit",
        "_q",
        "_q_inverse",
        "_q_square",
        "_q_square_inverse",
        "_q_unit",
        "public",
    )

    def __init__(self, p: mpz, q: mpz) -> None:
        self.public = PublicKey(p * q)
        self._p, self._q = p, q
        self._p_square, self._q_square = p * p, q * q
        # With g = 1 + n, L(g^(p-1) mod p²) is -q modulo p (Paillier 1999, section 7).
        self._p_unit, self._q_unit = invert(-q, p), invert(-p, q)
        self._q_inverse = invert(q, p)
        self._q_square_inverse = invert(self._q_square, self._p_square)

    @classmethod
    def generate(cls, prg: Prg, bits: int = KEY_BITS) -> PrivateKey:
        """Return a key whose modulus has exactly ``bits`` bits; the same stream gives the same key.

        Raises:
            UsageError: Keys of this size are not made.
        """
        check_key_bits(bits)
        half = bits // 2
        while True:
            p, q = _random_prime(half, prg), _random_prime(half, prg)
            # FIPS 186-5, A.1.3: close primes are found by Fermat's method. Decryption needs gcd(n, φ(n)) = 1.
            if abs(p - q) >> (half - _CLOSEST_PRIMES) and gcd(p * q, (p - 1) * (q - 1)) == 1:
                return cls(p, q)

    def encrypt(self, value: int, prg: Prg) -> mpz:
        """Return a fresh ciphertext of ``value``, distributed exactly as that of the public key.

        r^n mod p² depends on r mod p alone and runs through the p-th powers uniformly: x^p for a uniform x does too.

        Raises:
            UsageError: The value is not smaller than n/2.
        """
        plaintext = self.public._plaintext(value)
        # The bases are fresh and unknown to everybody, so that timing many powers tells a peer nothing about p.
        noise_p = powmod(1 + uniform_below(self._p - 1, prg), self._p, self._p_square)
        noise_q = powmod(1 + uniform_below(self._q - 1, prg), self._q, self._q_square)
        lift = (noise_p - noise_q) * self._q_square_inverse % self._p_square
        return self.public.shift(noise_q + self._q_square * lift, plaintext)

    def decrypt(self, ciphertext: mpz) -> int:
        """Return the signed plaintext of a validated ciphertext."""
        # The peer chooses the base here: the exponents must not show in the time.
        power_p = powmod_sec(ciphertext % self._p_square, self._p - 1, self._p_square)
        power_q = powmod_sec(ciphertext % self._q_square, self._q - 1, self._q_square)
        value_p = (power_p - 1) // self._p * self._p_unit % self._p
        value_q = (power_q - 1) // self._q * self._q_unit % self._q
        return self.public.centred(value_q + self._q * ((value_p - value_q) * self._q_inverse % self._p))

    def __repr__(self) -> str:
        return f"PrivateKey(<secret>, {self.public.modulus.bit_length()} bits)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a private key cannot be pickled")


def _random_prime(bits: int, prg: Prg) -> mpz:
    """Return a uniform prime among those of ``bits`` bits whose two highest bits are set."""
    top = mpz(3) << (bits - 2)
    while True:
        candidate = mpz.from_bytes(prg.bytes(bits // 8), "big") | top | 1
        if is_prime(candidate, _MILLER_RABIN_ROUNDS):
            return candidate
