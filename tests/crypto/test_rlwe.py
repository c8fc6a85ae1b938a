"""Among others, the attacks that each part of the re-randomisation is there to stop."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.crypto.gaussian import ternary
from unseen.crypto.lattice_parameters import FLOOD_BITS, MODULUS, PRIMES
from unseen.crypto.prg import Prg
from unseen.crypto.ring import ring
from unseen.crypto.rlwe import (
    DEGREE,
    EncryptedHint,
    Packing,
    PublicKey,
    Rerandomisation,
    SecretKeys,
    _Products,
    _public_part,
    _Sums,
    public_parts,
    sums_are_cheaper,
)
from unseen.errors import LocalProtocolError, UsageError

RING = ring(DEGREE)
PRG = Prg(b"\x09" * 32)
ROWS, COLUMNS = 3, 2560


def encrypted(keys, seed, matrix, packing, piece=32):
    return np.concatenate(list(keys.encrypt(seed, matrix, packing, piece=piece)))


class Setting:
    """A key holder's encrypted matrix, and a secret vector of the other side."""

    def __init__(self, rows=ROWS, columns=COLUMNS):
        self.packing = Packing(rows, columns)
        self.matrix = PRG.derive("matrix").words(rows * columns).reshape(rows, columns)
        self.public = public_parts(b"\x01" * 32, 1 + self.packing.polynomials)
        self.key = SecretKeys(PRG.derive("key"), self.packing.groups)
        self.private = encrypted(self.key, b"\x01" * 32, self.matrix, self.packing)
        ciphertexts = np.concatenate([self.public[:, None], self.private], axis=1)
        self.public_key, self.products = PublicKey(ciphertexts[0], self.packing), _Products(self.packing)
        self.products.put(0, ciphertexts[1:])
        self.x = ternary(PRG.derive("x"), columns)
        self.mask = PRG.derive("mask").words(rows)

    def evaluate(self, randomness, x=None):
        total = self.products.totals((self.x if x is None else x)[None])[0]
        return self.public_key.hide(total, self.mask, randomness)

    def noise(self, a, b):
        """What the key holder sees beside the plaintext: the exact noise, as signed integers."""
        value = self.matrix @ self.x.view(np.uint64) + self.mask
        products = self.key.times(a[None])[0]
        RING.inverse(products)
        found = RING.add(self.packing.gather(products), b).tolist()
        exact = [-(-MODULUS * int(word) // 2**64) for word in value]
        return [centred(lift(*pair) - word) for pair, word in zip(zip(*found, strict=True), exact, strict=True)]


def lift(low, high):
    return low + PRIMES[0] * ((high - low) * pow(PRIMES[0], -1, PRIMES[1]) % PRIMES[1])


def centred(value):
    return (value + MODULUS // 2) % MODULUS - MODULUS // 2


def none(rows=ROWS):
    """Randomness that is none, as a careless implementation would have it."""
    zeros = np.zeros(DEGREE, np.int64)
    return Rerandomisation(zeros, zeros, np.zeros(rows, np.int64))


@pytest.fixture(scope="module")
def setting():
    return Setting()


@settings(deadline=None, derandomize=True, max_examples=20)
@given(st.one_of(st.integers(1, 40), st.integers(1, 2 * DEGREE)), st.integers(1, 60), st.integers(0, 2**32))
def test_the_product_of_packed_polynomials_holds_the_product_of_the_matrix(rows, columns, seed):
    packing = Packing(rows, columns)
    rng = np.random.default_rng(seed)
    matrix, vector = rng.integers(0, 1 << 20, (rows, columns)), rng.integers(-1, 2, columns)
    words = matrix.astype(np.uint64)
    polynomials = packing.pack(words, slice(0, packing.polynomials))
    assert polynomials.shape == (packing.polynomials, packing.groups, DEGREE)
    last = slice(packing.polynomials - 1, packing.polynomials)
    assert np.array_equal(packing.pack(words, last), polynomials[last])
    factors = RING.spectrum(packing.pieces(vector))[:, None]
    RING.to_montgomery(factors)
    product = RING.contract(RING.spectrum(polynomials.view(np.int64)), factors)[:, 0]
    RING.inverse(product)
    held = RING.to_words(product)[:, : packing.group_rows].reshape(-1)[:rows]
    assert np.array_equal(held.view(np.int64), matrix @ vector)


@given(st.integers(0, 50_000))
def test_groups_are_of_even_size_and_a_polynomial_holds_two_columns(rows):
    packing = Packing(rows, COLUMNS)
    assert packing.groups == max(1, -(-rows // 4096))
    assert 0 <= packing.groups * packing.group_rows - rows < max(2, packing.groups)
    assert packing.columns_per_polynomial >= 2


@given(st.sampled_from([0, 1, 4096, 4097, 9600, 20_001]))
@settings(deadline=None)
def test_what_is_spread_over_the_groups_is_gathered_again(rows):
    packing = Packing(rows, COLUMNS)
    column = np.arange(1, rows + 1, dtype=np.uint64)
    spread = packing.spread(column)
    assert spread.shape == (packing.groups, DEGREE)
    assert np.array_equal(packing.gather(np.stack([spread, 2 * spread], axis=1)), np.stack([column, 2 * column]))


@pytest.mark.parametrize(("rows", "columns"), [(1, 2560), (12, 2560), (700, 40), (4096, 2), (9600, 4)])
def test_the_key_holder_decrypts_the_masked_product(rows, columns):
    case = Setting(rows, columns)
    randomness = Rerandomisation.draw(PRG.derive("randomness"), rows)
    found = case.key.decrypt(*case.evaluate(randomness), case.packing)
    assert np.array_equal(found, case.matrix @ case.x.view(np.uint64) + case.mask)


def test_encryption_in_pieces_changes_nothing():
    packing = Packing(5000, 50)
    matrix = PRG.derive("pieces").words(5000 * 50).reshape(5000, 50)
    found = [
        encrypted(SecretKeys(PRG.derive("key"), packing.groups), b"\x01" * 32, matrix, packing, piece)
        for piece in (1, 7, 100)
    ]
    assert found[0].shape == (1 + 17, 2, 2, DEGREE)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_keys_and_noise_of_groups_differ():
    packing = Packing(2 * 4096, 4)
    matrix = np.zeros((2 * 4096, 4), np.uint64)
    keys = SecretKeys(PRG.derive("groups"), 2)
    opened = encrypted(keys, b"\x01" * 32, matrix, packing)
    assert not (opened[:, 0] == opened[:, 1]).any()
    RING.inverse(opened := RING.add(opened, keys.times(public_parts(b"\x01" * 32, 3))))
    noise = np.where(opened[:, :, 0] > PRIMES[0] // 2, opened[:, :, 0] - np.uint64(PRIMES[0]), opened[:, :, 0])
    noise = noise.view(np.int64).reshape(6, DEGREE)
    assert abs(noise).max() <= 43
    assert (abs(noise.std(axis=1) - 3.2) < 0.15).all()
    correlation = np.corrcoef(noise) - np.eye(6)
    assert abs(correlation).max() < 5 / DEGREE**0.5


def test_keys_refuse_a_second_matrix(setting):
    with pytest.raises(LocalProtocolError, match="second matrix"):
        encrypted(setting.key, b"\x01" * 32, setting.matrix, setting.packing)


def test_extreme_flooding_still_decrypts(setting):
    expected = setting.matrix @ setting.x.view(np.uint64) + setting.mask
    for flood in (-(1 << FLOOD_BITS), (1 << FLOOD_BITS) - 1):
        randomness = Rerandomisation.draw(PRG.derive("extreme"), ROWS)
        randomness.flood.fill(flood)
        assert np.array_equal(setting.key.decrypt(*setting.evaluate(randomness), setting.packing), expected)


def test_noise_without_flooding_is_far_below_it(setting):
    randomness = Rerandomisation.draw(PRG.derive("noise"), ROWS)
    flood = randomness.flood.tolist()
    noise = setting.noise(*setting.evaluate(randomness))
    rest = [abs(total - part) for total, part in zip(noise, flood, strict=True)]
    assert max(rest) < 2**13
    assert max(rest) > 0
    worst = COLUMNS * (43 + 1) + 2 * DEGREE * 43
    assert worst < 2**20
    assert (1 << FLOOD_BITS) + worst < MODULUS >> 65
    assert worst / 2 ** (FLOOD_BITS + 1) < 2**-39


def test_flooding_is_uniform_over_its_range():
    flood = Rerandomisation.draw(PRG.derive("flood"), 20_000).flood
    half = 1 << FLOOD_BITS
    assert flood.min() >= -half
    assert flood.max() < half
    counts, _ = np.histogram(flood.astype(float), bins=8, range=(-half, half))
    assert (abs(counts - 2500) < 250).all()


class Hinted:
    """An encrypted matrix."""

    def __init__(self, rows, columns=40, seed=b"\x02" * 32):
        self.packing, self.seed = Packing(rows, columns), seed
        self.matrix = PRG.derive(f"{rows}").words(rows * columns).reshape(rows, columns)
        self.keys = SecretKeys(PRG.derive("key"), self.packing.groups)
        self.private = encrypted(self.keys, seed, self.matrix, self.packing)

    @property
    def ciphertexts(self):
        return np.concatenate([public_parts(self.seed, len(self.private))[:, None], self.private], axis=1)


HINTED = [Hinted(rows) for rows in (3, 2000, 9600)]


@pytest.mark.parametrize("case", HINTED, ids=lambda case: f"{case.packing.rows} rows")
def test_a_hint_is_evaluated_at_several_vectors(case):
    rows, hint = case.packing.rows, EncryptedHint(case.seed, case.private, case.packing)
    vectors = np.stack([ternary(PRG.derive(f"vector {k}"), 40) for k in range(3)])
    masks = PRG.derive("masks").words(3 * rows).reshape(3, -1)
    a, b = hint.evaluate(vectors, masks, [PRG.derive(f"randomness {k}") for k in range(3)])
    assert (a.shape, b.shape) == ((3, 2, DEGREE), (3, 2, rows))
    expected = case.matrix @ vectors.T.view(np.uint64) + masks.T
    for k in range(3):
        assert np.array_equal(case.keys.decrypt(a[k], b[k], case.packing), expected[:, k])


@pytest.mark.parametrize("case", HINTED, ids=lambda case: f"{case.packing.rows} rows")
def test_sums_and_products_of_ciphertexts_give_the_same(case):
    vectors = np.stack([ternary(PRG.derive("equal"), 40), np.ones(40, np.int64), np.zeros(40, np.int64)])
    found = []
    for kind in (_Sums, _Products):
        matrix = kind(case.packing)
        for first in range(0, case.packing.polynomials, 7):
            matrix.put(first, case.ciphertexts[1 + first : 8 + first])
        found.append(matrix.totals(vectors))
    assert np.array_equal(*found)
    assert not found[0][2].any()


@pytest.mark.parametrize("case", HINTED, ids=lambda case: f"{case.packing.rows} rows")
def test_the_evaluation_is_the_hidden_product_with_pieces(case):
    x, masks = ternary(PRG.derive("pieces"), 40), PRG.derive("masks").words(case.packing.rows)
    hint = EncryptedHint(case.seed, case.private, case.packing)
    a, b = hint.evaluate(x[None], masks[None], [PRG.derive("same")])
    factors = RING.spectrum(case.packing.pieces(x))[:, None]
    RING.to_montgomery(factors)
    total = RING.contract(np.ascontiguousarray(case.ciphertexts[1:]), factors)[:, 0]
    key = PublicKey(case.ciphertexts[0], case.packing)
    one = key.hide(total, masks, Rerandomisation.draw(PRG.derive("same"), case.packing.rows))
    assert np.array_equal(one[0], a[0])
    assert np.array_equal(one[1], b[0])


def test_the_way_to_combine_follows_from_the_number_of_polynomials():
    chosen = {rows: sums_are_cheaper(Packing(rows, 2560)) for rows in (1, 50, 100, 300, 3200, 9600)}
    assert chosen == {1: False, 50: False, 100: False, 300: True, 3200: True, 9600: True}


class Stream:
    """A stream whose first words exceed the primes."""

    def __init__(self):
        self.prg = PRG.derive("rejected")
        self.asked = []

    def words(self, count):
        self.asked.append(count)
        words = self.prg.words(count)
        if len(self.asked) < 3:
            words[:2] = [PRIMES[0], 2**64 - 1]
        return words


def test_words_that_are_no_residues_are_drawn_again():
    stream = Stream()
    part = _public_part(stream)
    assert stream.asked == [2 * DEGREE, 2, 2]  # p1 and 2^62 − 1 of the upper row
    assert (part < np.array(PRIMES, np.uint64)[:, None]).all()


def quotient(setting, a):
    """The attack on the part a: divide by the public factor, as the key holder can."""
    inverse = np.array(
        [[pow(value, -1, p) for value in row] for row, p in zip(setting.public[1].tolist(), PRIMES, strict=True)],
        np.uint64,
    )
    RING.to_montgomery(inverse)
    found = RING.contract(a[None, None], inverse[None, None])
    RING.inverse(found)
    return found[0, 0]


def test_without_an_encryption_of_zero_the_part_a_gives_the_secret_away(setting):
    assert setting.packing.polynomials == 1
    secret = RING.reduce(setting.packing.pieces(setting.x))[0]
    a, _ = setting.evaluate(Rerandomisation(none().secret, none().noise, Rerandomisation.draw(PRG, ROWS).flood))
    assert np.array_equal(quotient(setting, a), secret)
    a, _ = setting.evaluate(Rerandomisation.draw(PRG.derive("zero"), ROWS))
    recovered = quotient(setting, a)
    agreeing = (recovered == secret).mean()
    assert agreeing < 0.01
    small = (recovered < 1000) | (recovered > np.array(PRIMES, np.uint64)[:, None] - np.uint64(1000))
    assert small.mean() < 0.01


def test_the_part_a_carries_noise_of_its_own(setting):
    randomness = Rerandomisation.draw(PRG.derive("part a"), ROWS)
    with_noise, _ = setting.evaluate(randomness)
    without, _ = setting.evaluate(Rerandomisation(randomness.secret, none().noise, randomness.flood))
    difference = RING.subtract(with_noise, without)
    RING.inverse(difference)
    assert np.array_equal(difference, RING.reduce(randomness.noise))
    assert abs(randomness.noise.std() / 3.2 - 1) < 0.05


def predicted_noise(setting, x):
    """The noise that the key holder expects if the secret is x: it can open its own ciphertexts."""
    opened = RING.add(setting.private[1:], setting.key.times(setting.public[1:]))
    factors = RING.spectrum(setting.packing.pieces(x))[:, None]
    RING.to_montgomery(factors)
    total = RING.contract(opened, factors)
    RING.inverse(total)
    values = [lift(*pair) for pair in zip(*total[0, 0, :, :ROWS].tolist(), strict=True)]
    words = (setting.matrix @ x.view(np.uint64)).tolist()
    return np.array([centred(v - -(-MODULUS * w // 2**64)) for v, w in zip(values, words, strict=True)])


def test_without_flooding_the_noise_is_a_linear_map_of_the_secret(setting):
    other = setting.x.copy()
    other[:40] = (other[:40] + 2) % 3 - 1
    right, wrong = predicted_noise(setting, setting.x), predicted_noise(setting, other)
    bare = np.array(setting.noise(*setting.evaluate(none())))
    assert (abs(bare - right) <= 1).all()  # the mask's own rounding
    assert (abs(bare - wrong) > 1).any()
    flooded = np.array(setting.noise(*setting.evaluate(Rerandomisation.draw(PRG.derive("covered"), ROWS))))
    assert (abs(flooded - right) > 2**50).all()
    assert (abs(flooded - wrong) > 2**50).all()


def test_equal_seeds_give_equal_ciphertexts_and_others_do_not(setting):
    def one(seed):
        return setting.evaluate(Rerandomisation.draw(Prg(seed), ROWS))

    first, again, other = one(b"\1" * 32), one(b"\1" * 32), one(b"\2" * 32)
    assert all(np.array_equal(x, y) for x, y in zip(first, again, strict=True))
    assert not (first[0] == other[0]).any()
    assert not (first[1] == other[1]).any()


def test_public_parts_are_residues_and_belong_to_their_seed():
    parts = public_parts(b"\1" * 32, 3)
    assert (parts < np.array(PRIMES, np.uint64)[:, None]).all()
    assert np.array_equal(parts[:2], public_parts(b"\1" * 32, 2))
    assert not (parts == public_parts(b"\2" * 32, 3)).any()


def test_secrets_neither_print_nor_pickle_and_can_be_overwritten():
    randomness = Rerandomisation.draw(PRG, 2)
    key = SecretKeys(PRG, 2)
    assert repr(randomness) == "Rerandomisation(<secret>)"
    assert repr(key) == "SecretKeys(<secret>)"
    for secret in (randomness, key):
        with pytest.raises(UsageError):
            pickle.dumps(secret)
    randomness.destroy()
    assert not any(part.any() for part in (randomness.secret, randomness.noise, randomness.flood))
