"""Losses and AUC are those of LightGBM on the pooled data, with the same bins; numbers are packed without bias."""

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, mean_poisson_deviance, roc_auc_score

from unseen.crypto.prg import Prg
from unseen.data.demo import make_parties
from unseen.dialogue import converse
from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.learners import binning
from unseen.learners.binning import Binning
from unseen.learners.vertical.boosting import objectives
from unseen.learners.vertical.boosting.packing import bounds_for, capacity_bits, pack
from unseen.learners.vertical.boosting.sampling import draw_columns, draw_rows
from unseen.learners.vertical.boosting.scoring import score_active, score_passive
from unseen.learners.vertical.boosting.setting import BoostingParams, BoostingSetting
from unseen.learners.vertical.boosting.setup import set_up_active, set_up_passive
from unseen.learners.vertical.boosting.training import LabelledRows, train_active, train_passive
from unseen.protocols.linear_map.lattice import Lattice, Scaling
from unseen.protocols.linear_map.plain import Plain

BANK, TELCO = PartyId("bank"), PartyId("telco")


class Blocks:
    """A matrix whose columns lie with two parties, binned on its training rows."""

    def __init__(self, matrix, cut, train, bins=48):
        self.matrix, self.cut, self.train = matrix, cut, train
        self.bins = [fit(column[train], bins) for column in matrix.T]

    def codes(self, rows):
        values = list(self.matrix[rows].T)
        whole = binning.transform(self.bins, values, len(values[0]))
        return whole.pick(range(self.cut)), whole.pick(range(self.cut, len(values)))


def fit(column, bins):
    return binning.fit_bins("x", column, Binning(bins))


def setting(me):
    return BoostingSetting(me, BANK, (TELCO,), Prg(bytes(32)).derive(me))


def boosted(blocks, rows, labels, params):
    """Predictions for ``rows`` of the model of the training rows, and both halves."""
    own, theirs = blocks.codes(blocks.train)

    def active():
        setup = yield from set_up_active(own.rows, Plain(simulation=True), setting(BANK))
        return (yield from train_active(LabelledRows(own, labels[blocks.train]), params, setting(BANK), setup))

    def passive():
        setup = yield from set_up_passive(theirs, Plain(simulation=True), setting(TELCO))
        return (yield from train_passive(theirs, params, setting(TELCO), setup))

    halves = converse({BANK: active(), TELCO: passive()})
    own, theirs = blocks.codes(rows)
    talks = {BANK: score_active(halves[BANK].model, own, setting(BANK))}
    found = converse(talks | {TELCO: score_passive(halves[TELCO], theirs, setting(TELCO))})
    return found[BANK], halves


def pooled_model(blocks, rows, labels, params, objective, **options):
    """LightGBM's predictions on the same codes, where it finds one bin for each code."""
    train, test = (np.concatenate([part.codes for part in blocks.codes(which)]).T for which in (blocks.train, rows))
    settings = {
        "objective": objective,
        "learning_rate": params.learning_rate,
        "num_leaves": params.max_leaves,
        "max_depth": params.max_depth,
        "lambda_l2": params.l2,
        "min_sum_hessian_in_leaf": params.min_child_weight,
        "min_data_in_leaf": params.min_rows_in_leaf,
        "min_data_in_bin": 1,
        "max_bin": 255,
        "feature_pre_filter": False,
        "zero_as_missing": False,
        "enable_bundle": False,
        "num_threads": 1,
        "verbose": -1,
        "deterministic": True,
        "poisson_max_delta_step": 1e-12,
        **options,
    }
    data = lightgbm.Dataset(train.astype(np.float64), labels[blocks.train], free_raw_data=False)
    return lightgbm.train(settings, data, params.rounds).predict(test.astype(np.float64))


