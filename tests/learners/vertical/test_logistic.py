import dataclasses
from collections import Counter

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from unseen import codec
from unseen.crypto.prg import Prg
from unseen.dialogue import CheckpointsHeld, MemoryCheckpoints, Send, converse, receive, send, send_array
from unseen.errors import Cancelled, DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.learners.vertical import conjugate_gradient, subspace_newton
from unseen.learners.vertical.logistic import (
    LinearPart,
    LogisticParams,
    ScoreSeed,
    Setting,
    score_active,
    score_passive,
    train_active,
    train_passive,
)
from unseen.learners.vertical.products import Exponent
from unseen.learners.vertical.setting import Hello
from unseen.learners.vertical.whitening import choose_precision, whiten
from unseen.protocols.linear_map.agreement import Call
from unseen.protocols.linear_map.matrices import DenseMatrix
from unseen.protocols.linear_map.plain import Plain

BANK, TELCO, SHOP = PartyId("bank"), PartyId("telco"), PartyId("shop")
PARTIES = (BANK, TELCO, SHOP)
MODES = ("exact", "linearised")


@dataclasses.dataclass(frozen=True, slots=True)
class Tight(Plain):
    """Carries about what the lattice scheme carries: its noise grows with the columns, so they count twice."""

    def check(self, bounds):
        if bounds.column_norm**2 * bounds.vector_norm > 2.0**54:
            raise UsageError("too wide for this test")


def standardised(matrix):
    return (matrix - matrix.mean(axis=0)) / matrix.std(axis=0)


def correlated(rows, width, seed):
    """Standardised columns with strong correlations, and labels of a logistic model."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, width)) @ rng.normal(size=(width, width)) + rng.normal(size=(rows, 1))
    features = standardised(mixed)
    chance = 1 / (1 + np.exp(-(features @ rng.normal(0, 0.6, width) - 1)))
    return features, (rng.uniform(size=rows) < chance).astype(float)


def cancer():
    data = load_breast_cancer()
    return standardised(data.data), data.target.astype(float)


def setting(me, count=2, scheme=None):
    return Setting(me, BANK, PARTIES[1:count], Prg(bytes(32)), scheme or Tight(simulation=True))


def dialogues(blocks, labels, params, **changes):
    """One training dialogue per block of columns; ``changes`` replace a party's dialogue."""
    count = len(blocks)
    talks = {
        party: train_passive(block, params, setting(party, count))
        for party, block in list(zip(PARTIES, blocks, strict=False))[1:]
    }
    return {BANK: train_active(blocks[0], labels, params, setting(BANK, count)), **talks, **changes}


def pooled(parts):
    coefficients = np.concatenate([parts[party].coef_ for party in PARTIES if party in parts])
    return coefficients, sum(part.intercept_ for part in parts.values())


def reference(features, labels, l2):
    model = LogisticRegression(C=1 / (len(labels) * l2), tol=1e-12, max_iter=10000, solver="newton-cholesky")
    return model.fit(features, labels)


def linearised_reference(features, own, labels, l2):
    """Pooled coefficients and intercept of the linearised problem around the model of the first ``own`` columns."""
    rows, width = features.shape
    mean = features.mean(axis=0)
    centred, start, intercept = features - mean, np.zeros(width), np.log(labels.mean() / (1 - labels.mean()))
    if own:
        model = reference(centred[:, :own], labels, l2)
        start[:own], intercept = model.coef_[0], model.intercept_[0]
    scores = centred @ start + intercept
    gradient = centred.T @ (expit(scores) - labels) / rows + l2 * start
    hessian = centred.T @ centred / (4 * rows) + l2 * np.eye(width)
    change = -np.linalg.solve(hessian, gradient)
    spread = 2 * np.sqrt(change @ hessian @ change)
    grid = np.linspace(-8, 8, 2001)
    density = norm.pdf(grid) / norm.pdf(grid).sum()

    def curvature(factor):
        chance = expit(scores[:, None] + factor * spread * grid)
        return float((chance * (1 - chance) @ density).mean())

    factor = brentq(lambda factor: 4 * factor * curvature(factor) - 1, 1, 8)
    final = start + factor * change
    return final, intercept - mean @ final


