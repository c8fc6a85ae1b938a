import gmpy2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.kernels import float_ntt
from unseen.kernels.float_ntt import PRIME, TERMS
from unseen.kernels.jit import compiled
from unseen.kernels.vectors import load, splat, store

WORD = 2**64
# Words whose halves are as large as halves can be, or of which one half borrows from the other.
EDGES = [-(2**63), 2**63 - 1, 0x7FFFFFFF_7FFFFFFF, -0x7FFFFFFF_80000000, 0x80000000, -0x80000000, -1, 0]


@compiled
def product_of(x, y, out):
    p, p_inverse = splat(float(PRIME)), splat(1 / PRIME)
    store(out, 0, float_ntt.product(load(x, 0), load(y, 0), p, p_inverse))
    store(out, 8, float_ntt.reduced(load(x, 0), p, p_inverse))


def negacyclic(x, y):
    """Return the words of Σ_κ x[κ]·y[κ], with Python's integers."""
    degree = len(x[0])
    out = [0] * degree
    for left, right in zip(x, y, strict=True):
        for i, a in enumerate(left):
            for j, b in enumerate(right):
                out[(i + j) % degree] += a * b if i + j < degree else -a * b
    return [value % WORD for value in out]


def by_matrices(x, y):
    """Return the same by a product of matrices of words, for the degree in use."""
    degree = x.shape[-1]
    row, column = np.indices((degree, degree))
    terms = x.view(np.uint64)[:, (row - column) % degree]
    return (np.where(row < column, -terms, terms) @ y.view(np.uint64)[:, :, None])[..., 0].sum(axis=0, dtype=np.uint64)


def products(x, y, rows):
    """Return what the kernel adds to zeros, and one more word that it must not touch."""
    _, rank, degree = x.shape
    halves = np.empty((-(-len(x) // 8), rank, 2, degree, 8))
    float_ntt.fill_halves(x, halves)
    out = np.zeros((len(y), rows), np.uint64)
    for group in range(len(halves)):
        float_ntt.add_products(out, group, halves[group], float_ntt.spectra(y), float_ntt.roots(degree).inverse)
    return out


def test_the_prime_is_the_largest_that_fits_and_leaves_room_for_the_terms():
    assert next(p for p in range(2**44 + 1 - 2**14, 0, -(2**14)) if gmpy2.is_prime(p)) == PRIME
    assert 2**31 * TERMS < 0.32 * PRIME


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.integers(-(2**50), 2**50), min_size=8, max_size=8),
    st.lists(st.integers(-(PRIME // 2), PRIME // 2), min_size=8, max_size=8),
)
def test_products_of_residues_are_exact(x, y):
    out = np.empty(16)
    product_of(np.array(x, float), np.array(y, float), out)
    for a, b, found, reduced in zip(x, y, out[:8].tolist(), out[8:].tolist(), strict=True):
        assert (int(found) - a * b) % PRIME == 0
        assert abs(found) <= 0.69 * PRIME
        assert (int(reduced) - a) % PRIME == 0
        assert abs(reduced) <= PRIME // 2 + 1


def test_products_of_residues_are_exact_at_the_ends():
    ends = [2**50, -(2**50), 2**50 - 1, 1, 0, PRIME, -PRIME // 2, 64 * PRIME - 2**50]
    for factor in (PRIME // 2, -(PRIME // 2), 1, PRIME // 3):
        out = np.empty(16)
        product_of(np.array(ends, float), np.full(8, float(factor)), out)
        assert all((int(found) - a * factor) % PRIME == 0 for a, found in zip(ends, out[:8].tolist(), strict=True))


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    st.sampled_from([4, 8, 16, 32]), st.integers(1, 17), st.integers(1, 5), st.integers(0, 2**32), st.integers(0, 31)
)
def test_sums_of_products_are_those_of_the_school_book(degree, blocks, rank, seed, missing):
    rng = np.random.default_rng(seed)
    x = np.where(
        rng.random((blocks, rank, degree)) < 0.5,
        rng.choice(EDGES, (blocks, rank, degree)),
        rng.integers(-(2**63), 2**63, (blocks, rank, degree)),
    )
    y = rng.integers(-1, 2, (2, rank, degree))
    rows = max(1, blocks * degree - missing)
    expected = [[word for block in x.tolist() for word in negacyclic(block, each)][:rows] for each in y.tolist()]
    assert products(x, y, rows).tolist() == expected


@pytest.mark.parametrize("word", EDGES)
def test_the_largest_sums_of_the_matrix_in_use(word):
    """2560 terms of one sign at the last coefficient, and of the other one at the first."""
    x = np.full((1, 5, 512), word)
    y = np.stack([np.ones((5, 512), np.int64), -np.ones((5, 512), np.int64)])
    signs = 2 * np.arange(1, 513) - 512
    expected = [(5 * word * (signs * sign).astype(object)) % WORD for sign in (1, -1)]
    assert products(x, y, 512).tolist() == [row.tolist() for row in expected]


def test_random_words_in_the_size_in_use():
    rng = np.random.default_rng(0)
    x, y = rng.integers(-(2**63), 2**63, (9, 5, 512)), rng.integers(-1, 2, (3, 5, 512))
    expected = [np.concatenate([by_matrices(block, each) for block in x])[:4500] for each in y]
    assert np.array_equal(products(x, y, 4500), expected)


@pytest.mark.parametrize("degree", [8, 16, 512])
def test_the_worst_case_spectra_come_back(degree):
    """All residues of one polynomial as large as they can be, of either sign."""
    for value in (2.5 * PRIME // 1, -2.5 * PRIME // 1):
        spectra = np.full(degree * 8, value)
        float_ntt.inverse(spectra, degree, float_ntt.roots(degree).inverse)
        back = spectra.copy()
        float_ntt.forward(back, degree, float_ntt.roots(degree).forward)
        assert ((back - degree * value) % PRIME == 0).all()
        assert (abs(spectra) <= PRIME // 2 + 1).all()
