"""Updates as words: bounds that hold for the worst updates, roundings without bias, means that come back."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.crypto.prg import Prg
from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.fixed_point import FixedPoint

PRG = Prg(b"f" * 32)
FORMS = [
    FixedPoint(1.0, 100),
    FixedPoint(1.0, 100, max_weight=600),
    FixedPoint(3.7, 1000, 20),
    FixedPoint(1e-5, 3, 32),
    FixedPoint(1e9, 3, 8),
    FixedPoint(0.1, 7, 62, max_weight=1 << 28),
    FixedPoint(1.0, 1, 2),
    FixedPoint(1e-100, 3),
    FixedPoint(1e100, 3),
]
forms = st.builds(
    FixedPoint,
    clip=st.floats(1e-30, 1e30),
    clients=st.integers(1, 100),
    bits=st.integers(10, 62),
    max_weight=st.integers(1, 1 << 28),
)


@given(forms)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_largest_scale_for_which_no_sum_wraps_is_taken(form: FixedPoint) -> None:
    """In exact rationals: as many of the largest words as clients stay below 2^(bits − 1); a bit more is too much."""
    largest = Fraction(form.clip) * form.max_weight
    assert form.clients * ceil(largest * Fraction(2) ** form.fraction_bits) < 1 << (form.bits - 1)
    assert ceil(largest * Fraction(2) ** (form.fraction_bits + 1)) > form.room


@pytest.mark.parametrize("form", FORMS, ids=repr)
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_of_the_largest_updates_do_not_wrap(form: FixedPoint, sign: int) -> None:
    values = np.full(50, sign * np.inf)
    words = form.encode(values, form.max_weight, PRG.derive("largest"))
    total = np.zeros(50, form.dtype)
    for _ in range(min(form.clients, 1000)):
        total += words
    total &= form.dtype.type((1 << form.bits) - 1)
    mean = form.decode_mean(total, form.max_weight * form.clients)
    assert np.abs(mean - sign * form.clip).max() <= form.step / form.max_weight
    assert (np.sign(mean) == sign).all() or form.clip < form.step


@given(forms, st.lists(st.floats(-1.5, 1.5), min_size=1, max_size=40), st.floats(0, 1))
@settings(max_examples=150, deadline=None, derandomize=True)
def test_words_are_the_inverse_up_to_a_step(form: FixedPoint, parts: list[float], share: float) -> None:
    values = np.array(parts) * form.clip
    weight = max(1, int(share * form.max_weight))
    words = form.encode(values, weight, PRG.derive("inverse"))
    assert int(words.max()) < 1 << form.bits
    found = form.decode_mean(words, weight)
    slack = 2**-50 * form.clip  # of the doubles that are compared
    assert (np.abs(found - np.clip(values, -form.clip, form.clip)) <= form.step / weight + slack).all()


def test_numbers_on_the_grid_come_back_exactly() -> None:
    form = FixedPoint(1.0, 10)
    values = np.arange(-1000, 1001) * form.step
    assert (form.decode_sum(form.encode(values, 1, PRG.derive("grid"))) == values).all()
    assert (form.decode_mean(form.encode(values.astype(np.float32), 1, PRG.derive("grid")), 1) == values).all()
    assert not form.encode(values, 0, PRG.derive("grid")).any()


@pytest.mark.parametrize("fraction", [0.001, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_roundings_have_no_bias(fraction: float, sign: float) -> None:
    """Up with the probability of the fraction: within 5 standard deviations of 200,000 draws."""
    form, count = FixedPoint(1.0, 10), 200_000
    value = sign * (3 + fraction) * form.step
    found = form.decode_sum(form.encode(np.full(count, value), 1, PRG.derive("bias", str((fraction, sign)).encode())))
    assert set(np.unique(found / form.step)) == {np.floor(value / form.step), np.ceil(value / form.step)}
    deviation = form.step * np.sqrt(fraction * (1 - fraction) / count)
    assert abs(found.mean() - value) < 5 * deviation


def test_rounding_to_the_nearest_would_be_biased() -> None:
    """What stochastic rounding is for: many clients with the same small update."""
    form = FixedPoint(1.0, 1000, 16)
    value = 0.3 * form.step
    assert np.rint(value / form.step) == 0
    total = sum(
        form.decode_sum(form.encode(np.full(500, value), 1, PRG.derive("small", bytes([i])))) for i in range(50)
    )
    assert abs(np.mean(total) / 50 - value) < 0.02 * form.step


def test_roundings_follow_from_the_generator() -> None:
    form, values = FixedPoint(1.0, 10), np.linspace(-1, 1, 40_000)
    first, again, other = (form.encode(values, 1, PRG.derive(label)) for label in ("x", "x", "y"))
    assert (first == again).all()
    assert 0.2 < np.mean(first != other) < 0.6


def test_weighted_means_are_those_of_the_numbers() -> None:
    form = FixedPoint(4.0, 50, max_weight=600)
    rng = np.random.default_rng(1)
    updates, weights = rng.normal(size=(50, 2000)).clip(-4, 4).astype(np.float32), rng.integers(1, 600, 50)
    total = np.zeros(2000, np.uint32)
    for index, (update, weight) in enumerate(zip(updates, weights.tolist(), strict=True)):
        total += form.encode(update, weight, PRG.derive("mean", bytes([index])))
    found = form.decode_mean(total, int(weights.sum()))
    expected = np.average(updates.astype(np.float64), axis=0, weights=weights)
    assert np.abs(found - expected).max() < 50 * form.step / weights.sum()


def test_numbers_that_are_none_are_refused() -> None:
    values = np.zeros(30_000, np.float32)
    values[[20_000, 25_000]] = np.nan
    with pytest.raises(DataError, match="2 numbers of an update are NaN, the first at 20000"):
        FixedPoint(1.0, 3).encode(values, 1, PRG.derive("nan"))


@pytest.mark.parametrize("weight", [-1, 11])
def test_weights_out_of_range_are_refused(weight: int) -> None:
    with pytest.raises(UsageError, match="between 0 and 10"):
        FixedPoint(1.0, 3, max_weight=10).encode(np.zeros(1), weight, PRG.derive("w"))


@pytest.mark.parametrize("values", [np.zeros(3, np.int64), np.zeros((3, 1)), np.zeros(3, np.float16)])
def test_other_arrays_are_refused(values: np.ndarray) -> None:
    with pytest.raises(UsageError, match="flat vector of floats"):
        FixedPoint(1.0, 3).encode(values, 1, PRG.derive("v"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"clip": 0.0},
        {"clip": -1.0},
        {"clip": float("inf")},
        {"clip": 5e-324},
        {"clip": float("nan")},
        {"clients": 0},
        {"bits": 1},
        {"bits": 63},
        {"max_weight": 0},
        {"max_weight": (1 << 28) + 1},
        {"clients": 200, "bits": 8},
    ],
)
def test_forms_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        FixedPoint(**({"clip": 1.0, "clients": 3} | wrong))  # type: ignore[arg-type]


def test_a_mean_needs_weights() -> None:
    with pytest.raises(UsageError, match="positive sum of weights"):
        FixedPoint(1.0, 3).decode_mean(np.zeros(1, np.uint32), 0)
