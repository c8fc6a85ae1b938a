"""Boosted trees and regressions on tables whose rows lie at different clients, beside libraries on the pooled rows.

``python -m benchmarks.horizontal_boosting`` prints one JSON line: 30,000 real people (the demo's credit data), 70 % of
them at ten clients that are unlike in size and label mix (``Dirichlet(0.5)`` for each label), 30 % to test on. With
``--rows`` the data are made instead, with ``--columns`` columns. Clients and server are simulated in this process, with
one thread.

* ``auc``, ``pooled_auc`` (LightGBM on all rows together with the same parameters), ``auc_gap`` (their difference), and
  ``alone_auc`` (LightGBM at each client alone; the mean); ``pooled_auc_same_bins``: LightGBM on our bins;
  ``pooled_auc_spread``: by how much LightGBM differs from itself with up to four bins more or less, at most.
* ``seconds_per_tree``, ``core_seconds_per_tree``: all clients and the server; ``seconds_bins``: the rounds before.
* ``bytes_up_per_tree``, ``bytes_down_per_tree``: of one client, the numbers of its answers and of broadcasts;
  ``bytes_up_bins``, ``bytes_down_bins``: of the rounds before.
* ``lightgbm_…``: in the same run, with one thread; binning apart.
* ``logistic_…``: the regression beside scikit-learn's: the largest difference of a coefficient of a standardised
  column, rounds, seconds, and both AUCs.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.data import Population, Split
from benchmarks.measure import peak_rss_mb, timed
from benchmarks.pooled import lightgbm_forest, logistic_regression
from unseen.data.demo import load_credit
from unseen.data.federated.clients import FederatedData
from unseen.data.federated.partition import DirichletPerLabel, deal
from unseen.learners.binning import LARGEST_BINS
from unseen.learners.horizontal.boosting.forest import Forest
from unseen.learners.horizontal.boosting.process import horizontal_boosting
from unseen.learners.horizontal.boosting.setting import ForestPlan
from unseen.learners.horizontal.linear.process import LinearLearner, horizontal_logistic
from unseen.learners.horizontal.process import Aggregate, Broadcast, Process, State, Update
from unseen.learners.metrics import auc
from unseen.learners.vertical.boosting.setting import DEPTH, LEAF
from unseen.rounds.cohort import Uniform
from unseen.rounds.simulate import Settings, Simulation

_PENALTY = 1e-3
_UNLIMITED = 64
_OTHER_BINS = (-4, -2, -1, 1, 2, 4)


@dataclass(frozen=True, slots=True)
class Options:
    """What is trained, at how many clients."""

    clients: int
    trees: int
    leaves: int
    depth: int
    growth: str
    bins: int
    rows: int
    columns: int
    seed: int


def split(options: Options) -> Split:
    """Return rows to train on and to test on."""
    if options.rows:
        people = Population(options.rows * 10 // 7, options.columns // 2, -(-options.columns // 2), options.seed)
        return Split.at(options.rows, people.pooled_features(), people.tree_labels())
    frame = load_credit()
    order = np.random.default_rng(options.seed).permutation(frame.height)
    features = frame.drop("default").to_numpy().astype(np.float64)[order]
    return Split.at(frame.height * 7 // 10, features, frame["default"].to_numpy().astype(np.float64)[order])


def people_of(options: Options, data: Split) -> FederatedData:
    """Return the rows to train on, shared out to clients that are unlike."""
    return deal((data.features, data.labels), DirichletPerLabel(0.5), options.clients, seed=options.seed)


@dataclass(slots=True)
class Bytes:
    """What a client receives and sends, counted where the server makes broadcasts and aggregates."""

    process: Process
    down: int = 0
    up: int = 0
    whole: Process = field(init=False)

    def __post_init__(self) -> None:
        self.whole = replace(self.process, distributor=self.distribute, aggregator=self.aggregate)

    def distribute(self, state: State) -> Broadcast:
        """Return the broadcast."""
        broadcast = self.process.distributor(state)
        self.down += broadcast.model.nbytes + sum(vector.nbytes for vector in broadcast.extra.values())
        return broadcast

    def aggregate(self, updates: Sequence[Update]) -> Aggregate:
        """Return the aggregate."""
        self.up += updates[0].delta.nbytes + sum(vector.nbytes for vector in updates[0].extra.values())
        return self.process.aggregator(updates)


def boosted(options: Options, data: Split, people: FederatedData) -> dict[str, Any]:
    """Return what a forest costs, and how good it is."""
    names = [f"x{place}" for place in range(data.features.shape[1])]
    plan = ForestPlan(
        trees=options.trees,
        max_leaves=options.leaves,
        max_depth=options.depth,
        growth=options.growth,
        bins=options.bins,
    )
    learner = horizontal_boosting(names, plan, clients=options.clients)
    counted = Bytes(learner.process)
    with Simulation(
        people, learner.trainer, counted.whole, Settings(Uniform(options.clients), workers=1)
    ) as simulation:
        before = learner.trainer.setting.sketch_rounds + 1
        _, first = timed(lambda: simulation.rounds(before))
        up, down = counted.up, counted.down
        _, cost = timed(lambda: _complete(simulation, learner.complete))
        state = simulation.run.state
    forest = Forest.of(state.model)
    found = learner.trainer.predict(state.model, data.test_features)
    codes = [forest.bins.codes(rows).T.astype(np.float64) for rows in (data.features, data.test_features)]
    library = {
        "max_bin": options.bins,
        "min_data_in_bin": 1,
        "num_leaves": options.leaves,
        "max_depth": options.depth,
        "learning_rate": 0.1,
    }
    pooled = lightgbm_forest(data, options.trees, library)
    same = lightgbm_forest(
        Split(*codes, data.labels, data.test_labels), options.trees, library | {"max_bin": LARGEST_BINS}
    )
    others = [
        lightgbm_forest(data, options.trees, library | {"max_bin": options.bins + more}).auc for more in _OTHER_BINS
    ]
    own = [
        Split(np.asarray(rows), data.test_features, np.asarray(labels), data.test_labels)
        for rows, labels in map(people.client, people.ids)
    ]
    return {
        "auc": (score := auc(data.test_labels, found)),
        "pooled_auc": pooled.auc,
        "auc_gap": score - pooled.auc,
        "pooled_auc_same_bins": same.auc,
        "pooled_auc_spread": max(abs(other - pooled.auc) for other in others),
        "alone_auc": float(np.mean([lightgbm_forest(one, options.trees, library).auc for one in own])),
        "rounds": state.round,
        "seconds_per_tree": cost.seconds / options.trees,
        "core_seconds_per_tree": cost.core_seconds / options.trees,
        "seconds_bins": first.seconds,
        "bytes_up_per_tree": (counted.up - up) / options.trees,
        "bytes_down_per_tree": (counted.down - down) / options.trees,
        "bytes_up_bins": up,
        "bytes_down_bins": down,
        "lightgbm_seconds_per_tree": pooled.per_tree.seconds,
        "lightgbm_core_seconds_per_tree": pooled.per_tree.core_seconds,
        "lightgbm_seconds_bins": pooled.binning.seconds,
    }


def _complete(simulation: Simulation, complete: Any) -> None:
    while not complete(simulation.run.state):
        simulation.rounds(simulation.run.state.round + 1)


def regressed(options: Options, data: Split, people: FederatedData) -> dict[str, Any]:
    """Return how near logistic regression comes to scikit-learn's."""
    learner: LinearLearner = horizontal_logistic(
        [f"x{place}" for place in range(data.features.shape[1])], clients=options.clients, l2=_PENALTY
    )
    with Simulation(
        people, learner.trainer, learner.process, Settings(Uniform(options.clients), workers=1)
    ) as simulation:
        _, cost = timed(lambda: _complete(simulation, learner.complete))
        state = simulation.run.state
    model, means, scales = learner.trainer.model(state.model), data.features.mean(axis=0), data.features.std(axis=0)
    scaled = [(rows - means) / scales for rows in (data.features, data.test_features)]
    reference = logistic_regression(Split(*scaled, data.labels, data.test_labels), _PENALTY)
    return {
        "logistic_auc": auc(data.test_labels, learner.trainer.predict(state.model, data.test_features)),
        "logistic_pooled_auc": reference.auc,
        "logistic_largest_difference": float(np.abs(model.coefficients * scales - reference.coefficients[:-1]).max()),
        "logistic_rounds": state.round,
        "logistic_seconds": cost.seconds,
        "sklearn_seconds": reference.cost.seconds,
    }


def main() -> None:
    """Print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--leaves", type=int, default=31)
    parser.add_argument("--depth", type=int, help="5 with growth depth, else without limit")
    parser.add_argument("--growth", default=DEPTH, choices=(DEPTH, LEAF))
    parser.add_argument("--bins", type=int, default=64)
    parser.add_argument("--rows", type=int, default=0, help="rows to train on that are made; 0: the credit data")
    parser.add_argument("--columns", type=int, default=100, help="of made rows")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.environ["UNSEEN_THREADS"] = "1"
    depth = asked.depth or (5 if asked.growth == DEPTH else _UNLIMITED)
    options = Options(**{**vars(asked), "depth": depth})
    data = split(options)
    people = people_of(options, data)
    small = replace(options, trees=1)
    boosted(small, data, people)  # machine code comes from the cache: it is not the training that is slow at first
    line = {
        "name": "horizontal_boosting",
        **boosted(options, data, people),
        **regressed(options, data, people),
        "peak_rss_mb": peak_rss_mb(),
        **asdict(options),
    }
    print(json.dumps({key: round(value, 7) if isinstance(value, float) else value for key, value in line.items()}))


if __name__ == "__main__":
    main()
