"""Many clients trained at once: their parameters stacked, one vectorised step for all; made for GPUs.

Measured on a CPU with 10 to 100 clients of 100 examples, it takes 2 to 14 times as long as hand-written layers do
one by one (1.3 for a perceptron with 16 hidden units), as long as autograd for a network with group normalisation and
for a small transformer, and a third of autograd's time for a perceptron with 8 hidden units: there calls are the cost.
``TorchTrainer.group`` is made of that.

Results are those of ``fit`` up to rounding. Which clients are trained together changes their last bits, so that a run
that has to be the same bit for bit cuts its cohorts into groups by their order alone, never by who is free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap

from unseen.errors import UsageError
from unseen.learners.horizontal.neural.batches import Array, Batches, Rows, minibatches, taken
from unseen.learners.horizontal.neural.descent import fixed_part
from unseen.learners.horizontal.neural.flat import Flat
from unseen.learners.horizontal.neural.generator import seeded
from unseen.learners.horizontal.neural.losses import Measure
from unseen.learners.horizontal.process import Correction, Fit, LocalPlan


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """One client of a group: examples as the module takes them, its randomness, the correction of its gradients."""

    inputs: Array
    labels: Array
    rng: np.random.Generator
    correction: Correction


class Stack:
    """The parameters of a group of clients, shape (clients, numbers), all beginning at what is in ``flat``.

    Raises:
        UsageError: The module has buffers that training changes, as those of batch normalisation.
    """

    def __init__(self, flat: Flat, loss: Measure, plan: LocalPlan, members: Sequence[Member]) -> None:
        if has_buffers(flat):
            raise UsageError("models with buffers, such as batch normalisation, are trained one client at a time")
        self._flat, self._plan, count = flat, plan, len(members)
        device = flat.vector.device
        self._weights = flat.weights.repeat(count, 1)
        self._velocity = torch.zeros_like(self._weights) if plan.momentum else None
        shifts = [fixed_part(flat, member.correction) for member in members]
        some = any(shift is not None for shift in shifts)
        zero = torch.zeros_like(flat.weights)
        self._shift = torch.stack([zero if shift is None else shift for shift in shifts]) if some else None
        pulls = [0.0 if member.correction.anchor is None else member.correction.pull for member in members]
        self._decay = torch.tensor(pulls, device=device)[:, None] + plan.weight_decay
        self._step = vmap(grad_and_value(_loss_of(flat, loss)), randomness="different")

    def step(self, inputs: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        """Take one step with a minibatch per client, shape (clients, batch, …); return their mean losses.

        ``mask`` has 0 where a minibatch has no example; a client without any stays where it is.
        """
        gradients, losses = self._step(self._named(), inputs, labels, mask)
        change = torch.cat([gradient.reshape(len(mask), -1) for gradient in gradients.values()], 1)
        change += self._decay * self._weights
        if self._shift is not None:
            change += self._shift
        if self._velocity is not None:
            change = self._velocity.mul_(self._plan.momentum).add_(change)
        self._weights -= self._plan.learning_rate * mask.any(1)[:, None] * change
        result: Tensor = losses
        return result

    def models(self) -> NDArray[np.float32]:
        """Return the clients' models, shape (clients, size)."""
        found = self._flat.vector.repeat(len(self._weights), 1)
        found[:, : self._flat.trained] = self._weights
        return found.cpu().numpy()

    def _named(self) -> dict[str, Tensor]:
        flat, count = self._flat, len(self._weights)
        names = list(flat.places)[: len(flat.parameters)]
        return {name: self._weights[:, flat.places[name]].view(count, *flat.shapes[name]) for name in names}


def has_buffers(flat: Flat) -> bool:
    """Return whether a training changes more than parameters."""
    return any(name in flat.shapes for name, _ in flat.module.named_buffers())


def fits(flat: Flat, loss: Measure, plan: LocalPlan, members: Sequence[Member]) -> list[Fit]:
    """Return the training of each client, from what is in ``flat``."""
    flat.module.train()
    stack, counts = Stack(flat, loss, plan, members), [len(member.labels) for member in members]
    joined = Batches(
        np.concatenate([member.inputs for member in members]),
        np.concatenate([member.labels for member in members]),
        flat.vector.device,
    )
    starts, totals = np.cumsum([0, *counts[:-1]]), np.zeros(len(members))
    # Each client draws as it does alone.
    seed = sum(int(member.rng.integers(2**62)) for member in members) % 2**62
    with seeded(seed, [] if flat.vector.device.type == "cpu" else [flat.vector.device]):
        for rows, mask in _steps(counts, starts, plan, members):
            inputs, labels = joined.some(rows.ravel())
            weights = torch.from_numpy(mask).to(flat.vector.device)
            losses = stack.step(_grouped(inputs, rows), _grouped(labels, rows), weights)
            totals += losses.double().cpu().numpy() * mask.sum(1)
    done = [taken(count, plan) for count in counts]
    return [
        Fit(model, steps, total / seen if seen else 0.0)
        for model, (steps, seen), total in zip(stack.models(), done, totals, strict=True)
    ]


def _grouped(examples: Tensor, rows: Rows) -> Tensor:
    return examples.view(*rows.shape, *examples.shape[1:])


def _steps(
    counts: Sequence[int], starts: NDArray[np.int64], plan: LocalPlan, members: Sequence[Member]
) -> list[tuple[Rows, NDArray[np.float32]]]:
    """Return for each step the rows of all clients' minibatches, shape (clients, batch), and which of them count."""
    each = [
        [start + rows for rows in minibatches(count, plan, member.rng)]
        for count, start, member in zip(counts, starts, members, strict=True)
    ]
    width = min(plan.batch, max(counts))
    found = []
    for step in range(max(len(batches) for batches in each)):
        rows = np.zeros((len(each), width), np.int64)
        mask = np.zeros(rows.shape, np.float32)
        for client, batches in enumerate(each):
            if step < len(batches):
                size = len(batches[step])
                rows[client, :size], mask[client, :size] = batches[step], 1
        found.append((rows, mask))
    return found


def _loss_of(flat: Flat, loss: Measure):  # type: ignore[no-untyped-def]  # torch.func's own types are open
    singly = vmap(lambda output, label: loss(output.unsqueeze(0), label.unsqueeze(0)))

    def mean(parameters: dict[str, Tensor], x: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        values: Tensor = singly(functional_call(flat.module, parameters, (x,)), labels)
        return (values * mask).sum() / mask.sum().clamp(min=1)

    return mean
