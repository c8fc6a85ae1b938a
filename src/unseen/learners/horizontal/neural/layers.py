"""Layers of a chain with their gradients written out; each remembers what its last call needs for the way back.

Compared with autograd nothing is allocated for what nobody reads, pooling knows its maxima, and the gradient of weights
goes where the step needs it. The values are those of the modules, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unseen.errors import DataError
from unseen.learners.horizontal.neural import kernels
from unseen.learners.horizontal.neural.descent import Sink

Pair = tuple[int, ...]


class Layer(Protocol):
    """One link of a chain."""

    has_parameters: bool

    def forward(self, x: Tensor, *, training: bool) -> Tensor:
        """Return the output for a batch."""
        ...

    def backward(self, change: Tensor, sink: Sink, *, needed: bool) -> Tensor:
        """Put the parameters' gradients into ``sink``; return that by the input if it is ``needed``, else anything."""
        ...


class Dense:
    """A linear layer, x Wᵀ + b."""

    has_parameters = True

    def __init__(self, weight: Tensor, bias: Tensor, index: int) -> None:
        self._weight, self._bias, self._index = weight, bias, index
        self._x = weight

    def forward(self, x: Tensor, *, training: bool) -> Tensor:
        """Return the output, shape (n, …, out)."""
        del training
        outputs, features = self._weight.shape
        if x.dim() < 2 or x.shape[-1] != features:
            raise DataError(
                f"the model expects {features} numbers at a linear layer, found those of an example in shape "
                f"{tuple(x.shape[1:])}"
            )
        self._x = x.reshape(-1, features)
        return torch.addmm(self._bias, self._x, self._weight.t()).view(*x.shape[:-1], outputs)

    def backward(self, change: Tensor, sink: Sink, *, needed: bool) -> Tensor:
        """See ``Layer``."""
        rows = change.reshape(-1, len(self._bias))
        # The gradient by the input comes first: the sink may be the weights themselves.
        result = torch.mm(rows, self._weight).view(*change.shape[:-1], -1) if needed else change
        sink.put_product(self._index, rows.t(), self._x)
        sink.put_product(self._index + 1, rows.t(), rows.new_ones(len(rows)))
        return result


