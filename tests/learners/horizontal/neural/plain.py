"""What the trainer has to equal: autograd and ``torch.optim.SGD`` over the same minibatches, and examples for it."""

import numpy as np
import torch
from torch.nn import functional

from unseen.learners.horizontal.neural.batches import as_floats, minibatches
from unseen.learners.horizontal.neural.models import Pictures
from unseen.learners.horizontal.neural.warm_start import named_of
from unseen.learners.horizontal.process import Correction, Examples

SMALL = Pictures(channels=1, side=14, classes=5)


def pictures(count=30, side=14, classes=5, seed=0, channels=None):
    rng = np.random.default_rng(seed)
    shape = (count, side, side) if channels is None else (count, channels, side, side)
    return Examples(rng.integers(0, 256, shape, np.uint8), rng.integers(0, classes, count))


def texts(count=12, length=9, characters=11, seed=0):
    rng = np.random.default_rng(seed)
    return Examples(rng.integers(0, characters, (count, length)), rng.integers(0, characters, (count, length)))


def cross_entropy(outputs, labels):
    return functional.cross_entropy(outputs.flatten(0, -2), labels.flatten())


def module_of(build, trainer, model):
    module = build()
    state = {name: torch.tensor(values) for name, values in named_of(trainer.shapes, model).items()}
    module.load_state_dict(state)
    return module


def vector_of(module, trainer):
    state = module.state_dict()
    return np.concatenate([state[name].float().numpy().ravel() for name in trainer.shapes])


def trained(build, trainer, examples, plan, rng, *, model, correction=Correction(), loss=cross_entropy):  # noqa: B008
    """Return (vector, mean loss) after a training by plain PyTorch."""
    module = module_of(build, trainer, model).train()
    rng.integers(2**62)  # the trainer's draw for drop-out
    inputs = torch.tensor(as_floats(examples.inputs) if examples.inputs.dtype != np.int64 else examples.inputs)
    labels = torch.tensor(examples.labels)
    sgd = torch.optim.SGD(
        module.parameters(), lr=plan.learning_rate, momentum=plan.momentum, weight_decay=plan.weight_decay
    )
    anchor, drift = correction.anchor, correction.drift
    total = seen = 0
    for rows in minibatches(len(labels), plan, rng):
        sgd.zero_grad()
        value = loss(module(inputs[rows]), labels[rows])
        value.backward()
        for name, parameter in module.named_parameters():
            if anchor is not None:
                parameter.grad += correction.pull * (parameter.detach() - _named(trainer, anchor, name))
            if drift is not None:
                parameter.grad += _named(trainer, drift, name)
        sgd.step()
        total, seen = total + len(rows) * value.item(), seen + len(rows)
    return vector_of(module, trainer), total / seen


def _named(trainer, vector, name):
    return torch.tensor(named_of(trainer.shapes, vector)[name])
