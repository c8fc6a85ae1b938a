"""Samplers: exact probabilities by χ², the slow exact decisions against the fast ones, floating noise on its grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Context, Decimal
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare, kstest

from unseen.crypto.prg import Prg
from unseen.errors import UsageError
from unseen.privacy import mechanisms
from unseen.privacy.mechanisms import discrete_gaussian, discrete_laplace, gaussian, geometric, noisy

COUNT = 200_000


def prg(label: str = "test") -> Prg:
    return Prg(bytes(32)).derive(label)


def fits(samples: NDArray[np.int64], weight: Callable[[int], float], least: int, most: int) -> float:
    """Return the p-value of a χ² test against probabilities in proportion to ``weight``; rare ends are pooled."""
    places = range(least, most + 1)
    weights = np.array([weight(x) for x in places])
    expected = weights / weights.sum() * len(samples)
    observed = np.array([(samples == x).sum() for x in places])
    assert observed.sum() == len(samples), "all samples are in the range that has all but 1e-12 of the weight"
    common = expected >= 20
    pooled = [np.append(counts[common], counts[~common].sum()) for counts in (observed, expected)]
    return float(chisquare(*pooled).pvalue)


@pytest.mark.parametrize("variance", [Fraction(1, 10), 0.3, 1, Fraction(7, 3), 40.5])
def test_discrete_gaussian_has_its_probabilities(variance: float | Fraction) -> None:
    samples = discrete_gaussian(prg(), variance, COUNT)
    tail = math.ceil(8 * math.sqrt(variance)) + 2
    assert 1e-4 < fits(samples, lambda x: math.exp(-x * x / (2 * float(variance))), -tail, tail) < 1 - 1e-4


@pytest.mark.parametrize("scale", [Fraction(1, 3), 1, 2.5])
def test_discrete_laplace_and_geometric_have_their_probabilities(scale: float | Fraction) -> None:
    tail = math.ceil(40 * scale)
    signed = discrete_laplace(prg(), scale, COUNT)
    assert 1e-4 < fits(signed, lambda x: math.exp(-abs(x) / float(scale)), -tail, tail) < 1 - 1e-4
    assert 1e-4 < fits(geometric(prg(), scale, COUNT), lambda x: math.exp(-x / float(scale)), 0, tail) < 1 - 1e-4


def test_the_test_finds_a_slightly_wrong_distribution() -> None:
    samples = discrete_gaussian(prg(), 1, COUNT)
    assert fits(samples, lambda x: math.exp(-x * x / 2.06), -10, 10) < 1e-4
    assert fits(np.where(samples == 0, 1, samples)[: COUNT // 50], lambda x: math.exp(-x * x / 2), -10, 10) < 1e-4


@pytest.mark.parametrize(("variance", "count"), [(1e4, COUNT), (2.0**41, COUNT), (2.0**80, 1000)])
def test_wide_discrete_gaussians_have_their_moments(variance: float, count: int) -> None:
    samples = discrete_gaussian(prg(), variance, count) / math.sqrt(variance)
    assert abs(samples.mean()) < 4.5 / math.sqrt(count)
    assert samples.var() == pytest.approx(1, abs=4.5 * math.sqrt(2 / count))
    jitter = (prg("jitter").words(count) * 2.0**-64 - 0.5) / math.sqrt(variance)
    assert kstest(samples + jitter, "norm").pvalue > 1e-4


def test_slow_decisions_agree_with_fast_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """What decimal arithmetic decides for a beginning of 63 bits is what floating point decides."""
    starts = (prg().words(300) >> np.uint64(1)).astype(np.uint64)
    for scale in (Fraction(1, 3), Fraction(1000), Fraction(2**20)):
        fast = mechanisms._geometric(prg(), starts, scale)
        slow = [mechanisms._floor_of_log(prg(), int(start), scale) for start in starts]
        assert fast.tolist() == slow
    for exponent in (Fraction(1, 1000), Fraction(1), Fraction(5, 2)):
        fast_coins = starts * 2.0**-63 < math.exp(-exponent)
        assert fast_coins.tolist() == [mechanisms._is_below(prg(), int(start), exponent) for start in starts]


def test_slow_decisions_draw_further_bits_at_a_border() -> None:
    # U begins with the 63 bits of exp(−1), and lies on either side of it: the bits that follow decide.
    border = int(Context(prec=60).divide(Decimal(2**63), Decimal(1).exp(Context(prec=60))))
    answers = {mechanisms._is_below(prg(str(n)), border, Fraction(1)) for n in range(64)}
    assert answers == {True, False}
    assert mechanisms._is_below(prg(), border - 1, Fraction(1))
    assert not mechanisms._is_below(prg(), border + 1, Fraction(1))
    sizes = {mechanisms._floor_of_log(prg(str(n)), border, Fraction(1)) for n in range(64)}
    assert sizes == {0, 1}
    assert {mechanisms._floor_of_log(prg(), start, Fraction(1)) for start in (border - 1, border + 1)} == {0, 1}


def test_the_ends_of_the_unit_interval_are_decided() -> None:
    assert mechanisms._floor_of_log(prg(), 2**63 - 1, Fraction(1)) == 0
    # −ln U > 63·ln 2 = 43.67 where the first 63 bits are zero.
    assert 43 <= mechanisms._floor_of_log(prg(), 0, Fraction(1)) <= 60
    assert mechanisms._is_below(prg(), 0, Fraction(40))
    assert not mechanisms._is_below(prg(), 2**63 - 1, Fraction(1, 2**40))


@pytest.mark.parametrize("draw", [discrete_gaussian, discrete_laplace, geometric])
def test_samplers_repeat_themselves_and_refuse_nonsense(draw: Callable[..., NDArray[np.int64]]) -> None:
    assert draw(prg(), 3, 1000).tolist() == draw(prg(), 3, 1000).tolist() != draw(prg("other"), 3, 1000).tolist()
    assert draw(prg(), 3, 0).tolist() == []
    for number in (0, -1.0, math.nan, math.inf, 2.0**200):
        with pytest.raises(UsageError, match="of the noise is"):
            draw(prg(), number, 10)


# --- floating point ----------------------------------------------------------------------------------------------


def test_floating_noise_is_standard_normal() -> None:
    samples = gaussian(prg(), 100_001)
    assert len(samples) == 100_001
    assert kstest(samples, "norm").pvalue > 1e-3
    # The two halves of each piece come from the same radii, at angles that make them independent.
    first, second = samples[:8192], samples[8192:16384]
    assert abs(float(np.mean(first * second))) < 4.5 / math.sqrt(8192)
    assert abs(float(np.mean((first**2 - 1) * (second**2 - 1)))) < 4.5 * 2 / math.sqrt(8192)


def test_noisy_values_lie_on_a_grid_far_coarser_than_floating_point() -> None:
    values = np.array([0.0, 1 / 3, 1e-9, 12345.678])
    found = noisy(values, 3.0, prg())
    step = 2.0**-19
    assert (found / step == np.rint(found / step)).all()
    np.testing.assert_allclose(found, values + 3.0 * gaussian(prg(), 4), atol=step / 2)
    assert values.tolist() == [0.0, 1 / 3, 1e-9, 12345.678], "what came in is left alone"


@pytest.mark.parametrize("deviation", [0.0, -1.0, math.nan, math.inf])
def test_no_noise_is_refused(deviation: float) -> None:
    with pytest.raises(UsageError, match="deviation of the noise"):
        noisy(np.zeros(3), deviation, prg())
