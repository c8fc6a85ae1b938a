"""A program is what its parts are by hand, refuses what is wrong in plain words, and runs as real processes alike."""

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from unseen.cli import federation
from unseen.errors import DataError, PermissionDenied, UsageError
from unseen.ids import PartyId
from unseen.learners.horizontal.process import Examples
from unseen.learners.horizontal.strategies import strategy
from unseen.node.rounds import read_roster, voucher
from unseen.rounds import building, spending
from unseen.rounds.building import Built
from unseen.rounds.checkpoint import Checkpoints
from unseen.rounds.cohort import Uniform
from unseen.rounds.program import Program
from unseen.rounds.program_data import own_examples
from unseen.rounds.simulate import Settings, Simulation
from unseen.transport.tls import issue, make_authority

pytest.importorskip("torch", reason="the models of programs are PyTorch's")
pytest.importorskip("sklearn", reason="the set digits comes with scikit-learn")

TEXT = """\
name: small
data: {source: digits, partition: "dirichlet:1.0", clients: 4}
model: {name: logistic_regression, features: 64}
strategy: {name: scaffold, learning_rate: 0.1, epochs: 1}
cohort: {size: 2}
rounds: 2
"""
PRIVATE = TEXT.replace("scaffold", "fed_avg").replace("size: 2", "rate: 0.5")


def played(built, rounds=2):
    with built.simulation(workers=1) as simulation:
        return simulation.rounds(rounds)


def test_a_program_has_the_bits_of_its_parts_by_hand():
    run = played(Built(Program.parse(TEXT)))
    from unseen.data.federated.images import load_images  # noqa: PLC0415
    from unseen.data.federated.partition import Dirichlet, deal  # noqa: PLC0415
    from unseen.learners.horizontal.neural.models import logistic_regression  # noqa: PLC0415
    from unseen.learners.horizontal.neural.trainer import TorchTrainer  # noqa: PLC0415

    images = load_images("digits")
    clients = deal(images.train, Dirichlet(1.0), 4, seed=0).halves(0.1).train
    trainer = TorchTrainer(lambda: logistic_regression(64), convert=lambda pictures: images.scaled(pictures)[:, 0])
    process = strategy("scaffold", clients=4, learning_rate=0.1)
    settings = Settings(Uniform(2), workers=1)
    with Simulation(clients, trainer, process, settings, test=Examples(*images.test)) as simulation:
        assert simulation.rounds(2).state.model.tobytes() == run.state.model.tobytes()
        assert simulation.run.test == run.test


def test_a_folder_goes_on_to_the_same_bits_and_holds_one_program(tmp_path):
    program = Program.parse(TEXT)
    played(Built(program, tmp_path / "run"), rounds=1)
    assert (
        played(Built(program, tmp_path / "run")).state.model.tobytes() == played(Built(program)).state.model.tobytes()
    )
    with pytest.raises(UsageError, match="another program, with other model: choose another folder"):
        Built(Program.parse(TEXT.replace("features: 64", "features: 64, classes: 11")), tmp_path / "run")


