"""Digests in bulk are those of ``hashlib``, eight at a time and one by one."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.errors import UsageError
from unseen.kernels import blake2b

KEY = bytes(range(32))


def buffers(strings):
    offsets = np.zeros(len(strings) + 1, np.int64)
    np.cumsum([len(string) for string in strings], out=offsets[1:])
    return np.frombuffer(b"".join(strings), np.uint8), offsets


def expected(strings, key=KEY):
    digests = [hashlib.blake2b(string, digest_size=16, key=key).digest() for string in strings]
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


@given(st.lists(st.binary(max_size=400), max_size=30), st.binary(min_size=32, max_size=32))
@settings(deadline=None, derandomize=True, max_examples=80)
def test_digests_are_hashlibs(strings, key):
    np.testing.assert_array_equal(blake2b.hash_all(*buffers(strings), key), expected(strings, key))


@pytest.mark.parametrize("kernel", [blake2b._hash_many, blake2b._hash_each])
def test_both_ways_agree_at_every_length(kernel):
    """Lengths around the blocks' ends, in every lane; the empty string is the caller's."""
    rng = np.random.default_rng(0)
    strings = [rng.bytes(int(length)) for length in rng.permutation([*range(1, 300), 384, 385, 1000, 1024])]
    content, offsets = buffers(strings)
    digests = np.empty((len(strings), 2), np.uint64)
    kernel(content, offsets, blake2b._keyed(np.frombuffer(KEY, np.uint8)), digests)
    np.testing.assert_array_equal(digests, expected(strings))


def test_many_strings_are_spread_over_threads(monkeypatch):
    monkeypatch.setattr(blake2b, "_WORTH_A_THREAD", 10)
    monkeypatch.setenv("UNSEEN_THREADS", "3")
    strings = [f"person-{number}".encode() for number in range(101)]
    np.testing.assert_array_equal(blake2b.hash_all(*buffers(strings), KEY), expected(strings))


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_keys_of_another_length_are_refused(key):
    with pytest.raises(UsageError, match="a key has 32 bytes"):
        blake2b.hash_all(*buffers([b"a"]), key)


@pytest.mark.parametrize("offsets", [[0, 2], [1, 3], [0, 4], [0, 3, 2, 3]])
def test_offsets_that_do_not_fit_are_refused(offsets):
    with pytest.raises(UsageError, match="rise from 0"):
        blake2b.hash_all(np.zeros(3, np.uint8), np.array(offsets, np.int64), KEY)