def gap(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


@pytest.mark.parametrize("cuts", [[], [6], [0], [1, 7], [0, 5]])
def test_exact_gives_the_pooled_maximum_likelihood_fit(cuts):
    features, labels = correlated(3000, 12, 4)
    parts = converse(dialogues(np.split(features, cuts, axis=1), labels, LogisticParams(mode="exact")))
    coefficients, intercept = pooled(parts)
    model = reference(features, labels, 1e-3)
    assert all(part.converged and not part.note for part in parts.values())
    assert gap(coefficients, model.coef_[0]) < 1e-3
    assert intercept == pytest.approx(model.intercept_[0], abs=1e-3)
    ours = roc_auc_score(labels, features @ coefficients)
    assert ours == pytest.approx(roc_auc_score(labels, features @ model.coef_[0]), abs=1e-4)
    assert parts[BANK].n_iterations <= 14
    assert parts[BANK].losses[-1] == pytest.approx(log_loss(labels, model.predict_proba(features)), abs=1e-6)
    assert len(parts[BANK].losses) == len(parts[BANK].gradient_norms) == parts[BANK].n_iterations


@pytest.mark.parametrize("cuts", [[10], [8, 20]])
def test_exact_on_collinear_real_data(cuts):
    features, labels = cancer()
    parts = converse(dialogues(np.split(features, cuts, axis=1), labels, LogisticParams(mode="exact", l2=1e-2)))
    assert gap(pooled(parts)[0], reference(features, labels, 1e-2).coef_[0]) < 1e-3
    assert parts[BANK].n_iterations <= 25


@pytest.mark.parametrize("cuts", [[], [6], [0], [1, 7], [0, 5]])
def test_linearised_gives_the_scaled_minimiser_of_the_quadratic_bound(cuts):
    features, labels = correlated(3000, 12, 4)
    parts = converse(dialogues(np.split(features, cuts, axis=1), labels, LogisticParams()))
    own = len(np.split(features, cuts, axis=1)[0][0])
    wanted = linearised_reference(features, own, labels, 1e-3)
    coefficients, intercept = pooled(parts)
    assert gap(coefficients, wanted[0]) < 1e-3
    assert intercept == pytest.approx(wanted[1], abs=1e-3)
    assert all(part.converged for part in parts.values())
    assert parts[BANK].n_iterations <= 15
    assert not len(parts[BANK].losses)


@pytest.mark.parametrize("mode", MODES)
def test_neither_scale_nor_offset_of_columns_matters_without_a_penalty(mode):
    features, labels = correlated(2000, 6, 1)
    params = LogisticParams(mode=mode, l2=0.0)
    plain = pooled(converse(dialogues(np.split(features, [3], axis=1), labels, params)))
    scales, offsets = np.array([1e-6, 1, 1e6, 1e-3, 5, 1e4]), np.array([1.0, -3, 1e6, 0, 100, 1e4])
    moved = converse(dialogues(np.split(features * scales + offsets, [3], axis=1), labels, params))
    coefficients, intercept = pooled(moved)
    assert gap(coefficients * scales, plain[0]) < 1e-3
    assert intercept + offsets @ coefficients == pytest.approx(plain[1], abs=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_penalty_acts_on_the_columns_as_they_are(mode):
    features, labels = correlated(2000, 6, 1)
    features = features * np.array([0.1, 1, 3, 0.3, 1, 5])
    parts = converse(dialogues(np.split(features, [3], axis=1), labels, LogisticParams(mode=mode, l2=0.02)))
    if mode == "exact":
        wanted = reference(features, labels, 0.02).coef_[0]
    else:
        wanted = linearised_reference(features, 3, labels, 0.02)[0]
    assert gap(pooled(parts)[0], wanted) < 1e-3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("l2", [1e-2, 0.0])
def test_constant_and_repeated_columns_do_no_harm(mode, l2):
    features, labels = correlated(2000, 4, 1)
    theirs = np.column_stack([features[:, 2:], np.full(2000, 7.0), features[:, 3]])
    parts = converse(dialogues([features[:, :2], theirs], labels, LogisticParams(mode=mode, l2=l2)))
    assert parts[TELCO].coef_[2] == 0
    assert parts[TELCO].coef_[1] == pytest.approx(parts[TELCO].coef_[3], abs=1e-6)
    assert parts[BANK].converged


@pytest.mark.parametrize("mode", MODES)
def test_fewer_rows_than_columns(mode):
    features, labels = correlated(40, 60, 2)
    parts = converse(dialogues(np.split(features, [25], axis=1), labels, LogisticParams(mode=mode, l2=0.1)))
    assert parts[BANK].converged
    if mode == "exact":
        assert gap(pooled(parts)[0], reference(features, labels, 0.1).coef_[0]) < 1e-3


def test_separable_classes_without_penalty_are_called_so():
    features, labels = correlated(200, 4, 3)
    features[:, 0] += 20 * labels
    parts = converse(dialogues(np.split(features, [2], axis=1), labels, LogisticParams(mode="exact", l2=0.0)))
    for part in parts.values():
        assert not part.converged
        assert "set l2 > 0" in part.note
    assert np.isfinite(pooled(parts)[0]).all()


@pytest.mark.parametrize("mode", MODES)
def test_too_few_iterations_are_called_so(mode):
    features, labels = correlated(500, 8, 3)
    parts = converse(dialogues(np.split(features, [4], axis=1), labels, LogisticParams(mode=mode, max_iterations=2)))
    assert {part.n_iterations for part in parts.values()} == {2}
    assert all("max_iterations = 2" in part.note and not part.converged for part in parts.values())


# --- resuming ------------------------------------------------------------------------------------------------------


class CutOff(MemoryCheckpoints):
    """Holds the first few checkpoints of another store."""

    def __init__(self, whole, count):
        super().__init__()
        self._states[None] = whole._states[None][:count]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cuts", [[3], [0, 4]])
def test_resumed_training_ends_bit_identical(mode, cuts):
    features, labels = correlated(700, 8, 6)
    blocks, params = np.split(features, cuts, axis=1), LogisticParams(mode=mode)
    stores = {party: MemoryCheckpoints() for party in PARTIES[: len(blocks)]}
    whole = converse(dialogues(blocks, labels, params), checkpoints=stores)
    held = stores[BANK].held(None)
    assert held >= 3
    for count in range(1, held + 1):
        # One party may have kept one more than the others.
        cut = {party: CutOff(store, count + (party == TELCO)) for party, store in stores.items()}
        resumed = converse(dialogues(blocks, labels, params), checkpoints=cut)
        for party, part in whole.items():
            assert codec.encode_bytes(resumed[party]) == codec.encode_bytes(part)


class StopAfter:
    """Asks to stop at the n-th look."""

    def __init__(self, looks):
        self.looks = looks

    def is_set(self):
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize("mode", MODES)
def test_training_stopped_anywhere_goes_on_bit_identical(mode):
    features, labels = correlated(300, 6, 7)
    blocks, params = np.split(features, [3], axis=1), LogisticParams(mode=mode)
    whole = converse(dialogues(blocks, labels, params))
    for looks in range(20, 90, 9):
        stores = {party: MemoryCheckpoints() for party in PARTIES[:2]}
        with pytest.raises(Cancelled):
            converse(dialogues(blocks, labels, params), checkpoints=stores, cancel=StopAfter(looks))
        again = converse(dialogues(blocks, labels, params), checkpoints=stores)
        assert [codec.encode_bytes(part) for part in again.values()] == [
            codec.encode_bytes(part) for part in whole.values()
        ]


# --- what is said, and to whom -------------------------------------------------------------------------------------


def overheard(dialogue, heard):
    """Pass a dialogue on and note what it sends."""
    answer = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(effect, Send):
            heard.append((effect.peer, effect.message))
        answer = yield effect


@pytest.mark.parametrize("count", [2, 3])
def test_linearised_sends_nothing_per_row_but_vectors_of_the_linear_map(count):
    features, labels = correlated(400, 9, 5)
    blocks = np.split(features, [3, 6] if count == 3 else [3], axis=1)
    heard = {party: [] for party in PARTIES[:count]}
    talks = dialogues(blocks, labels, LogisticParams())
    converse({party: overheard(talk, heard[party]) for party, talk in talks.items()})
    for party, messages in heard.items():
        kinds = Counter(type(message) for _, message in messages)
        active = {conjugate_gradient.Step, conjugate_gradient.Scale}
        mine = active if party == BANK else {conjugate_gradient.InnerProducts}
        scheme = {Call, *(kind for kind in kinds if kind.wire_name.startswith("dialogue/array"))}
        assert set(kinds) == {Hello, CheckpointsHeld, Exponent} | mine | scheme
        # Each array belongs to a call of the linear map; what is left is a handful of scalars.
        assert (
            kinds[Call]
            == kinds[Exponent]
            == sum(kind.wire_name == "dialogue/array-header" for kind in kinds.elements())
        )
        own = [message for _, message in messages if type(message) in {*mine, Hello, Exponent}]
        assert max(len(codec.encode_bytes(message)) for message in own) < 250


def test_exact_shows_passive_parties_no_rows():
    features, labels = correlated(400, 6, 5)
    heard = []
    talks = dialogues(np.split(features, [3], axis=1), labels, LogisticParams(mode="exact"))
    talks[BANK] = overheard(talks[BANK], heard)
    converse(talks)
    kinds = Counter(type(message).wire_name for _, message in heard)
    assert kinds["dialogue/array-header"] == kinds[Call.wire_name]
    steers = [message for _, message in heard if isinstance(message, subspace_newton.Steer)]
    assert max(len(message.coefficients) for message in steers) <= 3


@pytest.mark.parametrize("mode", MODES)
def test_iterations_are_told_as_progress(mode):
    features, labels = correlated(300, 6, 7)
    events = []
    parts = converse(
        dialogues(np.split(features, [3], axis=1), labels, LogisticParams(mode=mode)), observe=events.append
    )
    for party in (BANK, TELCO):
        mine = [event for event in events if event.party == party]
        assert [event.done for event in mine] == list(range(parts[party].n_iterations + 1))
        assert mine[0].note == "set up"
        assert all(event.total == 50 and "gradient norm" in event.note for event in mine[1:])


# --- scoring -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[], [4], [0, 4]])
def test_scores_are_those_of_the_pooled_model(cuts):
    features, labels = correlated(400, 8, 8)
    blocks = np.split(features + 3, cuts, axis=1)
    parts = converse(dialogues(blocks, labels, LogisticParams(mode="exact")))
    heard = []
    talks = {BANK: score_active(parts[BANK], blocks[0], setting(BANK, len(blocks)))}
    for party, block in list(zip(PARTIES, blocks, strict=False))[1:]:
        talks[party] = overheard(score_passive(parts[party], block, setting(party, len(blocks))), heard)
    found = converse(talks)
    coefficients, intercept = pooled(parts)
    wanted = 1 / (1 + np.exp(-((features + 3) @ coefficients + intercept)))
    np.testing.assert_allclose(found.pop(BANK), wanted, atol=1e-8)
    assert set(found.values()) <= {None}
    if len(blocks) == 3:
        arrays = [message.data.view(np.int64) for _, message in heard if hasattr(message, "data")]
        # Masked scores fill the whole word; unmasked ones would stay below 2^40 or so.
        assert all(np.median(np.abs(array.astype(float))) > 2.0**58 for array in arrays)
        assert all(peer != BANK for peer, message in heard if isinstance(message, ScoreSeed))


def part(width):
    return LinearPart(np.ones(width), 0.0, 1, True, np.ones(1), np.empty(0))


def test_scoring_refuses_other_tables():
    with pytest.raises(DataError, match="3 columns here, the table has 2"):
        next(score_active(part(3), np.ones((5, 2)), setting(BANK)))
    with pytest.raises(DataError, match="2\\^24"):
        next(score_passive(part(1), np.full((5, 1), 1e9), setting(TELCO)))
    talks = {
        BANK: score_active(part(1), np.ones((5, 1)), setting(BANK)),
        TELCO: score_passive(part(1), np.ones((6, 1)), setting(TELCO)),
    }
    with pytest.raises(RemoteProtocolError, match="telco: scores 6 rows, expected 5"):
        converse(talks)


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "rows", "says"),
    [
        (LogisticParams(l2=0.5), 60, "l2 is .* there and .* here"),
        (LogisticParams(mode="exact"), 60, "mode is '(exact|linearised)' there and '(exact|linearised)' here"),
        (LogisticParams(tolerance=1e-3), 60, "tolerance is"),
        (LogisticParams(max_iterations=7), 60, "max_iterations is"),
        (LogisticParams(), 59, "rows is (59|60) there and (59|60) here"),
    ],
)
def test_parties_that_differ_are_told_both_values(theirs, rows, says):
    features, labels = correlated(60, 4, 1)
    other = train_passive(features[:rows, 2:], theirs, setting(TELCO))
    with pytest.raises(RemoteProtocolError, match=says):
        converse(dialogues(np.split(features, [2], axis=1), labels, LogisticParams(), **{TELCO: other}))


