"""Federated softmax regression against scikit-learn's multinomial model on pooled data."""

import dataclasses

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression

from unseen import codec
from unseen.crypto.prg import Prg
from unseen.dialogue import MemoryCheckpoints, Send, converse
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.learners.vertical import softmax
from unseen.learners.vertical.setting import Setting
from unseen.learners.vertical.softmax import SoftmaxParams
from unseen.protocols.linear_map.plain import Plain

BANK, TELCO, SHOP = PARTIES = tuple(PartyId(name) for name in ("bank", "telco", "shop"))


def setting(me, count):
    return Setting(me, BANK, PARTIES[1:count], Prg(bytes(32)), Plain(simulation=True))


def dialogues(blocks, labels, params):
    count = len(blocks)
    talks = {BANK: softmax.train_active(blocks[0], labels, params, setting(BANK, count))}
    for party, block in list(zip(PARTIES, blocks, strict=False))[1:]:
        talks[party] = softmax.train_passive(block, params, setting(party, count))
    return talks


def standardised(matrix):
    return (matrix - matrix.mean(axis=0)) / matrix.std(axis=0)


def flowers(rows, width, classes, seed):
    rng = np.random.default_rng(seed)
    features = standardised(
        rng.normal(size=(rows, width)) @ rng.normal(size=(width, width)) + rng.normal(size=(rows, 1))
    )
    scores = features @ rng.normal(0, 0.5, (width, classes)) + rng.gumbel(size=(rows, classes))
    return features, scores.argmax(axis=1).astype(float)


def reference(features, labels, l2):
    return LogisticRegression(C=1 / (len(labels) * l2), tol=1e-10, max_iter=5000).fit(features, labels)


@pytest.mark.parametrize("cuts", [[6], [0], [4, 8], []])
@pytest.mark.parametrize("data", ["flowers", "wine"])
def test_softmax_regression_is_that_of_pooled_data(cuts, data):
    features, labels = flowers(2000, 12, 4, 1)
    if data == "wine":
        wine = load_wine()
        features, labels = standardised(wine.data), wine.target.astype(float)
    blocks = np.split(features, cuts, axis=1)
    params = SoftmaxParams(int(labels.max()) + 1, l2=0.01)
    parts = converse(dialogues(blocks, labels, params))
    coefficients = np.hstack([parts[party].coef_ for party in PARTIES[: len(blocks)]])
    model = reference(features, labels, 0.01)
    assert parts[BANK].converged
    assert parts[BANK].n_iterations <= 10
    assert np.linalg.norm(coefficients - model.coef_) < 1e-3 * np.linalg.norm(model.coef_)
    intercepts = sum(part.intercept_ for part in parts.values())
    np.testing.assert_allclose(intercepts - intercepts.mean(), model.intercept_ - model.intercept_.mean(), atol=1e-3)
    talks = {BANK: softmax.score_active(parts[BANK], blocks[0], setting(BANK, len(blocks)))}
    for party, block in list(zip(PARTIES, blocks, strict=False))[1:]:
        talks[party] = softmax.score_passive(parts[party], block, setting(party, len(blocks)))
    np.testing.assert_allclose(converse(talks)[BANK], model.predict_proba(features), atol=1e-3)


class CutOff(MemoryCheckpoints):
    """Holds the first few checkpoints of another store."""

    def __init__(self, whole, count):
        super().__init__()
        self._states[None] = whole._states[None][:count]


def test_resumed_softmax_training_ends_bit_identical():
    features, labels = flowers(400, 9, 3, 2)
    blocks, params = np.split(features, [3, 6], axis=1), SoftmaxParams(3)
    stores = {party: MemoryCheckpoints() for party in PARTIES}
    whole = converse(dialogues(blocks, labels, params), checkpoints=stores)
    held = stores[BANK].held(None)
    assert held >= 1
    for count in range(1, held + 1):
        cut = {party: CutOff(store, count) for party, store in stores.items()}
        resumed = converse(dialogues(blocks, labels, params), checkpoints=cut)
        for party, part in whole.items():
            assert codec.encode_bytes(resumed[party]) == codec.encode_bytes(part)


def test_too_few_softmax_iterations_are_called_so():
    features, labels = flowers(400, 12, 3, 2)
    parts = converse(dialogues(np.split(features, [4], axis=1), labels, SoftmaxParams(3, max_iterations=1)))
    assert all("max_iterations = 1" in part.note and not part.converged for part in parts.values())


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.array([0.0, 1, 3, 1]), "row 2 has the label 3"),
        (np.array([0.0, 1, 1, 1]), "class 2 has no row"),
        (np.array([0.0, 1]), "expected 4 labels"),
    ],
)
def test_labels_that_are_no_classes(labels, says):
    with pytest.raises(DataError, match=says):
        next(softmax.train_active(np.eye(4), labels, SoftmaxParams(3), setting(BANK, 2)))
    with pytest.raises(UsageError, match="l2 must be finite and above 0"):
        SoftmaxParams(3, l2=0.0)


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
        (TELCO, softmax.Hello, lambda m: {"classes": 5}, "telco: classes is 5 there"),
        (TELCO, softmax.Hello, lambda m: {"columns": 0}, "telco: announces 0 columns"),
        (TELCO, softmax.Directions, lambda m: {"gradient_norm": np.nan}, "telco: the gradient norm holds"),
        (TELCO, softmax.Directions, lambda m: {"penalties": -m.penalties}, "telco: a direction has a negative penalty"),
        (TELCO, softmax.Directions, lambda m: {"penalties": np.ones((9, 9))}, "telco: 9 directions"),
        (BANK, softmax.Steer, lambda m: {"coefficients": np.ones((2, 1))}, "bank: expected coefficients"),
    ],
)
def test_malformed_softmax_messages_are_refused(party, kind, change, says):
    features, labels = flowers(100, 6, 3, 2)
    talks = dialogues(np.split(features, [3], axis=1), labels, SoftmaxParams(3))
    talks[party] = changed(talks[party], kind, change)
    with pytest.raises(RemoteProtocolError, match=says):
        converse(talks)
