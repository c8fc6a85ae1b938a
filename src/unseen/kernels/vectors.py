"""Eight machine words, or eight doubles, at a time inside compiled loops: values of LLVM's vector types.

Plain loops over arrays do not become vector instructions (LLVM cannot rule out that arrays overlap), so the kernels
say it themselves. LLVM turns these operations into the widest instructions that the processor has (AVX-512, AVX2,
NEON) and into scalar ones where there are none; the results are the same everywhere, since words wrap and doubles
round by IEEE 754.

Where a processor has no vector unit worth the name, spilling eight lanes costs more than a plain loop: every kernel
has a scalar twin, its reference in tests, and ``pick`` takes the one that suits the machine. ``UNSEEN_VECTORS=off``
takes the twins everywhere.

All operations are to be used in compiled code only. Arrays are C-contiguous; indices count items from the first one.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from typing import Any, TypeVar

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 8
F = TypeVar("F", bound=Callable[..., Any])


class Vector(types.Type):
    """The numba type of eight lanes."""


WORDS = Vector("unseen.words8")
DOUBLES = Vector("unseen.doubles8")
_LLVM = {WORDS: ir.VectorType(ir.IntType(64), LANES), DOUBLES: ir.VectorType(ir.DoubleType(), LANES)}


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, _LLVM[kind])  # type: ignore[no-untyped-call]  # numba's


def has_vectors() -> bool:
    """Return whether kernels use vector types on this machine."""
    if os.environ.get("UNSEEN_VECTORS", "on") == "off":
        return False
    features = binding.get_host_cpu_features()
    return bool(features.get("avx2")) or platform.machine() in ("aarch64", "arm64")


def pick(vector: F, scalar: F) -> F:
    """Return the kernel that suits this machine; both give identical results."""
    return vector if has_vectors() else scalar


def _pointer(context: Any, builder: Any, array_type: Any, arguments: Any, kind: Vector) -> Any:
    array = context.make_array(array_type)(context, builder, arguments[0])
    return builder.bitcast(builder.gep(array.data, [arguments[1]]), _LLVM[kind].as_pointer())


def _kind(array: Any) -> Vector:
    return DOUBLES if array.dtype == types.float64 else WORDS


def _load(typing_context: Any, array: Any, index: Any) -> Any:
    """Return array[index : index + 8]; nothing is checked."""
    kind = _kind(array)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value = builder.load(_pointer(context, builder, signature.args[0], arguments, kind))
        value.align = 8
        return value

    return kind(array, types.intp), generate


def _load_integers(typing_context: Any, array: Any, index: Any) -> Any:
    """Return array[index : index + 8] of signed integers of any width as words (modulo 2^64); nothing is checked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        narrow = ir.VectorType(ir.IntType(array.dtype.bitwidth), LANES)
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        place = builder.bitcast(builder.gep(data, [arguments[1]]), narrow.as_pointer())
        value = builder.load(place)
        value.align = array.dtype.bitwidth // 8
        return value if narrow == _LLVM[WORDS] else builder.sext(value, _LLVM[WORDS])

    return WORDS(array, types.intp), generate


