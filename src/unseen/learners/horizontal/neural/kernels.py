"""Loops that a training step spends its time in: convolution of pictures, pooling, softmax loss, linear softmax models.

Convolutions run over whole planes, line after line: output p of a plane of width W is Σ w[i, j] · x[p + i·W + j]. The
last k − 1 outputs of every line mean nothing and are never read; in return every loop is one long vector operation.

Sums may be reordered by the compiler, once and for all: the same machine gives the same bits. All arrays are contiguous
and their shapes are checked by the callers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from unseen.kernels.jit import compiled

F = TypeVar("F", bound=Callable[..., Any])
Floats = NDArray[np.float32]

_REORDERED = {"reassoc", "contract", "nsz"}
ZERO = np.float32(0)
NONE = np.uint8(4)
"""The place of a maximum that is not positive."""
OF_BYTES = np.float32(257 / 65536), np.float32(1 / 255 - 257 / 65536)
"""Of a byte the first product is exact, and for all 256 the sum of both is x / 255, rounded once, in less time."""
AS_IT_IS = np.float32(1), ZERO
_LOG2_E = np.float32(1.44269504)
_LN2 = np.float32(0.693359375), np.float32(-2.12194440e-4)
_EXP = tuple(
    np.float32(c)
    for c in (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
)


def reordered(function: F) -> F:
    """Return ``function`` compiled as ``unseen.kernels.jit.compiled`` does, with sums in the order of vector lanes."""
    return cast("F", njit(cache=True, nogil=True, fastmath=_REORDERED)(function))


def woven(function: F) -> F:
    """Return ``function`` compiled as ``reordered`` does, and into every loop that calls it.

    A call could end in two machine codes of the same function, that of its own compilation or the caller's: which one
    depends on whether this process compiled the caller or found it on disk, and their sums differ in the last bits.
    """
    return cast("F", njit(cache=True, nogil=True, forceinline=True, fastmath=_REORDERED)(function))


def as_written(function: F) -> F:
    """Return ``function`` compiled into every loop that calls it, with its sums and products in their own order."""
    # Left out, ``fastmath`` would be that of whichever caller is compiled first.
    return cast("F", njit(cache=True, nogil=True, forceinline=True, fastmath=False)(function))


@compiled
def scale_bytes(x: NDArray[np.uint8], out: Floats) -> None:
    """Write x / 255, rounded once, to ``out``; both have shape (n,)."""
    _scale(x, OF_BYTES, out)


@as_written
def _scale(x: NDArray[np.generic], scale: tuple[np.float32, np.float32], out: Floats) -> None:
    """Write x · scale[0] + x · scale[1], ``OF_BYTES`` or ``AS_IT_IS``."""
    for place in range(len(x)):
        value = np.float32(x[place])
        out[place] = value * scale[0] + value * scale[1]


# --- convolution, rectifier and 2×2 maxima in one ----------------------------------------------------------------


@reordered
def convolve_pool(x: Floats, weight: Floats, bias: Floats, out: Floats, place: NDArray[np.uint8]) -> None:
    """Write max(0, 2×2 maxima of the convolution) to ``out`` and which of the four it is, or ``NONE``, to ``place``.

    ``x`` has shape (n, channels, height, width), ``weight`` (filters, channels, k, k) with k of 3 or 5, ``out`` and
    ``place`` (n, filters, (height − k + 1) // 2, (width − k + 1) // 2).
    """
    n, channels, height, width = x.shape
    k = weight.shape[2]
    plane = np.empty((height - k + 1) * width, np.float32)
    for example in range(n):
        for f in range(len(weight)):
            plane[:] = bias[f]
            for c in range(channels):
                if k == 3:
                    _add_3(plane, x[example, c].ravel(), weight[f, c], width)
                else:
                    _add_5(plane, x[example, c].ravel(), weight[f, c], width)
            _pool(plane, width, out[example, f], place[example, f])


@woven
def _add_3(plane: Floats, x: Floats, w: Floats, width: int) -> None:
    a, b, c = x, x[width:], x[2 * width :]
    for p in range(len(plane) - 2):
        plane[p] += (
            (w[0, 0] * a[p] + w[0, 1] * a[p + 1] + w[0, 2] * a[p + 2])
            + (w[1, 0] * b[p] + w[1, 1] * b[p + 1] + w[1, 2] * b[p + 2])
            + (w[2, 0] * c[p] + w[2, 1] * c[p + 1] + w[2, 2] * c[p + 2])
        )


@woven
def _add_5(plane: Floats, x: Floats, w: Floats, width: int) -> None:
    for i in range(5):
        a, v = x[i * width :], w[i]
        for p in range(len(plane) - 4):
            plane[p] += v[0] * a[p] + v[1] * a[p + 1] + v[2] * a[p + 2] + v[3] * a[p + 3] + v[4] * a[p + 4]


@woven
def _pool(plane: Floats, width: int, out: Floats, place: NDArray[np.uint8]) -> None:
    for y in range(len(out)):
        above, below = plane[2 * y * width :], plane[(2 * y + 1) * width :]
        line, where = out[y], place[y]
        for x in range(out.shape[1]):
            most, which = above[2 * x], np.uint8(0)
            if above[2 * x + 1] > most:
                most, which = above[2 * x + 1], np.uint8(1)
            if below[2 * x] > most:
                most, which = below[2 * x], np.uint8(2)
            if below[2 * x + 1] > most:
                most, which = below[2 * x + 1], np.uint8(3)
            if most <= ZERO:
                most, which = ZERO, NONE
            line[x], where[x] = most, which


@reordered
def convolve_pool_gradient(x: Floats, change: Floats, place: NDArray[np.uint8], weight: Floats, bias: Floats) -> None:
    """Write the gradients by weights and bias to ``weight`` and ``bias``, from those by the output, ``change``."""
    n, channels, height, width = x.shape
    k = weight.shape[2]
    plane = np.empty((height - k + 1) * width, np.float32)
    weight[:] = ZERO
    bias[:] = ZERO
    for example in range(n):
        for f in range(len(weight)):
            bias[f] += _spread(change[example, f], place[example, f], width, plane)
            for c in range(channels):
                if k == 3:
                    _correlate_3(plane, x[example, c].ravel(), weight[f, c], width)
                else:
                    _correlate_5(plane, x[example, c].ravel(), weight[f, c], width)


@woven
def _spread(change: Floats, place: NDArray[np.uint8], width: int, plane: Floats) -> np.float32:
    """Write ``change`` to where the maxima were in ``plane``, 0 elsewhere; return the sum of what was written."""
    total = ZERO
    plane[:] = ZERO
    for y in range(len(change)):
        for x in range(change.shape[1]):
            which = place[y, x]
            if which != NONE:
                plane[(2 * y + (which >> 1)) * width + 2 * x + (which & 1)] = change[y, x]
                total += change[y, x]
    return total


@woven
def _correlate_3(plane: Floats, x: Floats, w: Floats, width: int) -> None:
    a, b, c = x, x[width:], x[2 * width :]
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = ZERO
    for p in range(len(plane) - 2):
        d = plane[p]
        s0 += d * a[p]
        s1 += d * a[p + 1]
        s2 += d * a[p + 2]
        s3 += d * b[p]
        s4 += d * b[p + 1]
        s5 += d * b[p + 2]
        s6 += d * c[p]
        s7 += d * c[p + 1]
        s8 += d * c[p + 2]
    for i, three in enumerate(((s0, s1, s2), (s3, s4, s5), (s6, s7, s8))):
        for j in range(3):
            w[i, j] += three[j]


@woven
def _correlate_5(plane: Floats, x: Floats, w: Floats, width: int) -> None:
    for i in range(5):
        a = x[i * width :]
        s0 = s1 = s2 = s3 = s4 = ZERO
        for p in range(len(plane) - 4):
            d = plane[p]
            s0 += d * a[p]
            s1 += d * a[p + 1]
            s2 += d * a[p + 2]
            s3 += d * a[p + 3]
            s4 += d * a[p + 4]
        for j, total in enumerate((s0, s1, s2, s3, s4)):
            w[i, j] += total


# --- rectifier and 2×2 maxima alone ------------------------------------------------------------------------------


@reordered
def pool(x: Floats, out: Floats, place: NDArray[np.uint8]) -> None:
    """Write max(0, 2×2 maxima of ``x``) and their places; shapes (planes, h, w) and (planes, h // 2, w // 2)."""
    for index in range(len(x)):
        _pool(x[index].ravel(), x.shape[2], out[index], place[index])


@reordered
def pool_gradient(change: Floats, place: NDArray[np.uint8], out: Floats) -> None:
    """Write the gradient by the input, shape (planes, h, w), from that by the output."""
    for index in range(len(out)):
        _spread(change[index], place[index], out.shape[2], out[index].ravel())


# --- the loss ----------------------------------------------------------------------------------------------------


@woven
def softmax_loss(outputs: Floats, labels: NDArray[np.int64], change: Floats) -> float:
    """Return the mean cross-entropy of ``outputs``, shape (n, classes), and write its gradient to ``change``."""
    n, classes = outputs.shape
    total, share = 0.0, np.float32(1.0 / n)
    # Rows are not taken out as arrays, which are counted at some cost.
    for row in range(n):
        most = outputs[row, 0]
        for c in range(1, classes):
            most = max(most, outputs[row, c])
        for c in range(classes):
            change[row, c] = outputs[row, c] - most
        total -= np.float64(change[row, labels[row]])
    _exponentials(change.reshape(-1))
    for row in range(n):
        summed = ZERO
        for c in range(classes):
            summed += change[row, c]
        total += np.float64(np.log(summed))
        scale = share / summed
        for c in range(classes):
            change[row, c] *= scale
        change[row, labels[row]] -= share
    return float(total / n)


@as_written
def _exponentials(x: Floats) -> None:
    """Replace each number, none above 0, by its exponential, to within 0.8 units in the last place; e⁻⁸⁷ is the least.

    x = n · ln 2 + r, with ln 2 in two parts so that n · ``_LN2[0]`` is exact, and a polynomial for eʳ: S. Moshier,
    *Methods and Programs for Mathematical Functions*, 1989, ``expf`` of the Cephes library. Unlike calls of a C
    library, this is done for many numbers at once.
    """
    for place in range(len(x)):
        value = max(x[place], np.float32(-87))
        n = np.floor(value * _LOG2_E + np.float32(0.5))
        r = value - n * _LN2[0] - n * _LN2[1]
        p = _EXP[0]
        p = p * r + _EXP[1]
        p = p * r + _EXP[2]
        p = p * r + _EXP[3]
        p = p * r + _EXP[4]
        p = p * r + _EXP[5]
        power = np.int32((np.int32(n) + 127) << 23).view(np.float32)
        x[place] = (p * (r * r) + r + np.float32(1)) * power


@compiled
def greatest(labels: NDArray[np.int64]) -> np.uint64:
    """Return the greatest label, or a number far greater if one is negative; 0 of none."""
    most = np.uint64(0)
    for label in labels:
        most = max(most, np.uint64(label))
    return most


# --- a linear softmax model, pass after pass ---------------------------------------------------------------------


@reordered
def linear_pass(
    examples: tuple[NDArray[np.generic], NDArray[np.int64]],
    scale: tuple[np.float32, np.float32],
    order: NDArray[np.int64],
    room: Floats,
    weights: tuple[Floats, Floats],
    rates: tuple[np.float32, np.float32],
) -> float:
    """Train weights (classes, features) and bias in place, by minibatches in ``order``; return the sum of losses.

    Each step is w ← keep · w − rate · gradient, with ``rates`` (rate, keep). ``examples`` are inputs (n, features),
    bytes or 32-bit floats, and labels (n,); the model sees inputs · scale[0] + inputs · scale[1], with ``OF_BYTES`` or
    ``AS_IT_IS``. ``room``, of shape (batch, features), holds a minibatch at a time.
    """
    inputs, labels = examples
    weight, bias = weights
    rate, keep = rates
    batch = len(room)
    outputs = np.empty((batch, len(bias)), np.float32)
    change = np.empty((batch, len(bias)), np.float32)
    total = 0.0
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        n = len(rows)
        x = room[:n]
        for row in range(n):
            _scale(inputs[rows[row]], scale, x[row])
        _linear(x, weight, bias, outputs)
        total += n * softmax_loss(outputs[:n], labels[rows], change[:n])
        if keep != np.float32(1):
            weight *= keep
            bias *= keep
        _linear_step(x, change, weight, rate)
        for row in range(n):
            for c in range(len(bias)):
                bias[c] -= rate * change[row, c]
    return total


@woven
def _linear(x: Floats, weight: Floats, bias: Floats, outputs: Floats) -> None:
    """Write the outputs of each row of ``x``, four rows and two classes at a time; at the ends some are repeated."""
    n, classes = len(x), len(bias)
    for row in range(0, n, 4):
        second, third, fourth = min(row + 1, n - 1), min(row + 2, n - 1), min(row + 3, n - 1)
        a, b, d, e = x[row], x[second], x[third], x[fourth]
        for c in range(0, classes, 2):
            other = min(c + 1, classes - 1)
            v, w = weight[c], weight[other]
            av = aw = bv = bw = dv = dw = ev = ew = ZERO
            for k in range(len(v)):
                av += a[k] * v[k]
                aw += a[k] * w[k]
                bv += b[k] * v[k]
                bw += b[k] * w[k]
                dv += d[k] * v[k]
                dw += d[k] * w[k]
                ev += e[k] * v[k]
                ew += e[k] * w[k]
            outputs[row, c], outputs[row, other] = av + bias[c], aw + bias[other]
            outputs[second, c], outputs[second, other] = bv + bias[c], bw + bias[other]
            outputs[third, c], outputs[third, other] = dv + bias[c], dw + bias[other]
            outputs[fourth, c], outputs[fourth, other] = ev + bias[c], ew + bias[other]


@woven
def _linear_step(x: Floats, change: Floats, weight: Floats, rate: np.float32) -> None:
    """Add −rate · changeᵀ x to ``weight``, four rows and two classes at a time.

    The rows are the outer loop: four of them stay in the first-level cache, beside the weights of a few classes.
    """
    n, classes = len(x), len(weight)
    whole, paired = n - n % 4, classes - classes % 2
    for row in range(0, whole, 4):
        a, b, d, e = x[row], x[row + 1], x[row + 2], x[row + 3]
        for c in range(0, paired, 2):
            v, w = weight[c], weight[c + 1]
            p, t = rate * change[row, c], rate * change[row, c + 1]
            q, u = rate * change[row + 1, c], rate * change[row + 1, c + 1]
            r, y = rate * change[row + 2, c], rate * change[row + 2, c + 1]
            s, z = rate * change[row + 3, c], rate * change[row + 3, c + 1]
            for k in range(len(v)):
                v[k] -= (p * a[k] + q * b[k]) + (r * d[k] + s * e[k])
                w[k] -= (t * a[k] + u * b[k]) + (y * d[k] + z * e[k])
    for c in range(classes):
        for row in range(whole if c < paired else 0, n):
            a, p, v = x[row], rate * change[row, c], weight[c]
            for k in range(len(v)):
                v[k] -= p * a[k]
