"""Loops in machine code give the same bits in every process, and bytes become exactly the quotients they stand for."""

from __future__ import annotations

import numpy as np
from numba.core.registry import CPUDispatcher

from unseen.learners.horizontal.neural import kernels
from unseen.learners.horizontal.neural.batches import as_floats


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
    assert {"softmax_loss", "_linear", "_linear_step", "_add_3", "_spread", "_correlate_5"} <= called
    assert [name for name in sorted(called) if not loops[name].targetoptions.get("forceinline")] == []