def greet(mode, rows=60, columns=2):
    """Say what an honest passive party says until the first vector has come."""
    yield from send(BANK, Hello(BANK, rows, columns, mode, 1e-3, 50, 1e-5))
    yield from receive(BANK, Hello)
    yield from send(BANK, CheckpointsHeld(0))
    yield from receive(BANK, CheckpointsHeld)


def bad_direction(norm, penalty, column):
    yield from greet("exact")
    yield from send(BANK, subspace_newton.Direction(norm, np.array(penalty)))
    if column is not None:
        yield from send_array(BANK, column)
    yield from receive(BANK, subspace_newton.Steer)


@pytest.mark.parametrize(
    ("norm", "penalty", "column", "says"),
    [
        (np.nan, [0.1], np.zeros(60), "the gradient norm holds NaN"),
        (-1.0, [0.1], np.zeros(60), "gradient norm is -1"),
        (1.0, [np.inf], np.zeros(60), "the penalty holds NaN"),
        (1.0, [0.1, 0.2], np.zeros(60), "direction 1 of at most 2 came with 2 penalties"),
        (1.0, [0.1], np.zeros(61), "61 rows, expected 60"),
        (1.0, [0.1], np.zeros(59), "59 rows, expected 60"),
        (1.0, [-1e-13], np.zeros(60), "a direction has the penalty -1e-13"),
        (1.0, [0.1], np.full(60, np.nan), "a score column holds NaN"),
        (1.0, [0.1], np.zeros((60, 2)), "expected an array"),
    ],
)
def test_malformed_directions_are_refused(norm, penalty, column, says):
    features, labels = correlated(60, 4, 1)
    talks = dialogues([features[:, :2], features[:, 2:]], labels, LogisticParams(mode="exact"))
    talks[TELCO].close()
    talks[TELCO] = bad_direction(norm, penalty, column)
    with pytest.raises(RemoteProtocolError, match=f"^telco: .*{says}"):
        converse(talks)


