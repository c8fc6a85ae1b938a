"""Gossip reaches the optimum on every graph, with the same bits for any workers, and a bad neighbour stops nobody."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unseen.codec import decode, encode
from unseen.data.federated.images import load_images
from unseen.data.federated.partition import LabelsPerClient, deal
from unseen.errors import Cancelled, DataError, UsageError
from unseen.ids import JobId, PartyId
from unseen.learners.horizontal.private.clip import Clip
from unseen.learners.horizontal.process import Examples, Fit
from unseen.learners.horizontal.strategies import strategy
from unseen.learners.horizontal.topology import GRAPHS, Topology
from unseen.rounds import neighbours
from unseen.rounds.digest import digest_of
from unseen.rounds.gossip import Gossip, GossipSettings
from unseen.rounds.neighbours import NeighbourSettings, Share, exchange_models, neighbours_of
from unseen.transport.memory import MemoryNetwork

SIZE, SEED = 5, 3
NODES = tuple(PartyId(f"node-{number}") for number in range(6))
PROCESS = strategy("fed_avg", learning_rate=0.1, epochs=2)


class Means:
    """A model that is a point; a node draws it to the mean of its inputs."""

    size = SIZE

    def __init__(self, noise=0.01):
        self.noise = noise

    def settle(self):
        pass

    def initial(self, seed):
        return np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)

    def fit(self, model, examples, plan, rng, correction):
        for _ in range(plan.epochs):
            noise = self.noise * rng.normal(size=SIZE).astype(np.float32)
            model = model - plan.learning_rate * (model - examples.inputs.mean(axis=0) + noise)
        return Fit(model.astype(np.float32), plan.epochs, float(np.square(model - examples.inputs).mean()))

    def evaluate(self, model, examples):
        return {"loss": float(np.square(model - examples.inputs).mean())}


class People:
    """One point for each node: the optimum of the sum of losses is their mean."""

    def __init__(self, count=6, fail=None):
        self.ids = NODES if count == len(NODES) else [f"node-{number}" for number in range(count)]
        self.sizes, self.fail = [1] * count, fail

    def client(self, name):
        number = list(self.ids).index(name)
        if number == self.fail:
            raise DataError("its file is damaged")
        return self.points()[number : number + 1], np.zeros(1, np.int64)

    def points(self):
        return np.random.default_rng(1).normal(2, 1, (len(self.ids), SIZE)).astype(np.float32)


TEST = Examples(np.full((4, SIZE), 2, np.float32), np.zeros(4, np.int64))


def simulated(rounds, topology="ring", people=None, trainer=None, process=PROCESS, **settings):
    settings = GossipSettings(**{"seed": SEED, "workers": 1, **settings})
    people = people or People()
    with Gossip(people, trainer or Means(), process, Topology(topology), settings, test=TEST) as gossip:
        return gossip.rounds(rounds), gossip.models.copy()


def same(run, expected):
    assert run.state.model.tobytes() == expected.state.model.tobytes()
    assert [replace(one, seconds=0) for one in run.history] == [replace(one, seconds=0) for one in expected.history]


# --- convergence -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_the_known_optimum_is_reached_on_every_graph(name):
    people, process = People(12), strategy("fed_avg", learning_rate=0.06, epochs=1)
    run, models = simulated(100, name, people, Means(0), process, evaluate_every=100)
    optimum = people.points().mean(axis=0)
    np.testing.assert_allclose(run.state.model, optimum, atol=0.02)
    # What is left between nodes is the step times how much they differ, over the gap (Lian et al., 2017, Theorem 1).
    assert np.abs(models - optimum).max() < 0.06 * 2.5 / Topology(name).spectral_gap(12) + 0.02


def test_nodes_that_are_down_now_and_then_do_not_move_the_optimum_far():
    people, process = People(12), strategy("fed_avg", learning_rate=0.06, epochs=1)
    run, _ = simulated(100, "one_peer", people, Means(0), process, drop=0.3, evaluate_every=100)
    np.testing.assert_allclose(run.state.model, people.points().mean(axis=0), atol=0.3)
    assert 0.2 < np.mean([one.dropped for one in run.history]) / 12 < 0.4


def test_digits_that_are_split_by_label_are_learned_by_all():
    torch_trainer = pytest.importorskip("unseen.learners.horizontal.neural.trainer").TorchTrainer
    models = pytest.importorskip("unseen.learners.horizontal.neural.models")
    digits = load_images("digits")
    (inputs, labels), (seen, right) = digits.train, digits.test
    clients = deal((inputs.astype(np.float32) / 16, labels), LabelsPerClient(2), 8, seed=0)
    test = Examples(seen.astype(np.float32) / 16, right)
    process = strategy("fed_avg", learning_rate=0.1, epochs=1, batch=10)
    trainer, settings = torch_trainer(lambda: models.logistic_regression(64)), GossipSettings(workers=1, evaluated=8)
    with Gossip(clients, trainer, process, Topology("complete"), settings, test=test) as gossip:
        run = gossip.rounds(30)
    assert run.test["accuracy"] > 0.8, "two labels alone are 0.2"
    assert run.test["lowest_accuracy"] <= run.test["mean_accuracy"] <= run.test["highest_accuracy"]
    assert run.test["lowest_accuracy"] > 0.8


# --- the same bits -----------------------------------------------------------------------------------------------


def test_workers_and_a_resume_do_not_change_a_bit(tmp_path):
    expected, models = simulated(5, "one_peer", drop=0.2)
    two, same_models = simulated(5, "one_peer", drop=0.2, workers=2)
    same(two, expected)
    assert models.tobytes() == same_models.tobytes()
    simulated(2, "one_peer", drop=0.2, folder=tmp_path)
    same(simulated(5, "one_peer", drop=0.2, folder=tmp_path, workers=2)[0], expected)
    with pytest.raises(UsageError, match="another run, with other gossip"):
        simulated(5, "ring", drop=0.2, folder=tmp_path)


def test_a_thousand_nodes():
    run, models = simulated(2, "exponential", People(1000), evaluate_every=2)
    assert models.shape == (1000, SIZE)
    assert run.history[-1].bytes_up == 1000 * 10 * 4 * (SIZE + 1)
    assert run.history[-1].training["consensus_distance"] < run.history[0].training["consensus_distance"] * 2


def test_a_node_that_fails_is_named_and_a_run_can_be_stopped():
    with pytest.raises(DataError, match="its file is damaged") as caught:
        simulated(1, people=People(6, fail=3))
    assert "node" in caught.value.__notes__[0]
    cancel = threading.Event()
    cancel.set()
    with (
        Gossip(People(), Means(), PROCESS, Topology("ring"), GossipSettings(workers=1)) as gossip,
        pytest.raises(Cancelled),
    ):
        gossip.rounds(1, cancel=cancel)


@pytest.mark.parametrize("process", [strategy("fed_adam"), strategy("scaffold", clients=6), strategy("fed_avg_m")])
def test_strategies_that_need_more_than_a_model_are_refused(process):
    with pytest.raises(UsageError, match="fed_avg"):
        simulated(1, process=process)


def test_postprocessors_work_on_the_change_of_a_node():
    clipped = replace(PROCESS, postprocessors=(Clip(1e-6),))
    run, _ = simulated(3, process=clipped)
    np.testing.assert_allclose(run.state.model, Means().initial(SEED), atol=1e-5)


# --- real nodes --------------------------------------------------------------------------------------------------


def settings(topology="ring", **changes):
    return NeighbourSettings(
        **{
            "run": JobId("gossip"),
            "nodes": NODES,
            "topology": Topology(topology),
            "rounds": 4,
            "seed": SEED,
            "deadline": 10.0,
            **changes,
        }
    )


def exchanged(names=NODES, extra=(), **changes):
    """Play nodes in threads, and whatever else; return what became of each."""
    network, mine = MemoryNetwork(NODES), settings(**changes)

    def one(me):
        return exchange_models(
            network.channel(me), PROCESS, Means(), Examples(*People().client(me)), replace(mine, test=TEST)
        )

    for play in extra:
        play(network, mine)
    with ThreadPoolExecutor(len(names)) as pool:
        return dict(zip(names, pool.map(one, names), strict=True))


@pytest.mark.parametrize("name", ["ring", "one_peer", "complete"])
def test_real_nodes_have_the_bits_of_the_simulation(name):
    expected, models = simulated(4, name)
    found = exchanged(topology=name)
    for row, me in zip(models, NODES, strict=True):
        assert found[me].run.state.model.tobytes() == row.tobytes()
        assert not found[me].refused
    assert sum(one.run.history[0].bytes_up for one in found.values()) > expected.history[0].bytes_up


def test_a_silent_neighbour_is_left_out_and_the_others_weigh_more():
    found = exchanged(NODES[:5], deadline=0.3, rounds=2)
    assert [one.dropped for one in found[NODES[0]].run.history] == [1, 1]
    assert [one.dropped for one in found[NODES[2]].run.history] == [0, 0]
    assert found[NODES[0]].run.history[-1].training["mass"] < 0.95
    assert np.isfinite(found[NODES[0]].run.state.model).all()


def says(changes):
    """Return what plays the last node: one message to each neighbour."""

    def play(network, mine):
        graph = f"{mine.topology}/{','.join(mine.nodes)}"
        good = Share(mine.run, digest_of(PROCESS), graph, 0, np.ones(SIZE + 1, np.float32), -1)
        channel = network.channel(NODES[5])
        for peer in neighbours_of(mine, NODES[5]):
            channel.send(peer, encode(replace(good, **changes)))
            if changes.get("round") == 0:
                channel.send(peer, encode(good))

    return play


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"row": np.ones(SIZE + 2, np.float32)}, "expected 6 finite numbers, found 7"),
        ({"row": np.full(SIZE + 1, np.inf, np.float32)}, "expected 6 finite numbers"),
        ({"row": np.zeros(SIZE + 1, np.float32)}, "expected a mass above 0"),
        ({"row": np.full(SIZE + 1, 1e9, np.float32)}, "expected a mass above 0"),
        ({"row": np.array([1e-18] * SIZE + [1e-37], np.float32)}, "numbers beyond 2^60"),
        ({"row": np.array([-3e38] * SIZE + [1.0], np.float32)}, "numbers beyond 2^60"),
        ({"round": 0}, "expected a round after 0"),
        ({"round": 99}, "and before 2, found 99"),
        ({"round": -1}, "expected a round after -1"),
        ({"process": "x"}, "with process x"),
        ({"run": "other"}, "takes part in run other"),
        ({"topology": "star"}, "topology star"),
    ],
)
def test_a_neighbour_that_breaks_the_rules_is_refused_by_name_and_stops_nobody(changes, words):
    found = exchanged(NODES[:5], [says(changes)], rounds=2, deadline=5.0)
    assert words in found[NODES[0]].refused[NODES[5]]
    assert "node-5" in found[NODES[4]].refused[NODES[5]]
    assert not found[NODES[2]].refused
    assert np.isfinite(found[NODES[0]].run.state.model).all()


def alone(rounds, *sent):
    """Play the first of two nodes; the other one sends shares of these rounds and masses after its first round."""
    mine, network = settings(rounds=rounds, deadline=0.1, nodes=NODES[:2]), MemoryNetwork(NODES[:2])
    late, graph = network.channel(NODES[1]), f"{mine.topology}/{','.join(mine.nodes)}"

    def observe(one):
        for number, mass in sent if one.number == 1 else ():
            row = np.full(SIZE + 1, mass, np.float32)
            late.send(NODES[0], encode(Share(mine.run, digest_of(PROCESS), graph, number, row, -1)))

    examples = Examples(*People().client(NODES[0]))
    return exchange_models(network.channel(NODES[0]), PROCESS, Means(), examples, replace(mine, observe=observe))


def test_a_neighbour_that_is_lost_for_good_takes_no_more_mass_with_it():
    """Without that, the others' masses would shrink to nothing."""
    found = exchanged(NODES[:5], deadline=0.3, rounds=60)
    models = np.array([found[me].run.state.model for me in NODES[:5]])
    assert 3 < sum(found[me].run.history[-1].training["mass"] for me in NODES[:5]) < 5 - 1 / 3
    assert np.abs(models.mean(axis=0) - People().points()[:5].mean(axis=0)).max() < 0.2
    assert found[NODES[0]].troubles[NODES[5]] == "was not heard in 60 of 60 rounds"
    assert NODES[5] not in found[NODES[2]].troubles