def credit_like(rows, seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, 10))
    matrix[:, 3] = np.round(matrix[:, 3])
    score = matrix[:, 0] - matrix[:, 5] ** 2 / 2 + matrix[:, 1] * matrix[:, 6] + (matrix[:, 3] > 0) * matrix[:, 7]
    return matrix, score


def test_auc_is_that_of_lightgbm_leaf_by_leaf():
    matrix, score = credit_like(20_000, 1)
    labels = (np.random.default_rng(2).uniform(size=20_000) < 1 / (1 + np.exp(-score))).astype(float)
    rows, blocks = np.arange(14_000, 20_000), Blocks(matrix, 4, np.arange(14_000))
    params = BoostingParams(rounds=30, growth="leaf", max_depth=8, max_leaves=15, max_sums_per_row=100.0)
    found, halves = boosted(blocks, rows, labels, params)
    wanted = pooled_model(blocks, rows, labels, params, "binary")
    assert roc_auc_score(labels[rows], found) == pytest.approx(roc_auc_score(labels[rows], wanted), abs=1e-3)
    assert log_loss(labels[rows], found) == pytest.approx(log_loss(labels[rows], wanted), abs=2e-3)
    assert halves[BANK].report.losses[-1] < halves[BANK].report.losses[0]


LOSSES = {
    "squared": ("regression", {}, lambda y, p: np.mean((y - p) ** 2)),
    "poisson": ("poisson", {}, mean_poisson_deviance),
    "multiclass": ("multiclass", {"num_class": 3}, log_loss),
    "huber": (
        "huber",
        {"alpha": 1.0},
        lambda y, p: np.mean(np.where(abs(y - p) < 1, (y - p) ** 2 / 2, abs(y - p) - 0.5)),
    ),
}


@pytest.mark.parametrize("objective", LOSSES)
def test_losses_are_those_of_lightgbm(objective):
    matrix, score = credit_like(4000, 3)
    rng = np.random.default_rng(4)
    labels = {
        "squared": score + rng.normal(size=4000),
        "poisson": rng.poisson(np.exp(np.clip(score / 2, -3, 3))).astype(float),
        "multiclass": np.digitize(score + rng.normal(size=4000), [-1, 0.5]).astype(float),
        "huber": score + rng.standard_t(2, size=4000),
    }[objective]
    name, options, loss = LOSSES[objective]
    rows, blocks = np.arange(3000, 4000), Blocks(matrix, 4, np.arange(3000))
    classes = 3 if objective == "multiclass" else 1
    params = BoostingParams(
        objective=objective,
        classes=classes,
        rounds=25,
        growth="leaf",
        max_depth=8,
        max_leaves=8,
        max_sums_per_row=100.0,
    )
    found, _ = boosted(blocks, rows, labels, params)
    wanted = pooled_model(blocks, rows, labels, params, name, **options)
    assert loss(labels[rows], found) == pytest.approx(loss(labels[rows], wanted), rel=0.02)
    constant = np.full_like(found, labels[:3000].mean()) if classes == 1 else np.full_like(found, 1 / 3)
    assert loss(labels[rows], found) < 0.9 * loss(labels[rows], constant)


def test_missing_values_take_the_better_side_as_in_lightgbm():
    matrix, score = credit_like(6000, 5)
    gone = np.random.default_rng(6).uniform(size=matrix.shape) < 0.2
    labels = (score + 2 * gone[:, 5] > 0).astype(float)
    matrix[gone] = np.nan
    rows, blocks = np.arange(4000, 6000), Blocks(matrix, 4, np.arange(4000))
    params = BoostingParams(rounds=20, growth="leaf", max_depth=8, max_leaves=12, max_sums_per_row=100.0)
    found, _ = boosted(blocks, rows, labels, params)
    settings = {"objective": "binary", "num_leaves": 12, "max_depth": 8, "lambda_l2": 1.0, "min_data_in_leaf": 1}
    settings |= {"min_sum_hessian_in_leaf": 1.0, "verbose": -1, "num_threads": 1, "max_bin": 48, "learning_rate": 0.1}
    data = lightgbm.Dataset(matrix[:4000], labels[:4000], params={"min_data_in_bin": 1})
    wanted = lightgbm.train(settings, data, 20).predict(matrix[rows])
    assert roc_auc_score(labels[rows], found) == pytest.approx(roc_auc_score(labels[rows], wanted), abs=1e-3)


