"""Examples in the order in which a training sees them, as tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unseen.errors import DataError
from unseen.learners.horizontal.neural import kernels
from unseen.learners.horizontal.process import LocalPlan

Array = NDArray[np.generic]
Rows = NDArray[np.int64]
Augment = Callable[[NDArray[np.float32], np.random.Generator], NDArray[np.float32]]
"""From a batch of inputs to one that is as good an example of the same labels."""


def as_floats(inputs: Array) -> Array:
    """Return inputs as 32-bit floats; bytes, as pictures have them, become [0, 1]."""
    if inputs.dtype == np.uint8:
        pictures = np.empty(inputs.shape, np.float32)
        kernels.scale_bytes(np.ascontiguousarray(inputs, np.uint8).reshape(-1), pictures.reshape(-1))
        return pictures
    return inputs.astype(np.float32, copy=False)


def as_integers(inputs: Array) -> Array:
    """Return inputs as 64-bit integers: characters, words, categories.

    Raises:
        DataError: They are not integers.
    """
    if not np.issubdtype(inputs.dtype, np.integer):
        raise DataError(f"inputs have to be integers, found {inputs.dtype}")
    return inputs.astype(np.int64, copy=False)


class Batches:
    """Inputs and labels of one training or evaluation; a batch is good until the next one is asked for."""

    def __init__(self, inputs: Array, labels: Array, device: torch.device) -> None:
        self._inputs, self._labels, self._device = inputs, labels, device
        self._buffer: Tensor | None = None

    @property
    def count(self) -> int:
        """How many examples there are."""
        return len(self._labels)

    def some(
        self, rows: Rows, augment: Augment | None = None, rng: np.random.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of some rows."""
        inputs = self._gathered(rows)
        if augment is not None and rng is not None:
            inputs.copy_(torch.from_numpy(augment(inputs.numpy(), rng)))
        labels = torch.from_numpy(self._labels[rows])
        return inputs.to(self._device), labels.to(self._device)

    def _gathered(self, rows: Rows) -> Tensor:
        # PyTorch's memory lies on whole cache lines wherever it is: products do not depend on where numpy's would.
        if self._buffer is None or len(self._buffer) < len(rows):
            kind = torch.from_numpy(np.empty(0, self._inputs.dtype)).dtype
            self._buffer = torch.empty((len(rows), *self._inputs.shape[1:]), dtype=kind)
        part = self._buffer[: len(rows)]
        np.take(self._inputs, rows, axis=0, out=part.numpy(), mode="clip")
        return part


def orders(count: int, plan: LocalPlan, rng: np.random.Generator) -> Iterator[Rows]:
    """Yield for each epoch the rows that it sees, in order."""
    left = taken(count, plan)[0]
    for _ in range(plan.epochs):
        if left <= 0:
            return
        yield rng.permutation(count)[: left * plan.batch]
        left -= -(-count // plan.batch)


def minibatches(count: int, plan: LocalPlan, rng: np.random.Generator) -> Iterator[Rows]:
    """Yield the rows of each minibatch."""
    for order in orders(count, plan, rng):
        for start in range(0, len(order), plan.batch):
            yield order[start : start + plan.batch]


def taken(count: int, plan: LocalPlan) -> tuple[int, int]:
    """Return how many minibatches a plan takes of so many examples, and how many examples are seen in them."""
    each = -(-count // plan.batch)
    steps = plan.epochs * each if plan.steps is None else min(plan.steps, plan.epochs * each)
    whole, rest = divmod(steps, each)
    return steps, whole * count + min(count, rest * plan.batch)
