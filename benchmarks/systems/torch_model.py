"""The benchmark's models in PyTorch, for systems that train such modules."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from workload import Array, Workload


def module_of(workload: Workload) -> nn.Sequential:
    """Return the model as every system begins with it."""
    if workload.model == "logistic":
        module = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    else:
        convolution = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        module = nn.Sequential(*convolution, nn.Linear(5408, 128), nn.ReLU(), nn.Linear(128, 10))
    with torch.no_grad():
        for into, weight in zip(module.parameters(), workload.weights, strict=True):
            into.copy_(torch.from_numpy(weight))
    return module


def tensor_of(images: Array) -> Tensor:
    """Return images as the module takes them, in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).float().div_(255).unsqueeze(1)


@torch.no_grad()
def accuracy(module: nn.Module, workload: Workload) -> float:
    """Return the share of test images that are told right."""
    found = torch.cat([module(tensor_of(part)).argmax(1) for part in np.array_split(workload.test_images, 10)])
    return float((found.numpy() == workload.test_labels).mean())
