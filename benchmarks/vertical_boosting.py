"""Vertical gradient boosting, two processes over mutual TLS on loopback, against LightGBM on the pooled rows.

``python -m benchmarks.vertical_boosting --rows 1000000 --passive 100 --bins 32 --leaves 31 --trees 5`` prints one JSON
line.

* ``…_setup``: both parties bin their columns and meet, the encrypted hint is made and sent: once a table, for any
  number of trees and trainings. ``seconds`` are the active party's clock, ``core_seconds`` the CPU of both parties, all
  their threads, ``bytes`` the messages of both.
* ``…_per_tree``: medians over the trees; ``…_train``: all of them together, and what comes once a training.
* ``auc``, ``auc_pooled`` (LightGBM with the same number of bins, leaves, depth and regularisation, its other limits on
  leaves and bins taken away), ``auc_alone`` (LightGBM on the active party's columns): on rows that were not trained on,
  scored jointly in ``seconds_predict``. ``auc_pooled_same_bins``, up to 200,000 rows: LightGBM on our bins. LightGBM
  differs from us in one point that is not the data's: what no split of a node by a column improves is not tried below.
* ``lightgbm_…``: afterwards, in one process with one thread; binning (``lightgbm_seconds_setup``) apart.
* ``peak_rss_mb``: of the larger process, its columns as floating-point numbers included.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from benchmarks.data import Population, Split
from benchmarks.measure import PartyRun, laps, median, whole
from benchmarks.parties import ACTIVE, PASSIVE, Part, add_threads, run_parties, stage, use_threads
from benchmarks.pooled import Forest, lightgbm_forest
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue
from unseen.ids import PartyId
from unseen.kernels.blocks import threads
from unseen.learners.binning import LARGEST_BINS, BinnedColumns, Binning, fit_bins, transform
from unseen.learners.metrics import auc
from unseen.learners.vertical.boosting.scoring import score_active, score_passive
from unseen.learners.vertical.boosting.setting import DEPTH, LEAF, BoostingParams, BoostingSetting
from unseen.learners.vertical.boosting.setup import ActiveSetUp, PassiveSetUp, set_up_active, set_up_passive
from unseen.learners.vertical.boosting.training import LabelledRows, train_active, train_passive
from unseen.protocols.linear_map.lattice import Lattice

_WARM_UP_ROWS = 2000
_UNLIMITED = 64
_SAME_BINS_ROWS = 200_000


@dataclass(frozen=True, slots=True)
class Options:
    """What is trained on how many rows."""

    rows: int
    test_rows: int
    active: int
    passive: int
    bins: int
    leaves: int
    depth: int
    trees: int
    growth: str
    seed: int

    @property
    def population(self) -> Population:
        """All rows, those to test on last."""
        return Population(self.rows + self.test_rows, self.active, self.passive, self.seed)

    @property
    def params(self) -> BoostingParams:
        """What the parties agree on."""
        return BoostingParams(rounds=self.trees, growth=self.growth, max_depth=self.depth, max_leaves=self.leaves)


# --- a party -------------------------------------------------------------------------------------------------------


def part(me: PartyId, fields: dict[str, Any]) -> Part:
    """Return one party's side; it makes its own columns."""
    options = Options(**fields)
    people = options.population
    if me == ACTIVE:
        data = Split.at(options.rows, people.active_features(), people.tree_labels())
    else:
        data = Split.at(options.rows, people.passive_features())
    return side(me, data, options.params, options.bins)


def side(me: PartyId, data: Split, params: BoostingParams, bins: int) -> Part:
    """Return one party's side of a set-up and a training with ``data``, and of scoring the rows to test on."""
    setting = BoostingSetting(me, ACTIVE, (PASSIVE,), Prg.fresh())
    play = _active if me == ACTIVE else _passive
    return Part(play(data, params, bins, setting), lambda found: {"auc": found})


def _active(data: Split, params: BoostingParams, bins: int, setting: BoostingSetting) -> Dialogue[float]:
    def set_up() -> Dialogue[tuple[ActiveSetUp, BinnedColumns, BinnedColumns]]:
        binned = binned_split(data, bins)
        return (yield from set_up_active(binned[0].rows, Lattice(), setting)), *binned

    setup, rows, tested = yield from stage("setup", set_up())
    result = yield from stage("train", train_active(LabelledRows(rows, data.labels), params, setting, setup))
    found = yield from stage("predict", score_active(result.model, tested, setting))
    return auc(data.test_labels, found)


def _passive(data: Split, params: BoostingParams, bins: int, setting: BoostingSetting) -> Dialogue[float]:
    def set_up() -> Dialogue[tuple[PassiveSetUp, BinnedColumns, BinnedColumns]]:
        binned = binned_split(data, bins)
        return (yield from set_up_passive(binned[0], Lattice(), setting)), *binned

    setup, rows, tested = yield from stage("setup", set_up())
    model = yield from stage("train", train_passive(rows, params, setting, setup))
    yield from stage("predict", score_passive(model, tested, setting))
    return math.nan


def binned_split(data: Split, bins: int) -> tuple[BinnedColumns, BinnedColumns]:
    """Return the rows to train on and those to test on, in bins of the former."""
    columns = range(data.features.shape[1])
    chosen = [fit_bins(f"x{place}", data.features[:, place], Binning(bins)) for place in columns]
    train, test = (
        transform(chosen, [values[:, place] for place in columns], len(values))
        for values in (data.features, data.test_features)
    )
    return train, test


