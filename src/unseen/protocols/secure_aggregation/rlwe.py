"""Sums of ciphertexts under a key that nobody has: homomorphic aggregation for a few organisations that all stay.

C. Mouchet, J. Troncoso-Pastoriza, J.-P. Bossuat, J.-P. Hubaux, "Multiparty Homomorphic Encryption from
Ring-Learning-With-Errors" (PETS 2021): collective key generation, encryption of Fan and Vercauteren (eprint 2012/144),
collective decryption. The ring is Z_Q[X]/(X^8192 + 1), Q ≈ 2^124, as in ``crypto.rlwe``; words modulo 2^b lie in the
upper bits of its plaintext words.

0. *Key.* A client draws a ternary s_i and sends −a·s_i + e_i; a follows from the context by a random oracle. The sum b,
   of all clients that are there, is with a the public key of s = Σ s_i; all of them are told who these are.
1. *Ciphertexts.* Of each 8192 words, a client sends (b·u + e' + ⌈w·Q/2^b⌉, a·u + e''). The server adds them up.
2. *Decryption.* Sent the summed part c, a client answers c·s_i + flooding, which is uniform in [−2^F, 2^F), for those
   coefficients that hold words. The server adds these to the other part, and rounds.

*Security model*: **semi-honest**; the server and all clients but one may pool what they see, and learn the sum of the
others' vectors. A server that deviates can send one client's ciphertext to be decrypted in place of the sum, or choose
the public key: where it is not trusted to follow the protocol, ``secagg_plus`` is the scheme to take. Ring-LWE with the
parameters ``OUTER`` of ``crypto.lattice_parameters`` (242 bits); flooding is the largest for which decryption cannot
fail, and hides the noise within ``distance`` ≤ 2^-40 for a whole sum (smudging: G. Asharov and others, EUROCRYPT 2012).

*Leakage*: who takes part. *Rounds*: 3. *Bytes* up: 32 a word for the ciphertexts and 16 for the decryption, together
twelve times a vector of 32-bit words; 16 a word down. *Work*: 2 to 3 ms of one processor for 8192 words. Clients may
drop out before the key is made; afterwards the loss of one ends the sum. Weights are below 2^40/n. Randomness follows
from a client's generator, its vector and all it was sent, so that no two plaintexts or keys meet the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message
from unseen.crypto.gaussian import CumulativeTable, ternary
from unseen.crypto.hashing import framed_digest
from unseen.crypto.lattice_parameters import MODULUS, OUTER, OUTER_DEVIATION
from unseen.crypto.prg import Prg
from unseen.crypto.ring import LIMBS, Ring, are_residues, decode, ring
from unseen.crypto.rlwe import PublicParts
from unseen.errors import LocalProtocolError, PeerUnreachable, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.protocols.secure_aggregation.port import Contribution, Setting, Total, to_bytes
from unseen.protocols.secure_aggregation.roster import Places, as_places, read_places

Residues = NDArray[np.uint64]

DEGREE = OUTER.degree
WEIGHT_BITS = 40
"""The sum of weights stays below 2^40."""
DISTANCE_BITS = 40
MAX_BITS = 40
_LOW_BITS = 40


# --- messages ----------------------------------------------------------------------------------------------------


@message("rlwe_sum/key-share")
class KeyShare:
    """−a·s_i + e_i, a spectrum."""

    share: Annotated[Residues, Shape(LIMBS, DEGREE)]


@message("rlwe_sum/public-key", version=2)
class PublicKey:
    """The sum of all shares, and whose they are: places in the cohort."""

    key: Annotated[Residues, Shape(LIMBS, DEGREE)]
    members: Annotated[Places, Shape(None)]


@message("rlwe_sum/encrypted")
class Encrypted:
    """Ciphertexts of the words, 8192 in each, and one of the weight: parts b and a, spectra."""

    ciphertexts: Annotated[Residues, Shape(None, 2, LIMBS, DEGREE)]


@message("rlwe_sum/summed")
class Summed:
    """The parts a of the sum of all ciphertexts, spectra."""

    parts: Annotated[Residues, Shape(None, LIMBS, DEGREE)]


@message("rlwe_sum/decryption")
class Decryption:
    """A client's part of the decryption: a coefficient for each word, then one for the weight."""

    coefficients: Annotated[Residues, Shape(LIMBS, None)]


