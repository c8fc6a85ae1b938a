"""The rule by which gradients change a model: SGD with momentum, weight decay and a correction, over flat vectors.

A minibatch leaves its gradient g in a target as keep · target + factor · g, which costs no pass of its own where g is
the result of a matrix product. The target is the model itself (keep = 1 − η·decay, factor −η) or, with momentum μ, the
velocity (keep μ, factor 1). What does not depend on the gradient is added afterwards, flat.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unseen.errors import UsageError
from unseen.learners.horizontal.neural.flat import Flat
from unseen.learners.horizontal.process import Correction, LocalPlan, Vector


@dataclass(frozen=True, slots=True, eq=False)
class Sink:
    """Where gradients go, parameter by parameter: target ← keep · target + factor · gradient."""

    targets: list[Tensor]
    keep: float
    factor: float

    def put(self, index: int, gradient: Tensor) -> None:
        """Add the gradient of one parameter."""
        target = self.targets[index]
        if self.keep == 0:
            torch.mul(gradient, self.factor, out=target)
            return
        if self.keep != 1:
            target.mul_(self.keep)
        target.add_(gradient, alpha=self.factor)

    def put_product(self, index: int, left: Tensor, right: Tensor) -> None:
        """Add the gradient left · right, of shape (m, n) or, for a vector on the right, (m,)."""
        target = self.targets[index]
        add = target.addmm_ if right.dim() == 2 else target.addmv_
        add(left, right, beta=self.keep, alpha=self.factor)


class Descent:
    """One training's rule; its velocity begins at 0, as that of ``torch.optim.SGD`` does."""

    def __init__(self, flat: Flat, plan: LocalPlan, correction: Correction) -> None:
        self._plan = plan
        self._weights = flat.weights
        self._decay = plan.weight_decay + (0.0 if correction.anchor is None else correction.pull)
        self._shift = fixed_part(flat, correction)
        self._velocity: Tensor | None = None
        if plan.momentum:
            self._velocity = torch.zeros_like(self._weights)
            self.sink = Sink(flat.views(self._velocity), plan.momentum, 1.0)
        else:
            rate = plan.learning_rate
            self.sink = Sink(flat.weight_views, 1 - rate * self._decay, -rate)

    @property
    def direct(self) -> bool:
        """Whether a gradient in the sink is all that a step is."""
        return self._velocity is None and self._shift is None

    def finish(self) -> None:
        """Complete a step whose gradient is in the sink."""
        rate = self._plan.learning_rate
        if self._velocity is None:
            if self._shift is not None:
                self._weights.add_(self._shift, alpha=-rate)
            return
        if self._decay:
            self._velocity.add_(self._weights, alpha=self._decay)
        if self._shift is not None:
            self._velocity.add_(self._shift)
        self._weights.add_(self._velocity, alpha=-rate)


def fixed_part(flat: Flat, correction: Correction) -> Tensor | None:
    """Return the part of a correction that is the same in all steps, drift − pull · anchor, or ``None`` for zeros."""
    shift: Vector | None = None
    if correction.drift is not None:
        shift = _of_size(flat, correction.drift, "drift")
    if correction.anchor is not None and correction.pull:
        pulled = np.float32(correction.pull) * _of_size(flat, correction.anchor, "anchor")
        shift = -pulled if shift is None else shift - pulled
    return None if shift is None else torch.from_numpy(shift[: flat.trained].copy()).to(flat.vector.device)


def _of_size(flat: Flat, vector: Vector, name: str) -> Vector:
    if vector.shape != (flat.size,):
        raise UsageError(f"the {name} of a correction has shape {vector.shape}, expected ({flat.size},)")
    return vector