# --- both, and the library -----------------------------------------------------------------------------------------


def federated(options: Options) -> tuple[PartyRun, PartyRun]:
    """Return what the two parties measured."""
    return run_parties("benchmarks.vertical_boosting:part", asdict(options))


def lightgbm_settings(params: BoostingParams, bins: int) -> dict[str, Any]:
    """Return the parameters with which LightGBM learns as we do."""
    return {
        "max_bin": bins,
        "min_data_in_bin": 1,
        "num_leaves": params.max_leaves,
        "max_depth": params.max_depth,
        "learning_rate": params.learning_rate,
        "lambda_l2": params.l2,
        "min_gain_to_split": params.min_split_gain,
        "min_sum_hessian_in_leaf": params.min_child_weight,
        "min_data_in_leaf": params.min_rows_in_leaf,
    }


def coded(data: Split, bins: int) -> Split:
    """Return the numbers of our bins as columns, so that LightGBM has the same bins."""
    train, test = (each.codes.T.astype(np.float64) for each in binned_split(data, bins))
    return Split(train, test, data.labels, data.test_labels)


def same_bins(data: Split, params: BoostingParams, bins: int) -> float:
    """Return LightGBM's AUC on our bins."""
    return lightgbm_forest(coded(data, bins), params.rounds, lightgbm_settings(params, LARGEST_BINS)).auc


@dataclass(frozen=True, slots=True)
class Forests:
    """What LightGBM comes to on all columns together, on the active party's, and on all columns in our bins."""

    every: Forest
    own: Forest
    same_bins: float | None


def pooled(options: Options) -> Forests:
    """Return what LightGBM comes to; on our bins only where it is cheap."""
    people, settings = options.population, lightgbm_settings(options.params, options.bins)
    features, labels = people.pooled_features(), people.tree_labels()
    every, own = (Split.at(options.rows, columns, labels) for columns in (features, features[:, : options.active]))
    return Forests(
        lightgbm_forest(every, options.trees, settings),
        lightgbm_forest(own, options.trees, settings),
        same_bins(every, options.params, options.bins) if options.rows <= _SAME_BINS_ROWS else None,
    )


def figures(options: Options, runs: tuple[PartyRun, PartyRun], forests: Forests) -> dict[str, Any]:
    """Return the JSON line."""
    setup, train, predict = (whole(runs, name) for name in ("setup", "train", "predict"))
    # The first lap is what comes before the first tree.
    tree, active = median(laps(runs, "train")[1:]), median(runs[0].laps("train")[1:])
    every = forests.every
    return {
        "name": "vertical_boosting",
        "seconds_setup": round(setup.seconds, 3),
        "core_seconds_setup": round(setup.core_seconds, 3),
        "bytes_setup": setup.bytes,
        "seconds_per_tree": round(tree.seconds, 4),
        "core_seconds_per_tree": round(tree.core_seconds, 4),
        "core_seconds_per_tree_active": round(active.core_seconds, 4),
        "bytes_per_tree": tree.bytes,
        "seconds_train": round(train.seconds, 3),
        "core_seconds_train": round(train.core_seconds, 3),
        "bytes_train": train.bytes,
        "seconds_predict": round(predict.seconds, 3),
        "bytes_predict": predict.bytes,
        "auc": round(runs[0].report["auc"], 6),
        "auc_pooled": round(every.auc, 6),
        "auc_pooled_same_bins": None if forests.same_bins is None else round(forests.same_bins, 6),
        "auc_alone": round(forests.own.auc, 6),
        "lightgbm_seconds_per_tree": round(every.per_tree.seconds, 4),
        "lightgbm_core_seconds_per_tree": round(every.per_tree.core_seconds, 4),
        "lightgbm_seconds_setup": round(every.binning.seconds, 3),
        "peak_rss_mb": round(max(run.peak_rss_mb for run in runs)),
        "threads": threads(),
        **asdict(options),
    }


def main() -> None:
    """Print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="rows to train on")
    parser.add_argument("--active", type=int, default=10, help="columns of the active party")
    parser.add_argument("--passive", type=int, default=100, help="columns of the passive party")
    parser.add_argument("--bins", type=int, default=32, help="bins of a column")
    parser.add_argument("--leaves", type=int, default=31)
    parser.add_argument("--trees", type=int, default=5)
    parser.add_argument("--growth", default=DEPTH, choices=(DEPTH, LEAF))
    parser.add_argument("--depth", type=int, help="5 with growth depth, else without limit")
    parser.add_argument("--seed", type=int, default=1)
    add_threads(parser)
    asked = parser.parse_args()
    use_threads(asked.threads)
    depth = asked.depth or (5 if asked.growth == DEPTH else _UNLIMITED)
    options = Options(
        asked.rows,
        min(100_000, asked.rows // 5),
        asked.active,
        asked.passive,
        asked.bins,
        asked.leaves,
        depth,
        asked.trees,
        asked.growth,
        asked.seed,
    )
    # Compiled once, all machine code comes from the cache: it is not the training that is slow the first time.
    federated(replace(options, rows=_WARM_UP_ROWS, test_rows=400, active=2, passive=2, trees=1))
    runs = federated(options)
    print(json.dumps(figures(options, runs, pooled(options))))


if __name__ == "__main__":
    main()
