import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unseen.crypto.lattice_parameters import PRIMES
from unseen.kernels import ntt
from unseen.kernels.jit import compiled

WORDS = st.integers(0, 2**64 - 1)
MODULI = np.array([[p, pow(p, -1, 2**64)] for p in PRIMES], np.uint64)


@compiled
def high_word(x, y):
    return ntt.high_word(x, y)


@settings(deadline=None)
@given(x=WORDS, y=WORDS)
@example(x=2**64 - 1, y=2**64 - 1)
def test_high_word_is_the_upper_half_of_the_product(x, y):
    assert high_word(np.uint64(x), np.uint64(y)) == x * y >> 64


@pytest.mark.parametrize(("p", "p_inverse"), MODULI.tolist())
@settings(deadline=None)
@given(x=WORDS, y=WORDS)
@example(x=2**64 - 1, y=2**64 - 1)
@example(x=0, y=0)
def test_multiply_is_a_montgomery_product(p, p_inverse, x, y):
    operands = [np.uint64(value) for value in (x, y % p, p, p_inverse)]
    expected = x * (y % p) * pow(2**64, -1, p) % p
    assert int(ntt.multiply(*operands)) == expected
    assert int(ntt.lazy_multiply(*operands)) in (expected, expected + p)


@settings(deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5))
@example([-(2**63), 2**63 - 1, 0, -1, PRIMES[0], -PRIMES[1]])
def test_residues_of_signed_words(values):
    out = np.empty((1, 2, len(values)), np.uint64)
    ntt.residues(np.array([values], np.int64), out, MODULI)
    assert out[0].tolist() == [[value % p for value in values] for p in PRIMES]


def _roots(degree, p, order):
    root = next(r for r in (pow(g, (p - 1) // (2 * degree), p) for g in range(2, 99)) if pow(r, degree, p) == p - 1)
    bits = degree.bit_length() - 1
    reverse = [int(f"{i:0{bits}b}"[::-1], 2) for i in range(degree)]
    return root, [pow(root, order * exponent, p) for exponent in reverse], reverse


@settings(deadline=None)
@given(st.sampled_from([2, 4, 16, 64]), st.integers(0, 2**32))
def test_forward_evaluates_at_odd_powers_of_the_root_and_inverse_undoes_it(degree, seed):
    rng = np.random.default_rng(seed)
    values = np.stack([rng.integers(0, p, degree, np.uint64) for p in PRIMES])[None]
    found = [_roots(degree, p, 1) for p in PRIMES]
    montgomery = [[value * 2**64 % p for value in roots] for (_, roots, _), p in zip(found, PRIMES, strict=True)]
    inverses = [[value * 2**64 % p for value in _roots(degree, p, -1)[1]] for p in PRIMES]
    spectra = values.copy()
    ntt.forward(spectra, np.array(montgomery, np.uint64), MODULI)
    for limb, (p, (root, _, reverse)) in enumerate(zip(PRIMES, found, strict=True)):
        coefficients = values[0, limb].tolist()
        expected = [
            sum(c * pow(root, (2 * index + 1) * k, p) for k, c in enumerate(coefficients)) % p for index in reverse
        ]
        assert spectra[0, limb].tolist() == expected
    scale = np.array([pow(degree, -1, p) * 2**64 % p for p in PRIMES], np.uint64)
    ntt.inverse(spectra, np.array(inverses, np.uint64), scale, MODULI)
    assert np.array_equal(spectra, values)
