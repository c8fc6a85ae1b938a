"""Trees from sums over clients are those of LightGBM on all rows, whoever has which row and whoever stays away."""

from dataclasses import dataclass, field

import lightgbm
import numpy as np
import pytest
from table_rounds import examples, play, shared_out

from unseen.crypto.prg import Prg
from unseen.data.demo import load_credit
from unseen.errors import DataError, PermissionDenied, RemoteProtocolError, UsageError
from unseen.ids import ClientId
from unseen.learners.horizontal.boosting.forest import Forest
from unseen.learners.horizontal.boosting.process import horizontal_boosting
from unseen.learners.horizontal.boosting.setting import ForestPlan
from unseen.learners.horizontal.process import Aggregate, Assignment, Broadcast
from unseen.learners.horizontal.strategies.parts import personal_model
from unseen.learners.horizontal.tables.exact import Limbs, answer
from unseen.learners.horizontal.tables.noise import CountNoise
from unseen.learners.horizontal.tables.sketch import ROUNDS, Ranges, pack
from unseen.privacy.events import Relation, Unit

NAMES = ("a", "b", "c", "d")
CLIENTS = 4


def table(rows=1500, seed=1):
    """Return whole numbers with gaps, and a score that depends on three of the columns and on what is missing."""
    rng = np.random.default_rng(seed)
    inputs = rng.integers(-8, 12, (rows, len(NAMES))).astype(np.float64)
    inputs[rng.random(inputs.shape) < 0.1] = np.nan
    filled = np.nan_to_num(inputs)
    return inputs, 0.3 * filled[:, 0] - 0.05 * filled[:, 1] ** 2 + 1.5 * np.isnan(inputs[:, 2]), rng.logistic(size=rows)


INPUTS, SCORE, NOISE = table()
LABELS = {
    "binary": (SCORE + NOISE > 0).astype(np.float64),
    "multiclass": np.digitize(SCORE + NOISE, [-2, 1]).astype(np.float64),
    "squared": 100 * SCORE + 30 * NOISE + 1000,
}


def learner(objective="binary", **changes):
    settings = {"trees": 3, "max_leaves": 8, "max_depth": 4, "l2": 1.0, "min_rows": 20, **changes}
    classes = 3 if objective == "multiclass" else 1
    return horizontal_boosting(NAMES, ForestPlan(objective=objective, classes=classes, **settings), clients=CLIENTS)


def lightgbm_says(objective, trees, **changes):
    settings = {
        "objective": {"squared": "regression"}.get(objective, objective),
        "num_leaves": 8,
        "learning_rate": 0.1,
        "max_bin": 64,
        "min_data_in_bin": 1,
        "min_data_in_leaf": 20,
        "lambda_l2": 1.0,
        "num_threads": 1,
        "verbosity": -1,
        **({"num_class": 3} if objective == "multiclass" else {}),
        **changes,
    }
    return lightgbm.train(settings, lightgbm.Dataset(INPUTS, LABELS[objective]), trees).predict(INPUTS)


@pytest.mark.parametrize("objective", LABELS)
def test_leaf_by_leaf_it_is_lightgbm(objective):
    trained = learner(objective, growth="leaf", max_depth=64)
    states = play(trained, shared_out(INPUTS, LABELS[objective], CLIENTS))
    assert len(states) - 1 == trained.rounds
    found = trained.trainer.predict(states[-1].model, INPUTS)
    reference = lightgbm_says(objective, 3)
    np.testing.assert_allclose(found, reference, atol=1e-7 * np.abs(reference).max())


def test_level_by_level_it_is_lightgbm_where_leaves_do_not_run_out():
    trained = learner(max_depth=3)
    states = play(trained, shared_out(INPUTS, LABELS["binary"], CLIENTS))
    assert len(states) - 1 == ROUNDS + 1 + 3 * 3
    found = trained.trainer.predict(states[-1].model, INPUTS)
    np.testing.assert_allclose(found, lightgbm_says("binary", 3, max_depth=3), atol=1e-7)


def test_on_people_it_is_lightgbm_on_their_pooled_rows():
    """Ten trees of 31 leaves, many of them as small as they may be; each has its own bins, and they are the same."""
    people = load_credit().sample(4000, seed=1)
    inputs, labels = people.drop("default").to_numpy().astype(np.float64), people["default"].to_numpy()
    names = people.columns[:-1]
    trained = horizontal_boosting(names, ForestPlan(trees=10, growth="leaf", max_depth=64), clients=2)
    model = play(trained, shared_out(inputs, labels.astype(np.float64), 2))[-1].model
    settings = {"objective": "binary", "max_bin": 64, "min_data_in_bin": 1, "num_threads": 1, "verbosity": -1}
    reference = lightgbm.train(settings, lightgbm.Dataset(inputs, labels), 10).predict(inputs)
    np.testing.assert_allclose(trained.trainer.predict(model, inputs), reference, atol=1e-7)


