import copy
import math
import pickle

import numpy as np
import pytest
from gmpy2 import mpz, next_prime
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.crypto.paillier import (
    PrivateKey,
    PublicKey,
    check_key_bits,
    integers_from_rows,
    integers_to_rows,
    uniform_below,
)
from unseen.crypto.prg import Prg
from unseen.errors import RemoteProtocolError, UsageError

SOME = settings(deadline=None, derandomize=True, max_examples=20)


def prg(label="test"):
    return Prg(bytes(32)).derive(label)


KEY = PrivateKey.generate(prg("key"), 2048)
PUBLIC = KEY.public
N = int(PUBLIC.modulus)
HALF = N // 2
P, Q = int(KEY._p), int(KEY._q)
values = st.one_of(st.integers(-(2**63), 2**63), st.integers(-HALF, HALF), st.sampled_from([0, 1, -1, HALF, -HALF]))


# --- keys --------------------------------------------------------------------------------------------------------


def test_a_key_has_the_size_asked_for_and_factors_far_apart():
    assert N.bit_length() == 2048
    assert P * Q == N
    assert P.bit_length() == Q.bit_length() == 1024
    assert abs(P - Q).bit_length() > 1024 - 100
    assert math.gcd(N, (P - 1) * (Q - 1)) == 1
    assert mpz(P).is_prime()
    assert mpz(Q).is_prime()


def test_keys_come_from_the_stream_alone():
    assert PrivateKey.generate(prg("key"), 2048).public == PUBLIC
    assert PrivateKey.generate(prg("other"), 2048).public != PUBLIC


def test_keys_have_128_bits_of_security_by_default():
    assert PrivateKey.generate(prg("default")).public.modulus.bit_length() == 3072


@pytest.mark.parametrize("bits", [0, 512, 2047, 2049, 2056, 8208])
def test_key_sizes_out_of_range_are_refused(bits):
    with pytest.raises(UsageError, match="2048 to 8192 bits"):
        check_key_bits(bits)
    with pytest.raises(UsageError):
        PrivateKey.generate(prg(), bits)


def test_a_private_key_neither_prints_nor_pickles():
    assert str(P) not in repr(KEY)
    assert repr(KEY) == "PrivateKey(<secret>, 2048 bits)"
    for act in (pickle.dumps, copy.copy):
        with pytest.raises(UsageError, match="pickled"):
            act(KEY)


def test_a_public_key_survives_the_wire():
    assert PublicKey.from_bytes(PUBLIC.to_bytes()) == PUBLIC
    assert PUBLIC.plaintext_bytes == 256
    assert PUBLIC.ciphertext_bytes == 512


BIG = int(next_prime(mpz(1) << 1050))