def bad_steer(coefficients):
    yield from send(TELCO, Hello(BANK, 60, 2, "exact", 1e-3, 50, 1e-5))
    yield from receive(TELCO, Hello)
    yield from send(TELCO, CheckpointsHeld(0))
    yield from receive(TELCO, CheckpointsHeld)
    yield from send(TELCO, subspace_newton.Steer(np.array(coefficients), False, False, np.empty(0), ""))
    yield from receive(TELCO, subspace_newton.Direction)


def test_malformed_decisions_are_refused():
    features, labels = correlated(60, 4, 1)
    params = LogisticParams(mode="exact")
    talks = dialogues([features[:, :2], features[:, 2:]], labels, params, **{BANK: bad_steer([1.0])})
    with pytest.raises(RemoteProtocolError, match="bank: expected 0 coefficients, found 1"):
        converse(talks)


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
def test_decisions_that_are_no_numbers_are_refused(bad):
    features, labels = correlated(60, 4, 1)
    talks = dialogues([features[:, :2], features[:, 2:]], labels, LogisticParams(mode="exact"))
    talks[BANK] = changed(
        talks[BANK],
        subspace_newton.Steer,
        lambda m: dataclasses.replace(m, coefficients=m.coefficients + bad),
    )
    with pytest.raises(RemoteProtocolError, match="bank: the coefficients holds NaN"):
        converse(talks)


