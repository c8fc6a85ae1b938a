"""Streams follow from their seeds, are independent of one another, and do not show their seed."""

import copy
import hmac
import math
import pickle
import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from unseen.crypto.prg import SEED_BYTES, Prg
from unseen.errors import UsageError

SEED = bytes(range(32))


def test_the_stream_is_aes_in_counter_mode_under_a_derived_key() -> None:
    key = hmac.digest(SEED, b"unseen/prg/stream", "sha256")
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    assert Prg(SEED).bytes(1000) == cipher.update(bytes(1000))


def test_derived_seeds_are_hmacs_of_framed_names() -> None:
    framed = b"".join(struct.pack("<Q", len(part)) + part for part in (b"unseen/prg/derive", b"label", b"a", b"bc"))
    derived = Prg(hmac.digest(SEED, framed, "sha256"))
    assert Prg(SEED).derive("label", b"a", b"bc").bytes(64) == derived.bytes(64)


def test_streams_stay_the_same_between_versions() -> None:
    """A job that is resumed after an update has to send the same bytes again."""
    assert Prg(SEED).bytes(16).hex() == "14d55f84fdfc546ba47a327b7ca88974"
    assert Prg(SEED).derive("label", b"a", b"bc").bytes(16).hex() == "811e19ec0905301b6d1b76d76589d6ce"
    assert Prg(SEED).permutation(8).tolist() == [4, 2, 5, 3, 7, 1, 0, 6]
    assert Prg(SEED).below(1000, 5).tolist() == [276, 676, 101, 414, 959]


@given(st.lists(st.integers(0, 100), max_size=10))
def test_the_stream_does_not_depend_on_how_it_is_read(counts: list[int]) -> None:
    pieces = Prg(SEED)
    assert b"".join(pieces.bytes(count) for count in counts) == Prg(SEED).bytes(sum(counts))


def test_reading_goes_on_where_it_stopped() -> None:
    prg = Prg(SEED)
    assert prg.bytes(32) != prg.bytes(32)


def test_deriving_does_not_depend_on_what_was_read() -> None:
    read, fresh = Prg(SEED), Prg(SEED)
    read.bytes(100)
    assert read.derive("x").bytes(32) == fresh.derive("x").bytes(32)


def test_all_names_give_different_streams() -> None:
    prg = Prg(SEED)
    family = [
        prg,
        prg.derive(""),
        prg.derive("a"),
        prg.derive("ab"),
        prg.derive("a", b"b"),
        prg.derive("a", b""),
        prg.derive("a", b"", b""),
        prg.derive("a", b"b", b"c"),
        prg.derive("a", b"bc"),
        prg.derive("a").derive("b"),
        Prg(bytes(32)),
    ]
    assert len({member.bytes(16) for member in family}) == len(family)


def test_words_are_the_little_endian_stream() -> None:
    words = Prg(SEED).words(5)
    assert words.dtype == np.uint64
    assert words.tolist() == list(struct.unpack("<5Q", Prg(SEED).bytes(40)))


@pytest.mark.parametrize("count", [0, 1, 2047, 2048, 2049, 5000])
def test_filling_reads_the_same_stream_as_bytes(count: int) -> None:
    filled, read = Prg(SEED), Prg(SEED)
    words, octets = np.ones((2, count), np.uint64), np.ones(count, np.uint8)
    filled.fill(words)
    filled.fill(octets)
    assert words.tobytes() + octets.tobytes() == read.bytes(17 * count)
    assert filled.bytes(16) == read.bytes(16)


@given(st.integers(1, 1 << 64), st.integers(0, 50))
def test_numbers_below_a_bound(bound: int, count: int) -> None:
    found = Prg(SEED).below(bound, count)
    assert found.dtype == np.uint64
    assert len(found) == count
    assert all(int(number) < bound for number in found)


@pytest.mark.parametrize("bound", [-1, 0, (1 << 64) + 1])
def test_other_bounds_are_refused(bound: int) -> None:
    with pytest.raises(UsageError, match=f"found {bound}"):
        Prg(SEED).below(bound, 1)


@pytest.mark.parametrize("bound", [2, 3, 5, 6, 100])
def test_numbers_below_a_bound_are_uniform(bound: int) -> None:
    draws = 20_000
    counts = np.bincount(Prg(SEED).below(bound, draws).astype(np.int64), minlength=bound)
    expected = draws / bound
    chi_squared = float(np.square(counts - expected).sum() / expected)
    assert chi_squared < bound - 1 + 5 * math.sqrt(2 * (bound - 1)) + 10


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_permutations_hold_every_row_once(count: int) -> None:
    found = Prg(SEED).permutation(count)
    assert found.dtype == np.int64
    assert sorted(found.tolist()) == list(range(count))


def test_permutations_are_uniform() -> None:
    prg, draws = Prg(SEED), 6000
    counts = np.unique([prg.permutation(3) for _ in range(draws)], axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert np.abs(counts - draws / 6).max() < 5 * math.sqrt(draws / 6)


def test_fresh_generators_differ() -> None:
    assert Prg.fresh().bytes(32) != Prg.fresh().bytes(32)


@pytest.mark.parametrize("size", [0, SEED_BYTES - 1, SEED_BYTES + 1])
def test_seeds_of_another_length_are_refused(size: int) -> None:
    with pytest.raises(UsageError, match=f"a seed has 32 bytes, found {size}"):
        Prg(bytes(size))


def test_the_seed_cannot_be_printed_or_pickled() -> None:
    prg = Prg(SEED)
    assert repr(prg) == str(prg) == "Prg(<secret>)"
    for take in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(UsageError, match="cannot be pickled"):
            take(prg)
    assert not hasattr(prg, "__dict__")
