"""A run that is stopped after every round, and goes on with another number of workers, ends with the same bits."""

from dataclasses import replace

import numpy as np
import pytest

from unseen.data.federated.clients import FederatedData
from unseen.learners.horizontal.process import Fit
from unseen.learners.horizontal.strategies import strategy
from unseen.rounds.cohort import Uniform
from unseen.rounds.simulate import Settings, Simulation

SIZE = 3


class Corrected:
    """A model that is a point, drawn to the mean of the inputs with noise, and corrected as gradients are."""

    size = SIZE

    def settle(self):
        pass

    def initial(self, seed):
        return np.zeros(SIZE, np.float32)

    def fit(self, model, examples, plan, rng, correction):
        for _ in range(plan.epochs):
            gradient = model - examples.inputs.mean(axis=0) + 0.01 * rng.normal(size=SIZE).astype(np.float32)
            gradient = gradient if correction.drift is None else gradient + correction.drift
            pull = 0 if correction.anchor is None else correction.pull * (model - correction.anchor)
            model = (model - plan.learning_rate * (gradient + pull)).astype(np.float32)
        return Fit(model, plan.epochs, 0.0)


def people():
    rng = np.random.default_rng(0)
    return FederatedData.of(
        "people",
        {f"client-{n}": (rng.normal(n, 1, (4, SIZE)).astype(np.float32), np.zeros(4, np.int64)) for n in range(10)},
    )


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("scaffold", {"clients": 10}), ("fed_dyn", {"clients": 10}), ("ditto", {}), ("fed_adam", {})],
)
def test_stopped_after_every_round(tmp_path, name, parameters):
    process, clients = strategy(name, epochs=2, **parameters), people()

    def run(rounds, workers, folder=None):
        with Simulation(clients, Corrected(), process, Settings(Uniform(5), workers=workers, folder=folder)) as one:
            found = one.rounds(rounds)
            memory = one._store.memories(rounds)
            return found, {client: memory(client) for client in clients.ids}

    whole, kept = run(6, 1)
    for number in range(1, 7):
        again, again_kept = run(number, 1 + number % 2, tmp_path)
    np.testing.assert_array_equal(again.state.model, whole.state.model)
    assert again.state.extra.keys() == whole.state.extra.keys()
    for key, vector in whole.state.extra.items():
        np.testing.assert_array_equal(again.state.extra[key], vector)
    assert [replace(one, seconds=0) for one in again.history] == [replace(one, seconds=0) for one in whole.history]
    assert (name == "fed_adam") == (not any(kept.values()))
    for client, memory in kept.items():
        assert again_kept[client].keys() == memory.keys()
        for key, vector in memory.items():
            np.testing.assert_array_equal(again_kept[client][key], vector)
