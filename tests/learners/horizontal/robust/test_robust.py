"""Robust aggregators learn from the honest majority whatever the others send, where the mean does not."""

import dataclasses
import math

import numpy as np
import pytest
from convex import EVERYTHING, Federation, Ridge, clients_of, distance, optimum
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.errors import RemoteProtocolError, UsageError
from unseen.learners.horizontal.process import Assignment, Broadcast, Examples, Update, stream
from unseen.learners.horizontal.robust import (
    AGGREGATORS,
    Bulyan,
    ClipNorm,
    Clipped,
    GeometricMedian,
    Krum,
    Median,
    TrimmedMean,
    aggregator,
    robust,
)
from unseen.learners.horizontal.robust.bulyan import mean_near_median, selected
from unseen.learners.horizontal.robust.krum import scores
from unseen.learners.horizontal.robust.rows import norm, squared_distances
from unseen.learners.horizontal.strategies import strategy
from unseen.learners.horizontal.strategies.parts import WeightedMean

SIZE, COUNT, BYZANTINE = 5, 15, 3
PEOPLE = clients_of(COUNT, SIZE, seed=6, apart=0.05)
HONEST = dict(sorted(PEOPLE.items())[BYZANTINE:])
BEST = optimum(HONEST)
PLAN = {"learning_rate": 0.1, "epochs": 2, "batch": EVERYTHING}

RULES = [
    Median(),
    TrimmedMean(BYZANTINE),
    Krum(BYZANTINE),
    Krum(BYZANTINE, select=COUNT - BYZANTINE - 2),
    Bulyan(BYZANTINE),
    GeometricMedian(),
]
EVERY = [*RULES, Clipped(), Clipped(1.0)]


def names(rule):
    return repr(rule)


# --- attacks: the first clients of a cohort send something else


def attacking(change):
    """Return an attack in which the first clients send ``change`` of (their number, the honest differences)."""

    def attack(updates):
        honest = np.stack([update.delta for update in updates[BYZANTINE:]])
        lies = [change(number, honest).astype(np.float32) for number in range(BYZANTINE)]
        sent = [dataclasses.replace(update, delta=lie) for update, lie in zip(updates, lies, strict=False)]
        return [*sent, *updates[BYZANTINE:]]

    return attack


def noise(number, scale):
    return scale * np.random.default_rng(number).standard_normal(SIZE)


ATTACKS = {
    "sign flip": attacking(lambda number, honest: -10 * honest.mean(axis=0)),
    "large norm": attacking(lambda number, honest: noise(number, 1e6)),
    "one coordinate": attacking(lambda number, honest: honest[number] + 100.0 * np.eye(SIZE)[0]),
    "not finite": attacking(lambda number, honest: np.full(SIZE, [np.nan, np.inf, -np.inf][number])),
}


@pytest.mark.parametrize("rule", RULES, ids=names)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_rule_stands_what_the_mean_does_not(attack, rule):
    federation = Federation(robust(strategy("fed_avg", **PLAN), rule), Ridge(SIZE), PEOPLE)
    assert distance(federation.play(40, ATTACKS[attack]), BEST) < 0.1


@pytest.mark.parametrize("attack", ["sign flip", "large norm", "one coordinate"])
def test_the_mean_does_not(attack):
    federation = Federation(strategy("fed_avg", **PLAN), Ridge(SIZE), PEOPLE)
    assert distance(federation.play(10, ATTACKS[attack]), BEST) > 1
    federation = Federation(strategy("fed_avg", **PLAN), Ridge(SIZE), PEOPLE)
    with pytest.raises(RemoteProtocolError, match="update 1, 2, 3 of 15 holds numbers that are not finite"):
        federation.play(1, ATTACKS["not finite"])


@pytest.mark.parametrize("rule", RULES, ids=names)
def test_a_little_is_enough_moves_no_rule_out_of_the_spread_of_the_honest(rule):
    """Baruch et al., NeurIPS 2019: lies within the spread pass every rule, and do no more than the spread."""

    def a_little(number, honest):
        return honest.mean(axis=0) - 1.5 * honest.std(axis=0)

    federation = Federation(robust(strategy("fed_avg", **PLAN), rule), Ridge(SIZE), PEOPLE)
    model = federation.play(40, attacking(a_little))
    assert distance(model, BEST) < 0.15


