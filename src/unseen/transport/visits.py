"""How much one partner may have at once at a port, what it is told when something fails here, and what is logged."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self, TypeAlias

from unseen.codec import shown
from unseen.ids import PartyId

CALLS, CALLS_PER_SECOND = 1000.0, 100.0
_AGAIN_SECONDS = 60.0
_MOST_LINES = 1000

_log = logging.getLogger(__name__)

Complain: TypeAlias = Callable[[PartyId, str, BaseException | None], None]
"""Logs a line about a party, and where an error came from."""


class Visits:
    """Counts the calls of every partner, so that none can take the place of others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: Counter[tuple[PartyId, str]] = Counter()
        self._budgets: dict[PartyId, tuple[float, float]] = {}

    def may(self, peer: PartyId) -> bool:
        """Return whether ``peer`` may call now: at most ``CALLS`` at once, ``CALLS_PER_SECOND`` in the long run."""
        now = time.monotonic()
        with self._lock:
            left, since = self._budgets.get(peer, (CALLS, now))
            left = min(CALLS, left + (now - since) * CALLS_PER_SECOND)
            self._budgets[peer] = (max(left - 1, 0), now)
        return left >= 1

    @contextmanager
    def one(self, peer: PartyId, kind: str, most: int) -> Iterator[bool]:
        """Count a call for as long as the block lasts; yield whether there are no more than ``most`` of its kind."""
        key = (peer, kind)
        with self._lock:
            self._now[key] += 1
            fits = self._now[key] <= most
        try:
            yield fits
        finally:
            with self._lock:
                self._now[key] -= 1


class Complaints:
    """Logs a line about a party; the same line at most once a minute, so that nobody can fill the log with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[tuple[str, str], float] = {}

    def say(self, party: PartyId | str, text: str, error: BaseException | None = None) -> None:
        """Log ``text``, which is about ``party``, and where ``error`` came from."""
        key, now = (party, text), time.monotonic()
        with self._lock:
            if now - self._said.get(key, now - 2 * _AGAIN_SECONDS) < _AGAIN_SECONDS:
                return
            if len(self._said) >= _MOST_LINES:
                self._said.clear()
            self._said[key] = now
        _log.warning("%s", shown(text, limit=1000), exc_info=error)


class Attempt:
    """Keeps what goes wrong in a block, so that an outermost loop can go on with the next."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.error = error if isinstance(error, Exception) else None
        return self.error is not None