def _store(typing_context: Any, array: Any, index: Any, value: Any) -> Any:
    """Set array[index : index + 8]; nothing is checked."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = builder.store(arguments[2], _pointer(context, builder, signature.args[0], arguments, value))
        place.align = 8
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


def _splat(typing_context: Any, value: Any) -> Any:
    """Return eight times the same word or double."""
    kind = DOUBLES if value == types.float64 else WORDS
    if kind is WORDS and value not in (types.uint64, types.int64):
        return None

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        empty = ir.Constant(_LLVM[kind], ir.Undefined)
        first = builder.insert_element(empty, arguments[0], ir.Constant(ir.IntType(32), 0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return builder.shuffle_vector(first, empty, mask)

    return kind(value), generate


def _binary(name: str, words: str | None, doubles: str | None, about: str) -> Any:
    """Return the operation that is the LLVM instruction ``words`` or ``doubles`` on two vectors of one kind."""

    def operation(typing_context: Any, x: Any, y: Any) -> Any:
        instruction = doubles if x is DOUBLES or x == DOUBLES else words
        if not isinstance(x, Vector) or x != y or instruction is None:
            return None

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments)

        return x(x, y), generate

    operation.__name__, operation.__doc__ = name, about
    return intrinsic(operation)


def _fused(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """Return x·y + z of doubles, rounded once (IEEE 754 fusedMultiplyAdd)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = _LLVM[DOUBLES]
        signature = ir.FunctionType(kind, [kind] * 3)
        function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]  # numba's
            builder.module, signature, "llvm.fma.v8f64"
        )
        return builder.call(function, arguments)

    return (DOUBLES(DOUBLES, DOUBLES, DOUBLES), generate) if x == y == z == DOUBLES else None


def _nearest(typing_context: Any, x: Any) -> Any:
    """Return the integers nearest to doubles, ties to even."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = _LLVM[DOUBLES]
        signature = ir.FunctionType(kind, [kind])
        function = cgutils.get_or_insert_function(  # type: ignore[no-untyped-call]  # numba's
            builder.module, signature, "llvm.rint.v8f64"
        )
        return builder.call(function, arguments)

    return (DOUBLES(DOUBLES), generate) if x == DOUBLES else None


def _wrap_once(typing_context: Any, x: Any, p: Any) -> Any:
    """Return the words x, less p where x ≥ p, both unsigned."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, p = arguments
        return builder.select(builder.icmp_unsigned("<", x, p), x, builder.sub(x, p))

    return (WORDS(WORDS, WORDS), generate) if x == p == WORDS else None


load: Any = intrinsic(_load)
load_integers: Any = intrinsic(_load_integers)
store: Any = intrinsic(_store)
splat: Any = intrinsic(_splat)
fused: Any = intrinsic(_fused)
nearest: Any = intrinsic(_nearest)
wrap_once: Any = intrinsic(_wrap_once)
add: Any = _binary("add", "add", "fadd", "Return x + y, lane by lane.")
subtract: Any = _binary("subtract", "sub", "fsub", "Return x − y, lane by lane.")
times: Any = _binary("times", "mul", "fmul", "Return x·y (of words, modulo 2^64), lane by lane.")
both: Any = _binary("both", "and_", None, "Return the bits that are in both words, lane by lane.")
either: Any = _binary("either", "or_", None, "Return the bits that are in at least one of both words, lane by lane.")
differing: Any = _binary("differing", "xor", None, "Return the bits that are in one of both words only, lane by lane.")
shifted_up: Any = _binary("shifted_up", "shl", None, "Return x·2^y modulo 2^64, lane by lane.")
shifted_down: Any = _binary("shifted_down", "lshr", None, "Return ⌊x/2^y⌋ of unsigned words, lane by lane.")


def _negative(typing_context: Any, x: Any) -> Any:
    """Return −x of doubles; as an operand of ``fused`` it costs nothing."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fneg(arguments[0])

    return (DOUBLES(DOUBLES), generate) if x == DOUBLES else None


def _bits(typing_context: Any, x: Any) -> Any:
    """Return the words that have the bits of doubles."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], _LLVM[WORDS])

    return (WORDS(DOUBLES), generate) if x == DOUBLES else None


def _lower_by(typing_context: Any, x: Any, p: Any) -> Any:
    """Return the words x, less p where x ≥ 0 as a signed word: two instructions with AVX2, unlike ``wrap_once``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, p = arguments
        zero = ir.Constant(_LLVM[WORDS], [0] * LANES)
        return builder.select(builder.icmp_signed("<", x, zero), x, builder.sub(x, p))

    return (WORDS(WORDS, WORDS), generate) if x == p == WORDS else None


negative: Any = intrinsic(_negative)
bits: Any = intrinsic(_bits)
lower_by: Any = intrinsic(_lower_by)
