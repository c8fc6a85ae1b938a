"""Regressions from sums over clients are those of statsmodels and scikit-learn on all rows."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression, Ridge
from table_rounds import examples, play, shared_out

from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.linear.model import Regression
from unseen.learners.horizontal.linear.process import horizontal_linear, horizontal_logistic
from unseen.learners.horizontal.linear.solve import SendPlan
from unseen.learners.horizontal.process import Aggregate, Assignment, Broadcast
from unseen.learners.horizontal.tables.exact import Limbs, answer

NAMES = ("small", "large", "far", "skewed")
RNG = np.random.default_rng(3)
# Scales from 1e-6 to 1e6, a mean a thousand deviations away, and a long tail.
INPUTS = np.column_stack(
    [
        1e-6 * RNG.normal(size=800),
        1e6 * RNG.normal(size=800),
        1000 + RNG.normal(size=800),
        np.exp(2 * RNG.normal(size=800)),
    ]
)
STANDARD = (INPUTS - INPUTS.mean(axis=0)) / INPUTS.std(axis=0)
SCORE = STANDARD @ [1.0, -0.5, 0.3, 0.2] - 0.4
CLASSES = (SCORE + RNG.logistic(size=800) > 0).astype(np.float64)
AMOUNTS = 50 + 7 * SCORE + RNG.normal(size=800)


def trained(learner, labels, inputs=INPUTS, clients=4):
    states = play(learner, shared_out(inputs, labels, clients))
    assert learner.complete(states[-1])
    return learner.trainer.model(states[-1].model), states


def test_logistic_regression_is_that_of_statsmodels():
    learner = horizontal_logistic(NAMES, clients=4)
    model, states = trained(learner, CLASSES)
    reference = sm.Logit(CLASSES, sm.add_constant(STANDARD)).fit(disp=0, tol=1e-14, maxiter=50)
    scales = INPUTS.std(axis=0)
    np.testing.assert_allclose(model.coefficients * scales, reference.params[1:], rtol=1e-9)
    np.testing.assert_allclose(model.errors[:-1] * scales, reference.bse[1:], rtol=1e-9)
    assert model.loss == pytest.approx(-reference.llf / 800, rel=1e-12)
    assert (model.rows, model.converged) == (800, True)
    np.testing.assert_allclose(
        [term.p for term in learner.trainer.summary(states[-1].model)][:-1], reference.pvalues[1:], rtol=1e-7
    )
    found = learner.trainer.predict(states[-1].model, INPUTS)
    np.testing.assert_allclose(found, reference.predict(sm.add_constant(STANDARD)), atol=1e-10)


def test_with_a_penalty_it_is_that_of_scikit_learn():
    model, _ = trained(horizontal_logistic(NAMES, clients=4, l2=0.05), CLASSES)
    reference = LogisticRegression(C=1 / (800 * 0.05), tol=1e-12, solver="newton-cholesky").fit(STANDARD, CLASSES)
    np.testing.assert_allclose(model.coefficients * INPUTS.std(axis=0), reference.coef_[0], rtol=1e-9)
    assert np.isnan(model.errors).all()


def test_least_squares_are_those_of_statsmodels():
    learner = horizontal_linear(NAMES, clients=4)
    model, states = trained(learner, AMOUNTS)
    assert len(states) - 1 == 4 == learner.rounds
    reference, scales = sm.OLS(AMOUNTS, sm.add_constant(STANDARD)).fit(), INPUTS.std(axis=0)
    np.testing.assert_allclose(model.coefficients * scales, reference.params[1:], rtol=1e-8)
    np.testing.assert_allclose(model.errors[:-1] * scales, reference.bse[1:], rtol=1e-8)
    assert 2 * model.loss == pytest.approx(reference.ssr / 800, rel=1e-9)
    found = learner.trainer.evaluate(states[-1].model, examples(INPUTS, AMOUNTS))
    assert found["loss"] == pytest.approx(model.loss, rel=1e-9)


def test_a_summary_has_a_line_for_each_column_and_for_the_intercept():
    learner = horizontal_linear(NAMES[2:], clients=4)
    _, states = trained(learner, AMOUNTS, INPUTS[:, 2:])
    reference = sm.OLS(AMOUNTS, sm.add_constant(INPUTS[:, 2:])).fit(use_t=False)
    terms = learner.trainer.summary(states[-1].model)
    assert [term.name for term in terms] == ["far", "skewed", "intercept"]
    for field, expected in (
        ("coefficient", reference.params),
        ("error", reference.bse),
        ("statistic", reference.tvalues),
        ("p", reference.pvalues),
    ):
        np.testing.assert_allclose([getattr(term, field) for term in terms], np.roll(expected, -1), rtol=1e-6)


def test_least_squares_with_a_penalty_are_those_of_scikit_learn():
    model, _ = trained(horizontal_linear(NAMES, clients=4, l2=0.1), AMOUNTS)
    reference = Ridge(alpha=0.1 * 800, tol=1e-12).fit(STANDARD, AMOUNTS)
    np.testing.assert_allclose(model.coefficients * INPUTS.std(axis=0), reference.coef_, rtol=1e-8)


def test_missing_values_take_the_mean_of_all_clients():
    holes = INPUTS.copy()
    holes[RNG.random(holes.shape) < 0.2] = np.nan
    filled = np.where(np.isnan(holes), np.nanmean(holes, axis=0), holes)
    model, states = trained(horizontal_linear(NAMES, clients=4), AMOUNTS, holes)
    scales = filled.std(axis=0)
    reference = sm.OLS(AMOUNTS, sm.add_constant((filled - filled.mean(axis=0)) / scales)).fit()
    np.testing.assert_allclose(model.coefficients * scales, reference.params[1:], rtol=1e-8)
    np.testing.assert_allclose(model.scores(holes), reference.fittedvalues, rtol=1e-8)
    assert states[-1].model.dtype == np.float32


def test_constant_and_repeated_columns_get_the_solution_of_least_norm():
    inputs = np.column_stack([INPUTS[:, 0], INPUTS[:, 0], np.full(800, 7.0), INPUTS[:, 3]])
    for learner, labels in (
        (horizontal_linear(NAMES, clients=4), AMOUNTS),
        (horizontal_logistic(NAMES, clients=4), CLASSES),
    ):
        model, _ = trained(learner, labels, inputs)
        assert model.coefficients[0] == pytest.approx(model.coefficients[1], rel=1e-6)
        assert abs(model.coefficients[2]) < 1e-12
        assert np.isnan(model.errors).all()


def test_one_client_or_many():
    one, _ = trained(horizontal_logistic(NAMES, clients=4), CLASSES, clients=1)
    many, _ = trained(horizontal_logistic(NAMES, clients=40), CLASSES, clients=40)
    np.testing.assert_allclose(one.coefficients, many.coefficients, rtol=1e-9)


def test_steps_that_go_too_far_are_halved():
    """Rows that lie far out on the wrong side: from somewhere on, Newton's step overshoots."""
    rng = np.random.default_rng(42)
    inputs = rng.normal(size=(40, 3))
    inputs[:8] *= 20
    labels = (inputs @ rng.normal(size=3) > 0).astype(np.float64)
    labels[0] = 1 - labels[0]
    learner = horizontal_logistic(NAMES[:3], clients=2, l2=1e-4)
    states = play(learner, shared_out(inputs, labels, 2), rounds=50)
    steps = [SendPlan(learner.trainer.setting).plan(state).steps for state in states[4:]]
    assert any(before == after for before, after in pairwise(steps))
    model, scales = learner.trainer.model(states[-1].model), inputs.std(axis=0)
    standard = (inputs - inputs.mean(axis=0)) / scales
    reference = LogisticRegression(C=1 / (40 * 1e-4), tol=1e-12, solver="newton-cholesky", max_iter=1000)
    np.testing.assert_allclose(model.coefficients * scales, reference.fit(standard, labels).coef_[0], rtol=1e-6)
    assert model.converged


