"""Federated generalised linear models against scikit-learn and statsmodels on pooled data."""

import dataclasses

import numpy as np
import pytest
import statsmodels.api as sm
from sklearn.linear_model import (
    ElasticNet,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    TweedieRegressor,
)
from sklearn.metrics import roc_auc_score

from unseen import codec
from unseen.crypto.prg import Prg
from unseen.dialogue import MemoryCheckpoints, Send, converse
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.learners.vertical import glm, logistic, quadratic
from unseen.learners.vertical.generalised import Hello, Width
from unseen.learners.vertical.glm_params import GlmParams, row_weights
from unseen.learners.vertical.private import Factors, Reach
from unseen.learners.vertical.products import Exponent
from unseen.learners.vertical.quadratic import Decision, Shares
from unseen.learners.vertical.residues import choose_residues
from unseen.learners.vertical.setting import LogisticParams, Setting
from unseen.protocols.linear_map.lattice import Lattice
from unseen.protocols.linear_map.paillier import Paillier
from unseen.protocols.linear_map.plain import Plain

BANK, TELCO, SHOP = PARTIES = tuple(PartyId(name) for name in ("bank", "telco", "shop"))
PLAIN = Plain(simulation=True)


def standardised(matrix):
    return (matrix - matrix.mean(axis=0)) / matrix.std(axis=0)


