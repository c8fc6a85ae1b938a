"""A simulation gives the same bits for any number of workers, after a resume, and whatever order clients finish in."""

import os
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from unseen.errors import Cancelled, DataError, LocalProtocolError, UsageError
from unseen.learners.horizontal.neural.models import logistic_regression
from unseen.learners.horizontal.neural.trainer import TorchTrainer
from unseen.learners.horizontal.process import (
    Aggregate,
    Assignment,
    Broadcast,
    Correction,
    Examples,
    Fit,
    LocalPlan,
    Process,
    State,
    Update,
    stream,
)
from unseen.learners.horizontal.strategies.fed_avg import fed_avg
from unseen.rounds.cohort import Poisson, Uniform, Weighted
from unseen.rounds.pace import Faults, Pace
from unseen.rounds.simulate import Settings, Simulation

SIZE = 5


class Means:
    """A model that is a point; a client draws it to the mean of its inputs."""

    size = SIZE

    def settle(self):
        pass

    def initial(self, seed):
        return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)

    def fit(self, model, examples, plan, rng, correction):
        for _ in range(plan.epochs):
            noise = rng.normal(size=SIZE).astype(np.float32)
            model = model - plan.learning_rate * (model - examples.inputs.mean(axis=0) + 0.01 * noise)
        return Fit(model.astype(np.float32), plan.epochs, float(np.square(model - examples.inputs).mean()))

    def evaluate(self, model, examples):
        return {"loss": float(np.square(model - examples.inputs).mean())}


class People:
    """Clients with a few points each."""

    def __init__(self, count, fail=None):
        self.ids = [f"client-{number}" for number in range(count)]
        self.sizes = [3 + number % 5 for number in range(count)]
        self.fail = fail

    def client(self, name):
        number = self.ids.index(name)
        if number == self.fail:
            raise DataError("its file is damaged")
        rng = np.random.default_rng(number)
        size = self.sizes[number]
        return rng.normal(number, 1, (size, SIZE)).astype(np.float32), np.zeros(size, np.int64)


def distribute(state):
    return Broadcast(state.round, state.model, state.extra)


def work(trainer, assignment):
    """Train, and count in the client's memory how often it has taken part."""
    fit = trainer.fit(
        assignment.broadcast.model, assignment.examples, LocalPlan(epochs=2), assignment.rng, Correction()
    )
    times = assignment.memory.get("times", np.zeros(1, np.float32)) + 1
    delta = fit.model - assignment.broadcast.model
    return Update(delta, len(assignment.examples), {"times": times}, {"loss": fit.loss}), {"times": times}


def average(updates):
    weights = np.array([update.weight for update in updates])
    total = np.zeros(SIZE)
    for update in updates:
        total += update.delta.astype(np.float64) * update.weight
    times = sum(float(update.extra["times"][0]) for update in updates)
    losses = sum(update.metrics["loss"] * update.weight for update in updates) / weights.sum()
    delta = (total / weights.sum()).astype(np.float32)
    extra = {"times": np.array([times], np.float32)}
    return Aggregate(delta, len(updates), float(weights.sum()), extra, {"loss": losses})


def finish(state, aggregate):
    return State(state.round + 1, state.model + aggregate.delta, aggregate.extra)


PROCESS = Process("test", distribute, work, average, finish)
TEST = Examples(np.random.default_rng(9).normal(4, 1, (2500, SIZE)).astype(np.float32), np.zeros(2500, np.int64))


def simulate(rounds=4, people=None, process=PROCESS, **settings):
    chosen = Settings(**{"cohort": Uniform(5), **settings})
    with Simulation(people or People(12), Means(), process, chosen, test=TEST) as simulation:
        return simulation.rounds(rounds)


def test_any_number_of_workers_gives_the_same_bits():
    runs = [simulate(workers=workers) for workers in (1, 2, 3)]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.state.model, runs[0].state.model)
        assert [replace(one, seconds=0) for one in run.history] == [replace(one, seconds=0) for one in runs[0].history]
    assert runs[0].history[-1].test["loss"] < runs[0].history[0].test["loss"]
    assert [one.number for one in runs[0].history] == [1, 2, 3, 4]


