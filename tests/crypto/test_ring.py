from fractions import Fraction

import gmpy2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.crypto.lattice_parameters import MODULUS, PRIMES
from unseen.crypto.ring import Ring, are_residues, decode, ring
from unseen.errors import LocalProtocolError

WORD = 2**64


def negacyclic(x, y):
    degree = len(x)
    out = [0] * degree
    for i, left in enumerate(x):
        for j, right in enumerate(y):
            sign = 1 if i + j < degree else -1
            out[(i + j) % degree] += sign * left * right
    return out


def product(field, x, y):
    right = field.spectrum(np.array([y], np.int64))
    field.to_montgomery(right)
    out = field.contract(field.spectrum(np.array([x], np.int64))[None], right[None])
    field.inverse(out)
    return out


def test_the_primes_are_the_largest_that_fit():
    candidates = range(2**62 + 1, 2**62 - 10 * 16384, -16384)
    assert tuple(p for p in candidates if p < 2**62 and gmpy2.is_prime(p))[:2] == PRIMES


@settings(deadline=None)
@given(st.sampled_from([2, 8, 64]), st.integers(0, 2**32), st.integers(0, 50))
def test_products_of_words_and_small_integers_are_exact_modulo_the_word(degree, seed, bits):
    rng = np.random.default_rng(seed)
    x = rng.integers(-(2**63), 2**63, degree).tolist()
    y = rng.integers(-(2**bits), 2**bits + 1, degree).tolist()
    assert ring(degree).to_words(product(ring(degree), x, y)).ravel().tolist() == [c % WORD for c in negacyclic(x, y)]


@pytest.mark.parametrize("degree", [512, 8192])
def test_extreme_products_in_the_rings_in_use(degree):
    x, y = [-(2**63)] * degree, [2**40] * degree
    expected = [-(2**103) * (2 * (k + 1) - degree) for k in range(degree)]
    residues = product(ring(degree), x, y).reshape(2, degree)
    assert residues.tolist() == [[value % p for value in expected] for p in PRIMES]


def test_to_words_gives_signed_integers_modulo_the_word():
    values = [0, 1, -1, 2**64, -(2**64) - 3, MODULUS // 5, -(MODULUS // 5), MODULUS // 2 - PRIMES[0]]
    residues = np.array([[value % p for value in values] for p in PRIMES], np.uint64)
    assert ring(8).to_words(residues).tolist() == [value % WORD for value in values]


@settings(deadline=None)
@given(st.lists(st.integers(0, WORD - 1), min_size=4, max_size=4))
def test_encoding_rounds_up_and_decoding_undoes_it(words):
    encoded = ring(4).encode(np.array(words, np.uint64))
    assert encoded.tolist() == [[-(-MODULUS * word // WORD) % p for word in words] for p in PRIMES]
    assert decode(encoded).tolist() == words


@settings(deadline=None)
@given(st.integers(0, WORD - 1), st.integers(-(2**59) + 2**15, 2**59 - 2**15))
def test_decoding_bears_noise_up_to_half_a_step(word, noise):
    value = -(-MODULUS * word // WORD) + noise
    assert decode(np.array([[value % p] for p in PRIMES], np.uint64)).tolist() == [word]


EDGE_RESIDUES = [0, 1, 2**61, PRIMES[1] - 1]


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    st.one_of(st.integers(0, PRIMES[0] - 1), st.sampled_from([*EDGE_RESIDUES, PRIMES[0] - 1])),
    st.one_of(st.integers(0, PRIMES[1] - 1), st.sampled_from(EDGE_RESIDUES)),
)
def test_decoding_rounds_any_element_exactly(low, high):
    value = low + PRIMES[0] * ((high - low) * pow(PRIMES[0], -1, PRIMES[1]) % PRIMES[1])
    found = decode(np.array([[low], [high]], np.uint64)).tolist()
    assert found == [round(Fraction(value * WORD, MODULUS)) % WORD]


@settings(deadline=None, derandomize=True)
@given(st.integers(0, WORD - 1))
def test_decoding_is_exact_on_both_sides_of_a_border(word):
    border = (2 * word + 1) * MODULUS // (2 * WORD)  # the largest that is rounded to ``word``
    values = [border - 1, border, border + 1, border + 2]
    expected = [round(Fraction(value * WORD, MODULUS)) % WORD for value in values]
    assert expected[1:3] == [word, (word + 1) % WORD]
    assert decode(np.array([[value % p for value in values] for p in PRIMES], np.uint64)).tolist() == expected


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.sampled_from([2, 4, 16, 32]), st.sampled_from([(12289,), (*PRIMES, 40961), (7340033, *PRIMES, 12289)]))
def test_rings_of_other_primes(degree, primes):
    field = ring(degree, primes)
    rng = np.random.default_rng(degree)
    x, y = (rng.integers(-(2**62), 2**62, (2, degree)) for _ in range(2))
    factors = field.spectrum(y)
    field.to_montgomery(factors)
    out = field.contract(field.spectrum(x)[:, None], factors[:, None])
    field.inverse(out)
    exact = sum(np.array(negacyclic(a, b), object) for a, b in zip(x.tolist(), y.tolist(), strict=True))
    assert out.shape == (1, 1, len(primes), degree)
    assert out[0, 0].tolist() == [(exact % p).tolist() for p in primes]
    doubled = field.add(out, out)
    assert doubled[0, 0].tolist() == [(2 * exact % p).tolist() for p in primes]
    assert np.array_equal(field.subtract(doubled, out), out)
    assert ring(degree, primes) is field


def test_contract_sums_over_its_terms_and_adds_to_what_is_there():
    field = ring(8)
    rng = np.random.default_rng(3)
    x, y = rng.integers(-99, 99, (3, 2, 8)), rng.integers(-99, 99, (3, 4, 8))
    factors = field.spectrum(y)
    field.to_montgomery(factors)
    total = field.contract(field.spectrum(x), factors)
    total = field.contract(field.spectrum(x), factors, total)
    field.inverse(total)
    expected = [
        [2 * sum(np.array(negacyclic(x[i, r].tolist(), y[i, c].tolist())) for i in range(3)) for c in range(4)]
        for r in range(2)
    ]
    assert np.array_equal(field.to_words(total).view(np.int64), np.array(expected))


def test_sums_and_differences_stay_below_the_primes():
    field = ring(2)
    ends = np.array([[0, p - 1] for p in PRIMES], np.uint64)
    for x, y in [(ends, ends), (ends, ends[:, ::-1]), (ends[:, ::-1], ends)]:
        for found, sign in ((field.add(x, y), 1), (field.subtract(x, y), -1)):
            pairs = zip(x.tolist(), y.tolist(), PRIMES, strict=True)
            assert found.tolist() == [[(a + sign * b) % p for a, b in zip(u, v, strict=True)] for u, v, p in pairs]


def test_are_residues():
    values = np.zeros((3, 2, 4), np.uint64)
    assert are_residues(values)
    values[1, 1, 2] = PRIMES[1] - 1
    assert are_residues(values)
    values[1, 1, 2] = PRIMES[1]
    assert not are_residues(values)


def test_misuse_is_refused():
    with pytest.raises(LocalProtocolError, match="length 1048576"):
        Ring(1 << 20)
    with pytest.raises(LocalProtocolError, match="no transform of length 4"):
        Ring(4, (PRIMES[0] * PRIMES[1],))
    with pytest.raises(LocalProtocolError, match="contiguous"):
        ring(8).forward(ring(8).zeros(4)[::2])
