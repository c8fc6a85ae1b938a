"""Gradients of single examples, many at a time: what DP-SGD clips."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from unseen.errors import DataError
from unseen.learners.horizontal.neural.batches import Batches
from unseen.learners.horizontal.neural.flat import Flat
from unseen.learners.horizontal.neural.losses import Measure

_NUMBERS = 1 << 24
"""Held at a time: 64 MB of gradients."""


def example_gradients(flat: Flat, loss: Measure, batches: Batches) -> Iterator[NDArray[np.float32]]:
    """Yield the gradients of ``loss`` of each example alone, shape (some, size), in order; 0 for buffers.

    Raises:
        DataError: The module does not take such inputs or labels.
    """
    chunk = max(1, min(batches.count, _NUMBERS // flat.size))
    gradients = vmap(grad(_loss_of(flat.module.eval(), loss)), in_dims=(None, 0, 0))
    names = list(flat.places)[: len(flat.parameters)]
    for start in range(0, batches.count, chunk):
        inputs, labels = batches.some(np.arange(start, min(batches.count, start + chunk)))
        try:
            found = gradients(dict(zip(names, flat.weight_views, strict=True)), inputs, labels)
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(
                f"the model does not take inputs of shape {tuple(inputs.shape)} and {inputs.dtype}, or not one by one "
                f"with labels of shape {tuple(labels.shape)}: {error}"
            ) from error
        yield _rows(flat, [found[name] for name in names], len(inputs))


def _loss_of(module: nn.Module, loss: Measure):  # type: ignore[no-untyped-def]  # torch.func's own types are open
    def one(parameters: dict[str, Tensor], x: Tensor, label: Tensor) -> Tensor:
        return loss(functional_call(module, parameters, (x.unsqueeze(0),)), label.unsqueeze(0))

    return one


def _rows(flat: Flat, gradients: list[Tensor], count: int) -> NDArray[np.float32]:
    rows = torch.zeros((count, flat.size), device=flat.vector.device)
    torch.cat([gradient.reshape(count, -1) for gradient in gradients], 1, out=rows[:, : flat.trained])
    return rows.cpu().numpy()
