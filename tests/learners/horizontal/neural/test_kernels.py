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
    assert {"softmax_loss", "_scale", "_linear", "_linear_step", "_add_3", "_spread", "_correlate_5"} <= called
    assert [name for name in sorted(called) if not loops[name].targetoptions.get("forceinline")] == []


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
    assert fits[0].loss == fits[1].loss
