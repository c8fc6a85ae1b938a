"""The mean and its relatives: where each ends on a convex problem, and which are the same bit for bit."""

import numpy as np
import pytest
from convex import EVERYTHING, Federation, Ridge, clients_of, distance, optimum

from unseen.learners.horizontal.process import Examples
from unseen.learners.horizontal.strategies import strategy

SIZE, COUNT = 6, 6
PEOPLE = clients_of(COUNT, SIZE, seed=1, sizes=[10, 20, 30, 20, 10, 30])
TRAINER, BEST = Ridge(SIZE), optimum(PEOPLE)
ONE_STEP = {"learning_rate": 0.1, "epochs": 1, "batch": EVERYTHING}
MANY_STEPS = {"learning_rate": 0.05, "epochs": 20, "batch": EVERYTHING}


def after(rounds, name, people=PEOPLE, trainer=TRAINER, cohort=None, **parameters):
    """Return the model after some rounds of a strategy."""
    return Federation(strategy(name, **parameters), trainer, people, cohort=cohort).play(rounds)


def test_one_local_step_reaches_the_optimum_of_all_examples():
    assert distance(after(200, "fed_avg", **ONE_STEP), BEST) < 1e-4


def test_many_local_steps_on_clients_that_differ_end_elsewhere():
    """Karimireddy et al., ICML 2020, theorem II: the drift of clients is a bias that no number of rounds removes."""
    ends = [after(rounds, "fed_avg", **MANY_STEPS) for rounds in (60, 120)]
    assert distance(ends[0], ends[1]) < 1e-3
    assert distance(ends[1], BEST) > 0.3


def test_on_clients_with_one_optimum_many_local_steps_save_rounds():
    people = clients_of(COUNT, SIZE, seed=2, apart=0.0, noise=0.0)
    best = optimum(people)
    assert distance(after(10, "fed_avg", people, **MANY_STEPS), best) < 0.01
    assert distance(after(10, "fed_avg", people, **{**MANY_STEPS, "epochs": 1}), best) > 0.3


def test_the_server_rate_scales_the_step():
    start = TRAINER.initial(0)
    whole, half = (after(1, "fed_avg", server_learning_rate=rate, **MANY_STEPS) - start for rate in (1.0, 0.5))
    np.testing.assert_allclose(half, whole / 2, atol=1e-6)


def test_fed_sgd_is_gradient_descent_on_pooled_examples():
    inputs = np.concatenate([one.inputs for one in PEOPLE.values()])
    pooled = Examples(inputs, np.concatenate([one.labels for one in PEOPLE.values()]))
    model = TRAINER.initial(0)
    for _ in range(20):
        model = model - np.float32(0.1) * TRAINER.gradient(model, pooled)[0]
    np.testing.assert_allclose(after(20, "fed_sgd", learning_rate=0.1), model, atol=1e-5)
    np.testing.assert_allclose(after(20, "fed_avg", **ONE_STEP), model, atol=1e-5)


def test_a_client_counts_as_much_as_it_has_examples():
    one = {"a": PEOPLE["client-0"], "b": PEOPLE["client-2"]}
    assert distance(after(300, "fed_avg", one, **ONE_STEP), optimum(one)) < 1e-3
    assert distance(after(300, "fed_avg", one, **ONE_STEP), optimum(one, weights=[1, 1])) > 0.05


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("fed_prox", {"mu": 0.0}),
        ("fed_avg_m", {"beta": 0.0}),
        ("ditto", {"pull": 0.7}),
        ("clustered", {"clusters": 1}),
    ],
)
def test_what_is_fed_avg_in_disguise_gives_its_bits(name, parameters):
    plan = {"learning_rate": 0.03, "epochs": 2, "batch": 7, "momentum": 0.5}
    expected = after(5, "fed_avg", cohort=4, **plan)
    assert np.array_equal(after(5, name, cohort=4, **plan, **parameters), expected)


