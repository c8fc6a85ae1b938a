import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import calibration
from sklearn import metrics as reference

from unseen.errors import DataError, UsageError
from unseen.learners import metrics


@st.composite
def scored(draw):
    """Labels of both classes, probabilities with many ties, positive weights."""
    n = draw(st.integers(2, 60))
    labels = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(lambda y: 0 < sum(y) < len(y)))
    scores = draw(st.lists(st.integers(0, 12).map(lambda k: k / 12), min_size=n, max_size=n))
    weights = draw(st.lists(st.integers(1, 5).map(float), min_size=n, max_size=n))
    return np.array(labels, float), np.array(scores), np.array(weights)


@settings(deadline=None, derandomize=True)
@given(scored())
def test_figures_equal_those_of_scikit_learn(case):
    y, s, w = case
    assert metrics.auc(y, s, w) == pytest.approx(reference.roc_auc_score(y, s, sample_weight=w), abs=1e-12)
    assert metrics.brier(y, s, w) == pytest.approx(reference.brier_score_loss(y, s, sample_weight=w), abs=1e-12)
    assert metrics.log_loss(y, s, w) == pytest.approx(reference.log_loss(y, s, sample_weight=w), abs=1e-9)
    fpr, tpr, _ = reference.roc_curve(y, s, sample_weight=w, drop_intermediate=False)
    assert metrics.ks(y, s, w) == pytest.approx(np.abs(tpr - fpr).max(), abs=1e-12)
    assert metrics.ks_curve(y, s, w).ks == pytest.approx(metrics.ks(y, s, w), abs=1e-12)
    curve = metrics.roc_curve(y, s, w)
    area = np.trapezoid(curve.true_positive_rate, curve.false_positive_rate)
    assert area == pytest.approx(metrics.auc(y, s, w), abs=1e-12)


@settings(deadline=None, derandomize=True)
@given(scored())
def test_a_weight_of_k_is_k_rows(case):
    y, s, w = case
    times = w.astype(int)
    assert metrics.auc(y, s, w) == pytest.approx(metrics.auc(y.repeat(times), s.repeat(times)), abs=1e-12)
    heavy, long = metrics.gain_curve(y, s, w), metrics.gain_curve(y.repeat(times), s.repeat(times))
    np.testing.assert_allclose(heavy.gain, long.gain, atol=1e-12)


def test_curves_are_thinned_and_keep_ends_and_peak():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 5000).astype(float)
    s = y + rng.normal(0, 1, 5000)
    roc = metrics.roc_curve(y, s, points=100)
    assert 50 < len(roc.thresholds) <= 100
    assert (roc.false_positive_rate[0], roc.true_positive_rate[0]) == (0, 0)
    assert (roc.false_positive_rate[-1], roc.true_positive_rate[-1]) == (1, 1)
    assert np.trapezoid(roc.true_positive_rate, roc.false_positive_rate) == pytest.approx(metrics.auc(y, s), abs=2e-3)
    curve = metrics.ks_curve(y, s, points=100)
    assert len(curve.population) <= 100
    assert np.abs(curve.positives - curve.negatives).max() == curve.ks == metrics.ks(y, s)
    above = s >= curve.threshold
    assert above[y == 1].mean() - above[y == 0].mean() == pytest.approx(curve.ks)


def test_calibration_equals_scikit_learn_on_quantile_bins():
    rng = np.random.default_rng(2)
    p = rng.uniform(size=4000)
    y = (rng.uniform(size=4000) < p**2).astype(float)
    observed, predicted = calibration.calibration_curve(y, p, n_bins=8, strategy="quantile")
    curve = metrics.calibration_curve(y, p, bins=8)
    np.testing.assert_allclose(curve.observed, observed)
    np.testing.assert_allclose(curve.predicted, predicted)
    assert curve.weight.sum() == 4000


def test_one_probability_for_all_gives_one_bin():
    curve = metrics.calibration_curve([0, 1, 1, 1], [0.5] * 4)
    assert (curve.predicted.tolist(), curve.observed.tolist(), curve.weight.tolist()) == ([0.5], [0.75], [4.0])


