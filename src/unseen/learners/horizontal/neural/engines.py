"""Who computes losses and gradients: autograd for any module, a chain of hand-written layers for most sequential ones.

The choice depends on the module alone, so that a run is the same bit for bit on any number of workers. Measured per
minibatch, a chain takes a third of the time of autograd and ``torch.optim`` for the tutorial's network; a linear
softmax model is trained by one loop over all minibatches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unseen.errors import DataError
from unseen.learners.horizontal.neural import kernels
from unseen.learners.horizontal.neural.batches import Array, Rows
from unseen.learners.horizontal.neural.descent import Sink
from unseen.learners.horizontal.neural.flat import Flat
from unseen.learners.horizontal.neural.generator import seeded
from unseen.learners.horizontal.neural.layers import (
    Convolution,
    Dense,
    Dropout,
    Layer,
    PooledConvolution,
    RectifiedPool,
    Rectifier,
    Reshape,
)
from unseen.learners.horizontal.neural.losses import Loss, cross_entropy, value_and_change
from unseen.learners.horizontal.neural.models import Planes

T = TypeVar("T", bound=np.generic)

_FEW_CHANNELS = 3
"""Of the input, up to which the hand-written convolution is faster than PyTorch's."""


class Engine(Protocol):
    """Losses and gradients of the module in a flat vector."""

    def randomness(self, seed: int) -> AbstractContextManager[None]:
        """Return the context of a training whose random numbers, those of drop-out, belong to ``seed``."""
        ...

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the outputs of the model as it is used, not trained."""
        ...

    def step(self, inputs: Tensor, labels: Tensor, sink: Sink, *, training: bool) -> float:
        """Put the gradient of the mean loss into ``sink``, and return that loss."""
        ...


class Autograd:
    """Any module and loss."""

    def __init__(self, flat: Flat, loss: Loss) -> None:
        self._flat, self._loss = flat, loss

    def randomness(self, seed: int) -> AbstractContextManager[None]:
        """See ``Engine``; PyTorch's own generators are afterwards what they were."""
        device = self._flat.vector.device
        return seeded(seed, [] if device.type == "cpu" else [device])

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> Tensor:
        """See ``Engine``."""
        self._flat.module.eval()
        try:
            result: Tensor = self._flat.module(inputs)
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(_refused(inputs, error)) from error
        return result

    def step(self, inputs: Tensor, labels: Tensor, sink: Sink, *, training: bool) -> float:
        """See ``Engine``."""
        self._flat.module.train(training)
        try:
            loss = self._loss.mean(self._flat.module(inputs), labels)
            gradients = torch.autograd.grad(loss, self._flat.parameters, materialize_grads=True)
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(_refused(inputs, error, labels)) from error
        with torch.no_grad():
            for index, gradient in enumerate(gradients):
                sink.put(index, gradient)
        return float(loss.detach())


def _refused(inputs: Tensor, error: Exception, labels: Tensor | None = None) -> str:
    beside = "" if labels is None else f" with labels of shape {tuple(labels.shape)}"
    return f"the model does not take inputs of shape {tuple(inputs.shape)} and {inputs.dtype}{beside}: {error}"


