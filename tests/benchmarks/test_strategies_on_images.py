"""Every strategy, codec and robust rule learns images of clients that differ, as ``benchmarks.strategies`` has them."""

from __future__ import annotations

import pytest

from unseen.learners.horizontal.strategies.registry import STRATEGIES

pytest.importorskip("torch")
from benchmarks import strategies as benchmark  # after the check that torch, an optional extra, is there

ROUNDS = 10
GLOBAL = {
    "fed_adagrad": 0.80,
    "fed_adam": 0.78,
    "fed_avg": 0.70,
    "fed_avg_m": 0.80,
    "fed_buff": 0.70,
    "fed_dyn": 0.88,
    "fed_nova": 0.70,
    "fed_prox": 0.70,
    "fed_sgd": 0.40,
    "fed_yogi": 0.78,
    "scaffold": 0.79,
}
"""What everybody's model reaches on images that no client has; at the beginning it is 0.1."""
PERSONAL = {"clustered": 0.65, "ditto": 0.80, "fed_bn": 0.80, "fed_rep": 0.75}
"""What each client's own model reaches on its own images, on average."""


def test_every_strategy_is_played():
    assert GLOBAL.keys() | PERSONAL.keys() == STRATEGIES.keys() == benchmark.STRATEGIES.keys()


@pytest.mark.parametrize("name", sorted(GLOBAL))
def test_everybodys_model_learns_from_clients_that_differ(name):
    assert benchmark.play(benchmark.CASES[name], ROUNDS).accuracies[-1] > GLOBAL[name]


@pytest.mark.parametrize("name", sorted(PERSONAL))
def test_clients_own_models_fit_their_own_images(name):
    assert benchmark.play(benchmark.CASES[name], ROUNDS).own > PERSONAL[name]


def test_attackers_who_ruin_the_mean_do_not_ruin_a_robust_rule():
    assert benchmark.play(benchmark.CASES["attacked: the mean"], ROUNDS).accuracies[-1] < 0.2
    assert benchmark.play(benchmark.CASES["attacked: geometric_median"], ROUNDS).accuracies[-1] > 0.5


def test_few_bits_cost_little_accuracy():
    four = benchmark.play(benchmark.CASES["fed_avg, 4 bits"], ROUNDS)
    assert four.accuracies[-1] > 0.70
    assert four.upload is not None
    assert four.upload < 2000
