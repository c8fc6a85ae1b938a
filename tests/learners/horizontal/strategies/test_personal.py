"""Strategies that leave every client, or every kind of client, with a model of its own."""

import numpy as np
import pytest
from convex import EVERYTHING, Federation, Ridge, clients_of, distance, optimum

from unseen.errors import UsageError
from unseen.learners.horizontal.process import Examples
from unseen.learners.horizontal.strategies import strategy
from unseen.learners.horizontal.strategies.clustered import models_of
from unseen.learners.horizontal.strategies.parts import personal_model

SIZE = 5
PLAIN = {"learning_rate": 0.05, "epochs": 1, "batch": EVERYTHING}


def own_models(federation):
    broadcast = federation.process.distributor(federation.state)
    return {
        name: personal_model(federation.process, federation.trainer, federation.assignment(name, broadcast))
        for name in federation.clients
    }


def test_without_personal_work_everybody_uses_the_model_of_all():
    federation = Federation(strategy("fed_avg", **PLAIN), Ridge(SIZE), clients_of(3, SIZE))
    model = federation.play(2)
    assert all(np.array_equal(own, model) for own in own_models(federation).values())


# --- Ditto -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pull", [0.5, 5.0])
def test_ditto_ends_at_the_minimum_of_a_clients_loss_and_the_pull(pull):
    """Li et al., ICML 2021, objective: min Fᵢ(v) + λ/2·‖v − w*‖², here in closed form."""
    people = clients_of(4, SIZE, seed=3)
    federation = Federation(strategy("ditto", pull=pull, **PLAIN), Ridge(SIZE), people)
    federation.play(250)
    best = optimum(people)
    for name, own in own_models(federation).items():
        one = people[name]
        hessian = one.inputs.T @ one.inputs / len(one) + pull * np.eye(SIZE)
        assert distance(own, np.linalg.solve(hessian, one.inputs.T @ one.labels / len(one) + pull * best)) < 5e-3


def test_own_models_of_ditto_fit_better_than_the_model_of_all():
    people, trainer = clients_of(4, SIZE, seed=3), Ridge(SIZE)
    federation = Federation(strategy("ditto", pull=0.1, **PLAIN), trainer, people)
    model = federation.play(100)
    shared, own = (
        np.mean([trainer.evaluate(models[name], people[name])["loss"] for name in people])
        for models in (dict.fromkeys(people, model), own_models(federation))
    )
    assert own < shared / 20


def test_ditto_keeps_its_own_model_over_rounds_in_which_the_client_is_absent():
    federation = Federation(strategy("ditto", **PLAIN), Ridge(SIZE), clients_of(4, SIZE), cohort=2)
    federation.play(1)
    present = {name: memory["personal"].copy() for name, memory in federation.memories.items()}
    federation.clients = {name: c for name, c in federation.clients.items() if name not in present}
    federation.play(3)
    assert all(np.array_equal(federation.memories[name]["personal"], own) for name, own in present.items())


# --- FedBN and FedRep ------------------------------------------------------------------------------------------------


def with_intercepts(count=5):
    """Return clients with one slope and an intercept each that goes with their inputs, and the slope that fits all."""
    rng, people, within = np.random.default_rng(5), {}, []
    slope = rng.standard_normal(SIZE)
    for number in range(count):
        inputs = rng.standard_normal((20, SIZE)) + 0.4 * (number - 2)
        labels = inputs @ slope + 3 * number + 0.1 * rng.standard_normal(20)
        people[f"client-{number}"] = Examples(np.c_[inputs, np.ones(20)], labels)
        within.append((inputs - inputs.mean(axis=0), labels - labels.mean()))
    best = np.linalg.lstsq(np.concatenate([x for x, _ in within]), np.concatenate([y for _, y in within]))[0]
    return people, best


TRAINER = Ridge(SIZE + 1, names=("weight",) * SIZE + ("bias",))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("fed_bn", {"local": ("bias",)}), ("fed_rep", {"head": ("bias",), "head_epochs": 3})],
    ids=["fed_bn", "fed_rep"],
)
def test_a_part_of_their_own_lets_clients_agree_about_the_rest(name, parameters):
    """With one intercept for all the slope is biased; with local ones it is that of fixed effects."""
    people, best = with_intercepts()
    shared = Federation(strategy("fed_avg", **PLAIN), TRAINER, people).play(300)[:SIZE]
    federation = Federation(strategy(name, **PLAIN, **parameters), TRAINER, people)
    found = federation.play(300)
    assert distance(shared, best) > 0.5
    assert distance(found[:SIZE], best) < 0.05
    for client, own in own_models(federation).items():
        residual = people[client].labels - people[client].inputs @ own
        assert abs(residual.mean()) < 0.1