def test_many_clients_are_handed_out_in_groups_to_the_same_bits():
    runs = [simulate(2, People(90), workers=workers, cohort=Uniform(80)) for workers in (1, 2)]
    np.testing.assert_array_equal(runs[1].state.model, runs[0].state.model)
    with pytest.raises(DataError, match="its file is damaged") as caught:
        simulate(1, People(90, fail=41), workers=2, cohort=Uniform(90))
    assert caught.value.__notes__ == ["at client client-41"]


class Pictures:
    """Clients with a few small pictures each, some with fewer than a minibatch."""

    ids = tuple(f"client-{number}" for number in range(40))
    sizes = tuple(3 + number % 9 for number in range(40))

    def client(self, name):
        number = self.ids.index(name)
        rng = np.random.default_rng(number)
        return rng.integers(0, 256, (self.sizes[number], 3, 3)).astype(np.uint8), rng.integers(0, 3, self.sizes[number])


def test_a_loop_over_minibatches_gives_the_same_bits_whoever_was_trained_before(tmp_path):
    """Its room for a minibatch is kept from client to client."""
    process = fed_avg(LocalPlan(learning_rate=0.1, epochs=2, batch=8))

    def run(rounds, workers, folder=None):
        trainer = TorchTrainer(lambda: logistic_regression(9, 3))
        settings = Settings(Uniform(40), workers=workers, folder=folder)
        with Simulation(Pictures(), trainer, process, settings) as simulation:
            return simulation.rounds(rounds).state.model

    run(1, 2, tmp_path)
    assert run(3, 1).tobytes() == run(3, 2).tobytes() == run(3, 2, tmp_path).tobytes()


def test_another_seed_gives_another_run():
    assert (simulate(workers=1).state.model != simulate(workers=1, seed=1).state.model).all()


