"""``aggregator``: a robust aggregator by its name; ``robust``: a strategy with one in place of its mean."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from unseen.errors import UsageError
from unseen.learners.horizontal.process import Aggregator, Process
from unseen.learners.horizontal.robust.bulyan import Bulyan
from unseen.learners.horizontal.robust.clipping import Clipped
from unseen.learners.horizontal.robust.coordinates import Median, TrimmedMean
from unseen.learners.horizontal.robust.geometric_median import GeometricMedian
from unseen.learners.horizontal.robust.krum import Krum
from unseen.learners.horizontal.strategies.parts import WeightedMean

AGGREGATORS: Mapping[str, Callable[..., Aggregator]] = MappingProxyType(
    {
        "bulyan": Bulyan,
        "clipped": Clipped,
        "geometric_median": GeometricMedian,
        "krum": Krum,
        "median": Median,
        "trimmed_mean": TrimmedMean,
    }
)
"""Every robust aggregator by its name."""


def aggregator(name: str, **parameters: Any) -> Aggregator:
    """Return a robust aggregator by its name.

    Raises:
        UsageError: There is no such aggregator or parameter, or a value is not allowed.
    """
    if name not in AGGREGATORS:
        raise UsageError(f"there is no aggregator {name!r}; there are {', '.join(sorted(AGGREGATORS))}")
    signature = inspect.signature(AGGREGATORS[name])
    try:
        signature.bind(**parameters)
    except TypeError as error:
        raise UsageError(f"{name}: {error}; it has the parameters {', '.join(signature.parameters)}") from error
    return AGGREGATORS[name](**parameters)


def robust(process: Process, by: Aggregator) -> Process:
    """Return a strategy whose updates are aggregated by a robust rule instead of their mean.

    Raises:
        UsageError: The strategy's aggregator is not the mean, but part of the algorithm.
    """
    if not isinstance(process.aggregator, WeightedMean):
        raise UsageError(
            f"{process.name} aggregates by {type(process.aggregator).__name__}, which no other rule can replace: "
            "choose a strategy that takes the mean"
        )
    return replace(process, name=f"{process.name} by {type(by).__name__}", aggregator=by)