class Chain:
    """A sequence of hand-written layers."""

    def __init__(self, layers: Sequence[Layer], loss: Loss, generator: torch.Generator | None = None) -> None:
        self._layers, self._loss, self._generator = layers, loss, generator
        self._first = next(place for place, layer in enumerate(layers) if layer.has_parameters)

    def randomness(self, seed: int) -> AbstractContextManager[None]:
        """See ``Engine``."""
        if self._generator is not None:
            self._generator.manual_seed(seed)
        return nullcontext()

    @torch.no_grad()
    def outputs(self, inputs: Tensor, *, training: bool = False) -> Tensor:
        """See ``Engine``."""
        x = inputs
        try:
            for layer in self._layers:
                x = layer.forward(x, training=training)
        except (RuntimeError, IndexError) as error:
            raise DataError(_refused(inputs, error)) from error
        return x

    @torch.no_grad()
    def step(self, inputs: Tensor, labels: Tensor, sink: Sink, *, training: bool) -> float:
        """See ``Engine``."""
        outputs = self.outputs(inputs, training=training)
        loss, change = self._end(outputs, labels)
        for place in range(len(self._layers) - 1, self._first - 1, -1):
            change = self._layers[place].backward(change, sink, needed=place > self._first)
        return loss

    def _end(self, outputs: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Return the mean loss and its gradient by the outputs."""
        if self._loss.mean is not cross_entropy or outputs.dim() != 2:
            return value_and_change(self._loss, outputs, labels)
        check_labels(labels.numpy(), len(outputs), outputs.shape[1])
        change = torch.empty_like(outputs)
        return kernels.softmax_loss(outputs.numpy(), labels.numpy(), change.numpy()), change


class LinearSoftmax(Chain):
    """A chain of one linear layer under cross-entropy, whose training is one loop in machine code."""

    def __init__(self, layers: Sequence[Layer], loss: Loss, weights: Sequence[Tensor]) -> None:
        super().__init__(layers, loss)
        self._weights = (weights[0].numpy(), weights[1].numpy())
        self._flattens = any(isinstance(layer, Reshape) for layer in layers)
        self._room = np.empty((0, 0), np.float32)

    def takes(self, inputs: Array) -> bool:
        """Return whether ``passes`` can train on such inputs: one row of numbers for each example."""
        return self._flattens or inputs.ndim == 2

    def passes(self, inputs: Array, labels: Array, orders: Iterable[Rows], batch: int, sink: Sink) -> float:
        """Train on the rows of one order after the other, ``batch`` at a time; return the sum of their losses.

        Bytes are trained on as ``as_floats`` would make them.
        """
        kind, scale = (np.uint8, kernels.OF_BYTES) if inputs.dtype == np.uint8 else (np.float32, kernels.AS_IT_IS)
        rows = _for_loops(inputs.reshape(len(inputs), -1), kind)
        weight, bias = self._weights
        if rows.shape[1] != weight.shape[1]:
            raise DataError(f"the model expects {weight.shape[1]} numbers of each example, found {rows.shape[1]}")
        check_labels(labels, len(rows), len(bias))
        rates = (np.float32(-sink.factor), np.float32(sink.keep))
        examples = rows, _for_loops(labels, np.int64)
        room = self._room_for(min(batch, len(rows)), rows.shape[1])
        return sum(kernels.linear_pass(examples, scale, order, room, self._weights, rates) for order in orders)

    def _room_for(self, batch: int, features: int) -> NDArray[np.float32]:
        if self._room.shape != (batch, features):
            # PyTorch's memory lies on whole cache lines: loops over it are faster.
            self._room = torch.empty((batch, features)).numpy()
        return self._room


def check_labels(labels: NDArray[np.generic], count: int, classes: int) -> None:
    """Refuse labels that are not one class for each of ``count`` examples.

    Raises:
        DataError: They are not.
    """
    if labels.shape != (count,):
        raise DataError(f"expected labels of shape ({count},), one for each output, found {labels.shape}")
    if kernels.greatest(_for_loops(labels, np.int64)) >= classes:
        raise DataError(
            f"expected labels from 0 to {classes - 1}, as the model has {classes} outputs, found "
            f"{labels.min()} to {labels.max()}"
        )


def _for_loops(array: Array, kind: type[T]) -> NDArray[T]:
    """Return an array as loops are compiled for: of one kind, contiguous, and not for reading only."""
    found = np.ascontiguousarray(array, kind)
    return found if found.flags.writeable else found.copy()


# --- the choice --------------------------------------------------------------------------------------------------


def engine_for(flat: Flat, loss: Loss) -> Engine:
    """Return the fastest engine for a module, which depends on the module alone."""
    # As in _prepare: pictures are read whatever the engine.
    kernels.scale_bytes(np.zeros(1, np.uint8), np.zeros(1, np.float32))
    generator = torch.Generator()
    layers = _layers(flat, generator) if flat.vector.device.type == "cpu" else None
    if layers is None:
        return Autograd(flat, loss)
    _prepare(layers)
    dense = [layer for layer in layers if layer.has_parameters]
    plain = all(isinstance(layer, Dense | Reshape) for layer in layers)
    if len(dense) == 1 and plain and loss.mean is cross_entropy:
        return LinearSoftmax(layers, loss, flat.weight_views)
    return Chain(layers, loss, generator)


def _layers(flat: Flat, generator: torch.Generator) -> list[Layer] | None:
    """Return the hand-written layers of a module, or ``None`` if it is not made of such."""
    modules = list(_unrolled(flat.module))
    mine = [parameter for module in modules for parameter in module.parameters(recurse=False)]
    if [id(one) for one in mine] != [id(one) for one in flat.parameters] or flat.trained != flat.size:
        return None
    weights, layers, place, index = flat.weight_views, [], 0, 0
    while place < len(modules):
        found = _layer(modules[place : place + 3], weights[index : index + 2], index, generator)
        if found is None:
            return None
        layer, used = found
        layers.append(layer)
        place += used
        index += 2 * layer.has_parameters
    return layers


def _unrolled(module: nn.Module) -> Iterator[nn.Module]:
    if type(module) is nn.Sequential and not _hooked(module):
        for child in module:
            yield from _unrolled(child)
    else:
        yield module


def _hooked(module: nn.Module) -> bool:
    """Return whether somebody wants to be called at each pass through a module."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def _layer(
    modules: Sequence[nn.Module], weights: list[Tensor], index: int, generator: torch.Generator
) -> tuple[Layer, int] | None:
    """Return the layer for the first of ``modules``, and how many of them it stands for."""
    module = modules[0]
    if _hooked(module):
        return None
    if _rectified_pool(modules[:2]):
        return RectifiedPool(), 2
    if type(module) is nn.Conv2d:
        return _convolution(modules, weights, index)
    layer = _single(module, weights, index, generator)
    return None if layer is None else (layer, 1)


