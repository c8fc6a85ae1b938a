"""A module that lives in one flat vector: its parameters and buffers are views of it.

The numbers that gradient descent changes come first, in the module's order of parameters; then parameters that do not
want a gradient; then buffers, as those of batch normalisation. Integer buffers of one number, which count something,
are floats here; other integer and non-persistent buffers are constants and stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.process import Vector


class Flat:
    """The vector of a module, and where what lies in it.

    Raises:
        UsageError: The module has no parameters to train, or some that are not 32-bit floats.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module = module.to(device)
        trained, still = _parameters(module), _still(module)
        if not trained:
            raise UsageError("the model has no parameters that want a gradient: there is nothing to train")
        tensors = {**trained, **still}
        self.size = sum(tensor.numel() for tensor in tensors.values())
        self.vector = torch.zeros(self.size, device=device)
        self.places: dict[str, slice] = {}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.parameters = list(trained.values())
        self.trained = sum(tensor.numel() for tensor in self.parameters)
        self._numbers = self.vector.numpy() if device.type == "cpu" else None
        self._move(tensors)
        self.weights = self.vector[: self.trained]
        self.weight_views = self.views(self.vector)

    def _move(self, tensors: Mapping[str, Tensor]) -> None:
        start = 0
        for name, tensor in tensors.items():
            self.places[name] = slice(start, start + tensor.numel())
            start += tensor.numel()
            view = self.vector[self.places[name]].view(tensor.shape)
            view.copy_(tensor.detach())
            if isinstance(tensor, nn.Parameter):
                tensor.data = view
            else:
                owner, _, leaf = name.rpartition(".")
                # ``data`` has a version of its own: autograd must not take a change of one buffer for one of another.
                setattr(self.module.get_submodule(owner), leaf, view.data)

    def views(self, vector: Tensor) -> list[Tensor]:
        """Return the trained parameters' places in a vector laid out like this one, in their shapes."""
        return [vector[self.places[name]].view(self.shapes[name]) for name in list(self.places)[: len(self.parameters)]]

    def load(self, model: Vector) -> None:
        """Make the module that of ``model``.

        Raises:
            DataError: It has another length.
        """
        if model.shape != (self.size,):
            raise DataError(f"the model has {self.size} numbers, found a vector of shape {model.shape}")
        if self._numbers is not None:
            np.copyto(self._numbers, model)
        else:
            self.vector.copy_(torch.from_numpy(np.array(model, np.float32)))

    def model(self) -> Vector:
        """Return the module's numbers."""
        return self.vector.cpu().numpy() if self._numbers is None else self._numbers.copy()

    def part(self, names: tuple[str, ...]) -> slice | NDArray[np.int64]:
        """Return where names lie that begin with one of ``names``: a slice if it is one stretch."""
        found = [place for name, place in self.places.items() if name.startswith(names)]
        if found and all(one.stop == other.start for one, other in pairwise(found)):
            return slice(found[0].start, found[-1].stop)
        return np.concatenate([np.arange(place.start, place.stop) for place in found] or [np.empty(0, np.int64)])


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            raise UsageError(f"the model's parameter {name} is of {parameter.dtype}: all have to be of torch.float32")
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _still(module: nn.Module) -> dict[str, Tensor]:
    frozen = {name: parameter for name, parameter in module.named_parameters() if not parameter.requires_grad}
    kept = module.state_dict().keys()
    return frozen | {name: buffer for name, buffer in module.named_buffers() if name in kept and _changes(buffer)}


def _changes(buffer: Tensor) -> bool:
    return buffer.is_floating_point() or (buffer.numel() == 1 and buffer.dtype != torch.bool)