def test_the_forest_is_the_same_whoever_has_which_row():
    labels = LABELS["squared"]
    one = play(learner("squared"), [(INPUTS, labels)])[-1]
    four = play(learner("squared"), shared_out(INPUTS, labels, CLIENTS))[-1]
    np.testing.assert_array_equal(one.model, four.model)


def test_nothing_depends_on_what_a_trainer_has_kept():
    clients = shared_out(INPUTS, LABELS["binary"], 2)
    trained = learner()
    first = play(trained, clients)
    again = play(trained, [clients[1], clients[0]])  # the same names, other rows
    np.testing.assert_array_equal(first[-1].model, again[-1].model)


@pytest.mark.parametrize("growth", ["depth", "leaf"])
def test_clients_that_come_and_go(growth):
    """Two of four in turn: every level is asked for in full, and the forest is worth as much."""
    clients = [(INPUTS[rows::4], LABELS["binary"][rows::4]) for rows in range(4)]
    trained = learner(growth=growth)
    states = play(trained, clients, present=lambda round_, number: (round_ + number) % 2 == 0, rounds=200)
    forest = Forest.of(states[-1].model)
    assert forest.trees == 3
    test, steady = examples(INPUTS, LABELS["binary"]), play(learner(growth=growth), clients)
    assert 0 < len(states) - len(steady) <= 3 + 1  # once in each tree, and trees differ
    found, reference = (trained.trainer.evaluate(one[-1].model, test)["loss"] for one in (states, steady))
    assert found < reference + 0.01


def test_one_who_stays_away_for_a_round_costs_a_round():
    clients = shared_out(INPUTS, LABELS["binary"], CLIENTS)
    trained = learner(trees=1)
    states = play(trained, clients, present=lambda round_, number: (round_, number) != (ROUNDS + 2, 0), rounds=50)
    steady = play(trained, clients)
    assert len(states) == len(steady) + 1
    nobody = play(trained, clients, present=lambda round_, number: round_ != 2, rounds=50)
    np.testing.assert_array_equal(nobody[-1].model, steady[-1].model)


def test_many_more_rows_than_at_first_change_the_scale():
    labels = LABELS["squared"]
    clients = [(INPUTS[:30], labels[:30]), (INPUTS[30:], labels[30:])]
    states = play(learner("squared"), clients, present=lambda round_, number: number == 0 or round_ > 4, rounds=60)
    found = learner("squared").trainer.evaluate(states[-1].model, examples(INPUTS, labels))["loss"]
    assert found < np.var(labels)
    assert Forest.of(states[-1].model).trees == 3


def test_rows_and_columns_are_drawn_alike_in_every_run():
    clients = shared_out(INPUTS, LABELS["binary"], CLIENTS)
    one, again = (play(learner(row_rate=0.5, column_rate=0.5), clients)[-1].model for _ in range(2))
    np.testing.assert_array_equal(one, again)
    forest = Forest.of(one)
    for tree in range(3):
        used = forest.feature[forest.starts[tree] : forest.starts[tree + 1]]
        assert len(set(used[used >= 0].tolist())) <= 2
    other = play(learner(row_rate=0.5, column_rate=0.5, seed=1), clients)[-1].model
    assert len(other) != len(one) or (other != one).any()


def test_the_best_number_of_trees_is_found_afterwards():
    inputs, score, noise = table(300, 2)
    held_out = examples(inputs, (score + noise > 0).astype(np.float64))
    trained = learner(trees=12, learning_rate=1.0)
    model = play(trained, shared_out(INPUTS, LABELS["binary"], CLIENTS))[-1].model
    losses = trained.trainer.staged(model, held_out)
    best = trained.trainer.best(model, held_out)
    assert Forest.of(best).trees == int(np.argmin(losses)) < 12
    assert trained.trainer.evaluate(best, held_out)["loss"] == pytest.approx(min(losses), rel=1e-12)


def test_every_client_has_the_forest_in_every_round():
    trained = learner(trees=1)
    for state in play(trained, shared_out(INPUTS, LABELS["binary"], CLIENTS)):
        own = examples(INPUTS[:5], LABELS["binary"][:5])
        assignment = Assignment(ClientId("c0"), trained.process.distributor(state), own, {}, np.random.default_rng(0))
        np.testing.assert_array_equal(personal_model(trained.process, trained.trainer, assignment), state.model)


