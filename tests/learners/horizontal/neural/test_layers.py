"""Every kind of layer that is written out, in every geometry, against the same module under autograd."""

import numpy as np
import pytest
import torch
from torch import nn

from unseen.learners.horizontal.neural.descent import Sink
from unseen.learners.horizontal.neural.engines import Autograd, Chain, engine_for
from unseen.learners.horizontal.neural.flat import Flat
from unseen.learners.horizontal.neural.losses import loss_named
from unseen.learners.horizontal.neural.trainer import TorchTrainer
from unseen.learners.horizontal.process import Correction, Examples, LocalPlan, stream

CPU = torch.device("cpu")


def pooled(channels=1, filters=4, **geometry):
    return [nn.Conv2d(channels, filters, **geometry), nn.ReLU(), nn.MaxPool2d(2)]


NETWORKS = {
    "3x3": (pooled(kernel_size=3), (1, 9, 12)),
    "5x5": (pooled(kernel_size=5), (1, 9, 12)),
    "three channels": (pooled(3, kernel_size=3), (3, 8, 8)),
    "padding": (pooled(2, kernel_size=5, padding=(2, 1)), (2, 7, 6)),
    "pool before relu": ([nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.ReLU()], (1, 8, 8)),
    "many channels": (pooled(5, kernel_size=3), (5, 8, 8)),
    "strided": (pooled(kernel_size=3, stride=2), (1, 12, 12)),
    "groups": (pooled(4, kernel_size=3, groups=2), (4, 8, 8)),
    "dilated": (pooled(kernel_size=2, dilation=2), (1, 8, 8)),
    "no pool": ([nn.Conv2d(1, 4, 3), nn.ReLU()], (1, 6, 6)),
    "two": ([*pooled(kernel_size=3), *pooled(4, 6, kernel_size=3)], (1, 14, 13)),
    "dense on a sequence": ([nn.Linear(5, 7), nn.ReLU()], (3, 5)),
}


def network(name):
    layers, shape = NETWORKS[name]
    inner = nn.Sequential(*layers)(torch.zeros(2, *shape)).flatten(1).shape[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inner, 6), nn.ReLU(), nn.Linear(6, 3)), shape


def gradients(engine, flat, inputs, labels, keep, factor):
    from_here = torch.arange(flat.size, dtype=torch.float32) / flat.size

    loss = engine.step(inputs, labels, Sink(flat.views(from_here), keep, factor), training=True)
    return loss, from_here.numpy()


@pytest.mark.parametrize("name", NETWORKS)
def test_chains_equal_autograd(name):
    torch.manual_seed(0)
    module, shape = network(name)
    flat, loss = Flat(module, CPU), loss_named("cross_entropy")
    inputs, labels = torch.randn(7, *shape), torch.arange(7) % 3
    chain, autograd = engine_for(flat, loss), Autograd(flat, loss)
    assert type(chain) is Chain
    torch.testing.assert_close(chain.outputs(inputs), autograd.outputs(inputs), rtol=1e-4, atol=1e-6)
    for keep, factor in ((1.0, -0.5), (0.9, 1.0), (0.0, 1.0)):
        mine = gradients(chain, flat, inputs, labels, keep, factor)
        theirs = gradients(autograd, flat, inputs, labels, keep, factor)
        assert mine[0] == pytest.approx(theirs[0], rel=1e-5)
        np.testing.assert_allclose(mine[1], theirs[1], rtol=1e-4, atol=1e-6)


def test_where_several_are_the_greatest_the_first_one_gets_the_gradient_and_zeros_get_none():
    conv = nn.Conv2d(1, 1, 3)
    with torch.no_grad():
        conv.weight.zero_()
        conv.weight[0, 0, 0, 0] = 1
        conv.bias.zero_()
    module = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1, 2))
    with torch.no_grad():
        module[4].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    flat, loss = Flat(module, CPU), loss_named("cross_entropy")
    chain, autograd = engine_for(flat, loss), Autograd(flat, loss)
    for corner in ([[5.0, 5.0], [5.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]], [[-1.0, -2.0], [-3.0, -4.0]], [[1, 2], [3, 3]]):
        inputs = torch.arange(16.0).view(1, 1, 4, 4) / 16
        inputs[0, 0, :2, :2] = torch.tensor(corner)
        labels = torch.zeros(1, dtype=torch.long)
        mine = gradients(chain, flat, inputs, labels, 0.0, 1.0)
        np.testing.assert_allclose(mine[1], gradients(autograd, flat, inputs, labels, 0.0, 1.0)[1], atol=1e-6)


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(4, 3, bias=False)),
        nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)),
        nn.Sequential(nn.Conv2d(1, 2, 3, padding="same"), nn.Flatten(), nn.Linear(8, 3)),
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(8, 3)),
        nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.MaxPool2d(2, stride=1), nn.Flatten(), nn.Linear(2, 3)),
    ],
    ids=["no bias", "tanh", "same padding", "reflected", "other pool"],
)
def test_what_no_layer_is_written_for_is_left_to_autograd(module):
    assert type(engine_for(Flat(module, CPU), loss_named("cross_entropy"))) is Autograd


def test_modules_that_somebody_looks_into_are_left_to_autograd():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    seen = []
    module[1].register_forward_hook(lambda *_: seen.append(1))
    engine = engine_for(Flat(module, CPU), loss_named("cross_entropy"))
    engine.outputs(torch.zeros(1, 4))
    assert type(engine) is Autograd
    assert seen == [1]


@pytest.mark.parametrize("tied", [True, False], ids=["used twice", "frozen"])
def test_layers_that_share_or_freeze_parameters_are_left_to_autograd(tied):
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    module = nn.Sequential(first, nn.ReLU(), first if tied else second.requires_grad_(False))
    assert type(engine_for(Flat(module, CPU), loss_named("cross_entropy"))) is Autograd


def test_numbers_that_are_not_finite_are_not_hidden():
    module, shape = network("3x3")
    trainer = TorchTrainer(lambda: module)
    examples = Examples(np.ones((4, *shape), np.float32), np.zeros(4, np.int64))
    model = trainer.initial(0)
    model[trainer.part("0.weight")] = np.nan
    fit = trainer.fit(model, examples, LocalPlan(), stream(0), Correction())
    assert np.isnan(fit.model).any()
    model[:] = np.inf
    assert not np.isfinite(trainer.fit(model, examples, LocalPlan(), stream(0), Correction()).loss)