@pytest.mark.parametrize(("name", "word"), [("fed_bn", "local"), ("fed_rep", "head")])
def test_the_local_part_never_leaves(name, word):
    people, _ = with_intercepts()
    federation = Federation(strategy(name, **PLAIN, **{word: ("bias",)}), TRAINER, people)
    before = TRAINER.initial(0)
    after = federation.play(3)
    assert after[SIZE] == before[SIZE]
    assert not np.array_equal(after[:SIZE], before[:SIZE])
    assert len({float(memory["own"][0]) for memory in federation.memories.values()}) == len(people)


@pytest.mark.parametrize(("name", "word"), [("fed_bn", "local"), ("fed_rep", "head")])
def test_a_part_that_the_model_has_not_is_refused(name, word):
    people, _ = with_intercepts()
    with pytest.raises(UsageError, match="no parameters whose names begin with running"):
        Federation(strategy(name, **PLAIN, **{word: ("running",)}), TRAINER, people).play(1)


class Representation(Ridge):
    """y = x·B·w: a representation B of shape (dimension, 2), and a head w."""

    def __init__(self, dimension):
        super().__init__(2 * dimension + 2, names=("body",) * 2 * dimension + ("head",) * 2)

    def split(self, model):
        return model[:-2].reshape(-1, 2), model[-2:]

    def _gradient(self, w, examples):
        body, head = self.split(w)
        features = examples.inputs @ body
        residual = (features @ head - examples.labels) / len(examples)
        of_body = np.outer(examples.inputs.T @ residual, head)
        return np.concatenate([of_body.ravel(), features.T @ residual]), 0.5 * len(examples) * float(
            residual @ residual
        )


def test_fed_rep_finds_the_representation_that_fed_avg_cannot_find():
    """Collins et al., theorem 1: the principal angle to the true subspace goes to 0 though every head differs."""
    rng, dimension, people = np.random.default_rng(4), 6, {}
    true, _ = np.linalg.qr(rng.standard_normal((dimension, 2)))
    for number in range(8):
        inputs = rng.standard_normal((30, dimension))
        people[f"client-{number}"] = Examples(inputs, inputs @ true @ rng.standard_normal(2))
    trainer, plan = Representation(dimension), {"learning_rate": 0.2, "epochs": 1, "batch": EVERYTHING}

    def angle(name, **parameters):
        model = Federation(strategy(name, **plan, **parameters), trainer, people).play(120)
        basis, _ = np.linalg.qr(trainer.split(model.astype(np.float64))[0])
        return np.linalg.norm(basis - true @ (true.T @ basis), 2)

    assert angle("fed_rep", head=("head",), head_epochs=10) < 0.02
    assert angle("fed_avg") > 0.3


# --- IFCA ------------------------------------------------------------------------------------------------------------


def two_kinds():
    rng, people = np.random.default_rng(7), {}
    for number in range(6):
        inputs = rng.standard_normal((20, SIZE))
        labels = inputs @ np.full(SIZE, 1.0 if number % 2 else -1.0) + 0.1 * rng.standard_normal(20)
        people[f"client-{number}"] = Examples(inputs, labels)
    return people


def test_clients_of_one_kind_find_each_other():
    people, trainer = two_kinds(), Ridge(SIZE)
    plan = {"learning_rate": 0.2, "epochs": 1, "batch": EVERYTHING}
    federation = Federation(strategy("clustered", clusters=2, spread=1.0, **plan), trainer, people)
    federation.play(100)
    chosen = [int(federation.memories[name]["cluster"][0]) for name in sorted(people)]
    assert chosen in ([0, 1] * 3, [1, 0] * 3)
    models = models_of(federation.state)
    for kind in (0, 1):
        best = optimum({name: people[name] for name in sorted(people)[kind::2]})
        assert distance(models[chosen[kind]], best) < 2e-3
    assert all(trainer.evaluate(own, people[name])["loss"] < 0.01 for name, own in own_models(federation).items())
    shared = Federation(strategy("fed_avg", **plan), trainer, people).play(100)
    assert min(trainer.evaluate(shared, one)["loss"] for one in people.values()) > 1


def test_a_cluster_that_nobody_chooses_stays_where_it_is():
    federation = Federation(strategy("clustered", clusters=3, spread=50.0, **PLAIN), Ridge(SIZE), two_kinds())
    before = federation.process.distributor(federation.begin())
    federation.play(1)
    taken = {int(memory["cluster"][0]) for memory in federation.memories.values()}
    for place, (old, new) in enumerate(zip(models_of(before), models_of(federation.state), strict=True)):
        assert np.array_equal(old, new) == (place not in taken)