def test_a_file_of_clients_is_found_beside_the_program_and_tested_on_what_they_keep(tmp_path):
    users = {name: {"x": np.eye(4).tolist() * 3, "y": [0, 1, 0, 1] * 3} for name in ("ann", "bob")}
    content = {"users": [*users], "num_samples": [12, 12], "user_data": users}
    (tmp_path / "leaf.json").write_text(json.dumps(content))
    path = tmp_path / "program.yaml"
    path.write_text(
        "name: x\ndata: {source: leaf.json, test: 0.25}\nmodel: {name: logistic_regression, features: 4, "
        "classes: 2}\nstrategy: {name: fed_avg}\n"
    )
    held = Built(Program.load(path)).held
    assert held.train.sizes == (9, 9)
    assert held.local.sizes == (3, 3)
    assert len(held.test) == 6
    assert Built(Program.load(path)).cohort == Uniform(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("rounds: 2", "round: 2"), r"line 6, round: there is no such key; there are name, data, model"),
        (
            ("clients: 4", "people: 4"),
            r"line 2, data.people: there is no such key; there are source, label, client, partition, clients",
        ),
        (("rounds: 2", "rounds: two"), r"line 6, rounds: Input should be a valid integer"),
        (("rounds: 2", "rounds: '2'"), r"line 6, rounds: Input should be a valid integer"),
        (("rounds: 2", "rounds: 0"), r"line 6, rounds: .*greater than or equal to 1"),
        (("rounds: 2", "rounds: .nan"), r"values are numbers"),
        (("size: 2", "size: 5"), r"cohort.size: 5 of 4 clients cannot be drawn"),
        (("size: 2", "rate: 1.5"), r"cohort.rate: .*less than or equal to 1"),
        (("size: 2", "size: 2, rate: 0.5"), r"a rate goes with no size"),
        (("name: scaffold", "name: sgd"), r"strategy.name: there is no 'sgd'; there are clustered, ditto, fed_"),
        (
            ("learning_rate", "lr"),
            r"f.yaml: line 4, strategy.lr: there is no such parameter; strategy has learning_rate, epochs",
        ),
        (("epochs: 1", "epochs: 1.5"), r"strategy.epochs: .*valid integer"),
        (("epochs: 1", "epochs: 0"), r"epochs has to be at least 1"),
        (("name: logistic_regression", "name: lenet"), r"model.name: there is no 'lenet'; there are bigger_cnn"),
        (("features: 64", "features: 0"), r"model.features: sizes are at least 1, found 0"),
        (("logistic_regression, features: 64", "bigger_cnn, dropout: 2.0"), r"model: it cannot be built with"),
        (("features: 64", "features: many"), r"model.features: .*valid integer"),
        (("features: 64", "features: 64, augment: {spin: 1}"), r"model.augment.name: there is no 'spin'"),
        (("source: digits, ", ""), r"data.source: the program names no data"),
        (("source: digits", "source: nowhere.json"), r"neither an image set .* nor a file"),
        (("dirichlet:1.0", "dirichlet:x"), r"expected a number after the colon"),
        (("rounds: 2", "robust: {name: krum}"), r"robust.byzantine: Field required"),
        (("rounds: 2", "privacy: {clip: 1.0, epsilon: 1, delta: 1e-5}"), r"give a rate"),
        (("rounds: 2", "aggregation: {secure: true, clip: 1.0}"), r"aggregation.max_weight: Field required"),
        (("rounds: 2", "compression: {name: zip}"), r"f.yaml: line 6, compression.name: there is no 'zip'; .* top_k"),
        (("rounds: 2", "compression: {name: top_k, k: 9}"), r"f.yaml: line 6, compression.k: .* compression has share"),
        (("rounds: 2", "compression: {name: top_k, share: 2.0}"), r"f.yaml: line 6, compression: top-k keeps a share"),
        (("rounds: 2", "compression: {name: top_k, feedback: 1}"), r"line 6, compression.feedback: .*valid boolean"),
        (("rounds: 2", "seed: &a 1\nevaluate_every: *a"), r"aliases"),
        (("name: small\n", "name: small\nname: large\n"), r"line 2: 'name' stands twice"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(change, message):
    text = TEXT.replace(*change)
    assert text != TEXT
    with pytest.raises((UsageError, DataError), match=message):
        Built(Program.parse(text, name="f.yaml")).simulation(workers=1)


def test_compressed_updates_take_fewer_bytes_and_nothing_hides_them(tmp_path):
    small = Program.parse(TEXT + "compression: {name: top_k, share: 0.01}\n")
    plain, fewer = played(Built(Program.parse(TEXT))), played(Built(small, tmp_path))
    assert Built(small).process.work.feedback
    assert not Built(Program.parse(TEXT + "compression: {name: top_k, feedback: false}\n")).process.work.feedback
    # Half of an update of SCAFFOLD are control variates, which travel as they are.
    assert fewer.history[1].bytes_up < 0.6 * plain.history[1].bytes_up
    secure = TEXT.replace("scaffold", "fed_avg") + "compression: {name: quantised}\n"
    with pytest.raises(UsageError, match="line 7, compression: it does not go with aggregation"):
        _ = Built(Program.parse(secure + "aggregation: {secure: true, clip: 1.0, max_weight: 100}\n")).process
    private = PRIVATE + "compression: {name: quantised}\nprivacy: {clip: 1.0, epsilon: 3, delta: 1e-2}\n"
    with pytest.raises(UsageError, match="line 7, compression: it does not go with privacy, which clips"):
        _ = Built(Program.parse(private)).process
    with pytest.raises(UsageError, match="holds a run of another program, with other compression"):
        Built(Program.parse(TEXT), tmp_path)


def test_a_key_that_is_not_given_leaves_no_trace(tmp_path):
    # As they were before there were such keys: whoever began a run then can go on with it.
    private = Program.parse(PRIVATE + "privacy: {clip: 1.0, epsilon: 3, delta: 1e-2}\n")
    assert Program.parse(TEXT).digest == "ebf242dc6c4c9c3c17105012673d0846a984ce077d15b3ff693714aadc2e2e43"
    assert Program.parse(TEXT).agreement == "b7ab8620242cb18efffb1a8589bc926f237fd4d915f9b7df97413dcf976774ab"
    assert private.digest == "adc7b7cbcc2a7f9b6f4a8354dd123f798d958bc497064e51850908c4d24b7325"
    assert private.agreement == "ef0fa3e52b9c9865f45a8cc4f52d6ecb99871d4876afa3b482da86efe0f63f67"
    Built(Program.parse(TEXT), tmp_path)
    assert "compression" not in json.loads((tmp_path / "program.json").read_text())
    assert Program.parse(TEXT + "compression: null\n").digest == Program.parse(TEXT).digest


def test_no_rule_is_combined_with_what_hides_from_it():
    secure = TEXT.replace("scaffold", "fed_avg").replace("size: 2", "size: 4")
    secure += "aggregation: {secure: true, clip: 1.0, max_weight: 100}\n"
    built = Built(Program.parse(secure)).process
    assert (built.name, built.aggregator.fewest) == ("FedAvg, secure", 3)
    assert Built(Program.parse(secure.replace("size: 4", "rate: 1.0"))).process.aggregator.fewest == 3
    with pytest.raises(UsageError, match="leave one out"):
        _ = Built(Program.parse(secure + "robust: {name: median}\n")).process
    median = PRIVATE + "robust: {name: median}\nprivacy: {clip: 1.0, epsilon: 9, delta: 1e-2, noise_multiplier: 1.0}\n"
    with pytest.raises(UsageError, match="aggregates by Median"):
        _ = Built(Program.parse(median)).process


def test_a_private_run_ends_at_its_epsilon_also_after_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(spending, "accounting", lambda: type("PerRound", (), {"epsilon": staticmethod(per_round)}))
    program = Program.parse(PRIVATE + "privacy: {clip: 1.0, epsilon: 3, delta: 1e-2, noise_multiplier: 1.0}\n")
    built = Built(program, tmp_path)
    one = played(built, rounds=1)
    assert "loss" not in one.history[0].training  # that would be without noise
    secret = (tmp_path / "secret.bin").read_bytes()
    assert secret.hex() not in repr(built.process) + repr(built.cohort)
    with (tmp_path / "spent.jsonl").open("ab") as file:
        file.write(b'{"cut')  # killed while it wrote
    with pytest.raises(PermissionDenied, match=r"round 4 .* would pass the limit: ε 3 of 3 is spent"):
        played(Built(program, tmp_path), rounds=4)
    with pytest.raises(PermissionDenied):
        played(Built(program, tmp_path), rounds=4)
    assert Checkpoints(tmp_path).load()[0].round == 3
    assert (tmp_path / "secret.bin").read_bytes() == secret
    assert (tmp_path / "secret.bin").stat().st_mode & 0o077 == 0
    assert Built(program).deployed.name == Built(program, tmp_path).deployed.name


def test_two_processes_do_not_spend_one_budget(tmp_path, monkeypatch):
    monkeypatch.setattr(spending, "accounting", lambda: type("PerRound", (), {"epsilon": staticmethod(per_round)}))
    program = Program.parse(PRIVATE + "privacy: {clip: 1.0, epsilon: 3, delta: 1e-2, noise_multiplier: 1.0}\n")
    slow = Built(program, tmp_path)
    assert slow.guard is not None
    played(Built(program, tmp_path), rounds=2)
    with pytest.raises(UsageError, match=r"spent.jsonl has changed meanwhile: another process"):
        played(slow, rounds=3)


def test_a_private_run_is_not_served_without_a_folder(tmp_path):
    path = tmp_path / "program.yaml"
    path.write_text(PRIVATE + "privacy: {clip: 1.0, epsilon: 3, delta: 1e-2, noise_multiplier: 1.0}\n")
    told = federation.Serving(
        run="trial", identity=tmp_path, listen="127.0.0.1:0", clients="c0000,c0001",
        folder=None, rounds=None, minimum=2, deadline=120, test=None, vouchers=None,
    )  # fmt: skip
    with pytest.raises(UsageError, match="a private run needs one"):
        federation.serve(path, told)


def per_round(facts, delta):
    del delta
    return float(sum(fact.rounds for fact in facts))


def test_files_of_examples_are_arrays_and_nothing_else(tmp_path):
    program = Program.parse(TEXT)
    good, path = tmp_path / "good.npz", tmp_path / "bad.npz"
    np.savez(good, inputs=np.zeros((3, 64), np.float32), labels=np.array([0, 1, 2]))
    assert len(own_examples(program, str(good))) == 3
    assert own_examples(program, "client:c0001").labels.dtype == np.int64
    np.savez(path, inputs=np.array([print], object), labels=np.array([0]))
    with pytest.raises(DataError, match="allow_pickle"):
        own_examples(program, str(path))
    np.savez(path, inputs=np.zeros((3, 64)))
    with pytest.raises(DataError, match="labels"):
        own_examples(program, str(path))
    np.savez(path, inputs=np.zeros((3, 64)), labels=np.zeros(2))
    with pytest.raises(DataError, match=r"expected \(n, …\) and \(n,\)"):
        own_examples(program, str(path))
    for broken in (b"", b"PK\x03\x04 cut off", good.read_bytes()[:200], b"\x93NUMPY\x01\x00"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="expected the arrays inputs and labels"):
            own_examples(program, str(path))
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="expected the arrays inputs and labels"):
        own_examples(program, str(path))
    with pytest.raises(UsageError, match="has no client 'c9'"):
        own_examples(program, "client:c9")


