"""Robust aggregators: a minority of clients may send anything, and the model still learns from the others."""

from unseen.learners.horizontal.robust.bulyan import Bulyan
from unseen.learners.horizontal.robust.clipping import ClipNorm, Clipped
from unseen.learners.horizontal.robust.coordinates import Median, TrimmedMean
from unseen.learners.horizontal.robust.geometric_median import GeometricMedian
from unseen.learners.horizontal.robust.krum import Krum
from unseen.learners.horizontal.robust.registry import AGGREGATORS, aggregator, robust

__all__ = [
    "AGGREGATORS",
    "Bulyan",
    "ClipNorm",
    "Clipped",
    "GeometricMedian",
    "Krum",
    "Median",
    "TrimmedMean",
    "aggregator",
    "robust",
]
