import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unseen.kernels import vectors as v
from unseen.kernels.jit import compiled

WORD = 2**64
words = st.lists(st.integers(0, WORD - 1), min_size=8, max_size=8)
shifts = st.lists(st.integers(0, 63), min_size=8, max_size=8)
doubles = st.lists(st.floats(-1e100, 1e100, allow_nan=False), min_size=8, max_size=8)
exact = settings(deadline=None, derandomize=True)


@compiled
def of_words(x, y, out):
    a, b = v.load(x, 0), v.load(y, 0)
    v.store(out, 0, v.add(a, b))
    v.store(out, 8, v.subtract(a, b))
    v.store(out, 16, v.times(a, b))
    v.store(out, 24, v.both(a, b))
    v.store(out, 32, v.differing(a, b))
    v.store(out, 40, v.wrap_once(a, b))


@compiled
def shifted(x, bits, out):
    a, b = v.load(x, 0), v.load(bits, 0)
    v.store(out, 0, v.shifted_up(a, b))
    v.store(out, 8, v.shifted_down(a, b))


@compiled
def of_doubles(x, y, z, out):
    a, b, c = v.load(x, 0), v.load(y, 0), v.load(z, 0)
    v.store(out, 0, v.add(a, b))
    v.store(out, 8, v.subtract(a, b))
    v.store(out, 16, v.times(a, b))
    v.store(out, 24, v.fused(a, b, c))
    v.store(out, 32, v.nearest(a))


@compiled
def moved(x, first, out):
    v.store(out, first, v.load(x, first))


@compiled
def filled(value, out):
    v.store(out, 0, v.splat(value))


@compiled
def widened(x, first, out):
    v.store(out, 0, v.load_integers(x, first))


@exact
@given(words, words)
@example([WORD - 1] * 8, [WORD - 1] * 8)
@example([0] * 8, [1] * 8)
def test_operations_on_words_wrap(x, y):
    out = np.zeros((6, 8), np.uint64)
    of_words(np.array(x, np.uint64), np.array(y, np.uint64), out)
    pairs = list(zip(x, y, strict=True))
    assert out[0].tolist() == [(a + b) % WORD for a, b in pairs]
    assert out[1].tolist() == [(a - b) % WORD for a, b in pairs]
    assert out[2].tolist() == [a * b % WORD for a, b in pairs]
    assert out[3].tolist() == [a & b for a, b in pairs]
    assert out[4].tolist() == [a ^ b for a, b in pairs]
    assert out[5].tolist() == [a - b if a >= b else a for a, b in pairs]


@exact
@given(words, shifts)
def test_shifts_are_unsigned(x, bits):
    out = np.zeros((2, 8), np.uint64)
    shifted(np.array(x, np.uint64), np.array(bits, np.uint64), out)
    pairs = list(zip(x, bits, strict=True))
    assert out.tolist() == [[(a << b) % WORD for a, b in pairs], [a >> b for a, b in pairs]]


@exact
@given(doubles, doubles, doubles)
@example([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 2.0**52 + 1, 0.1], [1 + 2.0**-52] * 8, [-1.0] * 8)
def test_operations_on_doubles_round_once(x, y, z):
    a, b, c = (np.array(values) for values in (x, y, z))
    out = np.zeros((5, 8))
    of_doubles(a, b, c, out)
    assert np.array_equal(out[:3], [a + b, a - b, a * b])
    assert out[3].tolist() == [float(Fraction(p) * Fraction(q) + Fraction(r)) for p, q, r in zip(x, y, z, strict=True)]
    assert out[4].tolist() == [round(value) for value in x]


@pytest.mark.parametrize("dtype", [np.uint64, np.int64, np.float64])
def test_loads_and_stores_need_no_alignment_and_touch_eight_items(dtype):
    x = np.arange(20).astype(dtype)
    out = np.zeros(20, dtype)
    moved(x, 5, out)
    assert out.tolist() == [0] * 5 + list(range(5, 13)) + [0] * 7


@pytest.mark.parametrize("value", [np.uint64(WORD - 1), np.float64(math.pi)])
def test_splat(value):
    out = np.zeros(8, type(value))
    filled(value, out)
    assert out.tolist() == [value] * 8


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
def test_narrow_integers_keep_their_sign(dtype):
    limits = np.iinfo(dtype)
    x = np.array([7, limits.min, limits.max, -1, 0, 1, -2, 2, 3], dtype)
    out = np.zeros(8, np.uint64)
    widened(x, 1, out)
    assert out.view(np.int64).tolist() == x[1:].tolist()


def test_scalar_kernels_are_picked_on_request(monkeypatch):
    monkeypatch.setenv("UNSEEN_VECTORS", "off")
    assert v.pick("vector", "scalar") == "scalar"
    monkeypatch.delenv("UNSEEN_VECTORS")
    assert v.pick("vector", "scalar") == ("vector" if v.has_vectors() else "scalar")