def test_separable_rows_end_without_an_optimum():
    inputs = np.linspace(-1, 1, 50)[:, None]
    learner = horizontal_logistic(["x"], clients=1)
    states = play(learner, [(inputs, (inputs[:, 0] > 0).astype(np.float64))], rounds=200)
    model = learner.trainer.model(states[-1].model)
    assert learner.complete(states[-1])
    assert not model.converged
    assert model.loss < 1e-9
    assert np.isfinite(model.coefficients).all()


def test_a_round_with_nobody_changes_nothing_and_more_rows_change_the_scale():
    clients = shared_out(INPUTS, CLASSES, 4)
    learner = horizontal_logistic(NAMES, clients=4)
    usual = play(learner, clients)[-1]
    found = play(learner, clients, present=lambda round_, number: round_ != 4)[-1]
    np.testing.assert_array_equal(found.model, usual.model)
    few = [(INPUTS[:40], CLASSES[:40]), (INPUTS[40:], CLASSES[40:])]
    late = play(learner, few, present=lambda round_, number: number == 0 or round_ > 2, rounds=40)[-1]
    np.testing.assert_allclose(
        learner.trainer.model(late.model).coefficients, learner.trainer.model(usual.model).coefficients, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "story"),
    [
        (lambda x, y: (x[:, :2], y), "client c1: expected rows of 4 columns"),
        (lambda x, y: (x * [1, math.inf, 1, 1], y), "client c1, column large, row 0: infinite"),
        (lambda x, y: (x, y * math.nan), "client c1, row 0: the label is missing"),
        (lambda x, y: (x, y + 2), "client c1: labels must be 0 or 1"),
        (lambda x, y: (x.astype(str), y), "client c1: expected numbers"),
    ],
)
def test_rows_that_do_not_fit_are_named(change, story):
    clients = shared_out(INPUTS, CLASSES, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bad = change(*clients[1])
    with pytest.raises(DataError, match=story):
        play(horizontal_logistic(NAMES, clients=2), [clients[0], bad])


def test_a_column_without_any_value_is_named():
    inputs = INPUTS.copy()
    inputs[:, 1] = np.nan
    with pytest.raises(DataError, match="column large: no client has a value"):
        play(horizontal_logistic(NAMES, clients=2), shared_out(inputs, CLASSES, 2))


def test_impossible_parameters_are_refused():
    for wrong in ({"columns": ()}, {"columns": ("a", "a")}, {"clients": 0}, {"l2": -1.0}, {"l2": math.nan}):
        with pytest.raises(UsageError):
            horizontal_linear(**{"columns": NAMES, "clients": 2, **wrong})


def test_vectors_of_something_else_are_refused():
    good = Regression.zero(4).vector()
    for bad in (good[:-3], good[:-1], good + 0.5, -good - 1):
        with pytest.raises(DataError):
            Regression.of(bad, 4)


def test_a_server_that_sends_nonsense_and_sums_of_something_else_are_refused():
    learner = horizontal_logistic(NAMES, clients=1)
    state = play(learner, [(INPUTS, CLASSES)], rounds=4)[-1]
    good = learner.process.distributor(state)
    own = examples(INPUTS, CLASSES)
    for plan in ([], good.extra["plan"][:-3], good.extra["plan"] + 0.5, good.extra["plan"] * 0):
        broadcast = Broadcast(good.round, good.model, {"plan": np.array(plan, np.float32)})
        assignment = Assignment(ClientId("c0"), broadcast, own, {}, np.random.default_rng(0))
        with pytest.raises(RemoteProtocolError):
            learner.process.client_round(learner.trainer, assignment)
    said = answer(1, ClientId("c0"), 800, np.ones(3, np.float32))
    head = np.concatenate([said.delta, np.zeros(learner.trainer.size - len(said.delta), np.float32)])
    with pytest.raises(RemoteProtocolError, match="expected sums of"):
        learner.process.finalizer(state, Aggregate(head, 1, 1.0, said.extra))


@pytest.mark.parametrize("make", [horizontal_linear, horizontal_logistic])
@pytest.mark.parametrize("rounds", [1, 2, 3, 4])
def test_a_client_that_sends_any_limbs_spoils_the_model_at_most(make, rounds):
    """Whatever it claims, rounds go on, or end with an error that says what is wrong."""
    learner, clients = make(NAMES, clients=4), shared_out(INPUTS, CLASSES, 4)
    rng, most = np.random.default_rng(rounds), 1 << Limbs(4, 2).width
    state = play(learner, clients, rounds=rounds)[-1]
    for _ in range(4):
        updates = []
        for number, own in enumerate(clients):
            broadcast = learner.process.distributor(state)
            assignment = Assignment(ClientId(f"c{number}"), broadcast, examples(*own), {}, rng)
            updates.append(learner.process.client_round(learner.trainer, assignment)[0])
        for vector in updates[0].extra.values():
            vector[:] = rng.integers(0, most, len(vector))
        try:
            state = learner.process.next(state, updates)[0]
        except (DataError, RemoteProtocolError):
            return