def columns(rows, width, seed, noise=1.0):
    """Standardised columns, correlated across all of them."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, width)) @ rng.normal(size=(width, width)) / np.sqrt(width)
    return standardised(mixed + rng.normal(size=(rows, 1)) + noise * rng.normal(size=(rows, width)))


def binary(rows, width, seed, shift=-1.0):
    features, rng = columns(rows, width, seed), np.random.default_rng(seed + 1)
    chance = 1 / (1 + np.exp(-(features @ rng.normal(0, 0.5, width) + shift)))
    return features, (rng.uniform(size=rows) < chance).astype(float)


def counts(rows, width, seed):
    features, rng = columns(rows, width, seed), np.random.default_rng(seed + 1)
    return features, rng.poisson(np.exp(features @ rng.normal(0, 0.2, width) - 0.5)).astype(float)


def amounts(rows, width, seed):
    features, target = counts(rows, width, seed)
    return features, target * np.random.default_rng(seed + 2).gamma(2, 1, rows)


def linear(rows, width, seed):
    features, rng = columns(rows, width, seed), np.random.default_rng(seed + 1)
    return features, features @ (rng.normal(size=width) * (np.arange(width) % 3 == 0)) + 2 + rng.normal(size=rows)


def setting(me, count, scheme=PLAIN):
    return Setting(me, BANK, PARTIES[1:count], Prg(bytes(32)), scheme)


def dialogues(blocks, target, params, *, weights=None, scheme=PLAIN):
    count = len(blocks)
    talks = {BANK: glm.train_active(blocks[0], target, params, setting(BANK, count, scheme), weights=weights)}
    for party, block in list(zip(PARTIES, blocks, strict=False))[1:]:
        talks[party] = glm.train_passive(block, params, setting(party, count, scheme))
    return talks


def train(features, target, cuts, params, **options):
    """Return parts, pooled coefficients and intercept."""
    parts = converse(dialogues(np.split(features, cuts, axis=1), target, params, **options))
    coefficients = np.concatenate([parts[party].coef_ for party in PARTIES if party in parts])
    return parts, coefficients, sum(part.intercept_ for part in parts.values())


def gap(found, wanted):
    return np.linalg.norm(found - np.ravel(wanted)) / np.linalg.norm(wanted)


def reference(features, labels, l2, weights=None):
    scale = 1 / (len(labels) * l2) if l2 else np.inf
    model = LogisticRegression(C=scale, tol=1e-10, max_iter=10000, solver="newton-cholesky")
    return model.fit(features, labels, weights)


# --- the model of the pooled data ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("cut", "l2"), [(5, 1e-3), (0, 1e-3), (5, 0.0), (8, 0.05)])
def test_logistic_regression_is_that_of_pooled_data(cut, l2):
    features, labels = binary(4000, 10, 1)
    parts, coefficients, intercept = train(features, labels, [cut], GlmParams(l2=l2))
    model = reference(features, labels, l2)
    assert parts[BANK].converged
    assert parts[BANK].n_iterations <= 9
    assert gap(coefficients, model.coef_) < 3e-4
    assert intercept == pytest.approx(model.intercept_[0], abs=3e-4)
    ours, theirs = (roc_auc_score(labels, features @ np.ravel(found)) for found in (coefficients, model.coef_))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_one_percent_of_positives():
    features, labels = binary(20000, 8, 3, shift=-6.0)
    assert 0.003 < labels.mean() < 0.02
    parts, coefficients, intercept = train(features, labels, [4], GlmParams(l2=1e-4))
    model = reference(features, labels, 1e-4)
    assert parts[BANK].converged
    assert parts[BANK].n_iterations <= 10
    assert gap(coefficients, model.coef_) < 1e-3
    assert intercept == pytest.approx(model.intercept_[0], abs=1e-2)


@pytest.mark.parametrize("l2", [1e-2, 0.0])
def test_columns_that_both_parties_have(l2):
    features, labels = binary(3000, 6, 1)
    both = np.column_stack([features, features[:, 1], np.full(3000, 7.0)])
    parts, coefficients, _ = train(both, labels, [4], GlmParams(l2=l2))
    assert parts[BANK].converged
    model = reference(both, labels, l2) if l2 else reference(features, labels, l2)
    assert gap(both @ coefficients, both[:, : model.coef_.shape[1]] @ model.coef_[0]) < 1e-3
    assert parts[TELCO].coef_[-1] == 0


@pytest.mark.parametrize("cuts", [[5], [0], [3, 6], []])
@pytest.mark.parametrize("l2", [1e-2, 0.0])
def test_linear_regression_is_that_of_pooled_data(cuts, l2):
    features, target = linear(2000, 9, 1)
    parts, coefficients, intercept = train(features, target, cuts, GlmParams("gaussian", l2=l2))
    model = Ridge(alpha=2000 * l2).fit(features, target)
    assert parts[BANK].converged
    assert parts[BANK].n_iterations <= 5
    assert gap(coefficients, model.coef_) < 1e-4
    assert intercept == pytest.approx(model.intercept_, abs=1e-4)


@pytest.mark.parametrize(
    ("family", "data", "model"),
    [
        ("poisson", counts, PoissonRegressor(alpha=1e-3, tol=1e-10, max_iter=1000)),
        ("tweedie", amounts, TweedieRegressor(power=1.5, link="log", alpha=1e-3, tol=1e-10, max_iter=1000)),
    ],
)
def test_counts_and_amounts(family, data, model):
    features, target = data(4000, 8, 1)
    weights = np.random.default_rng(0).gamma(2, 1, 4000)
    for given in (None, weights):
        parts, coefficients, intercept = train(features, target, [3], GlmParams(family), weights=given)
        model.fit(features, target, given)
        assert parts[BANK].converged
        assert parts[BANK].n_iterations <= 8
        assert gap(coefficients, model.coef_) < 1e-3
        assert intercept == pytest.approx(model.intercept_, abs=1e-3)


def test_statsmodels_agrees_on_poisson_without_penalty():
    features, target = counts(3000, 6, 2)
    _, coefficients, intercept = train(features, target, [3], GlmParams("poisson", l2=0.0))
    model = sm.GLM(target, sm.add_constant(features), family=sm.families.Poisson()).fit(tol=1e-12)
    assert gap(coefficients, model.params[1:]) < 1e-3
    assert intercept == pytest.approx(model.params[0], abs=1e-3)


def test_without_passive_parties_it_is_ordinary_training():
    for family, data in (("binomial", binary), ("poisson", counts)):
        features, target = data(1000, 5, 3)
        _, coefficients, intercept = train(features, target, [], GlmParams(family))
        model = (
            reference(features, target, 1e-3)
            if family == "binomial"
            else PoissonRegressor(alpha=1e-3, tol=1e-10).fit(features, target)
        )
        assert gap(coefficients, model.coef_) < 1e-4
        assert intercept == pytest.approx(np.ravel(model.intercept_)[0], abs=1e-4)


# --- l1 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [[5], [3, 6], []])
def test_elastic_net_is_that_of_pooled_data(cuts):
    features, target = linear(2000, 9, 1)
    params = GlmParams("gaussian", l1=0.1, l2=0.02, max_iterations=200)
    parts, coefficients, intercept = train(features, target, cuts, params)
    model = ElasticNet(alpha=0.12, l1_ratio=0.1 / 0.12, tol=1e-10).fit(features, target)
    assert parts[BANK].converged
    assert parts[BANK].n_iterations <= 40
    assert gap(coefficients, model.coef_) < 1e-4
    assert ((coefficients == 0) == (model.coef_ == 0)).all()
    assert (coefficients == 0).any()
    assert intercept == pytest.approx(model.intercept_, abs=1e-4)


@pytest.mark.parametrize("cuts", [[4], []])
def test_sparse_logistic_regression_is_that_of_pooled_data(cuts):
    features, labels = binary(3000, 8, 5)
    parts, coefficients, _ = train(features, labels, cuts, GlmParams(l1=0.02, l2=0.0, max_iterations=100))
    model = LogisticRegression(C=1 / (3000 * 0.02), l1_ratio=1.0, solver="saga", tol=1e-8, max_iter=10000)
    model.fit(features, labels)
    assert parts[BANK].converged
    assert gap(coefficients, model.coef_) < 1e-3
    assert ((coefficients == 0) == (model.coef_[0] == 0)).all()
    assert (coefficients == 0).any()


def test_sparse_poisson_regression_solves_the_optimality_conditions():
    features, target = counts(3000, 8, 5)
    params = GlmParams("poisson", l1=0.1, l2=0.01, max_iterations=100)
    parts, coefficients, intercept = train(features, target, [4], params)
    assert parts[BANK].converged
    gradient = features.T @ (np.exp(features @ coefficients + intercept) - target) / 3000 + 0.01 * coefficients
    kept = coefficients != 0
    np.testing.assert_allclose(gradient[kept], -0.1 * np.sign(coefficients[kept]), atol=2e-4)
    assert np.abs(gradient[~kept]).max(initial=0) <= 0.1 + 2e-4
    assert 0 < kept.sum() < 8


# --- weights -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["binomial", "gaussian"])
def test_weights_of_rows(family):
    features, target = binary(3000, 8, 2) if family == "binomial" else linear(3000, 8, 2)
    weights = np.random.default_rng(4).gamma(1, 1, 3000)
    parts, coefficients, intercept = train(features, target, [4], GlmParams(family, l2=0.01), weights=weights)
    scaled = weights / weights.mean()
    model = (
        reference(features, target, 0.01, scaled)
        if family == "binomial"
        else Ridge(alpha=30).fit(features, target, scaled)
    )
    assert parts[BANK].converged
    assert gap(coefficients, model.coef_) < 5e-4
    assert intercept == pytest.approx(np.ravel(model.intercept_)[0], abs=1e-3)


@pytest.mark.parametrize("classes", ["balanced", {0: 1.0, 1: 7.0}])
def test_weights_of_classes(classes):
    features, labels = binary(3000, 6, 2, shift=-2.5)
    _, coefficients, _ = train(features, labels, [3], GlmParams(l2=0.01, class_weights=classes))
    of_class = {0: 1.0, 1: 7.0} if classes != "balanced" else {k: 1500 / np.sum(labels == k) for k in (0, 1)}
    weights = np.where(labels == 1, of_class[1], of_class[0])
    assert gap(coefficients, reference(features, labels, 0.01, weights / weights.mean()).coef_) < 1e-3


def test_weights_that_cannot_be_used():
    labels = np.array([0.0, 1.0, 1.0])
    for weights in (np.ones(2), np.array([1, np.nan, 1]), np.array([-1.0, 1, 1]), np.zeros(3)):
        with pytest.raises(DataError, match="expected 3 weights"):
            row_weights(labels, weights, GlmParams())
    with pytest.raises(DataError, match="class 1 needs a finite weight"):
        row_weights(labels, None, GlmParams(class_weights={0: 1.0}))
    with pytest.raises(UsageError, match="knows no weights"):
        next(glm.train_active(np.eye(3), labels, GlmParams(mode="exact"), setting(BANK, 2), weights=np.ones(3)))


# --- schemes, resuming, scoring ------------------------------------------------------------------------------------


def test_lattice_trains_the_model_of_pooled_data():
    features, labels = binary(3000, 6, 7)
    parts, coefficients, _ = train(features, labels, [3], GlmParams(), scheme=Lattice())
    assert parts[BANK].converged
    assert gap(coefficients, reference(features, labels, 1e-3).coef_) < 5e-4
    features, target = linear(3000, 6, 7)
    _, coefficients, _ = train(features, target, [2, 4], GlmParams("gaussian"), scheme=Lattice())
    assert gap(coefficients, Ridge(alpha=3).fit(features, target).coef_) < 1e-3


def test_a_training_that_ends_at_its_precision_has_not_converged():
    features, labels = binary(600, 4, 7)
    parts, _, _ = train(features, labels, [2], GlmParams(tolerance=1e-11))
    for part in parts.values():
        assert not part.converged
        assert "precision of scheme plain with 600 rows ends" in part.note
        assert "raise l2" in part.note
    assert parts[BANK].gradient_norms[-1] < 1e-4 * parts[BANK].gradient_norms[0]


def test_precision_follows_from_what_the_scheme_carries():
    for rows in (1000, 10**6):
        found = choose_residues(Lattice(), rows, 50)
        assert 5 <= found.matrix_bits < found.vector_bits < found.wrap
        bounds = found.bounds(rows, 50)
        assert bounds.column_norm * np.sqrt(rows) * 2.0**found.vector_bits <= 2.0 ** (found.wrap - 1)
    with pytest.raises(UsageError, match="lattice cannot carry"):
        choose_residues(Lattice(), 1 << 40, 50)


class CutOff(MemoryCheckpoints):
    """Holds the first few checkpoints of another store."""

    def __init__(self, whole, count):
        super().__init__()
        self._states[None] = whole._states[None][:count]


@pytest.mark.parametrize(
    ("params", "data", "cuts"),
    [
        (GlmParams(), binary, [3]),
        (GlmParams("gaussian", tolerance=1e-6), linear, [2, 4]),
        (GlmParams("poisson", l1=0.01, max_iterations=100), counts, [3]),
    ],
)
def test_resumed_training_goes_on_bit_identical(params, data, cuts):
    features, target = data(600, 6, 6)
    blocks = np.split(features, cuts, axis=1)
    stores = {party: MemoryCheckpoints() for party in PARTIES[: len(blocks)]}
    whole = converse(dialogues(blocks, target, params), checkpoints=stores)
    held = stores[BANK].held(None)
    assert held >= 2
    for count in (1, held):
        cut = {party: CutOff(store, count + (party == TELCO)) for party, store in stores.items()}
        resumed = converse(dialogues(blocks, target, params), checkpoints=cut)
        for party, part in whole.items():
            assert codec.encode_bytes(resumed[party]) == codec.encode_bytes(part)


def test_progress_tells_gradient_norms():
    features, labels = binary(500, 6, 6)
    events = []
    parts = converse(
        dialogues(np.split(features, [3], axis=1), labels, GlmParams(tolerance=1e-3)), observe=events.append
    )
    for party in (BANK, TELCO):
        mine = [event for event in events if event.party == party]
        assert [event.done for event in mine] == list(range(len(mine)))
        assert {event.total for event in mine} == {30 + 2 * 3}
        assert mine[0].note == "set up"
        norms = [event.note for event in mine if event.note.startswith("gradient norm")]
        assert len(norms) == parts[party].n_iterations
        others = [event.note for event in mine[1:] if event.note not in norms]
        assert others == [f"direction {k} of the quadratic model" for k in range(1, len(others) + 1)]
        assert len(others) >= 2


@pytest.mark.parametrize(("family", "data"), [("poisson", counts), ("gaussian", linear), ("binomial", binary)])
def test_scores_are_expected_targets(family, data):
    features, target = data(500, 6, 8)
    params, blocks = GlmParams(family), np.split(features, [3], axis=1)
    parts, coefficients, intercept = train(features, target, [3], params)
    found = converse(
        {
            BANK: glm.score_active(parts[BANK], blocks[0], params, setting(BANK, 2)),
            TELCO: glm.score_passive(parts[TELCO], blocks[1], setting(TELCO, 2)),
        }
    )
    scores = features @ coefficients + intercept
    wanted = {"poisson": np.exp(scores), "gaussian": scores, "binomial": 1 / (1 + np.exp(-scores))}[family]
    np.testing.assert_allclose(found[BANK], wanted, atol=1e-7)


def test_modes_of_the_logistic_learner():
    features, labels = binary(2000, 6, 9)
    blocks = np.split(features, [3], axis=1)
    params = LogisticParams(mode="private", l2=0.01, max_iterations=20)
    parts = converse(
        {
            BANK: logistic.train_active(blocks[0], labels, params, setting(BANK, 2)),
            TELCO: logistic.train_passive(blocks[1], params, setting(TELCO, 2)),
        }
    )
    wanted = reference(features, labels, 0.01).coef_
    assert gap(np.concatenate([parts[BANK].coef_, parts[TELCO].coef_]), wanted) < 5e-4
    _, coefficients, _ = train(features, labels, [3], GlmParams(mode="exact", l2=0.01))
    assert gap(coefficients, wanted) < 1e-3
    _, coefficients, _ = train(features, labels, [3], GlmParams(mode="linearised", l2=0.01))
    assert gap(coefficients, wanted) < 0.1


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
            heard.append(effect.message)
        answer = yield effect


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_nobody_sends_anything_of_a_row_outside_the_protocols(family):
    features, target = binary(700, 6, 5) if family == "binomial" else counts(700, 6, 5)
    heard = {party: [] for party in PARTIES[:2]}
    talks = dialogues(np.split(features, [3], axis=1), target, GlmParams(family), scheme=Lattice())
    converse({party: overheard(talk, heard[party]) for party, talk in talks.items()})
    protocols = ("linear_map", "slot_products/", "dialogue/")
    for party, messages in heard.items():
        ours = [message for message in messages if not message.wire_name.startswith(protocols)]
        names = {message.wire_name.removeprefix("vertical_glm/") for message in ours}
        sort = {"decision", "factors"} if party == BANK else {"shares", "reach"}
        assert names == {"hello", "width", "vertical_logistic/exponent"} | sort
        # What is not a protocol's is scalars, and the table of public functions.
        assert max(len(codec.encode_bytes(m)) for m in ours if not isinstance(m, Factors)) < 1500
        arrays = [m for m in messages if m.wire_name == "dialogue/array-header"]
        # Rows travel as words of the linear map and residues of ciphertexts: never as floating-point numbers.
        assert {m.dtype for m in arrays} == {"<u8"}
        assert any(m.shape[-1] >= 700 for m in arrays)


def test_linear_regression_takes_few_vectors():
    features, target = linear(500, 24, 5)
    heard = []
    talks = dialogues(np.split(features, [12], axis=1), target, GlmParams("gaussian"))
    talks[BANK] = overheard(talks[BANK], heard)
    converse(talks)
    assert sum(message.wire_name == "linear_map/call" for message in heard) <= 2 * 12 + 6


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "says"),
    [
        (GlmParams(), "use mode 'exact'"),
        (GlmParams("poisson"), "join the passive parties' columns"),
        (GlmParams("tweedie"), "family 'gaussian'"),
    ],
)
def test_several_passive_parties_are_told_what_to_choose(params, says):
    features, target = counts(100, 6, 1)
    with pytest.raises(UsageError, match=says):
        train(features, np.minimum(target, 1), [2, 4], params)


def test_weighted_least_squares_with_several_passive_parties_is_refused():
    features, target = linear(100, 6, 1)
    with pytest.raises(UsageError, match="leave out the weights"):
        train(features, target, [2, 4], GlmParams("gaussian"), weights=np.arange(100.0))


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "fast"},
        {"l2": -1.0},
        {"l1": np.nan},
        {"max_iterations": 0},
        {"tolerance": 1.0},
        {"family": "gamma"},
        {"family": "tweedie", "power": 2.0},
        {"mode": "exact", "l1": 0.1},
        {"family": "poisson", "class_weights": "balanced"},
    ],
)
def test_glm_parameters_are_checked(change):
    with pytest.raises(UsageError):
        GlmParams(**change)


@pytest.mark.parametrize(
    ("family", "target", "says"),
    [
        ("binomial", np.array([0.0, 2, 1]), "labels must be 0 or 1"),
        ("poisson", np.array([0.0, -2, 1]), "row 1 is -2"),
        ("gaussian", np.ones(3), "all 3 targets are 1"),
        ("gaussian", np.array([0.0, np.nan, 1]), "row 1 is missing"),
        ("tweedie", np.ones(2), "expected 3 labels"),
    ],
)
def test_targets_that_do_not_suit_a_family(family, target, says):
    with pytest.raises(DataError, match=says):
        next(glm.train_active(np.eye(3), target, GlmParams(family), setting(BANK, 2)))


def changed(dialogue, kind, change):
    """Pass a dialogue on with every message of one kind changed."""
    answer = None
    while True:
        try:
            effect = dialogue.send(answer)
        except StopIteration as end:
            return end.value
        if isinstance(effect, Send) and isinstance(effect.message, kind):
            effect = Send(effect.peer, dataclasses.replace(effect.message, **change(effect.message)))
        answer = yield effect


@pytest.mark.parametrize(
    ("party", "kind", "change", "says"),
    [
        (TELCO, Hello, lambda m: {"rows": 7}, "telco: rows is 7 there"),
        (TELCO, Hello, lambda m: {"terms": "x" * 10**6}, "telco: terms is 'x{79} there"),
        (BANK, Hello, lambda m: {"curvature": np.nan}, "bank: a curvature of nan"),
        (TELCO, Width, lambda m: {"columns": 1 << 42}, "telco: announces 4398046511104"),
        (TELCO, Reach, lambda m: {"half": 1e9}, "telco: scores reach"),
        (TELCO, Reach, lambda m: {"half": np.nan}, "telco: scores reach"),
        (TELCO, Reach, lambda m: {"half": 5e-324}, "telco: scores reach 5e-324"),
        (BANK, Hello, lambda m: {"curvature": 2.0**499}, "bank: a curvature of"),
        (BANK, Hello, lambda m: {"curvature": 2.0**-499}, "bank: a curvature of"),
        (BANK, Hello, lambda m: {"size": 2.0**499}, "bank: a curvature of"),
        (BANK, Factors, lambda m: {"table": m.table[:, :0]}, "bank: .* with a table"),
        (BANK, Factors, lambda m: {"table": np.full_like(m.table, 1e308)}, "bank: a table of functions holds 1e.308"),
        (BANK, Factors, lambda m: {"table": np.full_like(m.table, 3.0)}, "bank: .* of coefficients up to 3 "),
        (BANK, Factors, lambda m: {"product_exponent": 500, "residual_exponent": 470}, "bank: .* exponents 470, 500"),
        (BANK, Factors, lambda m: {"product_exponent": -500, "residual_exponent": -500}, "bank: .* exponents -500"),
        (
            BANK,
            Factors,
            lambda m: {"product_exponent": 60, "residual_exponent": 60},
            "bank: .* fractional bits are too",
        ),
        (BANK, Exponent, lambda m: {"value": -500}, "bank: a product with its vector holds"),
        (TELCO, Exponent, lambda m: {"value": -500}, "telco: a product with its vector holds"),
        (TELCO, Shares, lambda m: {"values": m.values * 0 - 1e200}, "telco: the inner products holds 1e.200"),
        (BANK, Decision, lambda m: {"values": m.values * 0 + 1e200}, "bank: a decision holds 1e.200"),
        (BANK, Factors, lambda m: {"rank": 3}, "bank: 3 products"),
        (BANK, Factors, lambda m: {"table": m.table * np.inf}, "bank: a table of functions holds"),
        (BANK, Factors, lambda m: {"residual_exponent": 400}, "bank: .* exponents 400"),
        (TELCO, Shares, lambda m: {"values": m.values * np.nan}, "telco: the inner products holds NaN"),
        (TELCO, Shares, lambda m: {"values": m.values[:-1]}, "telco: expected .* inner products"),
        (BANK, Decision, lambda m: {"values": m.values + np.inf}, "bank: a decision holds"),
        (BANK, Decision, lambda m: {"values": m.values[1:]}, "bank: expected .* decisions"),
    ],
)
def test_malformed_messages_of_glms_are_refused(party, kind, change, says):
    features, labels = binary(200, 6, 1)
    talks = dialogues(np.split(features, [3], axis=1), labels, GlmParams())
    talks[party] = changed(talks[party], kind, change)
    with pytest.raises(RemoteProtocolError, match=says):
        converse(talks)


def test_only_paillier_makes_parties_take_turns():
    assert not Paillier().sends_ahead
    assert Lattice().sends_ahead
    assert PLAIN.sends_ahead


def test_solutions_of_the_quadratic_model_need_no_products_once_directions_are_known(monkeypatch):
    made = []

    class Counted(quadratic.Quadratic):
        def product(self, point):
            made.append(1)
            return (yield from super().product(point))

    monkeypatch.setattr("unseen.learners.vertical.generalised.Quadratic", Counted)
    features, labels = binary(3000, 8, 1)
    parts, _, _ = train(features, labels, [4], GlmParams())
    # Each party makes at most as many as there are correlations, however many iterations there are.
    assert parts[BANK].n_iterations >= 4
    assert len(made) / 2 <= 10
