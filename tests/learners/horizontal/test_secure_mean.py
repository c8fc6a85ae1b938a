"""Secure means are the mean but for rounding; what has no sum is refused; sums that honest clients cannot have, too."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseen.crypto.prg import Prg
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.learners.horizontal.compression import TopK, compressed
from unseen.learners.horizontal.process import Update
from unseen.learners.horizontal.robust import Median, robust
from unseen.learners.horizontal.secure_mean import SecureMean, secure
from unseen.learners.horizontal.strategies import strategy
from unseen.learners.horizontal.strategies.parts import WeightedMean
from unseen.learners.horizontal.sums import Layout, SumAggregator, check_count
from unseen.learners.horizontal.tables.secure import SecureExactSum

MEAN = SecureMean(clip=1.0, clients=8, max_weight=50, extras={"control": 4.0}, least=3)
FED_AVG = strategy("fed_avg")


def updates(count, seed=0, size=30):
    rng = np.random.default_rng(seed)
    return [
        Update(
            rng.uniform(-1, 1, size).astype(np.float32),
            float(rng.integers(1, 51)),
            {"control": rng.uniform(-4, 4, 3).astype(np.float32)},
            {"loss": float(rng.uniform(0, 9)), "accuracy": float(rng.random())},
        )
        for _ in range(count)
    ]


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 8), st.integers(0, 10**6), st.sampled_from([15, 16, 24, 32, 62]))
def test_it_is_the_weighted_mean_but_for_rounding(count, seed, bits):
    given, mean = (
        updates(count, seed),
        SecureMean(clip=1.0, clients=8, max_weight=50, extras={"control": 4.0}, bits=bits, least=3),
    )
    found, expected = mean(given), WeightedMean()(given)
    off = count * mean.step / expected.weight
    assert (found.clients, found.weight) == (count, expected.weight)
    np.testing.assert_allclose(found.delta, expected.delta, rtol=1e-6, atol=off + 1e-7)
    np.testing.assert_allclose(found.extra["control"], expected.extra["control"], rtol=1e-6, atol=4 * off + 1e-6)
    assert dict(found.metrics) == pytest.approx(dict(expected.metrics), abs=200 * off + 1e-6)
    assert isinstance(mean, SumAggregator)


def test_the_same_update_becomes_the_same_words_and_another_one_is_rounded_otherwise():
    one, secret = updates(1)[0], Prg(bytes(32))
    words = MEAN.encode(one, secret).words
    np.testing.assert_array_equal(words, MEAN.encode(one, secret).words)
    assert (words != MEAN.encode(one, Prg(b"s" * 32)).words).any()


def test_weights_are_capped_and_numbers_clipped():
    low = Update(np.full(2, -9, np.float32), 1.0)
    high = Update(np.full(2, 9, np.float32), 1e6)
    found = SecureMean(clip=1.0, clients=3, max_weight=4)([low, high, high])
    np.testing.assert_allclose(found.delta, (4 + 4 - 1) / 9, atol=1e-4)
    assert found.weight == 9


@pytest.mark.parametrize(
    ("update", "error", "text"),
    [
        (Update(np.zeros(2, np.float32), 0.5), UsageError, "whole numbers"),
        (Update(np.zeros(2, np.float32), float("inf")), UsageError, "whole numbers"),
        (Update(np.zeros(2, np.float32), 0.0), UsageError, "whole numbers"),
        (Update(np.zeros(2, np.float32), 1.0, {"steps": np.ones(1, np.float32)}), UsageError, "carry steps beside"),
        (Update(np.full(2, np.nan, np.float32), 1.0), DataError, "NaN"),
    ],
)
def test_updates_that_do_not_become_words(update, error, text):
    with pytest.raises(error, match=text):
        MEAN.encode(update, Prg(bytes(32)))


@pytest.mark.parametrize("weight", [0, 2, 151, 2**64 - 1])
def test_weights_that_honest_clients_cannot_have_are_noticed(weight):
    with pytest.raises(RemoteProtocolError, match="one of them cheats"):
        MEAN.decode(np.zeros(2, np.uint32), weight, 3, Layout(2))


def test_too_few_and_too_many_are_no_sum():
    for count in (1, 2, 9):
        with pytest.raises(UsageError, match="3 to 8 are agreed"):
            MEAN(updates(count))
    with pytest.raises(RemoteProtocolError, match="differ in their vectors"):
        MEAN([*updates(3), *updates(1, size=4)])


def test_what_has_no_sum_is_refused():
    with pytest.raises(UsageError, match=r"aggregates by Median: .* means of clipped and rounded"):
        secure(robust(FED_AVG, Median()), MEAN)
    for name in ("clustered", "fed_buff"):
        with pytest.raises(UsageError, match="choose a strategy that takes the mean"):
            secure(strategy(name), MEAN)
    with pytest.raises(UsageError, match="such messages have no sum"):
        secure(compressed(FED_AVG, TopK(0.1)), MEAN)
    with pytest.raises(UsageError, match="needs a sum of its updates"):
        compressed(secure(FED_AVG, MEAN), TopK(0.1))
    with pytest.raises(UsageError, match="which no other rule can replace"):
        robust(secure(FED_AVG, MEAN), Median())


@pytest.mark.parametrize(("clients", "fewest"), [(3, 3), (4, 3), (5, 4), (6, 5), (100, 67)])
def test_unless_it_is_agreed_otherwise_a_sum_is_over_more_than_two_thirds(clients, fewest):
    mean = SecureMean(clip=1.0, clients=clients, max_weight=1)
    assert mean.fewest == SecureExactSum(clients).fewest == fewest
    assert replace(mean, least=3).fewest == replace(SecureExactSum(clients), least=3).fewest == 3
    # Whoever names a smaller cohort is held to the agreed one.
    with pytest.raises(UsageError, match=f"{fewest} to {clients} are agreed"):
        check_count(mean, fewest - 1)


@pytest.mark.parametrize(
    "wrong",
    [{"least": 2}, {"least": 9}, {"scheme": "plain"}, {"clip": 0.0}, {"extras": {"a": -1.0}}, {"max_weight": 0}],
    ids=str,
)
def test_means_that_cannot_be_are_refused(wrong):
    with pytest.raises(UsageError):
        SecureMean(**{"clip": 1.0, "clients": 8, "max_weight": 5, **wrong})
