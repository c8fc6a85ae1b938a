"""``compiled``: the one way in which a loop of this package becomes machine code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Return ``function`` compiled at its first call, kept on disk for the next process, and free of the GIL."""
    return cast("F", njit(cache=True, nogil=True)(function))


def inlined(function: F) -> F:
    """Return ``function`` compiled into the loops that call it: for the few operations of an inner loop."""
    return cast("F", njit(cache=True, nogil=True, inline="always")(function))
