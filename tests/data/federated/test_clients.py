import pickle

import numpy as np
import pytest

from unseen.data.federated.clients import FederatedData
from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.process import Examples


@pytest.fixture
def data():
    """Three clients with 10, 1 and 4 examples; an input names its client and its number."""
    clients = {
        name: (np.array([[10 * number + i, i] for i in range(size)]), np.arange(size) % 3)
        for number, (name, size) in enumerate({"ann": 10, "bob": 1, "eve": 4}.items())
    }
    return FederatedData.of("friends", clients)


def test_clients_have_their_own_examples_in_the_order_given(data):
    assert data.ids == ("ann", "bob", "eve")
    assert data.sizes == (10, 1, 4)
    inputs, labels = data.client("eve")
    assert inputs.tolist() == [[20, 0], [21, 1], [22, 2], [23, 3]]
    assert labels.tolist() == data.labels("eve").tolist() == [0, 1, 2, 0]
    assert len(Examples(*data.client("eve"))) == 4  # what trainers take


def test_it_reaches_other_processes(data):
    again = pickle.loads(pickle.dumps(data))  # noqa: S301  our own bytes
    assert again.ids == data.ids
    assert np.array_equal(again.client("ann").inputs, data.client("ann").inputs)


def test_the_spread_counts_labels_of_every_client(data):
    spread = data.spread()
    assert spread.labels == ("0", "1", "2")
    assert spread.counts.tolist() == [[4, 3, 3], [1, 0, 0], [2, 1, 1]]
    assert spread.sizes.tolist() == [10, 1, 4]
    assert spread.held.tolist() == [3, 1, 3]
    pooled = np.array([7, 4, 4]) / 15
    assert spread.distances[1] == pytest.approx(1 - pooled[0])
    assert spread.distances[0] == pytest.approx(np.abs(np.array([0.4, 0.3, 0.3]) - pooled).sum() / 2)


def test_texts_are_counted_in_their_order_and_fractions_are_refused():
    clients = {"a": (np.zeros((2, 1)), np.array(["no", "yes"])), "b": (np.zeros((1, 1)), np.array(["maybe"]))}
    texts = FederatedData.of("t", clients)
    assert texts.spread().labels == ("maybe", "no", "yes")
    assert texts.spread().counts.tolist() == [[0, 1, 1], [1, 0, 0]]
    amounts = FederatedData.of("amounts", {"a": (np.zeros((1, 1)), np.array([0.5]))})
    with pytest.raises(DataError, match="amounts: labels are float64; a spread is counted for classes"):
        amounts.spread()


def test_pooled_is_everything_in_the_order_of_clients(data):
    pooled = data.pooled()
    assert pooled.inputs[:, 0].tolist() == [*range(10), 10, 20, 21, 22, 23]
    assert pooled.labels.tolist() == [*(np.arange(10) % 3), 0, 0, 1, 2, 0]


def test_pooling_keeps_longer_texts_and_refuses_two_shapes():
    texts = {"a": (np.array(["hi"]), np.array([0])), "b": (np.array(["hello"]), np.array([1]))}
    assert FederatedData.of("t", texts).pooled().inputs.tolist() == ["hi", "hello"]
    shapes = {"a": (np.zeros((1, 2)), np.array([0])), "b": (np.zeros((1, 3)), np.array([1]))}
    with pytest.raises(DataError, match=r"inputs of client b have shape \(3,\), those of a \(2,\)"):
        FederatedData.of("t", shapes).pooled()


def test_a_subset_is_in_the_order_asked_for(data):
    some = data.subset(["eve", "ann"])
    assert some.ids == ("eve", "ann")
    assert some.sizes == (4, 10)
    assert np.array_equal(some.client("ann").inputs, data.client("ann").inputs)
    with pytest.raises(UsageError, match="friends has no client 'bob'"):
        some.client("bob")
    with pytest.raises(UsageError, match="no client 'zoe'"):
        data.subset(["zoe"])


def test_halves_share_out_every_client_by_itself(data):
    train, test = data.halves(0.3, seed=4)
    assert train.sizes == (7, 1, 3)
    assert test.sizes == (3, 0, 1)
    for client in data.ids:
        parts = [half.client(client) for half in (train, test)]
        together = np.concatenate([part.inputs for part in parts])
        assert sorted(together.tolist()) == data.client(client).inputs.tolist()
        for part in parts:
            assert (part.inputs[:, 1] % 3 == part.labels).all()
            assert part.labels.tolist() == part.labels.tolist()


def test_a_split_depends_on_the_seed_and_on_the_client_alone(data):
    test = data.halves(0.5, seed=1).test
    alone = data.subset(["eve"]).halves(0.5, seed=1).test
    assert np.array_equal(alone.client("eve").inputs, test.client("eve").inputs)
    twins = FederatedData.of("twins", {name: data.client("ann") for name in ("ann", "joe", "kim")}).halves(0.5, seed=1)
    assert len({tuple(twins.test.client(name).inputs[:, 1]) for name in twins.test.ids}) == 3
    others = {tuple(data.halves(0.5, seed=seed).test.client("ann").inputs[:, 1]) for seed in range(5)}
    assert len(others) > 1


@pytest.mark.parametrize("part", [0, 1, -0.1, 1.5])
def test_a_half_is_not_all(data, part):
    with pytest.raises(UsageError, match="lies between 0 and 1"):
        data.halves(part)


def test_a_change_of_inputs_is_made_when_they_are_read(data):
    changed = data.mapped(lambda inputs: inputs / 2)
    assert changed.client("eve").inputs.tolist() == [[10, 0], [10.5, 0.5], [11, 1], [11.5, 1.5]]
    assert changed.labels("eve").tolist() == [0, 1, 2, 0]
    with pytest.raises(DataError, match="client eve, after a change of its inputs"):
        data.mapped(lambda inputs: inputs[1:]).client("eve")


def test_what_does_not_fit_is_refused(data):
    with pytest.raises(DataError, match=r"x, client a: inputs have shape \(2, 1\) and labels \(3,\)"):
        FederatedData.of("x", {"a": (np.zeros((2, 1)), np.zeros(3))})
    with pytest.raises(DataError, match=r"labels \(2, 1\)"):
        FederatedData.of("x", {"a": (np.zeros((2, 1)), np.zeros((2, 1)))})
    with pytest.raises(DataError, match="there are no clients"):
        FederatedData.of("x", {})
    with pytest.raises(DataError, match="client 'ann' is there twice"):
        FederatedData("x", ("ann", "bob", "ann"), (1, 1, 1), data.source)
    with pytest.raises(DataError, match="2 clients have 1 sizes"):
        FederatedData("x", ("ann", "bob"), (1,), data.source)
    changed = FederatedData("x", ("ann",), (9,), data.source)
    with pytest.raises(DataError, match="client ann has 10 examples, expected 9"):
        changed.client("ann")
