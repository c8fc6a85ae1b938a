"""Which rows and columns a tree learns from, drawn by the active party.

Gradient-based one-side sampling (GOSS): Ke and others, LightGBM, NeurIPS 2017, section 3.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from unseen.crypto.prg import Prg
from unseen.learners.vertical.boosting.setting import BoostingParams

Floats = NDArray[np.float64]


def draw_rows(gradients: Floats, params: BoostingParams, prg: Prg) -> Floats:
    """Return each row's factor for a round, 0 if it is left out; ``gradients`` are (rows, outputs)."""
    rows = len(gradients)
    if params.goss_top:
        return _one_sided(np.abs(gradients).sum(axis=1), params, prg)
    if params.row_rate < 1:
        return _chosen(rows, _share(rows, params.row_rate), prg).astype(np.float64)
    return np.ones(rows)


def draw_columns(columns: int, params: BoostingParams, prg: Prg) -> NDArray[np.bool_]:
    """Return for each column whether a tree may use it."""
    if params.column_rate == 1:
        return np.ones(columns, np.bool_)
    return _chosen(columns, _share(columns, params.column_rate), prg)


def _share(count: int, rate: float) -> int:
    return min(count, max(1, math.ceil(count * rate)))


def _chosen(count: int, most: int, prg: Prg) -> NDArray[np.bool_]:
    """Return ``most`` of ``count``, drawn without replacement; equal 64-bit keys are negligible."""
    chosen = np.zeros(count, np.bool_)
    chosen[np.argpartition(prg.words(count), most - 1)[:most]] = True
    return chosen


def _one_sided(sizes: Floats, params: BoostingParams, prg: Prg) -> Floats:
    """Return 1 for rows of large gradients, a weight above 1 for some of the others, which stand for all others."""
    rows = len(sizes)
    top, other = _share(rows, params.goss_top), _share(rows, params.goss_other)
    factors = np.zeros(rows)
    order = np.argpartition(-sizes, top - 1)
    large, rest = order[:top], np.sort(order[top:])
    factors[large] = 1.0
    if len(rest):
        some = rest[_chosen(len(rest), min(other, len(rest)), prg)]
        factors[some] = len(rest) / len(some)
    return factors