def test_exact_passive_party_answers_no_more_often_than_agreed():
    features, labels = correlated(60, 8, 1)
    blocks, wide = np.split(features, [4], axis=1), LogisticParams(mode="exact", max_iterations=2)
    talks = dialogues(blocks, labels, wide)
    greedy = train_active(blocks[0], labels, LogisticParams(mode="exact"), setting(BANK))
    talks[BANK] = changed(greedy, Hello, lambda m: dataclasses.replace(m, max_iterations=2))
    talks[TELCO] = changed(talks[TELCO], Hello, lambda m: dataclasses.replace(m, max_iterations=50))
    with pytest.raises(RemoteProtocolError, match="bank: asks for more than the agreed 2"):
        converse(talks)


def changed(dialogue, kind, change):
    """Pass a dialogue on with every message of one kind changed."""
    answer = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(effect, Send) and isinstance(effect.message, kind):
            effect = Send(effect.peer, change(effect.message))
        answer = yield effect


@pytest.mark.parametrize(
    ("party", "kind", "change", "says"),
    [
        (TELCO, Hello, lambda m: dataclasses.replace(m, columns=0), "telco: announces 0 columns"),
        # 2^42 columns of a passive party would have kept the active one busy with laying out the linear map for ever.
        (
            TELCO,
            Hello,
            lambda m: dataclasses.replace(m, columns=1 << 42),
            "telco: announces 4398046511104 .* at most 65536",
        ),
        (TELCO, Hello, lambda m: dataclasses.replace(m, mode="x" * 10**6), "telco: mode is 'x{79} there"),
        (TELCO, Hello, lambda m: dataclasses.replace(m, active="telco"), "telco: active is 'telco' there"),
        (TELCO, Exponent, lambda m: Exponent(9999), "telco: a vector's exponent is 9999"),
        (
            TELCO,
            conjugate_gradient.InnerProducts,
            lambda m: conjugate_gradient.InnerProducts(m.values * np.nan),
            "telco: the inner products holds NaN",
        ),
        (
            BANK,
            conjugate_gradient.Step,
            lambda m: dataclasses.replace(m, length=np.inf),
            "bank: the step's length holds",
        ),
        (BANK, conjugate_gradient.Step, lambda m: dataclasses.replace(m, keep=-1.0), "bank: a step of length"),
        (
            BANK,
            conjugate_gradient.Step,
            lambda m: dataclasses.replace(m, length=0.1, done=False),
            "bank: asks for more than the agreed 3",
        ),
    ],
)
def test_malformed_messages_are_refused_by_name(party, kind, change, says):
    features, labels = correlated(60, 4, 1)
    talks = dialogues([features[:, :2], features[:, 2:]], labels, LogisticParams(max_iterations=3))
    talks[party] = changed(talks[party], kind, change)
    with pytest.raises(RemoteProtocolError, match=says):
        converse(talks)


