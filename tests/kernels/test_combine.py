import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.crypto.lattice_parameters import PRIMES
from unseen.kernels import combine
from unseen.kernels.combine import CHUNK

P = PRIMES[0]


def exact(rows, coefficients, prime):
    return (coefficients.astype(object) @ rows.astype(object) % prime).tolist()


def of_one_chunk(kernel, rows, coefficients, prime):
    out = np.zeros((len(coefficients), 3 * CHUNK), np.uint64)
    kernel(rows[None], *combine.indices(coefficients), np.array([prime], np.uint64), out, CHUNK)
    assert not out[:, :CHUNK].any()
    assert not out[:, 2 * CHUNK :].any()
    return out[:, CHUNK : 2 * CHUNK].tolist()


@pytest.mark.parametrize("kernel", [combine.sums_of_vectors, combine.sums_of_words])
@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    st.one_of(st.integers(1, 30), st.integers(31, 200)),
    st.integers(1, 12),
    st.integers(0, 2**32),
    st.sampled_from([*PRIMES, 12289]),
)
def test_sums_are_exact(kernel, arrays, sums, seed, prime):
    rng = np.random.default_rng(seed)
    ends = np.array([0, 1, prime // 2, prime - 1], np.uint64)
    rows = np.where(rng.random((arrays, CHUNK)) < 0.5, rng.choice(ends, (arrays, CHUNK)), rng.integers(0, prime, CHUNK))
    rows, coefficients = rows.astype(np.uint64), rng.integers(-1, 2, (sums, arrays))
    assert of_one_chunk(kernel, rows, coefficients, prime) == exact(rows, coefficients, prime)


@pytest.mark.parametrize("kernel", [combine.sums_of_vectors, combine.sums_of_words])
@pytest.mark.parametrize("value", [0, 1, P // 2, P - 1])
def test_no_sum_of_the_largest_residues_overflows(kernel, value):
    rows = np.full((2001, CHUNK), value, np.uint64)
    alternating = (-1) ** np.arange(2001)
    coefficients = np.stack([np.ones(2001, int), -np.ones(2001, int), alternating, np.zeros(2001, int)])
    assert of_one_chunk(kernel, rows, coefficients, P) == exact(rows, coefficients, P)


def test_every_chunk_has_its_prime_and_its_place():
    rng = np.random.default_rng(1)
    primes = np.array([PRIMES[0], PRIMES[1], PRIMES[1], 12289, PRIMES[0]], np.uint64)
    arrays = rng.integers(0, np.repeat(primes, CHUNK), (7, 5 * CHUNK), np.uint64)
    chunks = combine.chunked(7, 5 * CHUNK)
    combine.put(chunks, 0, arrays[:3])
    combine.put(chunks, 3, arrays[3:])
    coefficients = rng.integers(-1, 2, (6, 7))
    expected = np.array(exact(arrays, coefficients, np.repeat(primes, CHUNK).astype(object)), np.uint64)
    assert np.array_equal(combine.combine(chunks, coefficients, primes), expected)
    assert chunks.ctypes.data % 64 == 0


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(1, 300), st.integers(1, 20), st.integers(0, 2**32))
def test_lists_hold_every_coefficient_once_tile_by_tile(arrays, sums, seed):
    coefficients = np.random.default_rng(seed).integers(-1, 2, (sums, arrays))
    places, limits = combine.indices(coefficients)
    tile, found = combine.tile_size(sums), np.zeros_like(coefficients)
    assert 32 <= tile <= 96
    assert limits[0, 0, 0] == 0
    assert limits[-1, -1, 2] == len(places)
    for index, row in np.ndindex(limits.shape[:2]):
        first, middle, last = limits[index, row]
        assert (places[first:last] // tile == index).all()
        found[row, places[first:middle]] += 1
        found[row, places[middle:last]] -= 1
    assert np.array_equal(found, coefficients)