@pytest.mark.parametrize("name", ["exponential", "one_peer"])
def test_a_directed_graph_loses_mass_to_a_node_that_is_lost_and_not_its_models(name):
    found = exchanged(NODES[:5], topology=name, deadline=0.3, rounds=60)
    assert max(found[me].run.history[-1].training["mass"] for me in NODES[:5]) < 0.5
    models = np.array([found[me].run.state.model for me in NODES[:5]])
    points = People().points()[:5]
    assert (points.min(axis=0) - 0.1 < models).all()
    assert (models < points.max(axis=0) + 0.1).all()


def test_a_node_without_mass_says_why_it_stops(monkeypatch):
    monkeypatch.setattr(neighbours, "_LEAST", 0.6)
    with pytest.raises(DataError, match="node-0 has no mass left after round 1: what it gave to nodes that are gone"):
        alone(2)


def test_a_quiet_neighbour_gets_signs_of_life_and_its_share_again_when_it_sends_any():
    mine, network = settings(rounds=4, deadline=0.1, nodes=NODES[:2]), MemoryNetwork(NODES[:2])
    other, graph, heard = network.channel(NODES[1]), f"{mine.topology}/{','.join(mine.nodes)}", []

    def observe(one):
        heard.append(len(decode(Share, other.receive(NODES[0], 1.0), sender=NODES[0]).row))
        if one.number == 2:
            nothing = np.empty(0, np.float32)
            other.send(NODES[0], encode(Share(mine.run, digest_of(PROCESS), graph, 2, nothing, 1)))

    examples = Examples(*People().client(NODES[0]))
    found = exchange_models(network.channel(NODES[0]), PROCESS, Means(), examples, replace(mine, observe=observe))
    assert heard == [SIZE + 1, 0, 0, SIZE + 1]
    assert [one.training["mass"] for one in found.run.history] == [0.5, 0.5, 0.5, 0.25]
    assert found.missed == {NODES[1]: 4}


