"""``TorchTrainer``: any module of PyTorch as a trainer; on CPUs most sequential ones run on hand-written steps.

The module lives in one flat vector, which a training overwrites in place; what is allocated in a step are activations.
All random numbers come from the training's generator: the order of examples, augmentation, drop-out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unseen.errors import DataError, UsageError
from unseen.learners.horizontal.neural.batches import Array, Augment, Batches, as_floats, minibatches, orders, taken
from unseen.learners.horizontal.neural.descent import Descent, Sink
from unseen.learners.horizontal.neural.engines import Autograd, LinearSoftmax, engine_for
from unseen.learners.horizontal.neural.example_gradients import example_gradients
from unseen.learners.horizontal.neural.flat import Flat
from unseen.learners.horizontal.neural.generator import seeded
from unseen.learners.horizontal.neural.losses import Measure, loss_named, metrics_named
from unseen.learners.horizontal.neural.stacked import Member, fits, has_buffers
from unseen.learners.horizontal.process import Correction, Examples, Fit, LocalPlan, Vector

Convert = Callable[[Array], Array]
Assigned = tuple[Examples, np.random.Generator, Correction]
"""A client's examples, randomness, and the correction of its gradients."""

_CHUNK = 500
"""Examples that are evaluated at a time."""
_SMALL, _FEW = 10_000, 32
"""On a CPU: the size of models that are trained in groups, and how large these are; their weights stay in a cache."""
_MOST, _NUMBERS = 256, 1 << 28
"""On a GPU: clients of a group at most, and numbers of all their models (1 GB)."""