def test_a_proximal_term_lessens_the_bias():
    """Li et al., MLSys 2020: the greater μ, the nearer clients stay to the broadcast model."""
    plain, held = (distance(after(150, "fed_prox", mu=mu, **MANY_STEPS), BEST) for mu in (0.0, 10.0))
    assert held < plain / 2
    people = {name: PEOPLE[name] for name in ("client-0",)}
    start = TRAINER.initial(0)
    moved = [distance(after(1, "fed_prox", people, mu=mu, **MANY_STEPS), start) for mu in (0.0, 1.0, 10.0)]
    assert moved[0] > moved[1] > moved[2] > 0


def test_a_proximal_round_of_long_training_is_the_proximal_point():
    (one,) = people = [PEOPLE["client-0"]]
    start, mu = TRAINER.initial(0), 2.0
    plan = {"learning_rate": 0.05, "epochs": 400, "batch": EVERYTHING}
    hessian = one.inputs.T @ one.inputs / len(one) + mu * np.eye(SIZE)
    expected = np.linalg.solve(hessian, one.inputs.T @ one.labels / len(one) + mu * start)
    model = after(1, "fed_prox", dict(enumerate(people)), mu=mu, **plan)
    assert distance(model, expected) < 1e-5


def test_momentum_at_the_server_saves_rounds_where_curvatures_differ():
    people, trainer = _narrow_valley()
    plain = after(100, "fed_avg", people, trainer, **{**ONE_STEP, "learning_rate": 0.5})
    heavy = after(100, "fed_avg_m", people, trainer, beta=0.9, **{**ONE_STEP, "learning_rate": 0.5})
    assert distance(heavy, 1.0) < 0.7 * distance(plain, 1.0)


@pytest.mark.parametrize(("name", "rate"), [("fed_adagrad", 0.3), ("fed_adam", 0.1), ("fed_yogi", 0.1)], ids=str)
def test_adaptive_steps_pass_a_narrow_valley_that_fed_avg_does_not(name, rate):
    """Curvatures from 1 to 1/2500: FedAvg with the best of several rates against an adaptive step, 150 rounds."""
    people, trainer = _narrow_valley()
    rates = (0.3, 1.0, 1.5)
    plain = min(
        distance(after(150, "fed_avg", people, trainer, **{**ONE_STEP, "learning_rate": rate}), 1.0) for rate in rates
    )
    found = after(150, name, people, trainer, server_learning_rate=rate, tau=1e-5, **ONE_STEP)
    assert plain > 1.0
    assert distance(found, 1.0) < 0.02


def _narrow_valley():
    rng, scale = np.random.default_rng(0), np.geomspace(1, 1 / 50, SIZE)
    people = {}
    for number in range(3):
        inputs = rng.standard_normal((20, SIZE)) * scale
        people[f"client-{number}"] = Examples(inputs, inputs.sum(axis=1))
    trainer = Ridge(SIZE)
    trainer.initial = lambda seed: np.zeros(SIZE, np.float32)
    return people, trainer


def test_the_first_adaptive_steps_are_those_of_the_paper():
    """Reddi et al., Algorithm 2, written out with v₋₁ = τ²."""
    first, second, model, tau, rate = 0.0, 0.25, TRAINER.initial(0).astype(np.float64), 0.5, 0.1
    federation = Federation(strategy("fed_yogi", server_learning_rate=rate, tau=tau, **ONE_STEP), TRAINER, PEOPLE)
    for _ in range(3):
        found = federation.play(1)
        delta = federation.aggregate.delta.astype(np.float64)
        first = 0.9 * first + 0.1 * delta
        second = second - 0.01 * delta**2 * np.sign(second - delta**2)
        model = model + rate * first / (np.sqrt(second) + tau)
        np.testing.assert_allclose(found, model, rtol=1e-5, atol=1e-6)


def test_adam_and_adagrad_differ_in_the_second_moment_alone():
    for name, expected in (
        ("fed_adam", lambda v, d: 0.99 * v + 0.01 * d**2),
        ("fed_adagrad", lambda v, d: v + d**2),
    ):
        federation, second = Federation(strategy(name, **ONE_STEP), TRAINER, PEOPLE), 1e-6
        for _ in range(3):
            federation.play(1)
            second = expected(second, federation.aggregate.delta.astype(np.float64))
        np.testing.assert_allclose(federation.state.extra["second"], second, rtol=1e-5)
