"""What well-known libraries make of the pooled data, in this process and with one thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from benchmarks.data import Split
from benchmarks.measure import Cost, median, timed

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Forest:
    """What LightGBM came to, and the medians over its trees."""

    auc: float
    per_tree: Cost
    binning: Cost


def lightgbm_forest(split: Split, trees: int, parameters: dict[str, Any], *, threads: int = 1) -> Forest:
    """Return what LightGBM comes to with ``parameters``, tree by tree, binning apart."""
    settings = {"objective": "binary", "verbosity": -1, "num_threads": threads, "deterministic": True} | parameters
    data = lightgbm.Dataset(split.features, split.labels, params=settings)
    _, binning = timed(data.construct)
    booster = lightgbm.Booster(settings, data)
    costs = [timed(booster.update)[1] for _ in range(trees)]
    scores = booster.predict(split.test_features, num_threads=threads)
    return Forest(float(roc_auc_score(split.test_labels, scores)), median(costs), binning)


@dataclass(frozen=True, slots=True)
class Linear:
    """What scikit-learn's logistic regression came to."""

    auc: float
    coefficients: Floats
    """Those of the columns, then the intercept."""
    cost: Cost


def logistic_regression(split: Split, l2: float, *, threads: int = 1) -> Linear:
    """Return the maximum of the penalised likelihood, with the intercept free, to ten digits."""
    model = LogisticRegression(C=1 / (len(split.labels) * l2), tol=1e-10, max_iter=1000, solver="newton-cholesky")
    with threadpool_limits(threads):
        _, cost = timed(lambda: model.fit(split.features, split.labels))
        scores = model.decision_function(split.test_features)
    return Linear(
        float(roc_auc_score(split.test_labels, scores)), np.concatenate([model.coef_[0], model.intercept_]), cost
    )
