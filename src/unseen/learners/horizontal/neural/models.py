"""Models of the field's papers and tutorials, as modules of PyTorch; any other module does as well.

Pictures come as (n, height, width) or (n, channels, height, width), numbers as (n, features), texts as (n, length)
of integers. Names of layers say what ``Trainer.part`` needs: ``head`` is the last layer, ``norm`` a normalisation.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from unseen.errors import UsageError

Norm = Literal["batch", "group"]


class Planes(nn.Module):
    """Pictures with their channels, shape (n, channels, height, width), of those without."""

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self._channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return a view of ``x``."""
        return x.reshape(len(x), self._channels, *x.shape[-2:])


def logistic_regression(features: int = 784, classes: int = 10) -> nn.Sequential:
    """Return a linear softmax model, which begins at 0: 7,850 numbers."""
    head = nn.Linear(features, classes)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), head=head))


def perceptron(features: int = 784, hidden: tuple[int, ...] = (200, 200), classes: int = 10) -> nn.Sequential:
    """Return a multi-layer perceptron with rectifiers: 199,210 numbers.

    With 784-200-200-10 it is the "2NN" of McMahan et al., "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", AISTATS 2017, section 3, and the model of TensorFlow Federated's tutorial on privacy.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (before, after) in enumerate(zip((features, *hidden), hidden, strict=False), 1):
        layers[f"dense{number}"] = nn.Linear(before, after)
        layers[f"relu{number}"] = nn.ReLU()
    layers["head"] = nn.Linear(hidden[-1] if hidden else features, classes)
    return nn.Sequential(layers)


@dataclass(frozen=True, slots=True)
class Pictures:
    """What a network for pictures is made for."""

    channels: int = 1
    side: int = 28
    classes: int = 10


DIGITS = Pictures()


def tutorial_cnn(pictures: Pictures = DIGITS) -> nn.Sequential:
    """Return the tutorial's network: 32 filters 3×3, 2×2 maxima, dense 128, dense classes; 693,962 numbers."""
    inner = 32 * ((pictures.side - 2) // 2) ** 2
    return nn.Sequential(
        OrderedDict(
            planes=Planes(pictures.channels),
            conv=nn.Conv2d(pictures.channels, 32, 3),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dense=nn.Linear(inner, 128),
            relu2=nn.ReLU(),
            head=nn.Linear(128, pictures.classes),
        )
    )


def bigger_cnn(pictures: Pictures = DIGITS, dropout: float = 0.25) -> nn.Sequential:
    """Return its bigger variant: 32 and 64 filters 3×3, each with 2×2 maxima, drop-out, dense 128; 225,034 numbers.

    It has the layers of the network of S. Reddi et al., "Adaptive Federated Optimization", ICLR 2021, and 2×2 maxima
    after the first convolution, too: the dense layer, the costly one, has 1,600 inputs instead of 9,216.
    """
    inner = 64 * (((pictures.side - 2) // 2 - 2) // 2) ** 2
    return nn.Sequential(
        OrderedDict(
            planes=Planes(pictures.channels),
            conv1=nn.Conv2d(pictures.channels, 32, 3),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(32, 64, 3),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dropout1=nn.Dropout(dropout),
            dense=nn.Linear(inner, 128),
            relu3=nn.ReLU(),
            dropout2=nn.Dropout(2 * dropout),
            head=nn.Linear(128, pictures.classes),
        )
    )


def niid_cnn(pictures: Pictures = DIGITS) -> nn.Sequential:
    """Return the network of Q. Li et al., "Federated Learning on Non-IID Data Silos", ICDE 2022, section 5.

    6 and 16 filters 5×5, each with 2×2 maxima, dense 120, 84 and classes; 44,426 numbers for digits.
    """
    inner = 16 * (((pictures.side - 4) // 2 - 4) // 2) ** 2
    return nn.Sequential(
        OrderedDict(
            planes=Planes(pictures.channels),
            conv1=nn.Conv2d(pictures.channels, 6, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dense1=nn.Linear(inner, 120),
            relu3=nn.ReLU(),
            dense2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            head=nn.Linear(84, pictures.classes),
        )
    )


def normalised_cnn(pictures: Pictures = DIGITS, norm: Norm = "batch") -> nn.Sequential:
    """Return a network with normalisation, for FedBN: 16 and 32 filters 3×3, dense classes.

    Raises:
        UsageError: There is no such normalisation.
    """
    if norm not in ("batch", "group"):
        raise UsageError(f"there is no normalisation {norm!r}: choose batch or group")
    inner = 32 * (((pictures.side - 2) // 2 - 2) // 2) ** 2
    return nn.Sequential(
        OrderedDict(
            planes=Planes(pictures.channels),
            conv1=nn.Conv2d(pictures.channels, 16, 3, bias=False),
            norm1=nn.BatchNorm2d(16) if norm == "batch" else nn.GroupNorm(4, 16),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, 3, bias=False),
            norm2=nn.BatchNorm2d(32) if norm == "batch" else nn.GroupNorm(4, 32),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            head=nn.Linear(inner, pictures.classes),
        )
    )


class CharacterTransformer(nn.Module):
    """A small causal transformer: from integers (n, length) to logits of each next character, (n, length, characters).

    Pre-normalised blocks, learned positions; texts may be shorter than ``length``, not longer.
    """

    def __init__(self, characters: int, length: int = 80, width: int = 64, heads: int = 4, blocks: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.position = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, characters)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        h = self.embedding(x) + self.position[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.head(self.norm(h))
        return logits


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        parts = self.attention(self.norm1(x)).view(n, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = parts[0], parts[1], parts[2]
        # Written out, since PyTorch's fused attention has no gradients of single examples.
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        scores = (queries @ keys.transpose(-2, -1) / queries.shape[-1] ** 0.5).masked_fill(later, -torch.inf)
        seen = scores.softmax(-1) @ values
        x = x + self.merge(seen.transpose(1, 2).reshape(n, length, width))
        result: Tensor = x + self.inner(self.norm2(x))
        return result
