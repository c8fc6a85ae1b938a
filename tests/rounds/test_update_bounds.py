"""What a server reads of one client can be aggregated with any others, and ends a round: it may spoil a mean only."""

from dataclasses import replace

import numpy as np
import pytest
from halls import NAMES, SIZE, Means, examples_of

from unseen.errors import RemoteProtocolError
from unseen.learners.horizontal.private.central import Sum
from unseen.learners.horizontal.private.clip import WITHIN
from unseen.learners.horizontal.process import HEAVIEST, LARGEST, Assignment, Update, beyond, stream
from unseen.learners.horizontal.robust import aggregator
from unseen.learners.horizontal.strategies import strategy
from unseen.learners.horizontal.strategies.clustered import MeansOfClusters
from unseen.learners.horizontal.strategies.fed_buff import StaleMean, aged
from unseen.learners.horizontal.strategies.registry import STRATEGIES
from unseen.learners.horizontal.tables.exact import ExactSum, Limbs, answer, head_limbs
from unseen.rounds.messages import Place, answer_with, update_in
from unseen.rounds.next_state import next_state

NEEDED = {
    "scaffold": {"clients": 5},
    "fed_dyn": {"clients": 5},
    "fed_rep": {"head": ("p",)},
    "fed_bn": {"local": ("p",)},
}


def extreme(update, sign, weight):
    """Return the worst update of this shape that a server reads."""
    largest = np.float32(sign * LARGEST)
    extra = {name: np.full_like(vector, largest) for name, vector in update.extra.items()}
    worst = Update(np.full_like(update.delta, largest), weight, extra, dict.fromkeys(update.metrics, sign * LARGEST))
    return update_in(answer_with(Place("run", 0, 0), NAMES[0], worst, None), len(update.delta), None)


class Parted(Means):
    """A point of which a part may stay with its client."""

    def part(self, *names):
        return slice(0, 3)

    def gradient(self, model, examples):
        return (model - examples.inputs.mean(axis=0)).astype(np.float32), 1.0


def rounds_with(process, trainer, worst):
    """Return the state after three rounds in which one of three clients sends the worst."""
    state = process.start(trainer.initial(0))
    broadcast, updates = process.distributor(state), []
    for name in NAMES[:3]:
        assignment = Assignment(name, broadcast, examples_of(name), {}, stream(0, name))
        updates.append(process.client_round(trainer, assignment)[0])
    updates[1] = worst(updates[1])
    process.check_update(updates[1])
    for _ in range(3):
        state = next_state(process, state, process.aggregate(state, updates))
    return state


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_no_strategy_is_stopped_by_the_worst_update_that_a_server_reads(name):
    process = strategy(name, **NEEDED.get(name, {}))
    for sign, weight in ((1, HEAVIEST), (-1, 1 / HEAVIEST), (1, 1 / HEAVIEST)):
        rounds_with(process, Parted(), lambda update, sign=sign, weight=weight: extreme(update, sign, weight))


@pytest.mark.parametrize("name", ["clipped", "geometric_median", "median"])
def test_no_robust_rule_is_stopped_either(name):
    process = replace(strategy("fed_avg", learning_rate=0.1), aggregator=aggregator(name))
    state = rounds_with(process, Means(), lambda update: extreme(update, 1, HEAVIEST))
    assert np.abs(state.model).max() < 100


def update(**changes):
    return replace(Update(np.ones(SIZE, np.float32), 1.0), **changes)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -1.2e18])
def test_numbers_out_of_bounds_are_found_wherever_they_are(value):
    vector = np.zeros(3, np.float32)
    assert beyond(update(extra={"a": vector, "b": vector[:0]}, metrics={"c": -LARGEST})) == []
    vector[1] = value
    found = beyond(Update(vector, 1.0, {"a": vector, "b": vector[:0]}, {"c": value, "d": 1.0}))
    assert found == ["delta", "a", "c"]


LIMB = Limbs(3, 2).width
GOOD = answer(3, NAMES[0], 7, np.array([5, 0], np.float32))


def rows_of(count):
    head = head_limbs(3).encode(np.array([count, 1], np.int64))
    return np.concatenate([np.ones(1, np.float32), head])


@pytest.mark.parametrize(
    ("by", "good", "bad", "complaint"),
    [
        (ExactSum(3), GOOD, {"extra": {"sums": np.array([0.5, 0], np.float32)}}, "not whole and below"),
        (ExactSum(3), GOOD, {"extra": {"sums": np.array([1 << LIMB, 0], np.float32)}}, "not whole and below"),
        (ExactSum(3), GOOD, {"delta": -GOOD.delta}, "not whole and below"),
        (ExactSum(3), GOOD, {"delta": GOOD.delta[:2]}, "not whole and below"),
        (ExactSum(3), GOOD, {"delta": rows_of(1 << 38)}, f"claims {1 << 38} rows, expected at most {(1 << 38) // 3}"),
        (ExactSum(3), GOOD, {"delta": rows_of(-1)}, "claims -1 rows"),
        (MeansOfClusters(2), update(extra={"cluster": np.ones(2, np.float32)}), {"extra": {}}, "which of the 2"),
        (StaleMean(0.5), update(), {"extra": aged(update(), 3).extra}, "for the server to say"),
        (Sum(), update(extra={WITHIN: np.ones(1, np.float32)}), {"weight": 2.0}, "not been clipped"),
        (Sum(), update(), {"metrics": {"loss": 1.0}}, "not been clipped"),
        (Sum(), update(), {"extra": {"dp/low": np.ones(SIZE, np.float32)}}, "not been clipped"),
        (Sum(), update(), {"extra": {WITHIN: np.ones(2, np.float32)}}, "not been clipped"),
    ],
)
def test_an_aggregator_that_takes_some_updates_only_judges_each(by, good, bad, complaint):
    process = replace(strategy("fed_avg"), aggregator=by)
    process.check_update(good)
    by([good, good])
    with pytest.raises(RemoteProtocolError, match=complaint):
        process.check_update(replace(good, **bad))
