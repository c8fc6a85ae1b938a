"""Every mode of privacy in a program states its unit, keeps what it spent, and ends at its ε; the rest is refused."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from unseen.cli import federation
from unseen.crypto.prg import Prg
from unseen.errors import PermissionDenied, UsageError
from unseen.ids import ClientId, JobId, PartyId
from unseen.learners.horizontal.private.distributed import ModularSum
from unseen.learners.horizontal.private.sampling import EpochCohort
from unseen.learners.horizontal.process import Examples
from unseen.learners.horizontal.strategies.parts import WeightedMean
from unseen.rounds import private, spending
from unseen.rounds.building import Built
from unseen.rounds.checkpoint import Checkpoints
from unseen.rounds.digest import digest_of
from unseen.rounds.program import Program
from unseen.rounds.spending import left_in
from unseen.rounds.without_server import Party
from unseen.transport.memory import MemoryNetwork

pytest.importorskip("torch", reason="the models of programs are PyTorch's")
pytest.importorskip("sklearn", reason="the set digits comes with scikit-learn")

TEXT = """\
name: small
data: {source: digits, clients: 12}
model: {name: logistic_regression, features: 64}
strategy: {name: fed_avg, learning_rate: 0.1}
rounds: 4
"""
COHORTS = {"central": "rate: 0.5", "adaptive": "rate: 0.5"}
OWN = {"distributed": ", honest: 3", "dp_sgd": ", examples: 100", "adaptive": ", target: 0.4"}
ROUNDS = {"ftrl": (1, 1, 1, 2), "dp_sgd": (5, 5, 5, 10)}
"""What is charged after each round: trees, and steps of a client that comes once in three rounds."""


def program(mode, *, more="", noise="noise_multiplier: 1.0, ", epsilon=9, text=TEXT, cohort=None):
    cohort = cohort or COHORTS.get(mode, "size: 4")
    said = f"mode: {mode}, clip: 1.0, {noise}epsilon: {epsilon}, delta: 1e-3{OWN.get(mode, '')}{more}"
    return Program.parse(f"{text}cohort: {{{cohort}}}\nprivacy: {{{said}}}\n", name="f.yaml")


class PerRound:
    """An accountant that counts."""

    @staticmethod
    def epsilon(facts, delta):
        del delta
        return float(sum(fact.rounds for fact in facts))

    @staticmethod
    def affordable(fact, epsilon, delta):
        del fact, delta
        return int(epsilon)


@pytest.fixture
def counted(monkeypatch):
    for module in (private, spending):
        monkeypatch.setattr(module, "accounting", lambda: PerRound)


def played(built, rounds):
    with built.simulation(workers=1) as simulation:
        return simulation.rounds(rounds)


@pytest.mark.parametrize("mode", sorted(private.MODES))
@pytest.mark.usefixtures("counted")
def test_what_rounds_spend_is_kept_and_a_restart_gives_the_same_bits(mode, tmp_path):
    built = Built(program(mode, epsilon=20), tmp_path / "run")
    run = played(built, 2)
    assert all(set(one.training) == set() for one in run.history)  # a loss in training would be without noise
    charged = ROUNDS.get(mode, (1, 2, 3, 4))
    limit = private.MODES[mode].limit("small", built.program.privacy)
    assert left_in(limit, tmp_path / "run").spent == charged[1]
    secret = (tmp_path / "run" / "secret.bin").read_bytes()
    assert secret.hex() not in repr(built.process) + repr(built.cohort)
    ended = played(Built(program(mode, epsilon=20), tmp_path / "run"), 4)
    assert left_in(limit, tmp_path / "run").spent == charged[3]
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "secret.bin").write_bytes(secret)
    assert (
        played(Built(program(mode, epsilon=20), tmp_path / "whole"), 4).state.model.tobytes()
        == ended.state.model.tobytes()
    )


@pytest.mark.parametrize("mode", sorted(private.MODES))
@pytest.mark.usefixtures("counted")
def test_no_round_passes_the_limit(mode, tmp_path):
    charged = ROUNDS.get(mode, (1, 2, 3, 4))
    allowed = charged[2]  # what three rounds spend; of those without a fourth tree or turn, one more is free
    fits = sum(spent <= allowed for spent in charged)
    with pytest.raises(PermissionDenied, match=r"would pass the limit|that its ε allows"):
        played(Built(program(mode, epsilon=allowed), tmp_path), fits + 1)
    assert Checkpoints(tmp_path).load()[0].round == fits


@pytest.mark.parametrize("mode", ["central", "distributed", "dp_sgd", "ftrl", "local"])
def test_noise_is_what_all_rounds_need(mode):
    accounting = pytest.importorskip("unseen.privacy.accounting")
    logging.getLogger("absl").setLevel(logging.ERROR)
    built = Built(program(mode, noise="", epsilon=8))
    wanted = built._wanted
    spent = wanted.mode.fact(wanted, wanted.noise(), 4)
    assert 7.9 < accounting.epsilon([spent], 1e-3) <= 8
    assert (spent.unit, spent.relation) == (built.guard.limit.unit, built.guard.limit.relation)


@pytest.mark.usefixtures("counted")
def test_server_and_clients_have_one_process_and_secrets_of_their_own(tmp_path):
    for mode in private.ADD_NOISE:
        server = Built(program(mode), tmp_path / mode / "server", real=12)
        client = Built(program(mode), own=tmp_path / mode / "client" / "noise.bin")
        again = Built(program(mode), own=tmp_path / mode / "client" / "noise.bin")
        assert digest_of(server.deployed) == digest_of(client.deployed)
        secrets = [one.guard.secret.bytes(8) for one in (server, client, again)]
        assert secrets[0] != secrets[1] == secrets[2]
    assert federation._own_secret(program("central"), None) is None
    with pytest.raises(UsageError, match="give it a --folder"):
        federation._own_secret(program("local"), None)


@pytest.mark.usefixtures("counted")
def test_modes_have_the_cohorts_and_parts_that_they_state():
    assert isinstance(Built(program("ftrl")).cohort, EpochCohort)
    assert Built(program("dp_sgd")).process.work.plan.rate == 0.2  # twenty of a hundred examples, five steps
    assert Built(program("dp_sgd")).process.work.plan.steps == 5
    by = Built(program("distributed", more=", bits: 16, scheme: rlwe")).process.aggregator
    assert isinstance(by, ModularSum)
    assert (by.fewest, by.bits, by.scheme) == (3, 16, "rlwe")
    assert Built(program("local")).process.aggregator == WeightedMean(equal=True)
    assert Built(program("local", text=TEXT + "robust: {name: median}\n")).process.name.startswith("FedAvg by Median")
    plan = Built(program("adaptive", more=", count_noise: 2.0")).process.finalizer.plan
    assert (plan.clip.initial, plan.clip.target, plan.clip.deviation) == (1.0, 0.4, 2.0)
    drawn = Built(program("dp_sgd")).process
    with pytest.raises(UsageError, match="clients that come in turn"):
        drawn.check_cohort(EpochCohort(5, Prg.fresh()), 12)


@pytest.mark.parametrize(
    ("mode", "change", "message"),
    [
        ("central", {"more": ", honest: 3"}, r"line 7, privacy: .*honest goes with mode distributed, and this one is"),
        ("local", {"more": ", sigma: 3"}, r"line 7, privacy.sigma: there is no such key; there are mode, clip"),
        ("tree", {}, r"line 7, privacy.mode: Input should be 'central', 'adaptive', 'ftrl'"),
        ("ftrl", {"cohort": "rate: 0.5"}, r"f.yaml: line 6, cohort: privacy of mode ftrl has cohorts of one size"),
        ("central", {"cohort": "size: 4"}, r"f.yaml: line 6, cohort: privacy of mode central counts on Poisson"),
        ("local", {"cohort": "size: 4, weighted: true"}, r"line 6, cohort.weighted: numbers of examples are data"),
        ("dp_sgd", {"cohort": "size: 13"}, r"line 6, cohort.size: 13 of 12 clients cannot be drawn"),
        ("distributed", {"cohort": "size: 2"}, r"line 7, privacy.honest: 3 of a cohort of 2 cannot be honest"),
        ("distributed", {"more": ", bits: 40"}, r"line 7, privacy.bits: .*less than or equal to 24"),
        (
            "adaptive",
            {"more": ", count_noise: 0.4"},
            r"f.yaml: line 7, privacy: a count of clipped updates with noise of deviation 0.4",
        ),
        ("dp_sgd", {"text": TEXT.replace("0.1}", "0.1, momentum: 0.9}")}, r"line 4, strategy.momentum: private steps"),
        ("dp_sgd", {"text": TEXT.replace("fed_avg", "fed_prox")}, r"line 4, strategy.name: private steps take the"),
        ("dp_sgd", {"text": TEXT.replace("64}", "64, augment: {flip: 0.5}}")}, r"line 3, model.augment: private steps"),
        ("central", {"text": TEXT + "robust: {name: median}\n"}, r"privacy: noise is measured for a plain sum"),
        ("ftrl", {"text": TEXT + "robust: {name: median}\n"}, r"aggregates by Median"),
        (
            "local",
            {"text": TEXT + "aggregation: {secure: true, clip: 1.0, max_weight: 9}\n"},
            r"line 8, privacy: it does not go with aggregation, .*mode distributed takes a secure sum",
        ),
    ],
)
@pytest.mark.usefixtures("counted")
def test_what_is_not_accounted_for_is_refused(mode, change, message):
    with pytest.raises(UsageError, match=message):
        Built(program(mode, **change)).simulation(workers=1)


@pytest.mark.usefixtures("counted")
def test_extras_that_nothing_protects_stop_the_run():
    text = TEXT.replace("fed_avg", "scaffold")
    with pytest.raises(UsageError, match="which nothing here protects"):
        played(Built(program("local", text=text)), 1)


def test_a_noise_multiplier_that_is_too_little_for_one_round_is_refused_at_once():
    pytest.importorskip("unseen.privacy.accounting")
    with pytest.raises(UsageError, match=r"privacy.noise_multiplier: 0.1 is too little for a single round at ε = 1"):
        _ = Built(program("local", noise="noise_multiplier: 0.1, ", epsilon=1)).process


def test_keys_of_other_modes_are_not_in_what_was_agreed():
    said = json.dumps(program("central").agreed())
    assert not any(key in said for keys in OWN.values() for key in keys.strip(", ").split(": ")[:1])


# --- without a server --------------------------------------------------------------------------------------------


def without_server(mode, name, more="", epsilon=9):
    said = f"mode: {mode}, clip: 1.0, noise_multiplier: 1.0, epsilon: {epsilon}, delta: 1e-3{more}"
    text = f"{TEXT.replace('12', '5')}topology: {{name: {name}}}\nprivacy: {{{said}}}\n"
    return Program.parse(text, name="f.yaml")


@pytest.mark.parametrize(("mode", "name"), [("local", "ring"), ("distributed", "peers")])
@pytest.mark.usefixtures("counted")
def test_parties_without_a_server_charge_their_own_rounds_and_stop_at_their_epsilon(mode, name, tmp_path):
    limited = without_server(mode, name, epsilon=2)
    with pytest.raises(PermissionDenied):
        played(Built(limited, tmp_path / "simulated"), 3)
    limit = private.MODES[mode].limit("small", limited.privacy)
    assert left_in(limit, tmp_path / "simulated").spent == 2
    names = [PartyId(client) for client in Built(limited).held.train.ids]
    network, examples = MemoryNetwork(names), Built(limited).held.train

    def play(me, rounds):
        own = Built(limited, tmp_path / me / "private", real=5)
        party = Party(
            program=limited, run=JobId("r"), me=me, everybody=names, rounds=rounds, folder=tmp_path / me, patience=30
        )
        channel = network.channel(me)
        channel.peers = party.linked
        data = Examples(*examples.client(ClientId(me)))
        run, troubles = party.play(channel, own.deployed, own.trainer, data)
        assert not troubles
        return own.guard.secret.bytes(8), run.state.model, left_in(limit, tmp_path / me / "private").spent

    with ThreadPoolExecutor(5) as pool:
        ended = list(pool.map(play, names, [2] * 5))
    assert len({secret for secret, _, _ in ended}) == 5
    assert len({model.tobytes() for _, model, _ in ended}) == (1 if name == "peers" else 5)
    assert [spent for _, _, spent in ended] == [2] * 5
    # A limit of its own stops each of them, whatever the others do.
    network = MemoryNetwork(names)
    with ThreadPoolExecutor(5) as pool:
        asked = [pool.submit(play, me, 3) for me in names]
    assert any(isinstance(one.exception(), PermissionDenied) for one in asked)
    assert all(one.exception() for one in asked)
    assert all(left_in(limit, tmp_path / me / "private").spent == 2 for me in names)


@pytest.mark.usefixtures("counted")
def test_a_peer_does_not_count_on_its_own_noise():
    code = Built(without_server("distributed", "peers")).process.aggregator.code
    assert code.clients == 4
    with pytest.raises(UsageError, match=r"privacy.honest: 5 of the 4 others that a peer counts on"):
        _ = Built(without_server("distributed", "peers", ", honest: 5")).process


@pytest.mark.parametrize(
    ("mode", "name", "words"),
    [
        ("local", "peers", "by mode distributed"),
        ("central", "peers", "by mode distributed"),
        ("distributed", "complete", "by mode local"),
        ("dp_sgd", "ring", "by mode local"),
    ],
)
def test_other_modes_without_a_server_are_refused_with_what_to_take(mode, name, words):
    with pytest.raises(UsageError, match=rf"f.yaml: line 7, privacy.mode: {mode} needs a server.*{words}"):
        without_server(mode, name)


def test_learners_of_tables_state_no_epsilon_and_say_why():
    with pytest.raises(UsageError, match=r"privacy: no ε is stated .*every column.*secure: true.*private.DpSgd"):
        Program.parse("name: t\nmodel: {name: horizontal_boosting}\nprivacy: {clip: 1.0, epsilon: 1, delta: 1e-5}\n")
