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
LINES_PER_MINUTE = 30
_MINUTE = 60.0

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
    """Logs lines about parties, few enough that nobody can fill the log: each once a minute, and so many in all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[str, set[str]] = {}
        self._since = time.monotonic()

    def say(self, party: str, text: str, error: BaseException | None = None) -> None:
        """Log ``text``, which is about ``party`` (nothing: one without a name), and where ``error`` came from."""
        with self._lock:
            if time.monotonic() - self._since >= _MINUTE:
                self._said.clear()
                self._since = time.monotonic()
            lines = self._said.setdefault(party, set())
            if text in lines or len(lines) > LINES_PER_MINUTE:
                return
            lines.add(text)
            enough = len(lines) > LINES_PER_MINUTE
        if enough:
            text, error = f"there is more to say about {party or 'strangers'}, which is left out for a minute", None
        _log.warning("%s", shown(text, limit=1000), exc_info=error, extra={"partner": party or None})


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