def test_columns_that_tell_nothing_make_no_trees():
    inputs = np.column_stack([np.ones(50), np.full(50, np.nan), np.zeros((50, 2))])
    labels = np.repeat([0.0, 1.0], 25)
    states = play(learner(), [(inputs, labels)])
    assert Forest.of(states[-1].model).trees == 0
    assert learner().trainer.predict(states[-1].model, inputs).tolist() == [0.5] * 50


def test_a_round_of_counts_with_nobody_is_played_again():
    clients = shared_out(INPUTS, LABELS["squared"], CLIENTS)
    usual = play(learner("squared"), clients)[-1].model
    found = play(learner("squared"), clients, present=lambda round_, number: round_ not in (0, 2, 5), rounds=50)
    np.testing.assert_array_equal(found[-1].model, usual)


# --- bins with noise ---------------------------------------------------------------------------------------------


@dataclass
class Ledger:
    """A meter that remembers, and says no beyond some rounds."""

    most: int = 100
    facts: list = field(default_factory=list)

    def spend(self, fact):
        if fact.rounds > self.most:
            raise PermissionDenied("spent")
        self.facts.append(fact)


def noisy(deviation, ledger, **changes):
    noise = CountNoise(run="trees", about="people", meter=ledger, prg=Prg(bytes(32)))
    return learner(bin_noise=deviation, **changes).with_bin_noise(noise)


def test_bins_with_little_noise_are_those_without_and_are_accounted():
    clients, ledger = shared_out(INPUTS, LABELS["binary"], CLIENTS), Ledger()
    found = play(noisy(0.2, ledger), clients)[-1].model
    np.testing.assert_array_equal(found, play(learner(), clients)[-1].model)
    assert [fact.rounds for fact in ledger.facts] == [1, 2, 3, 4]
    fact = ledger.facts[-1]
    assert (fact.unit, fact.relation) == (Unit.EXAMPLE, Relation.ADD_OR_REMOVE)
    # A row changes one count of each of the four columns by one.
    assert fact.mechanism.noise_multiplier == pytest.approx(0.2 / 2)


def test_noise_hides_a_single_row_far_out():
    outlier = np.vstack([INPUTS, [1e6] * 4])
    labels = np.append(LABELS["binary"], 1.0)
    for deviation, seen in ((0.2, True), (3.0, False)):
        model = play(noisy(deviation, Ledger()), [(outlier, labels)], rounds=5)[-1].model
        assert (max(own[-1] for own in Forest.of(model).bins.edges) > 1000) == seen


def test_noise_is_the_same_after_a_restart_and_another_for_other_counts():
    clients = shared_out(INPUTS, LABELS["binary"], CLIENTS)
    one, again = (play(noisy(5.0, Ledger()), clients)[-1].model for _ in range(2))
    np.testing.assert_array_equal(one, again)
    noise = CountNoise(run="trees", about="people", meter=Ledger(), prg=Prg(bytes(32)))
    counts = [np.full(4000, 1000)]
    drawn = noise.noisy(counts, 5.0, 0)[0] - 1000
    assert drawn.std() == pytest.approx(5.0, rel=0.1)
    assert abs(np.corrcoef(drawn, noise.noisy([counts[0] + 1], 5.0, 0)[0])[0, 1]) < 0.1
    assert "bytes" not in repr(noise)


def test_no_round_passes_the_budget_and_no_server_forgets_the_noise():
    clients = shared_out(INPUTS, LABELS["binary"], CLIENTS)
    with pytest.raises(PermissionDenied):
        play(noisy(5.0, Ledger(2)), clients)
    with pytest.raises(UsageError, match="with_bin_noise"):
        play(learner(bin_noise=5.0), clients)
    with pytest.raises(UsageError, match="bin_noise"):
        noisy(0.0, Ledger())
    assert repr(noisy(5.0, Ledger()).process) == repr(learner(bin_noise=5.0).process)  # clients need no secret


# --- what is refused ---------------------------------------------------------------------------------------------


def test_rows_that_do_not_fit_are_named():
    good = INPUTS[:40], LABELS["binary"][:40]
    for bad, story in (
        ((good[0][:, :3], good[1]), "client c1: expected rows of 4 columns"),
        ((good[0], good[1] + 1), "client c1, labels: labels must be 0 to 1"),
        ((good[0], good[1] * np.nan), "client c1, labels: a label is missing"),
        ((good[0].astype(str), good[1]), "client c1: expected numbers, found inputs of type"),
    ):
        with pytest.raises(DataError, match=story):
            play(learner(), [good, bad])


