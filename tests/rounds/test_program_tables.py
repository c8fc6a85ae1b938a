"""Programs learn from tables: one file with a column that names the client, or one of each; simulated and for real."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest

from unseen.cli import federation
from unseen.data.federated.tables import tables_from_frames
from unseen.errors import DataError, UsageError
from unseen.ids import JobId, PartyId
from unseen.learners.horizontal.boosting.process import horizontal_boosting
from unseen.learners.horizontal.boosting.setting import ForestPlan
from unseen.learners.horizontal.tables.secure import SecureExactSum
from unseen.rounds.attend import AttendSettings, attend
from unseen.rounds.building import Built
from unseen.rounds.cohort import Uniform
from unseen.rounds.program import Program
from unseen.rounds.program_data import own_examples
from unseen.rounds.serve import Server, ServeSettings
from unseen.rounds.simulate import Settings, Simulation
from unseen.transport.memory import MemoryNetwork

TREES = "horizontal_boosting, trees: 2, max_leaves: 4, max_depth: 2, min_rows: 10, bins: 16"
TEXT = f"""\
name: credit
data: {{source: people.csv, client: branch, label: default, test: 0}}
model: {{name: {TREES}}}
"""
RNG = np.random.default_rng(4)
INPUTS = RNG.normal(size=(240, 3))
LABELS = (INPUTS @ [1.0, -1.0, 0.2] + RNG.logistic(size=240) > 0).astype(np.int64)
PEOPLE = pl.DataFrame({"branch": [f"b{n % 3}" for n in range(240)]}).hstack(
    pl.DataFrame(INPUTS, schema=["age", "bill", "limit"]), in_place=False
)
PEOPLE = PEOPLE.with_columns(default=pl.Series(LABELS))


@pytest.fixture
def home(tmp_path):
    PEOPLE.write_csv(tmp_path / "people.csv")
    (tmp_path / "branches").mkdir()
    for (name,), rows in PEOPLE.group_by("branch"):
        rows.drop("branch").write_parquet(tmp_path / "branches" / f"{name}.parquet")
    return tmp_path


def built(home, text=TEXT, **more):
    return Built(Program.parse(text, name="f.yaml", home=home), **more)


def model_of(learning):
    with learning.simulation(workers=1) as simulation:
        return simulation.rounds(learning.rounds).state.model


def test_a_column_or_a_folder_says_whose_rows_are_whose(home):
    model = model_of(built(home))
    folder = TEXT.replace("people.csv, client: branch", "branches")
    np.testing.assert_array_equal(model_of(built(home, folder)), model)
    named = TEXT.replace("bins: 16", "bins: 16, columns: [age, bill, limit]")
    np.testing.assert_array_equal(model_of(built(home, named)), model)
    frames = {name: rows.drop("branch") for (name,), rows in PEOPLE.sort("branch").group_by("branch")}
    tables = tables_from_frames(frames, label="default")
    plan = ForestPlan(trees=2, max_leaves=4, max_depth=2, min_rows=10, bins=16)
    learner = horizontal_boosting(tables.columns, plan, clients=3)
    with Simulation(tables.data, learner.trainer, learner.process, Settings(Uniform(3), workers=1)) as simulation:
        np.testing.assert_array_equal(simulation.rounds(learner.rounds).state.model, model)
    assert built(home).rounds == learner.rounds
    assert built(home, TEXT + "rounds: 3\n").rounds == 3


def test_rows_without_clients_are_dealt_and_regressions_need_no_more(home):
    text = TEXT.replace("client: branch, ", 'partition: "power-law:1.2", clients: 4, ')
    text = text.replace(TREES, "horizontal_linear, columns: [age, bill], l2: 0.1")
    learning = built(home, text)
    assert len(learning.held.train) == 4
    assert learning.cohort == Uniform(4)
    model = learning.trainer.model(model_of(learning))
    assert model.rows == 240
    assert model.coefficients[0] > 0 > model.coefficients[1]
    logistic = built(home, TEXT.replace(TREES, "horizontal_logistic").replace("test: 0", "test: 0.2"))
    assert logistic.held.test.labels.dtype == np.int64
    assert logistic.held.train.spread().labels == ("0", "1")


def test_secure_sums_have_the_same_model(home):
    hidden = built(home, TEXT + "aggregation: {secure: true, least: 3}\n")
    assert hidden.process.aggregator == SecureExactSum(3, 3)
    np.testing.assert_array_equal(model_of(hidden), model_of(built(home)))
    with pytest.raises(UsageError, match=r"line 4, aggregation.clip: there is no such parameter"):
        _ = built(home, TEXT + "aggregation: {secure: true, clip: 1.0}\n").process


def test_real_clients_with_their_own_files_end_with_the_bits_of_the_simulation(home):
    text = TEXT.replace("bins: 16", "bins: 16, columns: [age, bill, limit]")
    real = text.replace("source: people.csv, client: branch, ", "")
    server, cancel, clients = PartyId("server"), threading.Event(), [PartyId(f"b{n}") for n in range(3)]
    network = MemoryNetwork([server, *clients])

    def narrow(client):
        channel = network.channel(client)
        channel.peers = frozenset([server])
        return channel

    program = Program.parse(real.replace("test: 0", "clients: 3"))
    run = JobId("tables")
    with ThreadPoolExecutor(3) as pool:
        for client in clients:
            own, examples = Built(program), own_examples(program, str(home / "branches" / f"{client}.parquet"))
            told = AttendSettings(run, 0)
            pool.submit(
                attend, lambda who=client: narrow(who), own.deployed, own.trainer, examples, told, cancel=cancel
            )
        try:
            learning = Built(program, real=3)
            settings = ServeSettings(run, learning.cohort, deadline=20.0)
            test = federation._test(program, home / "people.csv")
            with Server(network.channel(server), learning.deployed, learning.trainer, settings, test=test) as serving:
                found = serving.rounds(learning.rounds)
        finally:
            cancel.set()
    np.testing.assert_array_equal(found.state.model, model_of(built(home, text)))
    assert found.test["accuracy"] > 0.6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("label: default", "label: defaults"), r"has no column defaults"),
        (("label: default, ", ""), r"f.yaml: line 2, data.label: model horizontal_boosting needs the name"),
        (("client: branch", "client: bank"), r"f.yaml: line 2, data.client: people.csv has no column 'bank'; it has"),
        (("client: branch", "client: branch, partition: iid"), r"line 2, data.partition: data.client says whose"),
        (("client: branch", "client: branch, split: train"), r"line 2, data.split: tables have none"),
        (("people.csv", "branches"), r"line 2, data.client: a folder has one file for each client"),
        (("people.csv", "nobody.csv"), r"nobody.csv"),
        (("client: branch, ", ""), r"column branch: expected numbers, found String"),
        (("trees: 2", "tree: 2"), r"line 3, model.tree: there is no such parameter; model has columns, objective"),
        (("trees: 2", "trees: two"), r"line 3, model.trees: .*valid integer"),
        (("trees: 2", "columns: age"), r"line 3, model.columns: expected a list of names"),
        (("trees: 2", "columns: [age, wage]"), r"has no column wage"),
        (("trees: 2", "bin_noise: 9.0"), r"line 3, model.bin_noise: .* no ε could be stated"),
        (("trees: 2", "augment: {flip: 0.5}"), r"line 3, model.augment: horizontal_boosting learns from no pictures"),
        (("name: credit", "name: credit\nstrategy: {name: fed_avg}"), r"line 2, strategy: model horizontal_boosting"),
        (
            ("name: credit", "name: credit\nprivacy: {clip: 1.0, epsilon: 1, delta: 1e-5}"),
            r"line 2, privacy: no ε is stated for the sums of horizontal_boosting",
        ),
        ((TREES, "perceptron"), r"strategy: model perceptron needs one, such as {name: fed_avg}"),
        ((f"{TREES}}}", "perceptron}\nstrategy: {name: fed_avg}"), r"line 2, data.label: rows of tables are for hor"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(home, change, message):
    text = TEXT.replace(*change)
    assert text != TEXT
    with pytest.raises((UsageError, DataError), match=message):
        built(home, text).simulation(workers=1)


def test_rows_of_nobody_and_features_that_nobody_agreed_on_are_refused(home):
    nobody = ["b" if n != 7 else None for n in range(240)]
    PEOPLE.with_columns(branch=pl.Series(nobody)).write_parquet(home / "holes.parquet")
    with pytest.raises(DataError, match=r"holes.parquet, row 8: column branch says nobody whose row it is"):
        _ = built(home, TEXT.replace("people.csv", "holes.parquet")).held
    program = Program.parse(TEXT.replace("source: people.csv, client: branch, ", ""))
    with pytest.raises(UsageError, match=r"model.columns: real clients and their server have to agree"):
        own_examples(program, str(home / "branches" / "b0.parquet"))
    other = Program.parse(TEXT.replace("label: default", "label: age"))
    assert other.agreement != Program.parse(TEXT).agreement


def test_the_command_line_learns_trees_and_says_what_came_of_it(home, monkeypatch, capsys):
    from unseen.cli import learn  # noqa: PLC0415

    path = home / "program.yaml"
    path.write_text(TEXT.replace("test: 0", "test: 0.2"))
    learn.run(path, learn.Wishes(None, 1, None, home / "page.html", compare=False, as_json=True))
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert len(found["rounds"]) == 17
    assert found["clients"]["the common model"]["clients"] == 3
    page = (home / "page.html").read_text()
    assert "counts by ranges of values" in page
    with pytest.raises(UsageError, match="has no plan of local training"):
        learn.run(path, learn.Wishes(None, 1, None, None, compare=True, as_json=True))