def test_gain_of_a_perfect_and_of_a_constant_score():
    y = np.array([1.0] * 2 + [0.0] * 8)
    perfect = metrics.gain_curve(y, np.arange(10)[::-1], bins=5)
    np.testing.assert_allclose(perfect.gain, [1, 1, 1, 1, 1])
    np.testing.assert_allclose(perfect.lift, [5, 2.5, 5 / 3, 1.25, 1])
    np.testing.assert_allclose(metrics.gain_curve(y, np.zeros(10), bins=5).lift, 1)


@pytest.mark.parametrize(
    ("labels", "scores", "weights", "says"),
    [
        ([1, 1], [0.1, 0.2], None, "only one class"),
        ([0, 1], [0.1, 0.2], [0.0, 1.0], "only one class"),
        ([], [], None, "only one class"),
        ([0, 2], [0.1, 0.2], None, "0 or 1, found 2"),
        ([0, 1], [0.1, np.nan], None, "row 1"),
        ([0, 1], [0.1], None, "equally long"),
        ([0, 1], [0.1, 0.2], [1.0, -1.0], "not negative"),
    ],
)
@pytest.mark.parametrize("figure", [metrics.auc, metrics.ks, metrics.log_loss, metrics.gain_curve])
def test_malformed_input_is_refused(figure, labels, scores, weights, says):
    with pytest.raises(DataError, match=says):
        figure(labels, scores, weights)


def test_what_is_no_probability_is_refused():
    with pytest.raises(DataError, match="between 0 and 1"):
        metrics.brier([0, 1], [0.5, 1.5])
    with pytest.raises(UsageError, match="two points"):
        metrics.roc_curve([0, 1], [0.5, 1.5], points=1)


@settings(deadline=None, derandomize=True)
@given(scored(), st.sampled_from([0.0, 1.0, 1.5, 2.0]))
def test_errors_of_amounts_equal_those_of_scikit_learn(case, power):
    y, s, w = case
    truth, found = (y, s) if power == 0 else (y + (power == 2) * 0.5, s + 0.25)
    assert metrics.rmse(truth, found, w) == pytest.approx(
        np.sqrt(reference.mean_squared_error(truth, found, sample_weight=w)), abs=1e-12
    )
    assert metrics.mae(truth, found, w) == pytest.approx(
        reference.mean_absolute_error(truth, found, sample_weight=w), abs=1e-12
    )
    expected = reference.d2_tweedie_score(truth, found, sample_weight=w, power=power)
    assert metrics.d2(truth, found, w, power=power) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_measures_of_classes_equal_those_of_scikit_learn():
    rng = np.random.default_rng(3)
    y, chances, w = rng.integers(0, 4, 90), rng.dirichlet(np.ones(4), 90), rng.uniform(0.5, 2, 90)
    found = chances.argmax(axis=1)
    assert metrics.accuracy(y, found, w) == pytest.approx(reference.accuracy_score(y, found, sample_weight=w))
    expected = reference.log_loss(y, chances, sample_weight=w, labels=range(4))
    assert metrics.class_log_loss(y, chances, w) == pytest.approx(expected, abs=1e-9)
    assert metrics.class_log_loss(y, 7 * chances, w) == pytest.approx(expected, abs=1e-9)


def test_amounts_and_classes_out_of_range_are_refused():
    for call, says in (
        (lambda: metrics.d2([1, 1], [1, 2]), "all labels are equal"),
        (lambda: metrics.d2([0, 1], [0, 2], power=1), "positive predictions"),
        (lambda: metrics.rmse([0, np.nan], [0, 1]), "row 1: the label is not a finite number"),
        (lambda: metrics.mae([0, 1], [0, 1], [0, 0]), "no row with any weight"),
        (lambda: metrics.class_log_loss([0, 2], [[1, 0], [0, 1]]), "labels of 2 classes are 0 to 1"),
        (lambda: metrics.class_log_loss([0, 1], [[0, 0], [0, 1]]), "matrix of finite numbers"),
        (lambda: metrics.class_log_loss([0, 1], [0, 1]), "matrix of finite numbers"),
    ):
        with pytest.raises(DataError, match=says):
            call()
    with pytest.raises(UsageError, match=r"the power of a deviance is 0, or from 1 to 2, found 0\.5"):
        metrics.d2([0, 1], [1, 2], power=0.5)
