"""Strategies that take away what FedAvg gets wrong where clients differ: drift, and unequal numbers of steps."""

import numpy as np
import pytest
from convex import EVERYTHING, Federation, Ridge, clients_of, distance, optimum

from unseen.learners.horizontal.process import Assignment, Broadcast, LocalPlan, stream
from unseen.learners.horizontal.strategies import strategy
from unseen.learners.horizontal.strategies.parts import gradient_weight

SIZE, COUNT = 6, 6
PEOPLE = clients_of(COUNT, SIZE, seed=1, apart=2.0)
TRAINER, BEST = Ridge(SIZE), optimum(PEOPLE)
MANY_STEPS = {"learning_rate": 0.05, "epochs": 20, "batch": EVERYTHING}


def end(name, rounds, people=PEOPLE, cohort=None, **parameters):
    return Federation(strategy(name, **parameters), TRAINER, people, cohort=cohort).play(rounds)


@pytest.mark.parametrize("cohort", [None, 3], ids=["all", "half"])
@pytest.mark.parametrize(("name", "parameters"), [("scaffold", {}), ("fed_dyn", {"alpha": 1.0})], ids=["sc", "dyn"])
def test_they_reach_the_optimum_with_many_local_steps(name, parameters, cohort):
    rounds = 60 if cohort is None else 120
    assert distance(end("fed_avg", 60, **MANY_STEPS), BEST) > 0.3
    assert distance(end(name, rounds, cohort=cohort, clients=COUNT, **MANY_STEPS, **parameters), BEST) < 1e-3


def test_scaffold_reaches_it_with_local_momentum():
    plan = {"learning_rate": 0.01, "epochs": 10, "batch": EVERYTHING, "momentum": 0.9}
    assert distance(end("scaffold", 120, clients=COUNT, **plan), BEST) < 1e-3


def test_the_control_variates_of_scaffold_become_the_gradients_at_the_optimum():
    federation = Federation(strategy("scaffold", clients=COUNT, **MANY_STEPS), TRAINER, PEOPLE)
    federation.play(60)
    for name, memory in federation.memories.items():
        gradient, _ = TRAINER.gradient(BEST.astype(np.float32), PEOPLE[name])
        np.testing.assert_allclose(memory["control"], gradient, atol=1e-3)
    np.testing.assert_allclose(federation.state.extra["control"], 0, atol=1e-3)


def test_the_server_keeps_the_mean_of_all_control_variates_when_half_take_part():
    federation = Federation(strategy("scaffold", clients=COUNT, **MANY_STEPS), TRAINER, PEOPLE, cohort=3)
    federation.play(7)
    kept = [federation.memories[name]["control"] for name in federation.memories]
    np.testing.assert_allclose(federation.state.extra["control"], np.sum(kept, axis=0) / COUNT, atol=1e-4)


def test_the_first_round_of_scaffold_is_that_of_fed_avg_with_equal_weights():
    """All clients have as many examples; control variates begin at 0."""
    scaffold, fed_avg = (
        end(name, 1, **given, **MANY_STEPS) for name, given in (("scaffold", {"clients": 6}), ("fed_avg", {}))
    )
    assert np.array_equal(scaffold, fed_avg)


def test_fed_dyn_with_a_memory_of_the_gradient_stays_at_the_optimum():
    federation = Federation(strategy("fed_dyn", clients=COUNT, alpha=1.0, **MANY_STEPS), TRAINER, PEOPLE)
    federation.play(80)
    for name, memory in federation.memories.items():
        gradient, _ = TRAINER.gradient(BEST.astype(np.float32), PEOPLE[name])
        np.testing.assert_allclose(memory["gradient"], gradient, atol=1e-3)
    np.testing.assert_allclose(federation.state.extra["h"], 0, atol=1e-3)


def test_h_of_fed_dyn_is_the_mean_of_all_clients_gradients_when_half_take_part():
    federation = Federation(strategy("fed_dyn", clients=COUNT, alpha=1.0, **MANY_STEPS), TRAINER, PEOPLE, cohort=3)
    federation.play(7)
    kept = [memory["gradient"] for memory in federation.memories.values()]
    np.testing.assert_allclose(federation.state.extra["h"], np.sum(kept, axis=0) / COUNT, atol=1e-4)


# --- FedNova ---------------------------------------------------------------------------------------------------------