def test_a_late_share_is_added_when_it_comes():
    found = alone(2, (0, 1))
    # Half of its mass is given away in the first round, and kept in the second; half of the late one's 1 comes then.
    assert [one.training["mass"] for one in found.run.history] == [0.5, 1.0]
    assert [one.dropped for one in found.run.history] == [1, 1]


def test_a_neighbour_that_claims_all_mass_again_and_again_does_not_make_a_node_one_that_is_refused():
    """What it takes in stays below the mass of both nodes, so that other nodes go on to hear it."""
    found = alone(2, (0, 2), (1, 2))
    assert [one.training["mass"] for one in found.run.history] == [0.5, 1.5]
    assert not found.refused


def test_a_node_goes_on_from_its_folder(tmp_path):
    network = MemoryNetwork(NODES)
    examples = Examples(*People().client(NODES[0]))
    for rounds in (1, 2):
        mine = settings(rounds=rounds, deadline=0.05, folder=tmp_path)
        network = MemoryNetwork(NODES)
        found = exchange_models(network.channel(NODES[0]), PROCESS, Means(), examples, mine)
    assert [one.number for one in found.run.history] == [1, 2]


def test_a_channel_without_a_neighbour_is_refused():
    network = MemoryNetwork(NODES[:3])
    with pytest.raises(UsageError, match="missing: node-5"):
        exchange_models(network.channel(NODES[0]), PROCESS, Means(), Examples(*People().client(NODES[0])), settings())


def test_the_examples_of_the_guide_run(capsys):
    pytest.importorskip("torch")
    guide = Path(__file__).parents[2] / "docs" / "guides" / "peer_to_peer.md"
    peers, gossip = re.findall(r"^```python\n(.*?)^```", guide.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    exec(peers, {})  # noqa: S102  # it is our own
    assert capsys.readouterr().out == "1 state after 3 rounds\n"
    exec(gossip, {})  # noqa: S102
    gap, measured = capsys.readouterr().out.splitlines()
    assert gap == f"spectral gap {Topology('exponential').spectral_gap(20):.2f}"
    accuracy, lowest, apart = map(float, measured.split())
    assert accuracy > 0.85
    assert lowest > 0.7
    assert apart < 0.2