@pytest.mark.parametrize("rule", EVERY, ids=names)
def test_without_attackers_a_rule_ends_near_the_mean(rule):
    federation = Federation(robust(strategy("fed_avg", **PLAN), rule), Ridge(SIZE), PEOPLE)
    assert distance(federation.play(40), optimum(PEOPLE)) < 0.08


@pytest.mark.parametrize("attack", ["sign flip", "large norm", "not finite"])
def test_clipping_bounds_the_harm(attack):
    """It does not find attackers, but f of n can move the model by no more than f/n of the limit a round."""
    found = Federation(robust(strategy("fed_avg", **PLAN), Clipped()), Ridge(SIZE), PEOPLE)
    assert distance(found.play(60, ATTACKS[attack]), BEST) < 0.15


# --- what each rule is


def updates(rows, **fields):
    return [Update(np.array(row, np.float32), 1.0, **fields) for row in rows]


matrices = st.tuples(st.integers(7, 12), st.integers(1, 6), st.integers(0, 2**32)).map(
    lambda shape: np.random.default_rng(shape[2]).standard_normal(shape[:2]).astype(np.float32)
)


@given(matrices)
@settings(max_examples=30, deadline=None)
def test_rules_by_coordinate_are_those_of_numpy(matrix):
    np.testing.assert_allclose(Median()(updates(matrix)).delta, np.median(matrix, axis=0), rtol=1e-6)
    inner = np.sort(matrix, axis=0)[2:-2].mean(axis=0)
    np.testing.assert_allclose(TrimmedMean(2)(updates(matrix)).delta, inner, rtol=1e-5, atol=1e-7)