@pytest.mark.parametrize(
    ("number", "complaint"),
    [
        (P, "1024 bits"),
        (int(next_prime(mpz(1) << 2047)), "is prime"),
        (N * 2, "is even"),
        (N * 65521, "prime factor below"),
        (BIG**2, "perfect power"),
        ((1 << 8192) + 1, "too long"),
    ],
    ids=["small", "prime", "even", "small factor", "power", "huge"],
)
def test_a_modulus_that_is_visibly_none_is_refused(number, complaint):
    with pytest.raises(RemoteProtocolError, match=f"mallory: .*{complaint}"):
        PublicKey.from_bytes(number.to_bytes((number.bit_length() + 7) // 8, "big"), sender="mallory")


@pytest.mark.parametrize("raw", [b"", b"\0" + PUBLIC.to_bytes(), b"\1"])
def test_a_modulus_has_one_encoding(raw):
    with pytest.raises(RemoteProtocolError):
        PublicKey.from_bytes(raw)


# --- encryption --------------------------------------------------------------------------------------------------


@SOME
@given(value=values)
def test_what_either_key_encrypts_is_decrypted(value):
    for key in (KEY, PUBLIC):
        ciphertext = key.encrypt(value, prg())
        assert 0 < ciphertext < N * N
        assert KEY.decrypt(ciphertext) == value


def test_decryption_agrees_with_the_definition():
    # Paillier 1999, Scheme 1: m = L(c^λ mod n²) / L(g^λ mod n²) mod n, written in Python's integers.
    order = math.lcm(P - 1, Q - 1)
    quotient = lambda power: (power - 1) // N
    ciphertext = int(KEY.encrypt(-12345, prg()))
    scale = pow(quotient(pow(1 + N, order, N * N)), -1, N)
    assert quotient(pow(ciphertext, order, N * N)) * scale % N == N - 12345
    assert KEY.decrypt(ciphertext) == -12345


def test_both_ways_of_encrypting_hide_behind_nth_residues():
    # An n-th residue modulo n² is what λ sends to 1, and it is no other plaintext's factor.
    order = math.lcm(P - 1, Q - 1)
    for key in (KEY, PUBLIC):
        hidden = int(key.encrypt(77, prg())) * (1 - 77 * N) % (N * N)
        assert pow(hidden, order, N * N) == 1
        assert hidden != 1


def test_fresh_ciphertexts_of_one_value_differ():
    stream = prg()
    for key in (KEY, PUBLIC):
        assert len({int(key.encrypt(5, stream)) for _ in range(5)}) == 5
        assert key.encrypt(5, prg()) == key.encrypt(5, prg())


@pytest.mark.parametrize("value", [HALF + 1, -HALF - 1, N])
def test_plaintexts_that_would_wrap_are_refused(value):
    for key in (KEY, PUBLIC):
        with pytest.raises(UsageError, match="smaller than n/2"):
            key.encrypt(value, prg())


# --- computing under the key -------------------------------------------------------------------------------------


@SOME
@given(left=values, right=values, factor=st.integers(-(2**64), 2**64))
def test_sums_multiples_and_shifts_are_those_of_the_plaintexts(left, right, factor):
    stream = prg()
    x, y = KEY.encrypt(left, stream), KEY.encrypt(right, stream)
    wrap = lambda value: (value + HALF) % N - HALF
    assert KEY.decrypt(PUBLIC.add(x, y)) == wrap(left + right)
    assert KEY.decrypt(PUBLIC.multiply(x, factor)) == wrap(left * factor)
    assert KEY.decrypt(PUBLIC.shift(x, right)) == wrap(left + right)


def test_rerandomised_ciphertexts_differ_and_decrypt_the_same():
    ciphertext = KEY.encrypt(-9, prg())
    stream = prg("again")
    other, third = PUBLIC.rerandomise(ciphertext, stream), PUBLIC.rerandomise(ciphertext, stream)
    assert len({int(ciphertext), int(other), int(third)}) == 3
    assert KEY.decrypt(other) == KEY.decrypt(third) == -9


weights = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(-1, 1), st.sampled_from([-(2**63), 2**63 - 1]), st.integers(-300, 300)
)
CIPHERTEXTS = [KEY.encrypt(value, prg(str(value))) for value in range(-20, 20)]


@SOME
@given(chosen=st.lists(weights, min_size=40, max_size=40), count=st.integers(0, 40))
def test_combinations_are_exact_for_every_weight(chosen, count):
    expected = sum(w * v for w, v in zip(chosen[:count], range(-20, 20), strict=False))
    combined = PUBLIC.combine(CIPHERTEXTS[:count], np.array(chosen[:count], np.int64))
    assert KEY.decrypt(combined) == expected


def test_combining_with_zeros_only_gives_the_trivial_ciphertext():
    assert PUBLIC.combine(CIPHERTEXTS, np.zeros(40, np.int64)) == 1


# --- the wire ----------------------------------------------------------------------------------------------------


def test_ciphertexts_survive_the_wire():
    rows = PUBLIC.pack(CIPHERTEXTS)
    assert rows.shape == (40, 512)
    assert PUBLIC.unpack(rows) == CIPHERTEXTS
    assert PUBLIC.unpack(PUBLIC.pack([])) == []


@pytest.mark.parametrize("bad", [0, N * N, N * N + 1, P, Q * Q, N * (N - 1)])
def test_what_is_no_ciphertext_is_refused_by_its_place(bad):
    rows = integers_to_rows([CIPHERTEXTS[0], CIPHERTEXTS[1], mpz(bad), CIPHERTEXTS[2]], 512)
    with pytest.raises(RemoteProtocolError, match="mallory: ciphertext 2 "):
        PUBLIC.unpack(rows, sender="mallory")


@given(numbers=st.lists(st.integers(0, 2**64 - 1)))
def test_integers_survive_as_rows(numbers):
    rows = integers_to_rows(map(mpz, numbers), 8)
    assert rows.shape == (len(numbers), 8)
    assert integers_from_rows(rows) == numbers


@pytest.mark.parametrize("bound", [1, 2, 3, 5, 256, 257])
def test_uniform_integers_take_every_value_below_the_bound_evenly(bound):
    stream, draws = prg(), 40 * bound
    counts = np.bincount([int(uniform_below(mpz(bound), stream)) for _ in range(draws)], minlength=bound)
    assert len(counts) == bound
    assert np.square(counts - 40).sum() / 40 < bound + 6 * math.sqrt(2 * bound)