@pytest.fixture
def people(tmp_path):
    """Folders with the identities of a server and two clients."""
    now = datetime.now(UTC)
    authority = make_authority("federation", days=1, now=now)
    for name in ("server", "c0000", "c0001"):
        issue(authority, PartyId(name), days=1, now=now).save(tmp_path / name)
    return tmp_path


def test_a_roster_is_made_of_what_certificates_vouch_for(people):
    vouchers, now = people / "vouchers", datetime.now(UTC)
    federation.vouch(people / "c0000", vouchers)
    federation.vouch(people / "c0001", vouchers)
    roster = read_roster(people / "server", vouchers, now)
    assert set(roster) == {"c0000", "c0001"}
    assert len({*roster.values()}) == 2
    federation.vouch(people / "c0000", vouchers)
    assert read_roster(people / "c0001", vouchers, now) == roster
    (vouchers / "c0001.json").write_bytes(voucher(people / "c0000", bytes(32))[1])
    with pytest.raises(UsageError, match="is the voucher of c0000"):
        read_roster(people / "server", vouchers, now)
    with pytest.raises(UsageError, match="has no vouchers"):
        read_roster(people / "server", people, now)


def told_to(identity, port):
    server = f"server=127.0.0.1:{port}"
    return ["--run", "trial", "--identity", str(identity), "--server", server, "--data", f"client:{identity.name}"]