@given(matrices)
@settings(max_examples=30, deadline=None)
def test_krum_takes_the_update_with_the_nearest_neighbours(matrix):
    count, byzantine = len(matrix), 2
    away = ((matrix[:, None, :].astype(np.float64) - matrix[None]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared_distances(list(matrix)), away, atol=1e-10)
    totals = [np.sort(np.delete(row, place))[: count - byzantine - 2].sum() for place, row in enumerate(away)]
    np.testing.assert_allclose(scores(away, byzantine), totals, rtol=1e-9)
    assert np.array_equal(Krum(byzantine)(updates(matrix)).delta, matrix[int(np.argmin(totals))])


@given(matrices, st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_the_mean_near_the_median_is_that_of_the_nearest_numbers(matrix, trim):
    """Bulyan keeps θ − 2f of θ numbers: both are even or both odd, and so no two are equally near."""
    kept = len(matrix) - 2 * trim
    away = np.abs(matrix.astype(np.float64) - np.median(matrix.astype(np.float64), axis=0))
    nearest = np.argsort(away, axis=0)[:kept]
    expected = np.take_along_axis(matrix, nearest, axis=0).mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(mean_near_median(matrix.copy(), kept), expected, rtol=1e-6)


@given(matrices)
@settings(max_examples=20, deadline=None)
def test_no_step_shortens_the_distances_to_the_geometric_median(matrix):
    centre = GeometricMedian(tolerance=0.0, iterations=500)(updates(matrix)).delta.astype(np.float64)

    def total(point):
        return np.linalg.norm(matrix - point, axis=1).sum()

    rng = np.random.default_rng(0)
    for scale in (1e-2, 1e-1, 1.0):
        steps = rng.standard_normal((20, matrix.shape[1])) * scale
        assert min(total(centre + step) for step in steps) > total(centre) - 1e-4


def test_bulyan_selects_as_krum_does_one_after_another():
    matrix = np.random.default_rng(3).standard_normal((11, 4)).astype(np.float32)
    away = squared_distances(list(matrix))
    first = int(np.argmin(scores(away, 2)))
    places = selected(away, 2, 7)
    assert len(places) == 7
    assert places == sorted(set(places))
    assert first in places
    assert selected(away, 2, 1) == [first]


def test_bulyan_stands_a_large_change_of_one_coordinate_that_krum_lets_pass():
    """El Mhamdi et al., ICML 2018: in many dimensions a lie in one coordinate hides among the honest ones' noise."""
    rng, dimension, byzantine = np.random.default_rng(1), 4000, 2
    honest = rng.standard_normal((9, dimension)).astype(np.float32)
    lie = honest.mean(axis=0)
    lie[0] = 30.0
    cohort = updates([*honest, lie, lie])
    assert Krum(byzantine)(cohort).delta[0] == 30
    assert abs(Bulyan(byzantine)(cohort).delta[0]) < 2


@pytest.mark.parametrize("rule", EVERY, ids=names)
def test_the_order_of_clients_does_not_matter(rule):
    matrix = np.random.default_rng(0).standard_normal((COUNT, SIZE)).astype(np.float32)
    one = rule(updates(matrix)).delta
    np.testing.assert_allclose(rule(updates(matrix[::-1])).delta, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rule", EVERY, ids=names)
def test_a_claimed_weight_counts_nothing(rule):
    matrix = np.random.default_rng(0).standard_normal((COUNT, SIZE)).astype(np.float32)
    honest = updates(matrix)
    heavy = [dataclasses.replace(honest[0], weight=1e9), *honest[1:]]
    assert np.array_equal(rule(honest).delta, rule(heavy).delta)


@pytest.mark.parametrize("rule", EVERY, ids=names)
def test_extra_vectors_and_metrics_are_aggregated_robustly(rule):
    matrix = np.random.default_rng(0).standard_normal((COUNT, SIZE)).astype(np.float32)
    sent = [
        dataclasses.replace(update, extra={"control": update.delta * 2}, metrics={"loss": 1.0})
        for update in updates(matrix)
    ]
    found = rule(sent)
    assert found.metrics["loss"] == 1
    assert found.metrics["refused"] == 0
    if not isinstance(rule, Clipped):
        np.testing.assert_allclose(found.extra["control"], 2 * found.delta, rtol=1e-5)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_that_is_none_gives_its_client_away(weight):
    sent = updates(np.ones((7, 2)))
    sent[0] = dataclasses.replace(sent[0], weight=weight, delta=np.full(2, 9, np.float32))
    found = TrimmedMean(1)(sent)
    assert found.delta.tolist() == [1, 1]
    assert found.metrics["refused"] == 1


def test_more_clients_than_expected_that_are_not_finite_are_refused():
    sent = updates([*np.ones((6, 2)), [np.nan, 0], [0, np.inf]])
    with pytest.raises(UsageError, match=r"2 of 8 updates hold numbers that are not finite.*1 byzantine clients"):
        TrimmedMean(1)(sent)


# --- which are the same


def test_trimming_nothing_is_the_mean_bit_for_bit():
    matrix = np.random.default_rng(0).standard_normal((COUNT, 999)).astype(np.float32)
    assert np.array_equal(TrimmedMean(0)(updates(matrix)).delta, WeightedMean(equal=True)(updates(matrix)).delta)


def test_multi_krum_of_all_but_two_without_attackers_is_their_mean():
    matrix = np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)
    best = np.sort(np.argsort(scores(squared_distances(list(matrix)), 0), kind="stable")[:7])
    expected = WeightedMean(equal=True)(updates(matrix[best])).delta
    assert np.array_equal(Krum(0, select=7)(updates(matrix)).delta, expected)


def test_trimming_all_but_one_is_the_median():
    matrix = np.random.default_rng(0).standard_normal((9, 50)).astype(np.float32)
    assert np.array_equal(TrimmedMean(4)(updates(matrix)).delta, Median()(updates(matrix)).delta)


def test_clipping_above_every_norm_is_the_mean_bit_for_bit():
    matrix = np.random.default_rng(0).standard_normal((9, 50)).astype(np.float32)
    assert np.array_equal(Clipped(1e9)(updates(matrix)).delta, WeightedMean(equal=True)(updates(matrix)).delta)


def test_pieces_of_coordinates_give_what_all_at_once_gives(monkeypatch):
    matrix = np.random.default_rng(0).standard_normal((COUNT, 300)).astype(np.float32)
    whole = [rule(updates(matrix)).delta for rule in EVERY]
    monkeypatch.setattr("unseen.learners.horizontal.robust.rows._NUMBERS", 64)
    for rule, before in zip(EVERY, whole, strict=True):
        np.testing.assert_allclose(rule(updates(matrix)).delta, before, rtol=1e-6)


# --- clipping


def test_a_clipped_update_has_the_norm_of_the_limit_and_its_direction():
    update = Update(np.array([3, 4], np.float32), 1.0)
    task = Assignment("one", Broadcast(0, np.zeros(2, np.float32)), Examples(np.zeros(0), np.zeros(0)), {}, stream(0))
    short = ClipNorm(1.0)(update, task)
    np.testing.assert_allclose(short.delta, [0.6, 0.8], rtol=1e-6)
    assert short.metrics["clipped"] == 1
    same = ClipNorm(5.0)(update, task)
    assert same.delta is update.delta
    assert same.metrics["clipped"] == 0


def test_norms_of_large_numbers_do_not_overflow():
    assert norm(np.full(4, 3e38, np.float32)) == pytest.approx(6e38, rel=1e-6)


def test_without_a_limit_half_of_the_updates_are_clipped():
    found = Clipped()(updates([[1.0], [2.0], [300.0]]))
    np.testing.assert_allclose(found.delta, [5 / 3])
    assert found.metrics["clipped"] == pytest.approx(1 / 3)


def test_clipped_updates_can_be_judged():
    found = Clipped(1.0, then=Median())(updates([[0.1], [0.2], [300.0]]))
    np.testing.assert_allclose(found.delta, [0.2])


# --- preconditions


@pytest.mark.parametrize(
    ("rule", "needed"),
    [(TrimmedMean(3), 7), (Krum(3), 9), (Krum(1, select=4), 7), (Bulyan(2), 11)],
    ids=str,
)
def test_too_few_updates_are_refused_with_the_numbers(rule, needed):
    rule(updates(np.zeros((needed, 2))))
    with pytest.raises(UsageError, match=f"needs at least {needed} updates, found {needed - 1}"):
        rule(updates(np.zeros((needed - 1, 2))))


@pytest.mark.parametrize("name", AGGREGATORS)
def test_no_updates_are_refused(name):
    parameters = {"byzantine": 1} if name in ("bulyan", "krum", "trimmed_mean") else {}
    with pytest.raises(UsageError):
        aggregator(name, **parameters)([])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: TrimmedMean(-1),
        lambda: Krum(-1),
        lambda: Krum(1, select=0),
        lambda: Bulyan(-1),
        lambda: Clipped(0.0),
        lambda: ClipNorm(math.nan),
        lambda: GeometricMedian(smoothing=0.0),
        lambda: GeometricMedian(tolerance=1.0),
        lambda: GeometricMedian(iterations=0),
    ],
)
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match="found"):
        wrong()


def test_a_strategy_whose_aggregator_is_its_algorithm_cannot_be_made_robust():
    with pytest.raises(UsageError, match="IFCA aggregates by MeansOfClusters"):
        robust(strategy("clustered"), Median())
    assert robust(strategy("fed_avg"), Krum(2)).name == "FedAvg by Krum"


def test_scaffold_with_a_robust_rule_reaches_the_honest_optimum():
    """Control variates are lied about, too."""

    def attack(sent):
        lies = [
            dataclasses.replace(update, delta=-10 * update.delta, extra={"control": -10 * update.extra["control"]})
            for update in sent[:BYZANTINE]
        ]
        return [*lies, *sent[BYZANTINE:]]

    plan = {**PLAN, "epochs": 10, "learning_rate": 0.03}
    process = robust(strategy("scaffold", clients=COUNT, **plan), TrimmedMean(BYZANTINE))
    assert distance(Federation(process, Ridge(SIZE), PEOPLE).play(60, attack), BEST) < 0.2
    plain = Federation(strategy("scaffold", clients=COUNT, **plan), Ridge(SIZE), PEOPLE)
    with np.errstate(over="ignore", invalid="ignore"):
        assert not distance(plain.play(8, attack), BEST) < 0.5
