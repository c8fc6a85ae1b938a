"""One exchange of decentralised learning: push-sum of models, which keeps the mean of all nodes but for rounding.

Every node has a row of numbers x and a *mass* w, at first its model and 1. In a round it trains at z = x/w, adds what
that has changed to x, and divides x and w among its neighbours (stochastic gradient push: M. Assran, N. Loizou, N.
Ballas, M. Rabbat, "Stochastic Gradient Push for Distributed Deep Learning", ICML 2019, Algorithm 1, with local steps).
Where rows of the mixing matrix sum to 1 all masses stay 1, and this is decentralised SGD (X. Lian and others, "Can
Decentralized Algorithms Outperform Centralized Algorithms?", NeurIPS 2017, Algorithm 1), in the order train, then mix.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unseen.errors import UsageError
from unseen.learners.horizontal.private.charged import Charged
from unseen.learners.horizontal.process import Process, Update, Vector
from unseen.learners.horizontal.strategies.parts import SendModel, ServerStep, WeightedMean
from unseen.learners.horizontal.topology import Mixing

Rows = NDArray[np.float32]
"""Shape (n, size + 1): for every node its numbers, and its mass in the last column."""
_COLUMNS = 1 << 10


def mixed(rows: Rows, mixing: Mixing) -> Rows:
    """Return W·rows, each entry added up in one order as 64-bit floats and rounded once."""
    out = np.empty_like(rows)
    for start in range(0, rows.shape[1], _COLUMNS):
        part = rows[:, start : start + _COLUMNS].astype(np.float64)
        total = np.zeros_like(part)
        for place in range(mixing.sources.shape[1]):
            total += mixing.weights[:, place, None] * part[mixing.sources[:, place]]
        out[:, start : start + _COLUMNS] = total
    return out


def model_of(row: Vector) -> Vector:
    """Return the model z = x/w of a node, from its numbers and its mass, which come last."""
    model: Vector = row[:-1] / row[-1]
    return model


def mean_of(rows: Rows) -> Vector:
    """Return Σx / Σw, what all nodes would agree on."""
    total = rows.sum(axis=0, dtype=np.float64)
    mean: Vector = (total[:-1] / total[-1]).astype(np.float32)
    return mean


def distance(rows: Rows) -> float:
    """Return the consensus distance: the root of the mean of ‖zᵢ − mean‖² over all nodes."""
    mean = mean_of(rows).astype(np.float64)
    squares = [float(np.square(model_of(row) - mean).sum()) for row in rows]
    return float(np.sqrt(np.mean(squares)))


def step_of(process: Process) -> float:
    """Return the factor that a process puts before updates.

    Raises:
        UsageError: It is no process whose whole state is a model and whose step is plain.
    """
    finalizer = process.finalizer.inner if isinstance(process.finalizer, Charged) else process.finalizer
    parts = process.distributor, process.aggregator, finalizer
    match parts:
        case SendModel(extra=()), WeightedMean(), ServerStep(learning_rate=rate):
            return rate
    raise UsageError(
        f"{process.name} keeps more than a model, or does not take a plain mean: neighbours exchange models alone; "
        "take fed_avg, fed_prox or fed_sgd, or a topology of peers with common sums"
    )


def only_delta(process: Process, update: Update, memory: object) -> Vector:
    """Return what an update changes.

    Raises:
        UsageError: It, or what its client keeps, has more than that.
    """
    if update.extra or memory:
        raise UsageError(f"{process.name} has clients keep or send vectors beside the model: see fed_avg, fed_prox")
    return update.delta