def test_auc_on_credit_data_is_that_of_lightgbm():
    bank, partner = make_parties().values()
    people = bank.drop_nulls().join(partner.drop_nulls(), on="id").sort("id")
    labels = people["y"].to_numpy().astype(float)
    matrix = people.drop("id", "y").to_numpy().astype(float)
    order = np.random.default_rng(0).permutation(len(labels))
    train, rows = np.sort(order[:13_000]), np.sort(order[13_000:])
    params = BoostingParams(rounds=50, max_depth=3, max_leaves=8, max_sums_per_row=100.0)
    blocks = Blocks(matrix, bank.width - 2, train)
    found, _ = boosted(blocks, rows, labels, params)
    wanted = pooled_model(blocks, rows, labels, params, "binary")
    assert roc_auc_score(labels[rows], found) == pytest.approx(roc_auc_score(labels[rows], wanted), abs=1e-3)


# --- objectives ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objective", "classes"), [("binary", 1), ("multiclass", 4), ("squared", 1), ("poisson", 1), ("huber", 1)]
)
def test_gradients_are_derivatives_of_the_loss_and_base_scores_minimise_it(objective, classes):
    rng = np.random.default_rng(7)
    params = BoostingParams(objective=objective, classes=classes, huber_delta=0.7)
    labels = rng.integers(0, max(2, classes), 50).astype(float)
    scores, weights = rng.normal(size=(50, classes)), rng.uniform(0.5, 2, 50)
    gradients, hessians = objectives.derivatives(scores, labels, params)
    scale = 2 if objective == "squared" else 1  # the loss that is reported is twice the one that is minimised
    for output in range(classes):
        step = np.zeros_like(scores)
        step[:, output] = 1e-6
        for row in range(50):
            only = np.eye(50)[row]
            up, down = (objectives.mean_loss(scores + s * step, labels, only, params) for s in (1, -1))
            assert (up - down) / 2e-6 == pytest.approx(scale * gradients[row, output], abs=1e-7)
    assert (hessians > 0).all()
    base = objectives.base_scores(labels, weights, params)
    best = objectives.mean_loss(np.tile(base, (50, 1)), labels, weights, params)
    for shift in (0.05 * np.eye(classes)).tolist() + (-0.05 * np.eye(classes)).tolist():
        moved = objectives.mean_loss(np.tile(base + shift, (50, 1)), labels, weights, params)
        assert moved >= best if objective != "huber" else True


def test_extreme_scores_stay_finite():
    scores = np.array([[-1e6], [1e6], [0.0]])
    for objective in ("binary", "poisson"):
        params = BoostingParams(objective=objective)
        g, h = objectives.derivatives(scores, np.array([0.0, 1, 1]), params)
        assert np.isfinite(g).all()
        assert np.isfinite(h).all()
        assert np.isfinite(objectives.mean_loss(scores, np.array([0.0, 1, 1]), np.ones(3), params))


