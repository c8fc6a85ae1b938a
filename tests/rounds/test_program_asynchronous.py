"""A program whose clients do not wait for each other is what its parts are by hand, and refuses what needs cohorts."""

import pytest

from unseen.cli import federation
from unseen.errors import UsageError
from unseen.rounds.asynchronous import AsynchronousSimulation, Flight
from unseen.rounds.building import Built
from unseen.rounds.pace import Pace
from unseen.rounds.program import Program
from unseen.rounds.simulate import Settings

pytest.importorskip("torch", reason="the models of programs are PyTorch's")
pytest.importorskip("sklearn", reason="the set digits comes with scikit-learn")

TEXT = """\
name: nobody waits
data: {source: digits, clients: 6}
model: {name: logistic_regression, features: 64}
strategy: {name: fed_buff, learning_rate: 0.1}
asynchronous: {at_once: 4, buffer: 2, seconds_per_example: 0.01}
rounds: 3
"""


def built(text=TEXT, folder=None):
    return Built(Program.parse(text, name="f.yaml"), folder)


def played(learning, rounds=3):
    with learning.simulation(workers=1) as simulation:
        return simulation.rounds(rounds)


def test_it_has_the_bits_of_its_parts_by_hand_and_goes_on_from_its_folder(tmp_path):
    learning, flight = built(), Flight(4, 2, Pace(1.0, 0.01, 1.0))
    parts = learning.held.train, learning.trainer, learning.process
    with AsynchronousSimulation(*parts, flight, Settings(workers=1), test=learning.held.test) as simulation:
        run = simulation.rounds(3)
    played(built(folder=tmp_path), 1)
    again = played(built(folder=tmp_path))
    assert again.state.model.tobytes() == run.state.model.tobytes()
    assert again.history[-1].clock > 0
    assert [one.cohort for one in again.history] == [2, 2, 2]
    with built(TEXT.replace("at_once: 4, ", "")).simulation(workers=1) as simulation:
        assert simulation.flight.at_once == 6
    with pytest.raises(UsageError, match="with other asynchronous"):
        built(TEXT.replace("buffer: 2", "buffer: 3"), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("at_once: 4", "at_once: 7"), r"f.yaml: line 5, asynchronous.at_once: 7 of 6 clients cannot be under way"),
        (("buffer: 2", "buffer: 0"), r"line 5, asynchronous.buffer: .*greater than or equal to 1"),
        (("buffer: 2", "buffers: 2"), r"line 5, asynchronous.buffers: there is no such key; there are at_once, buffer"),
        (("rounds: 3", "cohort: {size: 2}"), r"f.yaml: line 6, cohort: it does not go with asynchronous"),
        (("rounds: 3", "robust: {name: median}"), r"line 6, robust: it does not go with asynchronous"),
        (("rounds: 3", "privacy: {clip: 1.0, epsilon: 1, delta: 1e-5}"), r"line 6, privacy: it does not go with asyn"),
        (("rounds: 3", "aggregation: {secure: true, clip: 1.0, max_weight: 9}"), r"line 6, aggregation: it does not"),
        (("rounds: 3", "compression: {name: top_k}"), r"line 6, compression.feedback: what clients keep"),
    ],
)
def test_what_needs_a_cohort_is_refused(change, message):
    text = TEXT.replace(*change)
    assert text != TEXT
    with pytest.raises(UsageError, match=message):
        built(text).simulation(workers=1)


def test_a_server_and_clients_with_a_memory_refuse(tmp_path):
    path = tmp_path / "program.yaml"
    path.write_text(TEXT)
    told = federation.Serving("r", tmp_path, "127.0.0.1:1", "a,b", None, None, 1, 1.0, None, None)
    with pytest.raises(UsageError, match="asynchronous: a server waits for its cohort"):
        federation.serve(path, told)
    with pytest.raises(UsageError, match="has clients that keep something"):
        played(built(TEXT.replace("fed_buff", "ditto")))
    quantised = played(built(TEXT + "compression: {name: quantised}\n"), 1)
    assert quantised.history[0].bytes_up < played(built(), 1).history[0].bytes_up
