"""Models and augmentations by their names, for files and forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from unseen.learners.horizontal.neural.augment import Affine, Flip, Shift
from unseen.learners.horizontal.neural.batches import Augment
from unseen.learners.horizontal.neural.models import (
    bigger_cnn,
    logistic_regression,
    niid_cnn,
    normalised_cnn,
    perceptron,
    tutorial_cnn,
)

MODELS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        constructor.__name__: constructor
        for constructor in (bigger_cnn, logistic_regression, niid_cnn, normalised_cnn, perceptron, tutorial_cnn)
    }
)
"""Every model for pictures and numbers by its name."""

AUGMENTS: Mapping[str, Callable[..., Augment]] = MappingProxyType({"affine": Affine, "flip": Flip, "shift": Shift})
"""Every augmentation by its name."""