# --- packing -------------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.integers(1, 300), st.integers(0, 2**32), st.sampled_from([13, 20, 31, 45, 62]), st.booleans())
def test_words_of_any_rows_come_apart_and_stay_in_capacity(rows, seed, bits, constant):
    rng = np.random.default_rng(seed)
    g = rng.normal(size=rows) * 10.0 ** rng.integers(-9, 9)
    h = np.ones(rows) if constant else rng.exponential(size=rows)
    left_out = rng.uniform(size=rows) < 0.3
    g[left_out], h[left_out] = 0, 0
    packed = pack(g, h, bits, Prg(bytes(32)))
    bounds_for(rows, 1, bits).check_vectors(packed.vectors)
    single_g, single_h = packed.unpack(packed.vectors)
    assert (single_h >= 0).all()
    assert not packed.vectors[:, left_out].any()
    some = rng.uniform(size=rows) < 0.5
    sums = np.stack([packed.vectors[:, some].sum(axis=1), packed.vectors.sum(axis=1)], axis=1)
    found_g, found_h = packed.unpack(sums)
    assert found_g.tolist() == [single_g[some].sum(), single_g.sum()]
    assert found_h.tolist() == [single_h[some].sum(), single_h.sum()]
    unit = 1 / packed.gradient_scale
    assert np.abs(single_g * unit - g).max() <= unit * (1 + 1e-9)
    if constant:
        assert len(set(single_h[~left_out].tolist())) <= 1


def test_coarse_numbers_are_rounded_without_bias():
    g, h = np.tile([0.3, -0.7, 1.1], 20_000), np.tile([0.11, 0.2, 0.05], 20_000)
    packed = pack(g, h, 2 * 18, Prg(bytes(32)))
    assert packed.shift
    single_g, single_h = packed.unpack(packed.vectors)
    assert np.abs(single_g).mean() < 8
    for values, found, scale in ((g, single_g, packed.gradient_scale), (h, single_h, packed.hessian_scale)):
        means = (found / scale).reshape(-1, 3).mean(axis=0)
        np.testing.assert_allclose(means, values[:3], atol=4 / scale / np.sqrt(20_000))


def test_lattice_holds_both_sums_in_one_word_at_a_million_rows():
    bits = capacity_bits(Lattice(), 1_000_000, 3200)
    rng = np.random.default_rng(8)
    packed = pack(rng.normal(size=1_000_000), rng.uniform(size=1_000_000), bits, Prg(bytes(32)))
    assert bits >= 45
    assert len(packed.vectors) == 1
    with pytest.raises(UsageError, match="carries no histograms"):
        capacity_bits(Tiny(simulation=True), 1000, 10)


@pytest.mark.parametrize(("rows", "columns"), [(1000, 300), (10_000, 300)])
def test_few_rows_leave_the_lattice_room_for_noise(rows, columns):
    bits = capacity_bits(Lattice(), rows, columns)
    width = Scaling.of(bounds_for(rows, columns, bits)).width
    assert width > 800 * 8 * np.sqrt(rows / 32)
    assert bits == 2 * rows.bit_length() + 16


class Tiny(Plain):
    """Carries next to nothing."""

    def check(self, bounds):
        if bounds.result > 8:
            raise UsageError("tiny")


# --- sampling ------------------------------------------------------------------------------------------------------


def test_rows_and_columns_are_drawn_without_replacement():
    prg = Prg(bytes(32))
    g = np.random.default_rng(9).normal(size=(1000, 1))
    drawn = draw_rows(g, BoostingParams(row_rate=0.3), prg.derive("a"))
    assert drawn.sum() == np.count_nonzero(drawn) == 300
    assert (drawn != draw_rows(g, BoostingParams(row_rate=0.3), prg.derive("b"))).any()
    assert draw_columns(10, BoostingParams(column_rate=0.25), prg.derive("c")).sum() == 3
    assert draw_columns(0, BoostingParams(), prg).shape == (0,)


def test_one_sided_sampling_keeps_large_gradients_and_weighs_others_up():
    g = np.random.default_rng(10).normal(size=(1000, 2))
    factors = draw_rows(g, BoostingParams(goss_top=0.2, goss_other=0.1), Prg(bytes(32)))
    sizes = np.abs(g).sum(axis=1)
    top = np.argsort(-sizes)[:200]
    assert (factors[top] == 1).all()
    others = np.delete(factors, top)
    assert np.count_nonzero(others) == 100
    assert factors.sum() == pytest.approx(1000)