@pytest.mark.parametrize(
    ("features", "labels", "says"),
    [
        (np.ones((4, 1)), np.ones(4), "all 4 labels are 1"),
        (np.ones((4, 1)), np.array([0.0, 1, 2, 1]), "labels must be 0 or 1"),
        (np.ones((4, 1)), np.array([0.0, 1]), "expected 4 labels"),
        (np.array([[1.0], [np.nan]]), np.array([0.0, 1]), "row 1 is nan: scale and impute first"),
        (np.ones((4, 1), np.float32), np.array([0.0, 1, 0, 1]), "float64"),
        (np.ones((1, 1)), np.array([1.0]), "all 1 labels"),
    ],
)
def test_unusable_data_are_refused_before_anything_is_sent(features, labels, says):
    with pytest.raises(DataError, match=says):
        next(train_active(features, labels, LogisticParams(), setting(BANK)))


def test_wrong_roles_and_settings_are_refused():
    with pytest.raises(DataError, match="telco: no feature column varies"):
        next(train_passive(np.ones((4, 2)), LogisticParams(), setting(TELCO)))
    with pytest.raises(UsageError, match="telco is not the active party here"):
        next(train_active(np.ones((4, 1)), np.ones(4), LogisticParams(), setting(TELCO)))
    alone = Setting(TELCO, BANK, (TELCO,), Prg(bytes(32)))
    with pytest.raises(UsageError, match="needs a linear map scheme"):
        next(train_passive(np.eye(4), LogisticParams(), alone))
    with pytest.raises(UsageError, match="appears twice"):
        Setting(BANK, BANK, (BANK,), Prg(bytes(32)))
    with pytest.raises(UsageError, match="shop is none of"):
        Setting(SHOP, BANK, (TELCO,), Prg(bytes(32)))


