"""Boosting and logistic regression on real people, federated, pooled, and by the active party alone.

``python -m benchmarks.credit --data FOLDER`` prints one JSON line. FOLDER holds ``default_credit_hetero_guest.csv``
(the active party's 13 columns and the label) and ``default_credit_hetero_host.csv`` (the passive party's 10), from the
public examples of FATE: UCI's «default of credit card clients», 30,000 people.

Both parties are processes over mutual TLS on loopback. 70 % of the rows are trained on, 30 % tested on, stratified by
the label, with the seeds 0, 1, …; figures are means over these splits. ``…_auc`` is the federated model's,
``…_auc_pooled`` LightGBM's or scikit-learn's on all columns with the same parameters, ``…_auc_alone`` theirs on the
active party's columns, ``…_same_bins`` LightGBM's on our bins. ``…_gap`` is federated − pooled, ``…_gain`` federated −
alone, ``…_worst_gap`` the largest gap of a split without its sign; ``…_se`` are standard errors of means over splits.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from sklearn.model_selection import train_test_split

from benchmarks import vertical_boosting, vertical_linear
from benchmarks.data import CreditSet, Split
from benchmarks.measure import whole
from benchmarks.parties import ACTIVE, Part, run_parties
from benchmarks.pooled import lightgbm_forest, logistic_regression
from unseen.ids import PartyId
from unseen.learners.vertical.boosting.setting import BoostingParams
from unseen.learners.vertical.logistic import PRIVATE, LogisticParams

Found: TypeAlias = dict[str, Any]

_TEST_SHARE = 0.3
_WHOLE = 1000
"""Figures from here on count something."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is trained, and which rows are tested on."""

    data: str
    test: list[int]
    mode: str
    trees: int
    depth: int
    bins: int

    @property
    def boosting(self) -> BoostingParams:
        """What the parties agree on for boosting."""
        return BoostingParams(rounds=self.trees, max_depth=self.depth, max_leaves=2**self.depth)

    @property
    def logistic(self) -> LogisticParams:
        """What the parties agree on for the logistic model."""
        return LogisticParams(mode=self.mode)

    def split(self, features: np.ndarray, labels: np.ndarray | None = None) -> Split:
        """Return the rows to train on and those to test on."""
        return Split.without(self.test, features, labels)


def boosting_part(me: PartyId, fields: dict[str, Any]) -> Part:
    """Return one party's side of boosting; it reads its own file."""
    options = Options(**fields)
    return vertical_boosting.side(me, _own(me, options), options.boosting, options.bins)


def logistic_part(me: PartyId, fields: dict[str, Any]) -> Part:
    """Return one party's side of the logistic regression; it reads its own file."""
    options = Options(**fields)
    return vertical_linear.side(me, _own(me, options), options.logistic)


def _own(me: PartyId, options: Options) -> Split:
    source = CreditSet(Path(options.data))
    return options.split(*source.active()) if me == ACTIVE else options.split(source.passive())


def boosting(options: Options, pooled: Split, alone: Split) -> Found:
    """Return the figures of boosting for one split."""
    runs = run_parties("benchmarks.credit:boosting_part", _fields(options))
    settings = vertical_boosting.lightgbm_settings(options.boosting, options.bins)
    train = whole(runs, "train")
    return {
        "boosting_auc": runs[0].report["auc"],
        "boosting_auc_pooled": lightgbm_forest(pooled, options.trees, settings).auc,
        "boosting_auc_pooled_same_bins": vertical_boosting.same_bins(pooled, options.boosting, options.bins),
        "boosting_auc_alone": lightgbm_forest(alone, options.trees, settings).auc,
        "boosting_seconds": train.seconds,
        "boosting_bytes": train.bytes,
    }


def logistic(options: Options, pooled: Split, alone: Split) -> Found:
    """Return the figures of the logistic model for one split."""
    runs = run_parties("benchmarks.credit:logistic_part", _fields(options))
    wanted, train = logistic_regression(pooled, options.logistic.l2), whole(runs, "train")
    return {
        "logistic_auc": runs[0].report["auc"],
        "logistic_auc_pooled": wanted.auc,
        "logistic_auc_alone": logistic_regression(alone, options.logistic.l2).auc,
        "logistic_coef_gap": vertical_linear.coef_gap(runs, wanted),
        "logistic_seconds": train.seconds,
        "logistic_bytes": train.bytes,
    }


def summary(splits: Sequence[Found]) -> Found:
    """Return the means over splits, and of the differences their standard errors and the worst."""
    means: Found = {name: float(np.mean([found[name] for found in splits])) for name in splits[0]}
    for model in ("boosting", "logistic"):
        for name, other in (("gap", "pooled"), ("gain", "alone")):
            values = [found[f"{model}_auc"] - found[f"{model}_auc_{other}"] for found in splits]
            means[f"{model}_{name}"] = float(np.mean(values))
            means[f"{model}_{name}_se"] = float(np.std(values, ddof=1) / math.sqrt(len(values))) if values[1:] else None
            if name == "gap":
                means[f"{model}_worst_gap"] = float(np.abs(values).max())
    return means


def _fields(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in options.__slots__}


def one(source: CreditSet, seed: int, asked: argparse.Namespace) -> Found:
    """Return the figures of both models for the split with this seed."""
    (own, labels), (all_columns, _) = source.active(), source.pooled()
    _, test = train_test_split(np.arange(len(labels)), test_size=_TEST_SHARE, random_state=seed, stratify=labels)
    options = Options(str(source.folder), test.tolist(), asked.mode, asked.trees, asked.depth, asked.bins)
    pooled, alone = options.split(all_columns, labels), options.split(own, labels)
    found = boosting(options, pooled, alone) | logistic(options, pooled, alone)
    return found | {"rows": len(pooled.labels), "test_rows": len(test)}


def main() -> None:
    """Print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the two files")
    parser.add_argument("--seeds", type=int, default=5, help="number of splits")
    parser.add_argument("--mode", default=PRIVATE, help="private, linearised or exact")
    parser.add_argument("--trees", type=int, default=50)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--bins", type=int, default=32)
    asked = parser.parse_args()
    source = CreditSet(asked.data.resolve())
    found = summary([one(source, seed, asked) for seed in range(asked.seeds)])
    figures = {
        name: value if value is None else int(value) if value >= _WHOLE else round(value, 6)
        for name, value in found.items()
    }
    line = {"name": "credit", **figures, **{name: value for name, value in vars(asked).items() if name != "data"}}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
