"""Among others, the attacks that each part of the re-randomisation is there to stop."""

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.crypto import slots
from unseen.crypto.lattice_parameters import SLOT_PRIMES, SLOTS
from unseen.crypto.prg import Prg
from unseen.crypto.ring import ring
from unseen.crypto.slots import (
    DEGREE,
    DELTA,
    FLOOD_QUOTIENTS,
    MAX_RANK,
    P1,
    P2,
    Ciphertexts,
    Rerandomisation,
    SecretKey,
    T,
    are_residues,
    noise_bound,
    public_parts,
)
from unseen.errors import UsageError
from unseen.kernels import slots as kernels

RING = ring(DEGREE, SLOT_PRIMES)
PLAIN = ring(DEGREE, (T,))
PRG = Prg(b"\x0b" * 32)
RNG = np.random.default_rng(7)
Q = SLOTS.modulus
HALF_FLOOD = P1 * (FLOOD_QUOTIENTS // 2 + 1)


class Setting:
    """A key holder's encrypted factors G, and the evaluator's F."""

    def __init__(self, rank, largest=4095):
        self.G, self.F = (RNG.integers(-largest, largest + 1, (rank, DEGREE)) for _ in range(2))
        self.key = SecretKey(PRG.derive("key"))
        zero = public_parts(b"\x01" * 32, 1)
        body = self.key.encrypt(zero, np.zeros((1, DEGREE), np.int64), PRG.derive("zero"))
        self.public_key = np.concatenate([zero, body])
        a = public_parts(b"\x02" * 32, rank)
        self.ciphertexts = Ciphertexts(a, self.key.encrypt(a, self.G, PRG.derive("noise")))
        self.mask = PRG.derive("mask").below(T, DEGREE).view(np.int64)

    def evaluate(self, randomness, factors=None):
        chosen = self.F if factors is None else factors
        return self.ciphertexts.evaluate(self.public_key, chosen, self.mask, randomness)

    def expected(self):
        total = sum(f.astype(object) * g for f, g in zip(self.F, self.G, strict=True)) + self.mask
        return (total % T).astype(np.uint64)

    def noise(self, ciphertext, plain):
        """What the key holder sees beside the plaintext: the exact noise, as Python integers."""
        total = ciphertext[1:, None].copy()
        RING.contract(ciphertext[None, :1].copy(), self.key._spectrum[None, None], total)
        RING.inverse(total)
        message = plain.reshape(1, DEGREE).copy()
        PLAIN.inverse(message)
        found = lift(total[0, 0])
        return [centred(x - DELTA * m, Q) for x, m in zip(found, message[0].tolist(), strict=True)]

    def fresh_noise(self):
        """The noise of the key holder's own ciphertexts."""
        spectra = self.key.encrypt(self.ciphertexts.a, np.zeros_like(self.G), PRG.derive("noise"))
        RING.contract(self.ciphertexts.a[None], self.key._spectrum[None, None], spectra[:, None])
        RING.inverse(spectra)
        return np.array([[centred(int(x), T) for x in row] for row in spectra[:, 0]])

    def predicted_noise(self, factors):
        """The noise that the key holder expects if these are the factors."""
        spectra = RING.spectrum(self.fresh_noise())[:, None]
        total = RING.contract(spectra, slots._factor_spectra(factors)[:, None])
        RING.inverse(total)
        return [centred(x, Q) for x in lift(total[0, 0])]


def lift(residues):
    """The integers in [0, Q) with these residues (3, n)."""
    units = [Q // p * pow(Q // p, -1, p) for p in SLOT_PRIMES]
    rows = residues.tolist()
    return [sum(u * r for u, r in zip(units, column, strict=True)) % Q for column in zip(*rows, strict=True)]


def centred(value, modulus):
    return (value + modulus // 2) % modulus - modulus // 2


def residues_of(values):
    return np.array([[v % p for v in values] for p in SLOT_PRIMES], np.uint64)


def none():
    """Randomness that is none, as a careless implementation would have it (high is the centre of the flooding)."""
    zeros = np.zeros(DEGREE, np.uint64)
    return Rerandomisation(
        np.zeros(DEGREE, np.int64), RING.zeros(), zeros, np.full(DEGREE, FLOOD_QUOTIENTS // 2, np.uint64)
    )


@pytest.fixture(scope="module")
def setting():
    return Setting(3)


def test_the_primes_are_the_largest_that_split():
    assert list(SLOT_PRIMES) == sorted(SLOT_PRIMES, reverse=True)
    assert all(p % (2 * DEGREE) == 1 and p < 1 << 62 for p in SLOT_PRIMES)
    assert math.log2(Q) > 185.9


@pytest.mark.parametrize(("rank", "largest"), [(1, 4095), (16, 4095), (2, T - 1)])
def test_the_key_holder_decrypts_the_masked_sums(rank, largest):
    case = Setting(rank, largest)
    found = case.key.decrypt(case.evaluate(Rerandomisation.draw(PRG.derive("randomness"))))
    assert np.array_equal(found, case.expected())


def test_extreme_factors_and_flooding_still_decrypt():
    case = Setting(MAX_RANK)
    case.F = np.where(RNG.random(case.F.shape) < 0.5, T // 2, -(T // 2))
    for low, high in ((0, 0), (P1 - 1, FLOOD_QUOTIENTS - 1)):
        randomness = Rerandomisation.draw(PRG.derive("extreme"))
        randomness.low.fill(low)
        randomness.high.fill(high)
        assert np.array_equal(case.key.decrypt(case.evaluate(randomness)), case.expected())


def test_more_products_than_the_flooding_allows_are_refused():
    parts = np.zeros((MAX_RANK + 1, 3, DEGREE), np.uint64)
    with pytest.raises(UsageError, match="at most 16"):
        Ciphertexts(parts, parts).evaluate(parts[:2], np.zeros((MAX_RANK + 1, DEGREE), np.int64), parts[0, 0], none())


def test_noise_stays_below_its_bound_and_the_bound_below_what_decrypts():
    case = Setting(MAX_RANK)
    randomness = Rerandomisation.draw(PRG.derive("bounded"))
    randomness.low.fill(0)
    randomness.high.fill(FLOOD_QUOTIENTS // 2)
    noise = case.noise(case.evaluate(randomness), case.expected())
    largest = max(map(abs, noise))
    assert 2**70 < largest < 2**75 < noise_bound(MAX_RANK) < 2**82.5
    assert HALF_FLOOD + noise_bound(MAX_RANK) < P1 * (P2 // 2)
    assert HALF_FLOOD / noise_bound(MAX_RANK) > 2**40
    assert HALF_FLOOD / 2**75 > 2**47


def test_flooding_is_uniform_over_its_range(setting):
    randomness = Rerandomisation.draw(PRG.derive("flood"))
    flooding = randomness.spectra()[1:]
    RING.inverse(flooding)
    values = [centred(x, Q) for x in lift(flooding[0])]
    centre = FLOOD_QUOTIENTS // 2
    pairs = zip(randomness.low.tolist(), randomness.high.tolist(), strict=True)
    assert values == [low + P1 * (high - centre) for low, high in pairs]
    assert max(map(abs, values)) <= HALF_FLOOD
    counts, _ = np.histogram(np.array(values, float), bins=8, range=(-float(HALF_FLOOD), float(HALF_FLOOD)))
    assert (abs(counts - 1024) < 160).all()


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(0, T - 1), st.integers(-(P1 * (P2 // 2)) + 1, P1 * (P2 // 2) - 1)), min_size=1, max_size=9
    )
)
def test_opening_is_exact_for_all_noise_below_its_bound(pairs):
    limit = P1 * (P2 // 2) - 1
    pairs = [*pairs, (0, 0), (T - 1, limit), (T - 1, -limit), (1, -1), (0, P1), (0, -P1)]
    out = np.empty(len(pairs), np.uint64)
    kernels.opened(residues_of([DELTA * m + e for m, e in pairs]), out, slots._OPENING, slots._MODULI)
    assert out.tolist() == [m for m, _ in pairs]


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.lists(st.integers(0, T - 1), min_size=1, max_size=9))
def test_lifting_is_centred(values):
    values = [*values, 0, 1, T // 2, T // 2 + 1, T - 1, P1, P2]
    out = np.empty((1, 2, len(values)), np.uint64)
    kernels.lifted(np.array([values], np.uint64), out, slots._LIFTING, slots._MODULI)
    expected = [[(centred(v, T) << 64) % p for v in values] for p in (P1, P2)]
    assert out[0].tolist() == expected


def test_fresh_noise_is_binomial(setting):
    noise = setting.fresh_noise()
    assert abs(noise).max() <= 21
    assert abs(noise.mean()) < 0.1
    assert abs(noise.var() / 10.5 - 1) < 0.05


def test_without_flooding_the_noise_is_a_linear_map_of_the_factors_and_with_it_is_not(setting):
    other = setting.F.copy()
    other[0, 0] += 1
    right, wrong = setting.predicted_noise(setting.F), setting.predicted_noise(other)
    bare = setting.noise(setting.evaluate(none()), setting.expected())
    assert bare == right
    assert bare != wrong
    flooded = setting.noise(setting.evaluate(Rerandomisation.draw(PRG.derive("covered"))), setting.expected())
    sizes = [abs(x - y) for x, y in zip(flooded, right, strict=True)]
    assert sorted(sizes)[len(sizes) // 2] > 2**40 * max(map(abs, right))
    correlation = np.corrcoef(np.array(flooded, float), np.array(right, float))[0, 1]
    assert abs(correlation) < 5 / math.sqrt(DEGREE)


def test_without_an_encryption_of_zero_the_part_a_gives_the_factors_away():
    case = Setting(1)
    inverse = np.array([pow(int(x), -1, T) for x in case.ciphertexts.a[0, 0]], np.uint64)[None]
    PLAIN.to_montgomery(inverse)

    def quotient(randomness):
        a = case.evaluate(randomness)[:1, :1].copy()
        return PLAIN.contract(a[None], inverse[None, None])[0, 0, 0]

    factors = (case.F[0].astype(object) % T).astype(np.uint64)
    covered = Rerandomisation.draw(PRG.derive("zero"))
    bare = none()
    assert np.array_equal(quotient(Rerandomisation(bare.secret, bare.noise, covered.low, covered.high)), factors)
    assert not (quotient(covered) == factors).any()


def test_equal_seeds_give_equal_ciphertexts_and_others_do_not(setting):
    first, again, other = (setting.evaluate(Rerandomisation.draw(Prg(seed * 32))) for seed in (b"\1", b"\1", b"\2"))
    assert np.array_equal(first, again)
    assert not (first == other).any()


def test_public_parts_are_residues_even_of_the_rarest_words(monkeypatch):
    ordinary = public_parts(b"\1" * 32, 2)
    assert are_residues(ordinary)
    assert np.array_equal(ordinary[:1], public_parts(b"\1" * 32, 1))
    words = Prg.words

    def rare(self, count):
        out = words(self, count).copy()
        out[5] = 2**64 - 1
        return out

    monkeypatch.setattr(Prg, "words", rare)
    replaced = public_parts(b"\1" * 32, 2)
    assert are_residues(replaced)
    assert (replaced != ordinary).sum() == 1


def test_secrets_neither_print_nor_pickle_and_can_be_overwritten(setting):
    randomness = Rerandomisation.draw(PRG)
    assert repr(randomness) == "Rerandomisation(<secret>)"
    assert repr(setting.key) == "SecretKey(<secret>)"
    for secret in (randomness, setting.key):
        with pytest.raises(UsageError):
            pickle.dumps(secret)
    randomness.destroy()
    assert not any(part.any() for part in (randomness.secret, randomness.noise, randomness.low, randomness.high))