class PooledConvolution:
    """The first layer of a network for pictures: convolution, rectifier and 2×2 maxima in one loop."""

    has_parameters = True

    def __init__(self, weight: Tensor, bias: Tensor, index: int, padding: Pair = (0, 0)) -> None:
        self._weight, self._bias, self._index = weight, bias, index
        self._padding = (padding[1], padding[1], padding[0], padding[0]) if any(padding) else None
        self._x, self._place = np.empty(0, np.float32), np.empty(0, np.uint8)

    def forward(self, x: Tensor, *, training: bool) -> Tensor:
        """Return the output, shape (n, filters, h, w)."""
        del training
        filters, channels, k, _ = self._weight.shape
        _check_pictures(x, channels, k)
        padded = x if self._padding is None else nn.functional.pad(x, self._padding)
        height, width = padded.shape[2:]
        out = x.new_empty((len(x), filters, (height - k + 1) // 2, (width - k + 1) // 2))
        self._x, self._place = padded.contiguous().numpy(), torch.empty(out.shape, dtype=torch.uint8).numpy()
        kernels.convolve_pool(self._x, self._weight.numpy(), self._bias.numpy(), out.numpy(), self._place)
        return out

    def backward(self, change: Tensor, sink: Sink, *, needed: bool) -> Tensor:
        """See ``Layer``; the gradient by the input is never needed."""
        del needed
        weight, bias = torch.empty_like(self._weight), torch.empty_like(self._bias)
        kernels.convolve_pool_gradient(self._x, change.contiguous().numpy(), self._place, weight.numpy(), bias.numpy())
        sink.put(self._index, weight)
        sink.put(self._index + 1, bias)
        return change


class Convolution:
    """Any other convolution, by PyTorch's own kernels."""

    has_parameters = True

    def __init__(self, module: nn.Conv2d, weight: Tensor, bias: Tensor, index: int) -> None:
        self._weight, self._bias, self._index = weight, bias, index
        padding = module.padding if not isinstance(module.padding, str) else (0, 0)
        self._geometry = (list(module.stride), list(padding), list(module.dilation))
        self._groups = module.groups
        self._x = weight

    def forward(self, x: Tensor, *, training: bool) -> Tensor:
        """Return the output, shape (n, filters, h, w)."""
        del training
        _check_pictures(x, self._weight.shape[1] * self._groups, 1)
        self._x = x
        return torch.conv2d(x, self._weight, self._bias, *self._geometry, self._groups)

    def backward(self, change: Tensor, sink: Sink, *, needed: bool) -> Tensor:
        """See ``Layer``."""
        result, weight, bias = torch.ops.aten.convolution_backward(
            change, self._x, self._weight, [len(self._bias)], *self._geometry, False, [0, 0], self._groups,
            [needed, True, True],
        )  # fmt: skip
        sink.put(self._index, weight)
        sink.put(self._index + 1, bias)
        return result if needed else change


class RectifiedPool:
    """Rectifier and 2×2 maxima in one loop, in either order, which is the same."""

    has_parameters = False

    def __init__(self) -> None:
        self._place: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._shape: Sequence[int] = ()

    def forward(self, x: Tensor, *, training: bool) -> Tensor:
        """Return the output, shape (n, channels, h // 2, w // 2)."""
        del training
        _check_pictures(x, x.shape[1], 2)
        n, channels, height, width = self._shape = x.shape
        out = x.new_empty((n, channels, height // 2, width // 2))
        self._place = torch.empty((n * channels, *out.shape[2:]), dtype=torch.uint8).numpy()
        kernels.pool(x.contiguous().view(-1, height, width).numpy(), out.view(self._place.shape).numpy(), self._place)
        return out

    def backward(self, change: Tensor, sink: Sink, *, needed: bool) -> Tensor:
        """See ``Layer``."""
        del sink
        if not needed:
            return change
        out = change.new_empty(tuple(self._shape))
        planes = out.view(-1, *self._shape[2:])
        kernels.pool_gradient(change.contiguous().view(self._place.shape).numpy(), self._place, planes.numpy())
        return out


class Rectifier:
    """max(0, x)."""

    has_parameters = False

    def __init__(self) -> None:
        self._out = torch.empty(0)

    def forward(self, x: Tensor, *, training: bool) -> Tensor:
        """Return the output."""
        del training
        self._out = torch.relu(x)
        return self._out

    def backward(self, change: Tensor, sink: Sink, *, needed: bool) -> Tensor:
        """See ``Layer``."""
        del sink, needed
        return change * (self._out > 0)


class Dropout:
    """Zeros a share of numbers in training, from the generator of the training, and scales up the others."""

    has_parameters = False

    def __init__(self, share: float, generator: torch.Generator) -> None:
        self._keep, self._generator = 1 - share, generator
        self._mask: Tensor | None = None

    def forward(self, x: Tensor, *, training: bool) -> Tensor:
        """Return the output."""
        self._mask = None
        if not training or self._keep == 1:
            return x
        mask = torch.empty_like(x).bernoulli_(self._keep, generator=self._generator)
        self._mask = mask.div_(self._keep) if self._keep else mask
        return x * self._mask

    def backward(self, change: Tensor, sink: Sink, *, needed: bool) -> Tensor:
        """See ``Layer``."""
        del sink, needed
        return change if self._mask is None else change * self._mask


class Reshape:
    """Another view of the same numbers: (n, …) flat, or as planes of some channels."""

    has_parameters = False

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._shape: Sequence[int] = ()

    def forward(self, x: Tensor, *, training: bool) -> Tensor:
        """Return the view."""
        del training
        self._shape = x.shape
        result: Tensor = self._module(x)
        return result

    def backward(self, change: Tensor, sink: Sink, *, needed: bool) -> Tensor:
        """See ``Layer``."""
        del sink, needed
        return change.reshape(tuple(self._shape))


def _check_pictures(x: Tensor, channels: int, least: int) -> None:
    fits = x.dim() == 4 and x.shape[1] == channels and min(x.shape[2:]) >= least
    if not fits or x.dtype != torch.float32:
        raise DataError(
            f"the model expects pictures of shape ({channels}, height, width) in 32-bit floats, at least {least} "
            f"pixels high and wide, found shape {tuple(x.shape[1:])} in {x.dtype}"
        )
