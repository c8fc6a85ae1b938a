"""``in_parallel``: independent pieces of work on all processor cores, for kernels that release the GIL.

The number of threads is that of the cores this process may use, or the environment variable ``UNSEEN_THREADS``.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

from unseen.errors import UsageError


def threads() -> int:
    """Return how many threads kernels use.

    Raises:
        UsageError: ``UNSEEN_THREADS`` is set, but is no positive number.
    """
    asked = os.environ.get("UNSEEN_THREADS")
    if asked is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not asked.isdecimal() or int(asked) < 1:
        raise UsageError(f"UNSEEN_THREADS has to be a positive number, found {asked!r}")
    return int(asked)


def in_parallel(work: Callable[[int], None], count: int) -> None:
    """Call ``work`` with 0, 1, …, ``count`` − 1, in any order and at the same time; return when all is done.

    An exception of a piece is raised here, once the pieces that had begun are done; the others are left out. The
    calling thread takes part, so that pieces may themselves call ``in_parallel``.
    """
    pieces = deque(range(count))
    helpers = min(threads(), count) - 1
    waiting = [_pool(threads() - 1).submit(_take, work, pieces) for _ in range(helpers)]
    try:
        _take(work, pieces)
    finally:
        failure = _first_failure(waiting)
    if failure is not None:
        raise failure


def ranges(length: int, count: int) -> list[slice]:
    """Return at most ``count`` consecutive slices, none empty and of nearly the same size, that make up ``length``."""
    count = min(length, count)
    return [slice(length * i // count, length * (i + 1) // count) for i in range(count)]


def pieces(length: int, size: int) -> Iterator[slice]:
    """Yield the ranges of ``size`` that make up ``length``; the last one may be shorter."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def _take(work: Callable[[int], None], pieces: deque[int]) -> None:
    try:
        while pieces:
            try:
                piece = pieces.popleft()
            except IndexError:  # another thread was faster
                return
            work(piece)
    except BaseException:
        pieces.clear()
        raise


def _first_failure(waiting: list[Future[None]]) -> BaseException | None:
    # A helper that has not begun by now has nothing left to do, and might wait for a thread that waits for us.
    failures = [helper.exception() for helper in waiting if not helper.cancel()]
    return next((failure for failure in failures if failure is not None), None)


@cache
def _pool(helpers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(helpers, thread_name_prefix="unseen-kernel")


# Threads do not survive a fork: the child starts its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