SIZES = [10, 10, 20, 40, 80]
UNEVEN = clients_of(len(SIZES), SIZE, seed=2, sizes=SIZES, curvature=1.2)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fed_nova_has_the_objective_that_fed_avg_has_not(momentum):
    """Wang et al., theorem 1: where steps differ, FedAvg minimises Σ pᵢ·‖aᵢ‖₁·Fᵢ instead of Σ pᵢ·Fᵢ."""
    plan = {"learning_rate": 0.01 * (1 - momentum), "epochs": 2, "batch": 10, "momentum": momentum}
    steps = [gradient_weight(LocalPlan(**plan), 2 * size // 10) for size in SIZES]
    true, tilted = optimum(UNEVEN), optimum(UNEVEN, weights=np.multiply(SIZES, steps))
    plain, nova = (end(name, 250, UNEVEN, **plan) for name in ("fed_avg", "fed_nova"))
    assert distance(plain, tilted) < 0.3 * distance(plain, true)
    assert distance(nova, true) < 0.15 * distance(plain, true)


def test_fed_nova_with_equal_steps_is_fed_avg():
    """Bit for bit where the number of steps is a power of 2, since clients divide and the server multiplies by it."""
    for epochs, exact in ((2, True), (7, False)):
        plan = {"learning_rate": 0.05, "epochs": epochs, "batch": 10}
        nova, plain = (end(name, 4, **plan) for name in ("fed_nova", "fed_avg"))
        assert np.array_equal(nova, plain) or not exact
        np.testing.assert_allclose(nova, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_the_weight_of_gradients_is_that_of_the_paper(steps):
    """Wang et al., section 3: plain, momentum ρ, proximal μ."""
    rho, shrink = 0.9, 0.1 * 0.5
    assert gradient_weight(LocalPlan(), steps) == steps
    with_momentum = (steps - rho * (1 - rho**steps) / (1 - rho)) / (1 - rho)
    assert gradient_weight(LocalPlan(momentum=rho), steps) == pytest.approx(with_momentum)
    proximal = (1 - (1 - shrink) ** steps) / shrink
    assert gradient_weight(LocalPlan(learning_rate=0.1), steps, pull=0.5) == pytest.approx(proximal)


def test_the_weight_of_gradients_is_what_a_constant_gradient_moves_a_model_by():
    class Slope(Ridge):
        def _gradient(self, w, examples):
            return np.full(self.size, 0.25), 0.0

    plan, start = LocalPlan(0.1, epochs=5, batch=4, momentum=0.7), np.zeros(SIZE, np.float32)
    task = Assignment("one", Broadcast(0, start), PEOPLE["client-0"], {}, stream(0))
    work = strategy("fed_nova", learning_rate=0.1, epochs=5, batch=4, momentum=0.7, mu=0.3).work
    update, _ = work(Slope(SIZE), task)
    np.testing.assert_allclose(update.delta, -0.1 * 0.25, rtol=1e-5)
    assert update.extra["steps"][0] == pytest.approx(gradient_weight(plan, 25, 0.3))


# --- a learning rate that falls --------------------------------------------------------------------------------------


def test_a_falling_learning_rate_takes_the_bias_of_fed_avg_away():
    """X. Li et al., "On the Convergence of FedAvg on Non-IID Data", ICLR 2020, theorem 4: it has to fall."""
    falling = end("fed_avg", 150, decay=0.97, **MANY_STEPS)
    assert distance(end("fed_avg", 150, **MANY_STEPS), BEST) > 0.3
    assert distance(falling, BEST) < 0.05


def test_control_variates_are_gradients_whatever_the_learning_rate_of_the_round():
    federation = Federation(strategy("scaffold", clients=COUNT, decay=0.97, **MANY_STEPS), TRAINER, PEOPLE)
    federation.play(60)
    for name, memory in federation.memories.items():
        gradient, _ = TRAINER.gradient(BEST.astype(np.float32), PEOPLE[name])
        np.testing.assert_allclose(memory["control"], gradient, atol=1e-2)


def test_the_plan_of_a_round_has_its_learning_rate_once():
    plan = LocalPlan(learning_rate=0.5, decay=0.5)
    assert plan.at(3) == plan.at(3).at(7) == LocalPlan(learning_rate=0.0625)