def test_evaluation_is_the_mean_over_all_test_examples():
    run = simulate(workers=2)
    expected = Means().evaluate(run.state.model, TEST)["loss"]
    assert run.test["loss"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_run_goes_on_from_its_folder_to_the_same_end(tmp_path, stop):
    """Clients' memories too: they are those of the rounds that count."""
    whole = simulate(6, workers=1)
    simulate(stop, workers=2, folder=tmp_path)
    run = simulate(6, workers=1, folder=tmp_path)
    np.testing.assert_array_equal(run.state.model, whole.state.model)
    np.testing.assert_array_equal(run.state.extra["times"], whole.state.extra["times"])
    assert [one.test for one in run.history] == [one.test for one in whole.history]


def test_what_a_killed_round_left_behind_does_not_count(tmp_path):
    """A round that died after its clients had kept their memories is played again with those from before."""
    whole = simulate(4, workers=1)
    simulate(2, workers=1, folder=tmp_path)

    def die(updates):
        raise DataError("killed")

    settings = Settings(Uniform(5), workers=1)
    with Simulation(People(12), Means(), replace(PROCESS, aggregator=die), settings, test=TEST) as simulation:
        simulation._store = type(simulation._store)(tmp_path)
        simulation._run = simulation._first()
        with pytest.raises(DataError, match="killed"):
            simulation.rounds(3)
    run = simulate(4, workers=1, folder=tmp_path)
    np.testing.assert_array_equal(run.state.extra["times"], whole.state.extra["times"])
    np.testing.assert_array_equal(run.state.model, whole.state.model)


@pytest.mark.parametrize("folder", [False, True])
def test_clients_trained_in_groups(tmp_path, folder):
    """Groups are stretches of the cohort: the same for any number of workers and after a resume, and no other run."""
    seen = []

    class Grouped(Means):
        group = 3

        def fit_many(self, model, plan, cohort):
            seen.append(len(cohort))
            return [self.fit(model, examples, plan, rng, correction) for examples, rng, correction in cohort]

    def run(rounds, workers, folder=None, together=True):
        settings = Settings(Uniform(5), workers=workers, folder=folder, together=together)
        with Simulation(People(12), Grouped(), fed_avg(LocalPlan(epochs=2)), settings, test=TEST) as simulation:
            return simulation.rounds(rounds)

    whole = run(4, 1)
    assert seen == [3, 2] * 4
    if folder:
        run(2, 2, tmp_path)
        with pytest.raises(UsageError, match="holds another run, with other group"):
            run(4, 1, tmp_path, together=False)
    again = run(4, 2, tmp_path if folder else None)
    np.testing.assert_array_equal(again.state.model, whole.state.model)
    seen.clear()
    np.testing.assert_array_equal(run(4, 1, together=False).state.model, whole.state.model)
    assert not seen


@pytest.mark.parametrize("workers", [1, 2])
def test_small_clients_are_handed_over_in_bundles_and_an_error_still_names_its_client(workers):
    settings = Settings(Uniform(60), workers=workers)
    with Simulation(People(60), Means(), PROCESS, settings) as simulation:
        bundled = simulation.rounds(2).state.model
    clients = People(60)
    states = PROCESS.start(Means().initial(0))
    memories = {}
    for number in range(2):
        updates = []
        for client in Uniform(60).choose(clients.ids, clients.sizes, number, 0):
            rng = stream(0, number, client, "work")
            one = Assignment(
                client, distribute(states), Examples(*clients.client(client)), memories.get(client, {}), rng
            )
            update, memories[client] = work(Means(), one)
            updates.append(update)
        states = PROCESS.next(states, updates)[0]
    np.testing.assert_array_equal(bundled, states.model)
    failing = Simulation(People(60, fail=3), Means(), PROCESS, settings)
    with failing, pytest.raises(DataError, match="damaged") as caught:
        failing.rounds(1)
    assert "at client client-3" in caught.value.__notes__


def test_another_run_in_the_same_folder_is_refused(tmp_path):
    simulate(1, workers=1, folder=tmp_path)
    with pytest.raises(UsageError, match="holds another run, with other seed"):
        simulate(2, workers=1, seed=5, folder=tmp_path)


def test_clients_that_drop_out_are_left_out_and_counted():
    run = simulate(workers=1, faults=Faults(drop=0.5))
    assert 0 < sum(one.dropped for one in run.history) < 20
    assert (run.state.model != simulate(workers=1).state.model).any()
    again = simulate(workers=2, faults=Faults(drop=0.5))
    np.testing.assert_array_equal(run.state.model, again.state.model)


def test_stragglers_are_left_out_and_time_goes_by():
    people, slow = People(12), Pace(fixed=1.0, per_example=0.5)
    run = simulate(3, people, workers=1, faults=Faults(pace=slow))
    late = simulate(3, people, workers=1, faults=Faults(pace=slow, deadline=3.0))
    first = simulate(3, people, workers=2, faults=Faults(pace=slow, enough=2))
    times = [[1 + 0.5 * people.sizes[people.ids.index(one)] for one in cohort_of(number)] for number in range(3)]
    assert [one.clock for one in run.history] == pytest.approx(np.cumsum([max(row) for row in times]).tolist())
    assert [one.dropped for one in late.history] == [sum(time > 3 for time in row) for row in times]
    assert late.history[-1].clock == pytest.approx(9.0), "somebody is late in every round"
    assert [one.cohort - one.dropped for one in first.history] == [2, 2, 2]
    assert first.history[-1].clock == pytest.approx(sum(sorted(row)[1] for row in times))


def cohort_of(number):
    people = People(12)
    return Uniform(5).choose(people.ids, people.sizes, number, 0)


def test_a_pace_is_spread_by_the_seed():
    pace = Pace(fixed=2.0, spread=0.5)
    times = [pace.seconds(0, number, "a", 3) for number in range(400)]
    assert np.mean(np.log(times)) == pytest.approx(np.log(2), abs=0.1)
    assert np.std(np.log(times)) == pytest.approx(0.5, abs=0.05)
    assert times[7] == pace.seconds(0, 7, "a", 9) != pace.seconds(1, 7, "a", 9)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: Pace(fixed=-1), "seconds above 0"),
        (lambda: Pace(fixed=0), "seconds above 0"),
        (lambda: Pace(spread=float("nan")), "spread"),
        (lambda: Faults(drop=1.5), "between 0 and 1"),
        (lambda: Faults(enough=3), "give the faults one"),
        (lambda: Faults(pace=Pace(), deadline=0), "a deadline is above 0"),
        (lambda: Faults(pace=Pace(), enough=0), "one at least"),
    ],
)
def test_impossible_faults_are_refused(build, told):
    with pytest.raises(UsageError, match=told):
        build()


