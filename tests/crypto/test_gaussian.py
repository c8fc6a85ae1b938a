import math

import numpy as np
import pytest

from unseen.crypto.gaussian import CumulativeTable, ternary, wide_gaussian
from unseen.crypto.prg import Prg

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


@pytest.mark.parametrize("variance", [1, 2, 30])
def test_wide_samples_follow_the_discrete_gaussian(variance):
    samples = np.array(wide_gaussian(PRG.derive(f"wide/{variance}"), variance, 5000))
    assert fits(samples, math.sqrt(variance))
    assert not fits(samples + 1, math.sqrt(variance))


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


def test_ternary_is_uniform():
    _, counts = np.unique(ternary(PRG.derive("ternary"), 30_000), return_counts=True)
    assert len(counts) == 3
    assert (abs(counts - 10_000) < 450).all()
