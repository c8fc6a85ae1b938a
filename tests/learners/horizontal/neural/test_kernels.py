"""Loops in machine code give the same bits in every process, and bytes become exactly the quotients they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from numba.core.registry import CPUDispatcher

from unseen.learners.horizontal.neural import kernels, models
from unseen.learners.horizontal.neural.batches import as_floats
from unseen.learners.horizontal.neural.trainer import TorchTrainer
from unseen.learners.horizontal.process import Correction, Examples, LocalPlan, stream


def test_bytes_are_divided_as_numpy_divides_them() -> None:
    pictures = np.arange(1024, dtype=np.uint32).astype(np.uint8).reshape(4, 16, 16)
    np.testing.assert_array_equal(as_floats(pictures), pictures.astype(np.float32) / np.float32(255), strict=True)
    turned = pictures.transpose(2, 0, 1)[::3]
    np.testing.assert_array_equal(as_floats(turned), turned.astype(np.float32) / np.float32(255), strict=True)


def test_whatever_a_loop_calls_is_compiled_into_it() -> None:
    # Else a process that compiles the loop may call another machine code than one that finds it on disk, with sums in
    # another order: measured, the first run on a machine had other last bits than all later ones.
    loops = {name: value for name, value in vars(kernels).items() if isinstance(value, CPUDispatcher)}
    called = {name for loop in loops.values() for name in loop.py_func.__code__.co_names if name in loops}
    assert {
        "softmax_loss",
        "_exponentials",
        "_scale",
        "_linear",
        "_linear_step",
        "_add_3",
        "_spread",
        "_correlate_5",
    } <= called
    assert [name for name in sorted(called) if not loops[name].targetoptions.get("forceinline")] == []


def test_the_softmax_loss_is_that_of_64_bits_but_for_rounding() -> None:
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(40, 7)) * 10.0 ** rng.integers(-6, 4, (40, 1))
    outputs, labels = spread.astype(np.float32), rng.integers(0, 7, 40)
    change = np.empty_like(outputs)
    loss = kernels.softmax_loss(outputs, labels, change)
    exact = outputs.astype(np.float64) - outputs.max(1, keepdims=True)
    logs = exact - np.log(np.exp(exact).sum(1, keepdims=True))
    np.testing.assert_allclose(loss, -logs[np.arange(40), labels].mean(), rtol=1e-6)
    np.testing.assert_allclose(change, (np.exp(logs) - np.eye(7)[labels]) / 40, rtol=2e-6, atol=2e-9)


@pytest.mark.parametrize("worst", [np.nan, np.inf])
def test_outputs_that_are_not_finite_give_a_loss_that_is_none(worst: float) -> None:
    outputs, change = np.array([[0, worst, 1]], np.float32), np.empty((1, 3), np.float32)
    assert np.isnan(kernels.softmax_loss(outputs, np.zeros(1, np.int64), change))
    assert np.isnan(change).any()


@pytest.mark.parametrize("classes", [2, 5])
def test_a_linear_model_is_trained_on_bytes_as_on_the_quotients_bit_by_bit(classes: int) -> None:
    rng = np.random.default_rng(0)
    pictures, labels = rng.integers(0, 256, (23, 3, 5)).astype(np.uint8), rng.integers(0, classes, 23)
    trainer, plan = (
        TorchTrainer(lambda: models.logistic_regression(15, classes)),
        LocalPlan(0.3, 2, 7, weight_decay=0.1),
    )
    fits = [
        trainer.fit(trainer.initial(0), Examples(inputs, labels), plan, stream(0, "fit"), Correction())
        for inputs in (pictures, as_floats(pictures), np.asfortranarray(pictures))
    ]
    assert len({fit.model.tobytes() for fit in fits}) == 1
    compiled = len(kernels.linear_pass.signatures)
    pictures.flags.writeable = labels.flags.writeable = False
    trainer.fit(trainer.initial(0), Examples(pictures, labels), plan, stream(0, "fit"), Correction())
    # Files that are mapped into memory are for reading only: no worker compiles a loop of its own for them.
    assert len(kernels.linear_pass.signatures) == compiled
    assert fits[0].loss == fits[1].loss
