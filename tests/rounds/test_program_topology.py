"""Programs without a server: gossip and peers, simulated and by real parties, and what does not go with them."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from unseen.cli import federation, learn
from unseen.cli.learned import Learned
from unseen.errors import UsageError
from unseen.ids import ClientId, JobId, PartyId
from unseen.learners.horizontal.process import Examples
from unseen.learners.horizontal.topology import Topology
from unseen.node.rounds import peer_channel
from unseen.rounds.building import Built
from unseen.rounds.gossip import Gossip, GossipSettings
from unseen.rounds.program import Program
from unseen.rounds.without_server import Party
from unseen.transport.memory import MemoryNetwork

pytest.importorskip("torch", reason="the models of programs are PyTorch's")
pytest.importorskip("sklearn", reason="the set digits comes with scikit-learn")

GOSSIP = """\
name: without a server
data: {source: digits, clients: 4}
model: {name: logistic_regression, features: 64}
strategy: {name: fed_avg, learning_rate: 0.1}
topology: {name: ring}
rounds: 2
"""
PEERS = GOSSIP.replace("name: ring", "name: peers, sum: ring") + (
    "aggregation: {secure: true, clip: 1.0, max_weight: 1000}\n"
)
RUN = JobId("run")


def built(text=GOSSIP, folder=None):
    return Built(Program.parse(text, name="f.yaml"), folder)


def played(learning, rounds=2):
    with learning.simulation(workers=1) as simulation:
        return simulation.rounds(rounds)


def test_gossip_has_the_bits_of_its_parts_by_hand_and_goes_on_from_its_folder(tmp_path):
    learning = built(GOSSIP.replace("name: ring", "name: random_regular, degree: 2, drop: 0.3") + "seed: 3\n")
    parts = learning.held.train, learning.trainer, learning.process
    settings = GossipSettings(seed=3, drop=0.3, workers=1)
    with Gossip(*parts, Topology("random_regular", 2, 3), settings, test=learning.held.test) as gossip:
        run = gossip.rounds(2)
    assert played(learning).state.model.tobytes() == run.state.model.tobytes()
    played(built(folder=tmp_path), 1)
    assert played(built(folder=tmp_path)).state.model.tobytes() == played(built()).state.model.tobytes()
    with pytest.raises(UsageError, match="with other topology"):
        built(GOSSIP.replace("name: ring", "name: complete"), tmp_path)


@pytest.mark.parametrize("text", [GOSSIP, PEERS])
def test_real_parties_end_where_the_simulation_does(text, tmp_path):
    program, simulated = Program.parse(text), built(text)
    names = [PartyId(client) for client in simulated.held.train.ids]
    network = MemoryNetwork(names)

    def play(me):
        own = Built(program, real=4)
        party = Party(
            program=program, run=RUN, me=me, everybody=names, rounds=own.rounds, folder=tmp_path / me, patience=30
        )
        channel = network.channel(me)
        channel.peers = party.linked
        examples = Examples(*simulated.held.train.client(ClientId(me)))
        return party.play(channel, own.deployed, own.trainer, examples, cancel=threading.Event())

    with ThreadPoolExecutor(4) as pool:
        ended = list(pool.map(play, names))
    assert [refused for _, refused in ended] == [{}] * 4
    if text == PEERS:
        assert len({run.state.model.tobytes() for run, _ in ended}) == 1
        np.testing.assert_allclose(ended[0][0].state.model, played(simulated).state.model, atol=1e-4)
        return
    with simulated.simulation(workers=1) as simulation:
        simulation.rounds(2)
        np.testing.assert_array_equal([run.state.model for run, _ in ended], simulation.models)


def test_a_party_is_linked_with_its_neighbours_or_with_all():
    five = [PartyId(name) for name in "abcde"]

    def party(text, me, everybody=five):
        return Party(program=Program.parse(text), run=RUN, me=PartyId(me), everybody=everybody, rounds=1)

    assert party(GOSSIP, "a").linked == {"b", "e"}
    assert party(PEERS, "a").linked == {"b", "c", "d", "e"}
    with pytest.raises(UsageError, match="expected the names of all parties, each once, x among them"):
        party(GOSSIP, "x")
    with pytest.raises(UsageError, match="a, a"):
        party(GOSSIP, "a", ["a", "a"])
    with pytest.raises(UsageError, match="topology: the program has a server"):
        party(GOSSIP.replace("topology: {name: ring}\n", ""), "a")


def test_peers_grow_trees_from_tables(tmp_path):
    rng = np.random.default_rng(4)
    inputs = rng.normal(size=(200, 2))
    labels = (inputs[:, 0] > 0).astype(int)
    rows = [f"s{n % 4},{x[0]:.3f},{x[1]:.3f},{y}" for n, (x, y) in enumerate(zip(inputs, labels, strict=True))]
    (tmp_path / "people.csv").write_text("\n".join(["site,a,b,y", *rows]) + "\n")
    text = """\
