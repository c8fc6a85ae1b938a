"""Nobody waits: who begins and comes in is known beforehand, runs are the same bits, and time is won."""

import itertools
import threading

import numpy as np
import pytest

from unseen.data.federated.clients import FederatedData
from unseen.errors import Cancelled, DataError, UsageError
from unseen.learners.horizontal.process import Examples, Fit
from unseen.learners.horizontal.strategies import strategy
from unseen.rounds.asynchronous import AsynchronousSimulation, Flight, Schedule
from unseen.rounds.cohort import Uniform
from unseen.rounds.pace import Faults, Pace
from unseen.rounds.simulate import Settings, Simulation

TARGET = np.array([3.0, -1.0], np.float32)
PACE = Pace(spread=1.0)
FLIGHT = Flight(at_once=6, buffer=2, pace=PACE)


class Points:
    """A model that is a point; training draws it to the mean of the inputs, with a little noise."""

    size = 2

    def settle(self):
        pass

    def initial(self, seed):
        return np.zeros(2, np.float32)

    def fit(self, model, examples, plan, rng, correction):
        for _ in range(plan.epochs):
            noise = 0.01 * rng.standard_normal(2)
            model = model - plan.learning_rate * (model - examples.inputs.mean(axis=0) + noise)
        return Fit(model.astype(np.float32), plan.epochs, 0.0)

    def evaluate(self, model, examples):
        return {"loss": float(np.square(model - examples.inputs).sum(axis=1).mean())}


def people(count=12):
    rng = np.random.default_rng(3)
    return FederatedData.of(
        "points",
        {
            f"client-{number}": (
                (TARGET + rng.normal(0, 0.2, (4, 2))).astype(np.float32),
                np.zeros(4, np.int64),
            )
            for number in range(count)
        },
    )


TEST = Examples(TARGET[None], np.zeros(1, np.int64))


def simulation(process=None, flight=FLIGHT, **settings):
    process = process or strategy("fed_buff", learning_rate=0.3)
    return AsynchronousSimulation(people(), Points(), process, flight, Settings(**settings), test=TEST)


# --- the schedule ----------------------------------------------------------------------------------------------------


def test_so_many_are_always_in_flight_and_nobody_twice():
    schedule = Schedule([f"c{number}" for number in range(9)], [1] * 9, Flight(5, 3, PACE), 0)
    clocks, flying = [], []
    for version in range(40):
        begun, landed = schedule.step()
        flying += begun
        for ticket in landed:
            flying.remove(ticket)
        assert sorted(flying) == sorted(schedule.flying)
        assert len({ticket.client for ticket in flying}) == len(flying) == 5
        assert {ticket.version for ticket in begun} == {version}
        assert [ticket.ends for ticket in landed] == sorted(ticket.ends for ticket in landed)
        clocks.append(schedule.clock)
    assert all(before <= after for before, after in itertools.pairwise(clocks))


def test_all_clients_come_to_their_turn_and_those_without_examples_do_not():
    schedule = Schedule([f"c{number}" for number in range(9)], [1, 0, *[2] * 7], Flight(3, 1, PACE), 1)
    seen = {ticket.client for _ in range(150) for ticket in schedule.step()[1]}
    assert seen == {"c0", *(f"c{number}" for number in range(2, 9))}


def test_more_in_flight_than_there_are_is_refused():
    with pytest.raises(UsageError, match="13 clients are to be in flight at once: there are 12"):
        simulation(flight=Flight(at_once=13))
    with pytest.raises(UsageError, match="a buffer of one update at least"):
        Flight(buffer=0)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_any_number_of_workers_gives_the_same_bits_and_it_learns():
    runs = []
    for workers in (1, 2):
        with simulation(workers=workers) as one:
            runs.append(one.rounds(30))
    assert np.array_equal(runs[0].state.model, runs[1].state.model)
    assert runs[0].test["loss"] < 0.05
    assert max(one.training["staleness"] for one in runs[0].history) > 1
    assert [one.cohort for one in runs[0].history] == [2] * 30


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_a_run_goes_on_from_its_folder_to_the_same_bits(tmp_path, stop):
    with simulation(workers=1) as one:
        whole = one.rounds(10)
    with simulation(workers=1, folder=tmp_path) as one:
        one.rounds(stop)
    assert len(list((tmp_path / "waiting").iterdir())) == FLIGHT.at_once
    with simulation(workers=1, folder=tmp_path) as one:
        again = one.rounds(10)
    assert np.array_equal(whole.state.model, again.state.model)
    assert [one.clock for one in whole.history] == [one.clock for one in again.history]


def test_a_step_that_was_cancelled_is_played_as_planned():
    token = threading.Event()
    with simulation(workers=1) as one:
        whole = one.rounds(6)
    with simulation(workers=1) as one:
        one.rounds(3)
        one._cancel = token
        token.set()
        with pytest.raises(Cancelled):
            one._play_round(last=False)
        again = one.rounds(6)
    assert np.array_equal(whole.state.model, again.state.model)


def test_a_missing_update_and_another_flight_are_told(tmp_path):
    with simulation(workers=1, folder=tmp_path) as one:
        one.rounds(2)
    with pytest.raises(UsageError, match="holds another run, with other flight"):
        simulation(flight=Flight(5, 2, PACE), folder=tmp_path)
    next((tmp_path / "waiting").iterdir()).unlink()
    with pytest.raises(DataError, match="somebody removed a part of this run"):
        simulation(workers=1, folder=tmp_path)


def test_strategies_with_memory_are_refused():
    with (
        simulation(strategy("scaffold", clients=12), workers=1) as one,
        pytest.raises(UsageError, match="SCAFFOLD has clients that keep something"),
    ):
        one.rounds(1)


def test_it_gets_there_in_less_time_than_rounds_that_wait_for_the_slowest():
    def when(history):
        return next(one.clock for one in history if one.test["loss"] < 0.05)

    with simulation(workers=1) as one:
        nobody_waits = when(one.rounds(60).history)
    settings = Settings(Uniform(6), workers=1, faults=Faults(pace=PACE))
    process = strategy("fed_avg", learning_rate=0.3)
    with Simulation(people(), Points(), process, settings, test=TEST) as one:
        all_wait = when(one.rounds(30).history)
    assert nobody_waits < 0.6 * all_wait
