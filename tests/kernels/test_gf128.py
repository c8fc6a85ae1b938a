"""Products in GF(2^128) against long multiplication of polynomials."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.kernels.gf128 import add_products, evaluate, geometric, horner, tables

MODULUS = (1 << 128) | 0x87
elements = st.integers(0, 2**128 - 1)


def product(left, right):
    total = 0
    for place in range(128):
        if right >> place & 1:
            total ^= left << place
    for place in range(254, 127, -1):
        if total >> place & 1:
            total ^= MODULUS << (place - 128)
    return total


def words(numbers):
    return np.array([[number & (2**64 - 1), number >> 64] for number in numbers], np.uint64).reshape(-1, 2)


@given(elements, st.lists(elements, max_size=6), st.data())
@settings(deadline=None, derandomize=True, max_examples=60)
def test_products_are_added(factor, others, data):
    before = data.draw(st.lists(elements, min_size=len(others), max_size=len(others)))
    target = words(before)
    add_products(tables(words([factor])[0]), words(others), target)
    expected = [old ^ product(factor, other) for old, other in zip(before, others, strict=True)]
    np.testing.assert_array_equal(target, words(expected))


def test_the_field_has_inverses():
    """x^(2^128 − 1) = 1, which holds for no other modulus of a smaller field."""
    power, element = 0x1234567890ABCDEF << 40 | 7, None
    for _ in range(128):
        element = power if element is None else product(element, power)
        power = product(power, power)
    assert element == 1


@given(st.lists(elements, min_size=256, max_size=256))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_horner_weighs_rows_by_powers_of_x(numbers):
    rows = words(numbers).reshape(128, 2, 2)
    expected = [0, 0]
    for place in range(128):
        for column in range(2):
            expected[column] ^= product(1 << place, numbers[2 * place + column])
    np.testing.assert_array_equal(horner(rows), words(expected))


@given(elements, st.integers(1, 9))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_geometric_lists_powers(point, count):
    expected, power = [], 1
    for _ in range(count):
        power = product(power, point)
        expected.append(power)
    np.testing.assert_array_equal(geometric(words([point])[0], count), words(expected))


@given(elements, st.lists(elements, min_size=6, max_size=6))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_evaluate_weighs_rows_by_powers_of_a_point(point, numbers):
    expected = [0, 0]
    power = 1
    for place in range(3):
        power = product(power, point)
        for column in range(2):
            expected[column] ^= product(power, numbers[2 * place + column])
    np.testing.assert_array_equal(evaluate(words(numbers).reshape(3, 2, 2), words([point])[0]), words(expected))