def _single(module: nn.Module, weights: list[Tensor], index: int, generator: torch.Generator) -> Layer | None:
    if type(module) is nn.Linear and module.bias is not None:
        return Dense(weights[0], weights[1], index)
    if type(module) is nn.ReLU:
        return Rectifier()
    if type(module) is nn.Dropout:
        return Dropout(module.p, generator)
    whole = type(module) is nn.Flatten and (module.start_dim, module.end_dim) == (1, -1)
    return Reshape(module) if whole or type(module) is Planes else None


def _convolution(modules: Sequence[nn.Module], weights: list[Tensor], index: int) -> tuple[Layer, int] | None:
    module = modules[0]
    if not isinstance(module, nn.Conv2d) or module.bias is None or isinstance(module.padding, str):
        return None
    if module.padding_mode != "zeros":
        return None
    simple = module.stride == module.dilation == (1, 1) and module.groups == 1
    small = module.in_channels <= _FEW_CHANNELS and module.kernel_size in ((3, 3), (5, 5))
    if index == 0 and simple and small and _rectified_pool(modules[1:3]):
        return PooledConvolution(weights[0], weights[1], index, module.padding), 3
    return Convolution(module, weights[0], weights[1], index), 1


def _rectified_pool(modules: Sequence[nn.Module]) -> bool:
    if {type(module) for module in modules} != {nn.ReLU, nn.MaxPool2d} or any(map(_hooked, modules)):
        return False
    pool = next(module for module in modules if isinstance(module, nn.MaxPool2d))
    given = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, pool.return_indices)
    return given in ((2, 2, 0, 1, False, False), ((2, 2), (2, 2), 0, 1, False, False))


def _prepare(layers: Sequence[Layer]) -> None:
    """Have all loops compiled, so that processes forked from this one need not do it again."""
    kinds = {type(layer) for layer in layers}
    one, row = np.zeros((1, 1), np.float32), np.zeros(1, np.int64)
    kernels.softmax_loss(one, row, one.copy())
    kernels.greatest(row)
    if PooledConvolution in kinds:
        x, weight, place = np.zeros((1, 1, 4, 4), np.float32), np.zeros((1, 1, 3, 3), np.float32), np.zeros(1, np.uint8)
        out, bias = np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.float32)
        kernels.convolve_pool(x, weight, bias, out, place.reshape(out.shape))
        kernels.convolve_pool_gradient(x, out, place.reshape(out.shape), weight, bias)
    if RectifiedPool in kinds:
        planes, out = np.zeros((1, 2, 2), np.float32), np.zeros((1, 1, 1), np.float32)
        place = np.zeros((1, 1, 1), np.uint8)
        kernels.pool(planes, out, place)
        kernels.pool_gradient(out, place, planes)
    if kinds <= {Dense, Reshape}:
        rates = (np.float32(0), np.float32(1))
        for inputs, scale in ((one, kernels.AS_IT_IS), (one.astype(np.uint8), kernels.OF_BYTES)):
            kernels.linear_pass((inputs, row), scale, row, one.copy(), (one.copy(), one[0].copy()), rates)