@pytest.mark.parametrize(
    "change", [{"mode": "fast"}, {"l2": -1.0}, {"l2": np.nan}, {"max_iterations": 0}, {"tolerance": 0.0}]
)
def test_parameters_are_checked(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        LogisticParams(**change)


# --- fixed point ---------------------------------------------------------------------------------------------------


def test_rounded_columns_and_vectors_keep_the_announced_bounds():
    features, _ = cancer()
    block = whiten(features, 0.0)
    precision = choose_precision(Tight(simulation=True), *block.columns.shape)
    bounds = precision.bounds(*block.columns.shape)
    bounds.check_matrix(DenseMatrix.of(precision.matrix(block)))
    for scale in (1e-30, 1.0, 1e30):
        for values in (features[:, 0], np.ones(569), np.eye(569)[3]):
            integers, exponent = precision.vector(values * scale)
            bounds.check_vectors(integers[None, :])
            error = np.abs(np.ldexp(integers.astype(float), -exponent) - values * scale).max()
            assert error <= 2.0**-precision.vector_bits * np.sqrt(np.mean(np.square(values * scale)))
    assert precision.vector(np.zeros(569))[1] == 0


def test_whitened_columns_have_the_identity_for_a_bound_on_their_hessian():
    features, _ = cancer()
    block = whiten(features, 1e-3)
    hessian = block.columns.T @ block.columns / (4 * 569) + block.penalty
    np.testing.assert_allclose(hessian, np.eye(30), atol=1e-9)


def test_a_scheme_that_carries_nothing_is_named():
    class Nothing(Plain):
        def check(self, bounds):
            raise UsageError("no room")

    with pytest.raises(UsageError, match=r"plain cannot carry 1000 rows .* no room"):
        choose_precision(Nothing(simulation=True), 1000, 3)