# --- the arithmetic ----------------------------------------------------------------------------------------------


# Tables of roots are computed at the first use, not at import.
def _ring() -> Ring:
    return ring(DEGREE)


@cache
def _noise() -> CumulativeTable:
    return CumulativeTable(OUTER_DEVIATION)


def noise_bound(clients: int) -> int:
    """Return what no coefficient of the noise of a sum of ``clients`` ciphertexts exceeds before flooding.

    Of each: u·Σe_i and e''·Σs_i, at most 8192·n·(largest noise) each; e'; and 1 for the rounding of Δ·w.
    """
    largest = _noise().tail
    return clients * (2 * DEGREE * clients * largest + largest + 1)


def flood_bits(clients: int, bits: int) -> int:
    """Return the largest F ≤ 100 for which n floodings in [−2^F, 2^F) and all noise stay below Q/2^(bits + 1)."""
    room = MODULUS // (1 << (bits + 1)) - noise_bound(clients) - 1
    return min((room // clients).bit_length() - 1, _LOW_BITS + 60)


def distance(setting: Setting) -> float:
    """Return how far at most decryption is from one that depends on the total alone, for a whole sum."""
    count = len(setting.clients)
    noise = noise_bound(count)
    words = setting.length * noise / 2.0 ** (flood_bits(count, setting.bits) + 1)
    return words + noise / 2.0 ** (flood_bits(count, WEIGHT_BITS) + 1)


def _check_setting(setting: Setting) -> None:
    if setting.bits > MAX_BITS or distance(setting) > 2.0**-DISTANCE_BITS:
        raise UsageError(
            f"sums of {len(setting.clients)} vectors of {setting.length} words of {setting.bits} bits leave no room "
            "for flooding: use words of 32 bits or fewer, fewer clients, or secagg_plus"
        )


def _polynomials(setting: Setting) -> int:
    return -(-setting.length // DEGREE)


def _scaled(contribution: Contribution, setting: Setting) -> Residues:
    """Return the plaintexts, words in the upper bits, shape (polynomials + 1, 8192)."""
    count = _polynomials(setting)
    out = np.zeros((count + 1, DEGREE), np.uint64)
    out[:count].reshape(-1)[: setting.length] = contribution.words.astype(np.uint64) << np.uint64(64 - setting.bits)
    out[count, 0] = np.uint64(contribution.weight << (64 - WEIGHT_BITS))
    return out


def _public_part(setting: Setting) -> Residues:
    """Return a, which nobody chose."""
    return PublicParts(framed_digest(b"unseen/rlwe_sum/1/a", setting.context)).part(0)


def _flood(prg: Prg, bits: int, count: int) -> Residues:
    """Return the residues (count, 2, 8192) of integers uniform in [−2^bits, 2^bits)."""
    words = prg.words(2 * count * DEGREE).reshape(2, count, DEGREE)
    low = (words[0] >> np.uint64(64 - _LOW_BITS)).astype(np.int64)
    high_bits = bits + 1 - _LOW_BITS
    high = (words[1] >> np.uint64(64 - high_bits)).astype(np.int64) - (1 << (high_bits - 1))
    shift = _ring().reduce(np.full((1, 1, DEGREE), 1 << _LOW_BITS, np.int64))
    _ring().to_montgomery(shift)
    # The product is taken coefficient by coefficient, as that of spectra is.
    out = _ring().contract(_ring().reduce(high)[None], shift, _ring().reduce(low)[:, None])
    words.fill(0)
    return out[:, 0]


def _check(values: Residues, expected: int | None, sender: PartyId) -> Residues:
    if expected is not None and len(values) != expected:
        raise RemoteProtocolError(f"{sender}: expected {expected} polynomials, found {len(values)}")
    if not are_residues(values):
        raise RemoteProtocolError(f"{sender}: a coefficient is not below its prime")
    return values


# --- the client --------------------------------------------------------------------------------------------------


class Client:
    """One client of one sum; a ``ClientRole``.

    Raises:
        UsageError: The contribution does not suit the setting, or the setting leaves no room for flooding.
    """

    def __init__(
        self, setting: Setting, me: PartyId, contribution: Contribution, prg: Prg, server: PartyId | None = None
    ) -> None:
        _check_setting(setting)
        self._setting, self._contribution = setting, contribution.checked(setting)
        if contribution.weight * len(setting.clients) >> WEIGHT_BITS:
            raise UsageError(f"{me}: weights lie below 2^{WEIGHT_BITS} divided by the number of clients")
        weight = contribution.weight.to_bytes(8, "little")
        data = framed_digest(b"unseen/rlwe_sum/1/data", to_bytes(contribution.words), weight)
        self._prg = prg.derive("rlwe_sum/client", setting.context, me.encode(), data)
        self._me, self._server = me, server or PartyId("server")
        self.left: tuple[PartyId, ...] | None = None
        """Over whom the sum is, once the server has said so."""
        self._steps: list[tuple[type, Callable[[Any], object]]] = [(PublicKey, self._encrypt), (Summed, self._decrypt)]
        self._begun = False

    @property
    def hears(self) -> type[Any] | None:
        """The kind of message it waits for."""
        return self._steps[0][0] if self._begun and self._steps else None

    def begin(self) -> KeyShare:
        """Return this client's share of the public key."""
        if self._begun:
            raise LocalProtocolError("a sum was about to begin twice with the same keys")
        self._begun = True
        secret = ternary(self._prg.derive("secret"), DEGREE)
        self._key = _ring().spectrum(secret)
        self._a = _public_part(self._setting)
        negated = _ring().spectrum(-secret)
        for spectrum in (self._key, negated):
            _ring().to_montgomery(spectrum)
        secret.fill(0)
        share = _ring().spectrum(_noise().sample(self._prg.derive("key noise"), DEGREE))[None, None]
        _ring().contract(self._a[None, None], negated[None, None], share)
        return KeyShare(share[0, 0])

    def answer(self, message: object) -> object:
        """Return the answer to the server's next message; see ``ClientRole``."""
        expected = self.hears
        if expected is None or type(message) is not expected:
            wanted = expected.__name__ if expected else "nothing more"
            raise RemoteProtocolError(f"{self._server}: expected {wanted}, found {type(message).__name__}")
        # Safety: a client that has met an error answers nothing any more.
        (_, step), *rest = self._steps
        self._steps = []
        found = step(message)
        self._steps = rest
        return found

    def _encrypt(self, told: PublicKey) -> Encrypted:
        """Encrypt words and weight under the common key."""
        cohort = self._setting.clients
        places = read_places(told.members, len(cohort), self._setting.quorum, self._server)
        self.left = tuple(cohort[place] for place in places)
        if self._me not in self.left:
            raise RemoteProtocolError(f"{self._server}: sends {self._me} a key in which it has no share")
        key = np.stack([_check(told.key, None, self._server), self._a])[None]
        prg = self._prg.derive("encryption", framed_digest(b"key", told.key))
        _ring().to_montgomery(key)
        plain = _scaled(self._contribution, self._setting)
        out = np.empty((len(plain), 2, LIMBS, DEGREE), np.uint64)
        for index, words in enumerate(plain):
            stream = prg.derive("polynomial", index.to_bytes(8, "little"))
            first, second = (_noise().sample(stream, DEGREE) for _ in range(2))
            masked = np.stack([_ring().encode(words, first), _ring().reduce(second)])[None]
            _ring().forward(masked)
            out[index] = _ring().contract(_ring().spectrum(ternary(stream, DEGREE)[None])[None], key, masked)[0]
        return Encrypted(out)

    def _decrypt(self, told: Summed) -> Decryption:
        """Take part in the decryption of the sum."""
        setting = self._setting
        count, clients = _polynomials(setting), len(setting.clients)
        parts = _check(told.parts, count + 1, self._server)
        products = _ring().contract(parts[None], self._key[None, None])[:, 0].copy()
        _ring().inverse(products)
        prg = self._prg.derive("flooding", framed_digest(b"sum", told.parts))
        words = _ring().add(products[:count], _flood(prg.derive("words"), flood_bits(clients, setting.bits), count))
        weight = _ring().add(products[count:], _flood(prg.derive("weight"), flood_bits(clients, WEIGHT_BITS), 1))
        self._key.fill(0)
        return Decryption(_gather(words, weight, setting))

    def __repr__(self) -> str:
        return "Client(<secret>)"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a client holds a secret key and cannot be pickled")


def _gather(words: Residues, weight: Residues, setting: Setting) -> Residues:
    """Return the coefficients that hold something, shape (2, length + 1)."""
    flat = words.swapaxes(0, 1).reshape(LIMBS, -1)[:, : setting.length]
    return np.concatenate([flat, weight[0, :, :1]], axis=1)


# --- the server --------------------------------------------------------------------------------------------------


class Server:
    """The server of one sum; a ``ServerRole``. It has no secrets of its own.

    Raises:
        UsageError: The setting leaves no room for flooding.
    """

    def __init__(self, setting: Setting) -> None:
        _check_setting(setting)
        self._setting = setting
        self._phases: list[tuple[type, Callable[[PartyId, Any], None], Callable[[], object]]] = [
            (KeyShare, self._add_share, self._public_key),
            (Encrypted, self._add_ciphertexts, lambda: Summed(self._sum[:, 1].copy())),
            (Decryption, self._add_decryption, self._finish),
        ]
        self._waiting, self._members = set(setting.clients), frozenset(setting.clients)
        count = _polynomials(setting)
        self._key = _ring().zeros()
        self._sum = _ring().zeros(count + 1, 2)
        self._opened = np.zeros((LIMBS, setting.length + 1), np.uint64)
        self._total: Total | None = None

    @property
    def expects(self) -> type[Any] | None:
        """The kind of message of this phase."""
        return self._phases[0][0] if self._phases else None

    @property
    def waiting(self) -> frozenset[PartyId]:
        """Who may still send one."""
        return frozenset(self._waiting)

    def accept(self, client: PartyId, message: object) -> None:
        """Take a client's message of this phase; see ``ServerRole``."""
        if self.expects is None or type(message) is not self.expects or client not in self._waiting:
            raise RemoteProtocolError(
                f"{client}: its {type(message).__name__} is refused: late, early, a duplicate, or of no client"
            )
        self._phases[0][1](client, message)
        self._waiting.remove(client)

    def advance(self) -> Mapping[PartyId, object]:
        """End the phase; see ``ServerRole``. Whoever is in the key has to stay."""
        if not self._phases:
            raise LocalProtocolError("a sum that is known was about to go on")
        (kind, _, work), *rest = self._phases
        self._phases = []
        left = self._members - self._waiting
        least = self._setting.quorum if kind is KeyShare else len(self._members)
        if len(left) < least:
            raise PeerUnreachable(
                f"{len(left)} of {len(self._members)} clients sent {kind.__name__}, {least} have to; missing: "
                f"{', '.join(sorted(self._waiting))}. Nothing has been revealed: begin an attempt with a new name"
            )
        told = work()
        self._phases, self._members, self._waiting = rest, left, set(left) if rest else set()
        return dict.fromkeys(sorted(left), told) if rest else {}

    def total(self) -> Total:
        """Return the sum; see ``ServerRole``."""
        if self._total is None:
            raise LocalProtocolError("the sum is not known yet")
        return self._total

    def _add_share(self, client: PartyId, share: KeyShare) -> None:
        self._key = _ring().add(self._key, _check(share.share, None, client))

    def _public_key(self) -> PublicKey:
        there = [place for place, client in enumerate(self._setting.clients) if client not in self._waiting]
        return PublicKey(self._key, as_places(there))

    def _add_ciphertexts(self, client: PartyId, encrypted: Encrypted) -> None:
        self._sum = _ring().add(self._sum, _check(encrypted.ciphertexts, len(self._sum), client))

    def _add_decryption(self, client: PartyId, decryption: Decryption) -> None:
        found = decryption.coefficients
        if found.shape != self._opened.shape:
            expected = self._setting.length + 1
            raise RemoteProtocolError(f"{client}: expected {expected} coefficients, found {found.shape[1]}")
        self._opened = _ring().add(self._opened, _check(found, None, client))

    def _finish(self) -> None:
        """Round what the parts of the decryption add up to."""
        setting = self._setting
        parts = self._sum[:, 0].copy()
        _ring().inverse(parts)
        words = decode(_ring().add(_gather(parts[:-1], parts[-1:], setting), self._opened))
        numbers = _rounded(words[:-1], setting.bits).astype(setting.dtype)
        weight = int(_rounded(words[-1:], WEIGHT_BITS)[0])
        self._total = Total(numbers, weight, tuple(sorted(self._members)))


def _rounded(words: Residues, bits: int) -> Residues:
    """Return the upper bits of words, rounded."""
    return (words + np.uint64(1 << (63 - bits))) >> np.uint64(64 - bits)
