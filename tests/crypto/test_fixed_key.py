"""Hashing by AES with a public key: the block cipher's own test vector, and the two constructions."""

import numpy as np
import pytest

from unseen.crypto.fixed_key import Permutation
from unseen.errors import UsageError


def blocks(*texts):
    return np.frombuffer(bytes.fromhex("".join(texts)), "<u8").reshape(-1, 2)


def test_the_permutation_is_aes_128():
    """FIPS 197, appendix C.1."""
    pi = Permutation(bytes(range(16)))
    found = pi.permuted(blocks("00112233445566778899aabbccddeeff"))
    assert found.tobytes().hex() == "69c4e0d86a7b0430d8cdb78070b4c55a"


@pytest.mark.parametrize("count", [0, 1, 3, (1 << 13) + 5])
def test_constructions(count):
    pi, rng = Permutation(b"k" * 16), np.random.default_rng(0)
    x, i = (rng.integers(0, 2**64, (count, 2), dtype=np.uint64) for _ in range(2))
    np.testing.assert_array_equal(pi.one_way(x), pi.permuted(x) ^ x)
    np.testing.assert_array_equal(pi.tweaked(x, i), pi.permuted(pi.permuted(x) ^ i) ^ pi.permuted(x))


def test_any_shape_and_order_of_memory():
    pi, x = Permutation(bytes(16)), np.arange(24, dtype=np.uint64).reshape(3, 4, 2)
    np.testing.assert_array_equal(pi.permuted(x[:, ::2])[1, 1], pi.permuted(x[1, 2][None])[0])


def test_keys_of_another_length_are_refused():
    with pytest.raises(UsageError, match="a fixed key has 16 bytes, found 32"):
        Permutation(bytes(32))
