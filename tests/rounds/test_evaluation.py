"""Figures per client, and beside training alone and pooled, on points whose means are known."""

from dataclasses import replace

import numpy as np
import pytest

from unseen.data.federated.clients import FederatedData
from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.process import Correction, Examples, Fit, LocalPlan
from unseen.learners.horizontal.strategies import strategy
from unseen.rounds.cohort import Uniform
from unseen.rounds.evaluation import PerClient, compare, per_client, trained_alone
from unseen.rounds.simulate import Settings, Simulation

PLAN = LocalPlan(learning_rate=0.5, epochs=2)


class Points:
    """A model that is a point; training draws it to the mean of the inputs, its loss is the squared distance."""

    size = 2

    def settle(self):
        pass

    def initial(self, seed):
        return np.full(2, seed, np.float32)

    def fit(self, model, examples, plan, rng, correction: Correction):
        for _ in range(plan.epochs):
            pull = correction.pull * (model - correction.anchor) if correction.anchor is not None else 0
            model = model - np.float32(plan.learning_rate) * (model - examples.inputs.mean(axis=0) + pull)
        return Fit(model.astype(np.float32), plan.epochs, 0.0)

    def evaluate(self, model, examples):
        return {"loss": float(np.square(model - examples.inputs).sum(axis=1).mean())}


def people(values, sizes=None):
    sizes = [2] * len(values) if sizes is None else sizes
    return FederatedData.of(
        "points",
        {
            f"client-{number}": (np.full((size, 2), value, np.float32), np.zeros(size, np.int64))
            for number, (value, size) in enumerate(zip(values, sizes, strict=True))
        },
    )


def test_measures_of_fairness_are_those_of_their_papers():
    values = np.array([0.5, 0.9, 0.7, *[1.0] * 17])
    one = PerClient("accuracy", tuple(map(str, range(20))), np.ones(20, np.int64), values)
    assert one.mean == pytest.approx(0.955)
    assert one.deviation == pytest.approx(np.std(values))
    assert one.worst() == pytest.approx((0.5 + 0.7) / 2), "of 20 clients a tenth is two"
    assert one.worst(more_is_better=False) == pytest.approx(1.0)
    assert one.jain == pytest.approx(values.sum() ** 2 / (20 * (values**2).sum()))
    assert one.quantile(0.5) == 1.0
    alike = replace(one, values=np.full(20, 0.3))
    assert alike.jain == pytest.approx(1.0)
    only = replace(one, values=np.eye(20)[3])
    assert only.jain == pytest.approx(1 / 20)
    assert replace(one, values=np.zeros(20)).jain == 1.0


@pytest.mark.parametrize("workers", [1, 2])
def test_every_client_with_examples_is_tested_by_its_model(workers):
    clients = people([1.0, 2.0, 5.0], sizes=[2, 0, 3])
    found = per_client(Points(), clients, lambda _: np.array([1, 1], np.float32), workers=workers)
    assert found["loss"].clients == ("client-0", "client-2")
    assert found["loss"].sizes.tolist() == [2, 3]
    assert found["loss"].values.tolist() == [0.0, 32.0]


def test_clients_without_examples_to_test_on_are_told():
    with pytest.raises(DataError, match="no client has examples to test on"):
        per_client(Points(), people([1.0], sizes=[0]), lambda _: np.zeros(2, np.float32))


def test_personal_models_serve_their_clients_better():
    clients = people([0.0, 4.0, 8.0])
    with Simulation(clients, Points(), strategy("ditto", pull=0.1, learning_rate=0.5), Settings(Uniform(3))) as one:
        state = one.rounds(20).state
        shared = per_client(Points(), clients, lambda _: state.model, workers=1)["loss"]
        own = per_client(Points(), clients, one.personal, workers=1)["loss"]
    assert shared.values.max() > 30
    assert own.values.max() < 0.5


def test_a_strategy_without_models_of_their_own_gives_everybody_the_same():
    with Simulation(people([0.0, 4.0]), Points(), strategy("fed_avg"), Settings(Uniform(2))) as one:
        one.rounds(1)
        assert np.array_equal(one.personal("client-0"), one.run.state.model)


def test_a_run_stands_between_training_alone_and_pooled():
    clients, test = people([0.0, 2.0, 4.0, 6.0]), Examples(np.full((4, 2), 3.0, np.float32), np.zeros(4, np.int64))
    process = strategy("fed_avg", learning_rate=0.5, epochs=2)
    with Simulation(clients, Points(), process, Settings(Uniform(2), workers=1), test=test) as one:
        one.rounds(12)
        found = compare(one, PLAN, alone=9)
    assert found.pooled["loss"] < 1e-3
    assert sorted(found.alone) == list(clients.ids), "there are only four"
    assert found.mean_alone()["loss"] == pytest.approx(2 * np.mean([9, 1, 1, 9]), rel=1e-2)
    assert found.pooled["loss"] < found.federated["loss"] < found.mean_alone()["loss"]
    assert [name for name, _ in found.rows()] == ["federated", "pooled", "alone (mean of 4 clients)"]


def test_the_baselines_see_each_example_as_often_and_end_at_the_rate_of_the_run():
    seen = []

    class Noting(Points):
        def fit(self, model, examples, plan, rng, correction):
            seen.append((len(examples), plan.learning_rate, plan.epochs))
            return super().fit(model, examples, plan, rng, correction)

    clients = people([0.0, 2.0, 4.0, 6.0])
    plan = replace(PLAN, decay=0.5)
    process = strategy("fed_avg", learning_rate=0.5, epochs=2, decay=0.5)
    test = Examples(np.zeros((1, 2), np.float32), np.zeros(1, np.int64))
    with Simulation(clients, Noting(), process, Settings(Uniform(2), workers=1), test=test) as one:
        one.rounds(4)
        seen.clear()
        compare(one, plan, alone=1)
    # 4 rounds of 2 of 4 clients: each took part twice on average.
    assert seen == [(8, 0.5, 2), (8, 0.125, 2), (2, 0.5, 2), (2, 0.125, 2)]


def test_training_alone_depends_on_the_seed_and_the_name_only():
    examples = Examples(np.ones((3, 2), np.float32), np.zeros(3, np.int64))
    one, other = (trained_alone(Points(), examples, PLAN, 2, 7, "x") for _ in range(2))
    assert np.array_equal(one, other)


def test_nothing_played_and_nothing_to_test_on_are_told():
    with (
        Simulation(people([0.0, 1.0]), Points(), strategy("fed_avg"), Settings(Uniform(2), workers=1)) as one,
        pytest.raises(UsageError, match="has been played, and examples to test on"),
    ):
        compare(one, PLAN)