def test_a_round_without_anybody_changes_nothing_but_its_number():
    run = simulate(2, workers=1, faults=Faults(drop=1.0))
    np.testing.assert_array_equal(run.state.model, Means().initial(0))
    assert run.state.round == 2
    assert run.history[0].training == {}


# --- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_its_client(workers):
    with pytest.raises(DataError, match="its file is damaged") as caught:
        simulate(8, People(6, fail=3), workers=workers)
    assert "at client client-3" in caught.value.__notes__


def test_a_worker_that_dies_ends_the_run_and_names_its_client():
    def dies(trainer, assignment):
        if assignment.client == "client-2":
            os.kill(os.getpid(), 9)
        return work(trainer, assignment)

    with pytest.raises(LocalProtocolError, match="that trained client client-2 ended with signal SIGKILL"):
        simulate(8, People(6), replace(PROCESS, work=dies), workers=2)


def test_a_users_own_fault_is_shown_with_its_story():
    def wrong(trainer, assignment):
        return {}["weights"]

    with pytest.raises(LocalProtocolError, match=r"(?s)the work of client .* failed:.*KeyError: 'weights'"):
        simulate(1, process=replace(PROCESS, work=wrong), workers=2)


def test_a_model_that_diverges_is_not_averaged():
    def diverge(trainer, assignment):
        update, memory = work(trainer, assignment)
        return replace(update, delta=update.delta * np.float32(np.inf)), memory

    with pytest.raises(DataError, match=r"update of client client-.* not finite.*lower the learning rate"):
        simulate(1, process=replace(PROCESS, work=diverge), workers=1)


def test_it_can_be_cancelled_and_goes_on(tmp_path):
    cancel, seen = threading.Event(), []

    def observe(one):
        seen.append(one.number)
        if one.number == 2:
            cancel.set()

    settings = Settings(Uniform(5), workers=2, folder=tmp_path)
    with Simulation(People(12), Means(), PROCESS, settings, test=TEST) as simulation:
        with pytest.raises(Cancelled):
            simulation.rounds(4, observe=observe, cancel=cancel)
        began = time.monotonic()
    assert time.monotonic() - began < 4
    assert seen == [1, 2]
    np.testing.assert_array_equal(simulate(4, workers=1, folder=tmp_path).state.model, simulate(4).state.model)


def test_no_clients():
    with pytest.raises(DataError, match="there are no clients"):
        Simulation(People(0), Means(), PROCESS)


# --- cohorts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cohort", [Uniform(5), Weighted(5), Poisson(0.3)])
def test_cohorts_belong_to_seed_and_round(cohort):
    ids, sizes = [f"c{number}" for number in range(40)], list(range(1, 41))
    drawn = [cohort.choose(ids, sizes, number, 0) for number in range(50)]
    assert drawn == [cohort.choose(ids, sizes, number, 0) for number in range(50)]
    assert drawn[0] != drawn[1]
    assert drawn[0] != cohort.choose(ids, sizes, 0, 1)
    assert all(len(set(one)) == len(one) for one in drawn)
    if not isinstance(cohort, Poisson):
        assert all(len(one) == 5 for one in drawn)


def test_probabilities_of_cohorts():
    ids, sizes = [f"c{number}" for number in range(10)], [0] + [1] * 8 + [8]  # the first has no examples
    rounds = 3000
    counts = {}
    for cohort in (Uniform(2), Weighted(1), Poisson(0.2)):
        chosen = [name for number in range(rounds) for name in cohort.choose(ids, sizes, number, 0)]
        counts[type(cohort)] = np.array([chosen.count(name) for name in ids]) / rounds
    assert counts[Uniform][0] == counts[Poisson][0] == counts[Weighted][0] == 0
    np.testing.assert_allclose(counts[Uniform][1:], 2 / 9, atol=0.04)
    np.testing.assert_allclose(counts[Poisson][1:], 0.2, atol=0.04)
    np.testing.assert_allclose(counts[Weighted], np.array(sizes) / 16, atol=0.04)


@pytest.mark.parametrize(("kind", "value"), [(Uniform, 0), (Weighted, -1), (Poisson, 0.0), (Poisson, 1.5)])
def test_impossible_cohorts_are_refused(kind, value):
    with pytest.raises(UsageError, match=r"a cohort has|a sampling rate"):
        kind(value)