def test_one_class_is_nothing_to_learn():
    with pytest.raises(DataError, match="all labels are 1"):
        play(learner(), [(INPUTS, np.ones(len(INPUTS)))])
    with pytest.raises(DataError, match="no client has label 2"):
        play(learner("multiclass"), [(INPUTS, LABELS["binary"])])


@pytest.mark.parametrize(
    "changes",
    [
        {"plan": {"objective": "poisson"}},
        {"plan": {"bins": 2}},
        {"plan": {"trees": 0}},
        {"clients": 0},
        {"columns": ()},
        {"plan": {"row_rate": 2}},
    ],
)
def test_impossible_parameters_are_refused(changes):
    given = {"columns": NAMES, "clients": 4, **changes}
    with pytest.raises(UsageError):
        horizontal_boosting(**{**given, "plan": ForestPlan(**given.get("plan", {}))})


def test_a_server_that_sends_nonsense_is_refused():
    trained = learner()
    states = play(trained, shared_out(INPUTS, LABELS["binary"], CLIENTS), rounds=ROUNDS + 3)
    good = trained.process.distributor(states[-1])

    def work(broadcast):
        own = examples(INPUTS[:50], LABELS["binary"][:50])
        assignment = Assignment(ClientId("c0"), broadcast, own, {}, np.random.default_rng(0))
        return trained.process.client_round(trained.trainer, assignment)

    assert work(good)
    for name, change in (
        ("asked", [0.0, 0.0]),
        ("asked", [99.0]),
        ("growth", [0.0, 0.0, 0.0, 0.0]),
        ("growth", [7.0, 1.0]),
        ("growth", [np.nan] * 4),
        ("growth", [0.5] * 4),
        ("growth", []),
        ("forest", [1.0]),
    ):
        with pytest.raises(RemoteProtocolError, match=r"boosting|whole"):
            work(Broadcast(good.round, good.model, {**good.extra, name: np.array(change, np.float32)}))
    for place, value in ((0, 9.0), (0, 0.5), (1, 99.0), (2, 1e9), (1, np.nan)):
        control = good.model.copy()
        control[place] = value
        with pytest.raises(RemoteProtocolError, match=r"boosting|whole"):
            work(Broadcast(good.round, control, good.extra))


def test_a_server_that_asks_for_too_much_is_refused():
    trained = learner()
    good = trained.process.distributor(trained.process.start(trained.trainer.initial(0)))
    wide = Ranges(np.zeros(1, np.uint64), np.array([64]), np.zeros(1, np.int64), np.array([20]), np.zeros(1, np.int64))
    own = examples(INPUTS[:50], LABELS["binary"][:50])
    for ranges, story in (([wide] * 4, "more counts"), ([Ranges.everything()] * 3, "ranges of 3 columns")):
        broadcast = Broadcast(0, good.model, {"ranges": pack(ranges)})
        assignment = Assignment(ClientId("c0"), broadcast, own, {}, np.random.default_rng(0))
        with pytest.raises(RemoteProtocolError, match=story):
            trained.process.client_round(trained.trainer, assignment)


@pytest.mark.parametrize("rounds", [1, 3, 5, 6])
def test_a_client_that_sends_any_limbs_spoils_the_model_at_most(rounds):
    """Whatever it claims, rounds go on, or end with an error that says what is wrong."""
    trained, clients = learner(trees=1), shared_out(INPUTS, LABELS["binary"], CLIENTS)
    rng = np.random.default_rng(rounds)
    state = play(trained, clients, rounds=rounds)[-1]
    for _ in range(5):
        updates = []
        for number, own in enumerate(clients):
            assignment = Assignment(ClientId(f"c{number}"), trained.process.distributor(state), examples(*own), {}, rng)
            updates.append(trained.process.client_round(trained.trainer, assignment)[0])
        most = 1 << Limbs(CLIENTS, 2).width
        for vector in (updates[0].delta[1:], *updates[0].extra.values()):
            vector[:] = rng.integers(0, most, len(vector))
        try:
            state = trained.process.next(state, updates)[0]
        except (DataError, RemoteProtocolError):
            return


def test_sums_of_something_else_are_refused():
    trained = learner()
    state = trained.process.start(trained.trainer.initial(0))
    said = answer(CLIENTS, ClientId("c0"), 5, np.ones(3, np.float32))
    with pytest.raises(RemoteProtocolError, match="expected sums of"):
        trained.process.finalizer(state, Aggregate(said.delta, 1, 1.0, said.extra))