class TorchTrainer:
    """A module, what it is trained for, and the flat vector that it lives in; not to be shared by threads.

    Args:
        build: Returns a new module; its initial parameters are drawn from PyTorch's generator.
        loss: By name (``losses.LOSSES``), or a function of outputs and labels that returns the mean over a batch.
        metrics: Further metrics of ``evaluate``: names (``losses.METRICS``), or functions by name; ``None`` means
            those that go with the loss.
        convert: Makes what the module takes of examples' inputs.
        augment: Changes the inputs of a training's minibatches at random.
        device: Where the module lives.

    Raises:
        UsageError: The module cannot be trained, or a name is unknown.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        *,
        loss: str | Measure = "cross_entropy",
        metrics: Mapping[str, Measure] | tuple[str, ...] | None = None,
        convert: Convert = as_floats,
        augment: Augment | None = None,
        device: str = "cpu",
    ) -> None:
        self._build, self._convert, self._augment = build, convert, augment
        self._loss = loss_named(loss)
        self._metrics = metrics_named(metrics, self._loss)
        self._flat = Flat(_seeded(build, 0), torch.device(device))
        self._engine = engine_for(self._flat, self._loss)
        self.size = self._flat.size
        """How many numbers a model has, buffers included."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Parameters and buffers by name, in the order in which they lie in the vector."""
        return self._flat.shapes

    @property
    def group(self) -> int:
        """How many clients ``fit_many`` should train at once; 1 if they are trained faster one by one.

        It depends on model and device alone.
        """
        if self._augment is not None or has_buffers(self._flat):
            return 1
        if self._flat.vector.device.type != "cpu":
            return max(1, min(_MOST, _NUMBERS // self.size))
        small = isinstance(self._engine, Autograd) and self.size <= _SMALL
        return _FEW if small else 1

    def settle(self) -> None:
        """Prepare the process that is going to train: one thread, deterministic algorithms on a GPU."""
        torch.set_num_threads(1)
        if self._flat.vector.device.type != "cpu":
            torch.use_deterministic_algorithms(True)

    def initial(self, seed: int) -> Vector:
        """Return a fresh model; the same for the same seed and version of PyTorch."""
        fresh = Flat(_seeded(self._build, seed), torch.device("cpu"))
        return fresh.model()

    def fit(
        self, model: Vector, examples: Examples, plan: LocalPlan, rng: np.random.Generator, correction: Correction
    ) -> Fit:
        """Return ``model`` trained; neither it nor the examples are changed.

        Raises:
            DataError: There are no examples, or the model does not take such inputs or labels.
        """
        self._flat.load(model)
        descent = Descent(self._flat, plan, correction)
        with self._engine.randomness(int(rng.integers(2**62))):
            total = self._train(examples, descent, plan, rng)
        steps, seen = taken(len(examples), plan)
        return Fit(self._flat.model(), steps, total / seen if seen else 0.0)

    def fit_many(self, model: Vector, plan: LocalPlan, cohort: Sequence[Assigned]) -> list[Fit]:
        """Return ``model`` trained by each of a group of clients, all at once; see ``stacked`` for when it pays.

        Raises:
            DataError: A client has no examples, or the model does not take such inputs or labels.
            UsageError: The model has buffers, or augmentation is asked for.
        """
        if self._augment is not None:
            raise UsageError("trainings with augmentation are done one client at a time")
        self._flat.load(model)
        members = [Member(*self._converted(examples), rng, correction) for examples, rng, correction in cohort]
        try:
            return fits(self._flat, self._loss.mean, plan, members)
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"the model cannot be trained on the examples of these clients at once: {error}") from error

    def _train(self, examples: Examples, descent: Descent, plan: LocalPlan, rng: np.random.Generator) -> float:
        """Take all steps of a plan; return the sum of the examples' losses."""
        engine = self._engine
        if isinstance(engine, LinearSoftmax) and descent.direct and self._augment is None:
            read, classes = self._converted(examples, bytes_too=True)
            if engine.takes(read):
                return engine.passes(read, classes, orders(len(classes), plan, rng), plan.batch, descent.sink)
        batches, total = Batches(*self._converted(examples), self._flat.vector.device), 0.0
        for rows in minibatches(batches.count, plan, rng):
            inputs, labels = batches.some(rows, self._augment, rng)
            total += len(rows) * self._engine.step(inputs, labels, descent.sink, training=True)
            descent.finish()
        return total

    def gradient(self, model: Vector, examples: Examples) -> tuple[Vector, float]:
        """Return gradient and value of the mean loss over all examples, of the model as it is used.

        Normalisation uses its running means, and nothing is dropped; buffers have a gradient of 0.

        Raises:
            DataError: There are no examples, or the model does not take such inputs or labels.
        """
        inputs, labels = self._converted(examples)
        self._flat.load(model)
        gradient, loss = torch.zeros_like(self._flat.vector), 0.0
        targets = self._flat.views(gradient)
        batches = Batches(inputs, labels, self._flat.vector.device)
        for rows in _stretches(len(labels)):
            share = len(rows) / len(labels)
            sink = Sink(targets, 1.0, share)
            loss += share * self._engine.step(*batches.some(rows), sink, training=False)
        return gradient.cpu().numpy(), loss

    def evaluate(self, model: Vector, examples: Examples) -> dict[str, float]:
        """Return ``loss`` and the metrics, means over all examples.

        Raises:
            DataError: There are no examples, or the model does not take such inputs or labels.
        """
        self._flat.load(model)
        measures = {"loss": self._loss.mean, **self._metrics}
        found = dict.fromkeys(measures, 0.0)
        for rows in _stretches(len(examples)):
            part = Examples(examples.inputs[rows], examples.labels[rows])
            batches = Batches(*self._converted(part), self._flat.vector.device)
            inputs, labels = batches.some(np.arange(len(rows)))
            outputs = self._engine.outputs(inputs)
            for name, measure in measures.items():
                found[name] += len(rows) / len(examples) * float(_measured(measure, outputs, labels))
        if not len(examples):
            raise DataError("there are no examples to evaluate on")
        return found

    def example_gradients(self, model: Vector, examples: Examples) -> Iterator[NDArray[np.float32]]:
        """Yield the gradients of the loss of each example alone, shape (some, size), in order.

        They are those of the model as it is used, as in ``gradient``; so no example changes that of another.

        Raises:
            DataError: There are no examples, or the model does not take such inputs or labels.
        """
        inputs, labels = self._converted(examples)
        self._flat.load(model)
        return example_gradients(self._flat, self._loss.mean, Batches(inputs, labels, self._flat.vector.device))

    def part(self, *names: str) -> slice | NDArray[np.int64]:
        """Return where in the vector the parameters and buffers lie whose names begin with one of ``names``."""
        return self._flat.part(names)

    def _converted(self, examples: Examples, *, bytes_too: bool = False) -> tuple[Array, Array]:
        """Return inputs as the module takes them, or bytes that it takes as floats, and labels as the loss does."""
        if not len(examples):
            raise DataError("there are no examples")
        if len(examples.inputs) != len(examples.labels):
            raise DataError(f"{len(examples.inputs)} inputs have {len(examples.labels)} labels: expected one for each")
        labels = self._loss.labels(examples.labels)
        if bytes_too and self._convert is as_floats and examples.inputs.dtype == np.uint8:
            return examples.inputs, labels
        return self._convert(examples.inputs), labels


def _seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    with seeded(seed):
        return build()


def _stretches(count: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, _CHUNK):
        yield np.arange(start, min(count, start + _CHUNK))


def _measured(measure: Measure, outputs: Tensor, labels: Tensor) -> Tensor:
    try:
        return measure(outputs, labels)
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(
            f"labels of shape {tuple(labels.shape)} do not fit outputs of shape {tuple(outputs.shape)}: {error}"
        ) from error
