"""Losses and metrics: means over all examples of a batch, by name or as a function of outputs and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unseen.errors import DataError, UsageError

Measure = Callable[[Tensor, Tensor], Tensor]
"""From outputs (n, …) and labels (n, …) to the mean over the batch, shape ()."""
Labels = Callable[[NDArray[np.generic]], NDArray[np.generic]]


def _classes(labels: NDArray[np.generic]) -> NDArray[np.generic]:
    if labels.dtype.kind not in "iu":
        raise DataError(f"labels of classes have to be integers, found {labels.dtype}")
    if len(labels) and labels.min() < 0:
        raise DataError(f"labels of classes count from 0, found {labels.min()}")
    return labels.astype(np.int64, copy=False)


def _numbers(labels: NDArray[np.generic]) -> NDArray[np.generic]:
    return labels.astype(np.float32, copy=False)


def _as_given(labels: NDArray[np.generic]) -> NDArray[np.generic]:
    return labels


def cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean negative log-likelihood; ``outputs`` are logits (…, classes), ``labels`` integers (…)."""
    return functional.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), labels.reshape(-1))


def accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the share of labels that have the greatest output (…, classes)."""
    return (outputs.argmax(-1) == labels).float().mean()


def squared_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of (output − label)²; outputs of shape (n, 1) fit labels of shape (n,)."""
    return functional.mse_loss(outputs.reshape(labels.shape), labels)


def absolute_error(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of |output − label|."""
    return functional.l1_loss(outputs.reshape(labels.shape), labels)


def binary_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of labels 0 and 1; ``outputs`` are log-odds."""
    return functional.binary_cross_entropy_with_logits(outputs.reshape(labels.shape), labels)


def binary_accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the share of labels 0 and 1 on whose side the log-odds are."""
    return ((outputs.reshape(labels.shape) > 0) == (labels > 0.5)).float().mean()


@dataclass(frozen=True, slots=True)
class Loss:
    """What is made small, how labels are read for it, and the metrics that are looked at unless others are named."""

    mean: Measure
    labels: Labels = _as_given
    metrics: tuple[str, ...] = ()


LOSSES: Mapping[str, Loss] = {
    "binary_cross_entropy": Loss(binary_cross_entropy, _numbers, ("accuracy",)),
    "cross_entropy": Loss(cross_entropy, _classes, ("accuracy",)),
    "squared_error": Loss(squared_error, _numbers, ("absolute_error",)),
}
METRICS: Mapping[str, Measure] = {
    "absolute_error": absolute_error,
    "accuracy": accuracy,
    "binary_accuracy": binary_accuracy,
}


def loss_named(loss: str | Measure) -> Loss:
    """Return a loss by its name, or made of a function.

    Raises:
        UsageError: There is none of that name.
    """
    if callable(loss):
        return Loss(loss)
    if loss not in LOSSES:
        raise UsageError(f"there is no loss {loss!r}: choose one of {', '.join(LOSSES)}, or give a function")
    return LOSSES[loss]


def metrics_named(metrics: Mapping[str, Measure] | tuple[str, ...] | None, loss: Loss) -> dict[str, Measure]:
    """Return metrics by their names; those that go with the loss for ``None``.

    Raises:
        UsageError: There is none of that name.
    """
    if isinstance(metrics, Mapping):
        return dict(metrics)
    names = loss.metrics if metrics is None else metrics
    if unknown := [name for name in names if name not in METRICS]:
        raise UsageError(f"there is no metric {unknown[0]!r}: choose of {', '.join(METRICS)}, or give a function")
    binary = loss.mean is binary_cross_entropy
    return {name: METRICS["binary_accuracy" if binary and name == "accuracy" else name] for name in names}


def value_and_change(loss: Loss, outputs: Tensor, labels: Tensor) -> tuple[float, Tensor]:
    """Return the mean loss and its gradient by the outputs."""
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        value = loss.mean(leaf, labels)
        (change,) = torch.autograd.grad(value, leaf)
    return float(value.detach()), change
