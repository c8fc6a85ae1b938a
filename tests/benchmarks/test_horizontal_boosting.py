"""Trees on tables whose rows lie at ten clients are LightGBM's on all rows: five splits of real people."""

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def benchmark(monkeypatch):
    """Return the module, of a package that is not installed."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    return importlib.import_module("benchmarks.horizontal_boosting")


def trained(benchmark, options):
    data = benchmark.split(options)
    return benchmark.boosted(options, data, benchmark.people_of(options, data))


def test_bytes_and_scores_are_counted(benchmark):
    options = benchmark.Options(
        clients=3, trees=2, leaves=4, depth=2, growth="depth", bins=16, rows=700, columns=4, seed=1
    )
    found = trained(benchmark, options)
    assert found["rounds"] == 12 + 1 + 2 * 2
    assert found["auc"] == pytest.approx(found["pooled_auc_same_bins"], abs=1e-9)
    # In each tree three nodes have sums, of which two are sent: rows, and gradient and hessian by bin, in two words.
    assert found["bytes_up_per_tree"] == pytest.approx(2 * 8 * (1 + 2 * 4 * 16), rel=0.15)
    assert found["bytes_down_per_tree"] > 0


@pytest.mark.evidence
def test_the_area_under_the_curve_is_that_of_lightgbm(benchmark):
    options = benchmark.Options(
        clients=10, trees=100, leaves=31, depth=5, growth="depth", bins=64, rows=0, columns=0, seed=0
    )
    found = [trained(benchmark, replace(options, seed=seed)) for seed in range(5)]
    for one in found:
        assert abs(one["auc_gap"]) < 1e-3
        assert abs(one["auc"] - one["pooled_auc_same_bins"]) < 1e-6
        # What is left is little beside what a bin more or less makes of LightGBM.
        assert abs(one["auc_gap"]) < one["pooled_auc_spread"] / 3
    gaps = [one["auc_gap"] for one in found]
    assert abs(np.mean(gaps)) < 2e-4
    assert np.std(gaps) < 2e-4
    assert np.mean([one["auc"] - one["alone_auc"] for one in found]) > 0.08
