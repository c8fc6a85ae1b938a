import math
from decimal import Decimal

import numpy as np
import pytest

from unseen.crypto.gaussian import CumulativeTable, _bernoulli_exp, ternary, wide_gaussian
from unseen.crypto.prg import Prg
from unseen.errors import UsageError

PRG = Prg(b"\x07" * 32)


def probabilities(deviation, tail):
    weights = {x: math.exp(-(x**2) / (2 * deviation**2)) for x in range(-tail, tail + 1)}
    total = sum(weights.values())
    return {x: weight / total for x, weight in weights.items()}


def fits(samples, deviation):
    """Whether Pearson's statistic stays within five deviations of its mean."""
    count = len(samples)
    cells = {x: p for x, p in probabilities(deviation, 12 * math.ceil(deviation)).items() if p * count > 10}
    values, counts = np.unique(samples, return_counts=True)
    found = dict(zip(values.tolist(), counts.tolist(), strict=True))
    statistic = sum((found.get(x, 0) - p * count) ** 2 / (p * count) for x, p in cells.items())
    return abs(statistic - len(cells)) < 5 * math.sqrt(2 * len(cells))


@pytest.mark.parametrize("deviation", [3.2, 8])
def test_table_samples_follow_the_discrete_gaussian(deviation):
    samples = CumulativeTable(deviation).sample(PRG.derive(f"table/{deviation}"), 200_000)
    assert fits(samples, deviation)
    assert not fits(samples + 1, deviation)
    assert abs(samples.std() / deviation - 1) < 0.01


@pytest.mark.parametrize("variance", [1, 2, 30, 64, 255])
def test_wide_samples_follow_the_discrete_gaussian(variance):
    samples = np.array(wide_gaussian(PRG.derive(f"wide/{variance}"), variance, 5000))
    assert fits(samples, math.sqrt(variance))
    assert not fits(samples + math.isqrt(variance), math.sqrt(variance))


def test_wide_samples_may_exceed_a_word():
    variance = 2**140
    samples = wide_gaussian(PRG.derive("huge"), variance, 1500)
    scaled = np.array([sample / 2**70 for sample in samples])
    assert abs(scaled.std() - 1) < 0.08
    assert abs(scaled.mean()) < 0.1
    assert abs((np.abs(scaled) < 0.6745).mean() - 0.5) < 0.06
    assert abs(np.mean([sample % 2 for sample in samples]) - 0.5) < 0.06


def test_table_inverts_the_cumulative_distribution():
    table = CumulativeTable(3.2)
    assert table.tail == 43
    expected = probabilities(3.2, 43)
    edge = sum(p for x, p in expected.items() if x <= -1)
    words = np.array([int((edge - 1e-9) * 2**64), int((edge + 1e-9) * 2**64), 2**63], np.uint64)
    assert table.invert(words, PRG.derive("none")).tolist() == [-1, 0, 0]


def test_a_draw_on_a_threshold_is_settled_by_more_bits():
    table = CumulativeTable(3.2)
    word = table._high[43]  # the upper half of P(X ≤ 0)
    settled = table.invert(np.full(4000, word, np.uint64), PRG.derive("ties"))
    assert set(settled.tolist()) == {0, 1}
    assert abs((settled == 1).mean() - (1 - table._low[43] / 2**64)) < 0.05
    ends = table.invert(np.array([0, 2**64 - 1], np.uint64), PRG.derive("ends"))
    assert ends[0] < -25
    assert ends[1] > 25


def test_samples_follow_the_stream_word_by_word():
    table = CumulativeTable(8)
    words = PRG.derive("stream").words(40_000)
    expected = np.searchsorted(table._high, words, side="left") - table.tail
    assert np.array_equal(table.sample(PRG.derive("stream"), 40_000), expected)
    assert table.bytes(PRG.derive("stream"), 40_000).dtype == np.int8


def test_tables_are_for_small_deviations():
    with pytest.raises(UsageError, match=r"up to 9.4, found 9.5"):
        CumulativeTable(9.5)


def test_a_base_sample_and_a_rest_make_the_wide_distribution():
    """The density of z = k·x + y, kept with the probability of the algorithm, is that of the wide Gaussian."""
    variance, width = 1000, 4
    kept = {
        width * x + y: math.exp(-((x * width) ** 2) / (2 * variance))
        * math.exp(-(y * (y + 2 * x * width)) / (2 * variance))
        for x in range(60)
        for y in range(width)
    }
    assert all(math.isclose(weight, math.exp(-(z**2) / (2 * variance)), rel_tol=1e-9) for z, weight in kept.items())
    samples = np.array(wide_gaussian(PRG.derive("wide"), variance, 60_000))
    assert fits(samples, math.sqrt(variance))
    assert not fits(samples + 2, math.sqrt(variance))


class Scripted:
    """A stream that holds what a test wrote."""

    def __init__(self, *words):
        self.words = list(words)

    def bytes(self, count):
        assert count == 8
        return self.words.pop(0).to_bytes(8)


def test_a_draw_near_the_border_is_settled_by_more_bits():
    border = int(Decimal(-1).exp() * 2**64)
    assert _bernoulli_exp(Scripted(border, 0), 1, 1)
    assert not _bernoulli_exp(Scripted(border, 2**64 - 1), 1, 1)
    assert _bernoulli_exp(Scripted(border - 1, 2**64 - 1), 1, 1)
    assert not _bernoulli_exp(Scripted(border + 1, 0), 1, 1)
    for far in (0, border - 2**40):
        assert _bernoulli_exp(Scripted(far), 1, 1)
    for far in (2**64 - 1, border + 2**40):
        assert not _bernoulli_exp(Scripted(far), 1, 1)


def test_ternary_is_uniform():
    _, counts = np.unique(ternary(PRG.derive("ternary"), 30_000), return_counts=True)
    assert len(counts) == 3
    assert (abs(counts - 10_000) < 450).all()
