"""Slows down whoever guesses passwords, without keeping those out who have signed in before."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta

from unseen.clock import Clock
from unseen.codec import shown
from unseen.errors import PermissionDenied

_log = logging.getLogger(__name__)

MOST_FAILURES = 5
PENALTY = timedelta(minutes=5)
_MOST_COUNTED = 10_000


class SignInRefused(PermissionDenied):
    """Who somebody says to be is not shown, or was guessed at too often: which of these is not said."""


class Brake:
    """Counts attempts by name, in memory: a restart forgives, and costs an attacker more than it gives.

    All who come from a device that has not signed in as that name share one count, wherever they come from: more
    addresses give no more guesses. Each device that has, has a count of its own, so that whoever guesses at a name
    keeps nobody out who works with it (OWASP, "Slow Down Online Guessing Attacks with Device Cookies").

    They count before anybody knows whether they fail: many at the same moment are as many as one after the other.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._attempts: dict[tuple[str, str], tuple[int, datetime]] = {}

    def attempt(self, name: str, device: str = "") -> None:
        """Count an attempt; ``device`` names one that has signed in as that name before.

        Raises:
            SignInRefused: There were too many.
        """
        now, key = self._clock.now(), (name, device)
        with self._lock:
            if len(self._attempts) >= _MOST_COUNTED:
                self._attempts = {one: kept for one, kept in self._attempts.items() if kept[1] + PENALTY > now}
            count, since = self._attempts.get(key, (0, now))
            wait = since + PENALTY - now
            if count >= MOST_FAILURES and wait > timedelta(0):
                _log.warning("sign-in as %s: too many attempts", shown(name))
                raise SignInRefused(f"too many attempts under this name: wait {wait.total_seconds():.0f} s")
            self._attempts[key] = (count + 1 if wait > timedelta(0) else 1, now)

    def succeeded(self, name: str, device: str = "") -> None:
        """Forget the attempts that came the same way."""
        with self._lock:
            self._attempts.pop((name, device), None)
