"""PyTorch's own generator belongs to the whole process: whoever seeds it holds it meanwhile, also against threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

_HELD = threading.RLock()


@contextmanager
def seeded(seed: int, devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Draw from generators that begin at ``seed``; afterwards they are what they were.

    Args:
        seed: The same seed gives the same numbers.
        devices: Those with generators of their own, other than the CPU.
    """
    with _HELD, torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield
