"""The best split of a node: gains of all parties' candidates at once, from histograms of fixed-point numbers.

A split is a feature and the set of its bins that go left. For numbers these are the bins up to one, with or without
that of missing values; for categories the bins are ordered by G/(H + smoothing) first, among whose prefixes the best
of all subsets is found for a convex loss (Fisher 1958; Breiman and others, CART, 1984, section 4.2.2).

Gain: G_L²/(H_L + λ) + G_R²/(H_R + λ) − G²/(H + λ) (Chen and Guestrin, XGBoost, KDD 2016, without the factor ½). Of
equal gains the first party's wins, then the first feature, then the fewest bins, then missing values on the right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unseen.learners.binning import LARGEST_BINS
from unseen.learners.vertical.boosting.packing import Packed
from unseen.learners.vertical.boosting.setting import BoostingParams

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

MASK_BYTES = LARGEST_BINS // 8
# Gains below this share of the terms that they are differences of are rounding errors.
_RELATIVE_GAIN = 1e-10


@dataclass(frozen=True, slots=True, eq=False)
class FeatureSpace:
    """The features of all parties, one after the other, the active party's first.

    ``party[f]`` counts the parties from 0, the active one; ``local[f]`` is the feature's number there.
    """

    party: Integers
    local: Integers
    bins: Integers
    categorical: Bools
    missing: Bools
    places: Integers
    """(features, widest): where each bin stands in a histogram of all columns; ``columns`` where there is none."""
    columns: int

    @classmethod
    def of(cls, parties: Sequence[tuple[Integers, Bools, Bools]]) -> FeatureSpace:
        """Return the space of each party's (bins, categorical, missing)."""
        counts = [len(bins) for bins, _, _ in parties]
        bins, categorical, missing = (np.concatenate(column) for column in zip(*parties, strict=True))
        columns = int(bins.sum())
        offsets = np.cumsum(bins) - bins
        steps = np.arange(int(bins.max(initial=1)))
        places = np.where(steps < bins[:, None], offsets[:, None] + steps, columns)
        return cls(
            np.repeat(np.arange(len(parties)), counts),
            np.concatenate([np.arange(count) for count in counts]),
            bins,
            categorical,
            missing,
            places,
            columns,
        )

    def __len__(self) -> int:
        return len(self.bins)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A node's best split; the sums of its left child are fixed-point numbers."""

    feature: int
    left: NDArray[np.uint8]
    """The bins that go left, packed: bit i of (32,) bytes as ``numpy.packbits`` numbers them."""
    gain: float
    left_gradient: int
    left_hessian: int


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """Left sums (features, places, 2: missing values right, left), and the order in which each feature's bins stand."""

    gradients: Integers
    hessians: Integers
    order: Integers


def best_split(
    space: FeatureSpace, allowed: Bools, packed: Packed, sums: Integers, rows: int, params: BoostingParams
) -> Split | None:
    """Return the best split of a node with the histogram ``sums`` (words, columns), if any gains enough.

    ``allowed`` says for each feature whether it may be used; ``rows`` are those that the sums are over.
    """
    if not len(space) or not allowed.any():
        return None
    candidates, total_g, total_h = _candidates(space, packed, sums, params)
    gains = _gains(candidates, packed, total_g, total_h, params)
    gains[~allowed] = -np.inf
    if params.min_rows_in_leaf > 1:
        # As in LightGBM: nobody counts rows in bins, but hessians tell about how many there are.
        least = (params.min_rows_in_leaf - 0.5) * total_h / rows
        gains[(candidates.hessians < least) | (total_h - candidates.hessians < least)] = -np.inf
    return _chosen(space, candidates, gains)


def lightgbm_split(
    space: FeatureSpace, allowed: Bools, packed: Packed, sums: Integers, rows: int, params: BoostingParams
) -> Split | None:
    """Return the best split as ``best_split`` does, with rows estimated by LightGBM's rule; features are numbers.

    LightGBM 4.6, src/treelearner/feature_histogram.hpp, FindBestThresholdSequentially: each bin's rows are estimated
    from its hessian and rounded; they are added from the right, or from the left if missing values go right.
    """
    if not len(space) or not allowed.any():
        return None
    candidates, total_g, total_h = _candidates(space, packed, sums, params)
    gains = _gains(candidates, packed, total_g, total_h, params)
    gains[~allowed] = -np.inf
    hessians = np.append(packed.unpack(sums)[1], 0)[space.places]
    apart = np.flatnonzero(space.missing)
    hessians[apart, space.bins[apart] - 1] = 0
    left = np.floor(hessians * (rows / max(1, total_h)) + 0.5).cumsum(axis=1)
    on_the_right = left[:, -1:] - left
    on_the_left = np.where(space.missing[:, None], left, rows - on_the_right)
    for side, counted in enumerate((on_the_left, on_the_right)):
        gains[np.minimum(counted, rows - counted) < params.min_rows_in_leaf, side] = -np.inf
    return _chosen(space, candidates, gains)


