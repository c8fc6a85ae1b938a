"""Pictures changed at random, so that few go further: shifts, flips, small rotations and scalings.

Each takes a batch (n, height, width) or (n, channels, height, width) of 32-bit floats and the client's generator, and
returns a new batch; what comes from outside of a picture is 0. All draw once for the whole batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.neural.batches import Augment

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Shift:
    """Moves every picture by up to ``pixels`` in both directions: the random crop of a picture with a margin.

    Raises:
        UsageError: ``pixels`` is negative.
    """

    pixels: int = 2

    def __post_init__(self) -> None:
        if self.pixels < 0:
            raise UsageError(f"pictures are shifted by at least 0 pixels, found {self.pixels}")

    def __call__(self, pictures: Floats, rng: np.random.Generator) -> Floats:
        """Return the moved pictures."""
        planes = _planes(pictures)
        n, _, height, width = planes.shape
        margin = self.pixels
        wide = np.pad(planes, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        down, right = rng.integers(0, 2 * margin + 1, (2, n, 1))
        rows, columns = down + np.arange(height), right + np.arange(width)
        # Indices around a slice put the sliced axis, that of channels, last.
        moved = wide[np.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
        return np.ascontiguousarray(moved.transpose(0, 3, 1, 2)).reshape(pictures.shape)


@dataclass(frozen=True, slots=True)
class Flip:
    """Mirrors every picture left to right with probability ``share``; not for digits and letters.

    Raises:
        UsageError: ``share`` is no probability.
    """

    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(f"pictures are mirrored with a probability from 0 to 1, found {self.share}")

    def __call__(self, pictures: Floats, rng: np.random.Generator) -> Floats:
        """Return the pictures, some of them mirrored."""
        planes = _planes(pictures)
        mirrored = rng.random(len(planes)) < self.share
        out = planes.copy()
        out[mirrored] = planes[mirrored, :, :, ::-1]
        return out.reshape(pictures.shape)


@dataclass(frozen=True, slots=True)
class Affine:
    """Turns, scales and slants every picture a little about its middle, with bilinear interpolation.

    Raises:
        UsageError: A bound is negative, or scaling could make a picture vanish.
    """

    degrees: float = 10.0
    scale: float = 0.1
    """Sizes lie from 1 − scale to 1 + scale."""
    slant: float = 0.1
    """How far at most a line one picture high leans, in picture widths."""

    def __post_init__(self) -> None:
        if min(self.degrees, self.scale, self.slant) < 0 or self.scale >= 1:
            raise UsageError(f"degrees, scale and slant are at least 0, and scale is below 1, found {self}")

    def __call__(self, pictures: Floats, rng: np.random.Generator) -> Floats:
        """Return the changed pictures."""
        planes = _planes(pictures)
        angle, size, slant = rng.uniform(-1, 1, (3, len(planes)))
        angle, size, slant = angle * math.radians(self.degrees), 1 / (1 + size * self.scale), slant * self.slant
        matrix = np.zeros((len(planes), 2, 3), np.float32)
        matrix[:, 0, 0], matrix[:, 0, 1] = size * np.cos(angle), size * (slant - np.sin(angle))
        matrix[:, 1, 0], matrix[:, 1, 1] = size * np.sin(angle), size * np.cos(angle)
        grid = functional.affine_grid(torch.from_numpy(matrix), list(planes.shape), align_corners=False)
        moved = functional.grid_sample(torch.from_numpy(planes), grid, align_corners=False)
        return moved.numpy().reshape(pictures.shape)


def one_after_the_other(*changes: Augment) -> Augment:
    """Return the augmentation that does all of ``changes`` in order."""

    def change_all(pictures: Floats, rng: np.random.Generator) -> Floats:
        for change in changes:
            pictures = change(pictures, rng)
        return pictures

    return change_all


def _planes(pictures: Floats) -> Floats:
    if pictures.ndim not in (3, 4):
        raise DataError(
            f"only pictures of shape (n, height, width) or (n, channels, height, width) can be augmented, found "
            f"{pictures.shape}"
        )
    return pictures[:, None] if pictures.ndim == 3 else pictures