def test_real_processes_end_with_the_bits_of_the_simulation(people, capsys):
    path = people / "program.yaml"
    path.write_text(TEXT.replace("clients: 4", "clients: 2"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = Path(building.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    clients = [
        subprocess.Popen(
            [sys.executable, "-m", "unseen", "attend", str(path), *told_to(people / name, port)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("c0000", "c0001")
    ]
    try:
        told = federation.Serving(
            run="trial", identity=people / "server", listen=f"127.0.0.1:{port}", clients="c0000,c0001",
            folder=people / "run", rounds=None, minimum=2, deadline=120, test=None, vouchers=None,
        )  # fmt: skip
        federation.serve(path, told)
        ended = [client.communicate(timeout=60)[0] for client in clients]
    finally:
        for client in clients:
            client.kill()
    assert all(text.endswith("done: 2 rounds, trained in 2\n") for text in ended)
    assert "done: 2 rounds, test accuracy" in capsys.readouterr().out
    simulated = played(Built(Program.load(path)))
    state, _ = Checkpoints(people / "run").load()
    assert state.model.tobytes() == simulated.state.model.tobytes()


def test_server_and_clients_agree_on_all_but_data_and_length():
    mine = Built(Program.parse(TEXT)).deployed.name
    other = TEXT.replace("rounds: 2", "rounds: 9").replace("dirichlet:1.0", "dirichlet:5")
    assert Built(Program.parse(other)).deployed.name == mine
    assert (
        Built(Program.parse(TEXT.replace("features: 64", "features: 64, augment: {flip: 0.5}"))).deployed.name != mine
    )
    with pytest.raises(UsageError, match=r"data.clients says 4, and there are 3"):
        _ = Built(Program.parse(TEXT), real=3).process


def test_what_the_model_takes_a_pixel_for_is_agreed_upon():
    without = TEXT.replace('data: {source: digits, partition: "dirichlet:1.0", clients: 4}\n', "")
    assert Program.parse(TEXT).agreement != Program.parse(without).agreement