name: trees
data: {source: people.csv, client: site, label: y, test: 0}
model: {name: horizontal_boosting, trees: 1, max_depth: 2, bins: 8}
"""
    with_server = Built(Program.parse(text, home=tmp_path))
    peers = text + "topology: {name: peers}\naggregation: {secure: true}\n"
    without = Built(Program.parse(peers, home=tmp_path))
    assert played(without, 6).state.model.tobytes() == played(with_server, 6).state.model.tobytes()
    with pytest.raises(UsageError, match="aggregation: peers take secure sums"):
        Program.parse(text + "topology: {name: peers}\n")
    with pytest.raises(
        UsageError, match=r"line 3, model.name: neighbours of topology ring exchange models of networks"
    ):
        Program.parse(text + "topology: {name: ring}\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: ring", "name: star"), r"line 5, topology.name: Input should be 'peers', 'complete'"),
        (
            ("name: ring", "name: ring, degree: 3"),
            r"line 5, topology: .*degree goes with random_regular, and this is ri",
        ),
        (("name: ring", "name: ring, sum: shares"), r"line 5, topology: .*sum goes with peers"),
        (("name: ring", "name: ring, edges: 3"), r"line 5, topology.edges: there is no such key; there are name, sum"),
        (
            ("name: ring", "name: random_regular, degree: 9"),
            r"f.yaml: line 5, topology: there is no graph of 4 nodes with 9",
        ),
        (("rounds: 2", "cohort: {size: 2}"), r"f.yaml: line 6, cohort: it does not go with topology, where everybody"),
        (("rounds: 2", "robust: {name: median}"), r"line 6, robust: it does not go with topology"),
        (
            ("rounds: 2", "privacy: {clip: 1.0, epsilon: 1, delta: 1e-5}"),
            r"line 6, privacy.mode: central .* mode local",
        ),
        (("rounds: 2", "compression: {name: quantised}"), r"line 6, compression: it does not go with topology"),
        (("rounds: 2", "asynchronous: {}"), r"line 5, topology: it does not go with asynchronous"),
        (("rounds: 2", "aggregation: {secure: true, clip: 1.0}"), r"line 6, aggregation: neighbours of topology ring"),
        (("fed_avg", "scaffold"), r"line 5, topology: SCAFFOLD keeps more than a model"),
    ],
)
def test_what_needs_a_server_is_refused(change, message):
    text = GOSSIP.replace(*change)
    assert text != GOSSIP
    with pytest.raises(UsageError, match=message):
        built(text).simulation(workers=1)


def told(tmp_path, **changed):
    usual = {"server": None, "peers": "a=h:1,b", "listen": None, "data": "client:c0000", "folder": None}
    return federation.Attending(
        **{"run": "r", "identity": tmp_path, "seed": None, "patience": 1.0, "budget": None, "vouchers": None}
        | usual
        | changed
    )


def test_the_command_line_says_what_a_topology_needs(tmp_path):
    path = tmp_path / "program.yaml"
    path.write_text(GOSSIP)
    for wrong in ({"peers": None}, {"server": "s=h:1"}, {"seed": 3}):
        with pytest.raises(UsageError, match="--peers a=HOST:PORT,b=HOST:PORT,c is needed"):
            federation.attend_run(path, told(tmp_path, **wrong))
    serving = federation.Serving("r", tmp_path, "127.0.0.1:1", "a,b", None, None, 1, 1.0, None, None)
    with pytest.raises(UsageError, match="topology: this program has no server"):
        federation.serve(path, serving)
    path.write_text(GOSSIP.replace("topology: {name: ring}\n", ""))
    with pytest.raises(UsageError, match="--server NAME=HOST:PORT is needed, and no --peers"):
        federation.attend_run(path, told(tmp_path))
    assert federation.peers_of("a=h:1, b") == {"a": "h:1", "b": None}
    for wrong in ("a=", "a,a", "a=h:1,a"):
        with pytest.raises(UsageError, match="each once"):
            federation.peers_of(wrong)


def test_who_has_no_address_of_a_peer_has_to_listen(tmp_path):
    from datetime import UTC, datetime  # noqa: PLC0415

    from unseen.transport.tls import issue, make_authority  # noqa: PLC0415

    now = datetime.now(UTC)
    issue(make_authority("federation", days=1, now=now), PartyId("a"), days=1, now=now).save(tmp_path)
    addresses = {PartyId("a"): None, PartyId("b"): None, PartyId("c"): "127.0.0.1:1"}
    with pytest.raises(UsageError, match="a has no address of b: give it, or listen for them"):
        peer_channel(tmp_path, addresses, None, lambda me: addresses.keys() - {me})
    with peer_channel(tmp_path, addresses, "127.0.0.1:0", lambda me: frozenset({PartyId("b")})) as channel:
        assert channel.peers == {"b"}
        assert channel.port


def test_figures_are_of_the_mean_and_of_every_node(tmp_path, capsys):
    path, folder = tmp_path / "program.yaml", tmp_path / "run"
    path.write_text(GOSSIP)
    learn.run(path, learn.Wishes(None, 1, folder, tmp_path / "page.html", compare=True, as_json=True))
    found = json.loads(capsys.readouterr().out)
    assert set(found["clients"]) == {"the mean of all models", "every client's own model"}
    assert set(found["comparison"]) == {"federated", "pooled", "alone (mean of 4 clients)"}
    assert "every neighbour" in (tmp_path / "page.html").read_text()
    assert Learned.read(folder).comparison
    path.write_text(PEERS)
    learn.run(path, learn.Wishes(1, 1, None, tmp_path / "page.html", compare=False, as_json=True))
    assert '"traffic"' not in (tmp_path / "page.html").read_text()  # nobody has measured it