def _chosen(space: FeatureSpace, candidates: _Candidates, gains: Floats) -> Split | None:
    """Return the first of the candidates with the largest gain, if it is one."""
    feature, place, side = (int(index) for index in np.unravel_index(int(gains.argmax()), gains.shape))
    if gains[feature, place, side] == -np.inf:
        return None
    return Split(
        feature,
        _left_bins(space, candidates.order, feature, place, side),
        float(gains[feature, place, side]),
        int(candidates.gradients[feature, place, side]),
        int(candidates.hessians[feature, place, side]),
    )


def _candidates(
    space: FeatureSpace, packed: Packed, sums: Integers, params: BoostingParams
) -> tuple[_Candidates, int, int]:
    all_g, all_h = packed.unpack(sums)
    g, h = np.append(all_g, 0)[space.places], np.append(all_h, 0)[space.places]
    total_g, total_h = int(g[0].sum()), int(h[0].sum())
    order = np.broadcast_to(np.arange(g.shape[1]), g.shape).copy()
    apart = np.flatnonzero(space.missing & ~space.categorical)
    last = space.bins[apart] - 1
    missing_g, missing_h = np.zeros(len(g), np.int64), np.zeros(len(g), np.int64)
    missing_g[apart], missing_h[apart] = g[apart, last], h[apart, last]
    g[apart, last], h[apart, last] = 0, 0
    unordered = np.flatnonzero(space.categorical)
    if len(unordered):
        smoothing = params.category_smoothing * packed.hessian_scale
        with np.errstate(invalid="ignore", divide="ignore"):
            key = np.where(h[unordered] > 0, g[unordered] / (h[unordered] + smoothing), np.inf)
        order[unordered] = np.argsort(key, axis=1, kind="stable")
        g[unordered] = np.take_along_axis(g[unordered], order[unordered], axis=1)
        h[unordered] = np.take_along_axis(h[unordered], order[unordered], axis=1)
    g, h = np.cumsum(g, axis=1), np.cumsum(h, axis=1)
    left_g = np.stack([g, g + missing_g[:, None]], axis=2)
    left_h = np.stack([h, h + missing_h[:, None]], axis=2)
    return _Candidates(left_g, left_h, order), total_g, total_h


def _gains(candidates: _Candidates, packed: Packed, total_g: int, total_h: int, params: BoostingParams) -> Floats:
    """Return the gain of every candidate, −∞ where it is not allowed or not enough."""
    right_g, right_h = total_g - candidates.gradients, total_h - candidates.hessians
    left_weight, right_weight = candidates.hessians / packed.hessian_scale, right_h / packed.hessian_scale
    least = params.min_child_weight
    possible = (candidates.hessians > 0) & (right_h > 0) & (left_weight >= least) & (right_weight >= least)
    with np.errstate(invalid="ignore", divide="ignore"):
        halves = (candidates.gradients / packed.gradient_scale) ** 2 / (left_weight + params.l2)
        halves += (right_g / packed.gradient_scale) ** 2 / (right_weight + params.l2)
        whole = (total_g / packed.gradient_scale) ** 2 / (total_h / packed.hessian_scale + params.l2)
        gains = halves - whole
        enough = possible & (gains > params.min_split_gain) & (gains > _RELATIVE_GAIN * halves)
    return np.where(enough, gains, -np.inf)


def _left_bins(space: FeatureSpace, order: Integers, feature: int, place: int, side: int) -> NDArray[np.uint8]:
    left = np.zeros(LARGEST_BINS, np.bool_)
    left[order[feature, : place + 1]] = True
    bins = int(space.bins[feature])
    if space.missing[feature] and not space.categorical[feature]:
        left[bins - 1] = side == 1
    left[bins:] = False
    return np.packbits(left)


def goes_left(codes: NDArray[np.uint8], left: NDArray[np.uint8]) -> Bools:
    """Return for every code whether it is among the packed bins ``left``."""
    table = np.unpackbits(left).view(np.bool_)
    borders = np.flatnonzero(table != np.roll(table, 1))
    if len(borders) != 2:
        found: Bools = table[codes]
        return found
    # One run of bins, maybe around the end, as with all numbers: modulo 2^8 this is one comparison.
    start, stop = borders if table[borders[0]] else borders[::-1]
    return codes - np.uint8(start) < np.uint8((stop - start) % LARGEST_BINS)
