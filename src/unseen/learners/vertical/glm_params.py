"""Parameters of a generalised linear model over several parties' columns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from unseen.errors import DataError, UsageError
from unseen.learners.vertical.families import Family, family_of
from unseen.learners.vertical.setting import EXACT, LINEARISED, PRIVATE, Floats


@dataclass(frozen=True, slots=True)
class GlmParams:
    """What all parties of a training must agree on.

    The objective is the mean weighted loss (weights scaled to mean 1) + ½ ``l2`` ‖w‖² + ``l1`` ‖w‖₁, the intercept
    free. Losses are those of ``families``: scikit-learn's objectives are these for LogisticRegression(C = 1/(rows·l2)),
    Ridge(alpha = rows·l2), ElasticNet (l1 = alpha·l1_ratio, l2 = alpha·(1 − l1_ratio)), PoissonRegressor and
    TweedieRegressor (alpha = l2).

    ``tolerance`` bounds the gradient's norm at the end relative to that at the start, in whitened coordinates.
    ``class_weights`` matter to the active party alone: "balanced" gives every class the same total weight.
    """

    family: str = "binomial"
    mode: str = PRIVATE
    l2: float = 1e-3
    l1: float = 0.0
    max_iterations: int = 30
    tolerance: float = 1e-5
    power: float = 1.5
    """Of the variance, for Tweedie: strictly between 1 and 2."""
    class_weights: Literal["balanced"] | Mapping[float, float] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        family_of(self.family, self.power)
        if self.mode not in (PRIVATE, LINEARISED, EXACT):
            raise UsageError(f"mode is 'private', 'linearised' or 'exact', found {self.mode!r}")
        if self.mode != PRIVATE and (self.family != "binomial" or self.l1 or self.class_weights is not None):
            raise UsageError(f"mode {self.mode} is for family 'binomial' without l1 and weights: choose 'private'")
        for name in ("l1", "l2"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UsageError(f"{name} must be finite and at least 0, found {getattr(self, name)}")
        if self.max_iterations < 1:
            raise UsageError(f"max_iterations must be at least 1, found {self.max_iterations}")
        if not 0 < self.tolerance < 1:
            raise UsageError(f"tolerance lies between 0 and 1, found {self.tolerance}")
        if self.class_weights is not None and self.family != "binomial":
            raise UsageError("class weights are for family 'binomial': give weights of rows instead")

    @property
    def likelihood(self) -> Family:
        """The family."""
        return family_of(self.family, self.power)

    @property
    def terms(self) -> str:
        """What the parties compare."""
        power = f", power {self.power!r}" if self.family == "tweedie" else ""
        return (
            f"{self.family}{power}, mode {self.mode}, l2 {self.l2!r}, l1 {self.l1!r}, "
            f"max_iterations {self.max_iterations}, tolerance {self.tolerance!r}"
        )


def row_weights(target: Floats, weights: Floats | None, params: GlmParams) -> Floats:
    """Return every row's weight, class weights among them, scaled to mean 1.

    Raises:
        DataError: Weights are missing, negative, or all zero, or a class has none.
    """
    found = np.ones(len(target)) if weights is None else np.array(weights, np.float64)
    if found.shape != target.shape or not np.isfinite(found).all() or (found < 0).any() or not found.any():
        raise DataError(f"expected {len(target)} weights, finite, at least 0 and not all 0, found shape {found.shape}")
    classes = np.unique(target) if params.class_weights is not None else ()
    for value in classes:
        found[target == value] *= _class_weight(float(value), target, params)
    scaled: Floats = found / found.mean()
    return scaled


def _class_weight(value: float, target: Floats, params: GlmParams) -> float:
    if params.class_weights == "balanced":
        # As in scikit-learn: by numbers of rows, whatever their weights.
        return len(target) / float(np.sum(target == value))
    given = params.class_weights if isinstance(params.class_weights, Mapping) else {}
    if value not in given or not 0 <= given[value] < math.inf:
        raise DataError(f"class {value:g} needs a finite weight of at least 0 in class_weights, found {dict(given)}")
    return float(given[value])
