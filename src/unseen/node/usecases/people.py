"""People of this node: passwords, sessions, duties. Nothing but hashes of secrets is kept.

Passwords are hashed by Argon2id with the parameters of RFC 9106, section 4, second choice (64 MiB, three passes, four
lanes). A session's token is 256 random bits, kept as its SHA-256. Whoever fails to sign in five times under a name
waits; a name that does not exist costs the same time as one that does. Only so many are let in to have a password
hashed, so that a flood of them takes neither the memory nor the threads that others are served with.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.profiles import RFC_9106_LOW_MEMORY

from unseen.clock import Clock
from unseen.codec import shown
from unseen.errors import PermissionDenied, UsageError
from unseen.ids import Identifier
from unseen.node.domain import Duty, Person
from unseen.node.store import Kept, Store
from unseen.trust.agreement import ProjectId

_log = logging.getLogger(__name__)

SESSION = timedelta(hours=12)
LEAST_PASSWORD, MOST_PASSWORD = 12, 256
MOST_FAILURES = 5
PENALTY = timedelta(minutes=5)
_MOST_NAMES = 10_000
_AT_ONCE = 4
_MOST_WAITING = 8


class PersonName(Identifier):
    """How somebody signs in."""

    __slots__ = ()


class Crowded(PermissionDenied):
    """Too many passwords are being looked at already."""


class SignInRefused(PermissionDenied):
    """Name or password are wrong, or too many were: which of these is not said."""


@dataclass(frozen=True, slots=True)
class Session:
    """What signing in gives: a token for the client to keep, and until when it is good."""

    token: str
    person: Person
    until: datetime

    def __repr__(self) -> str:
        return f"Session(of {self.person.name!r} until {self.until.isoformat()})"


class People:
    """Who works at this node.

    Args:
        store: Keeps them.
        clock: What time it is.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._hasher = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
        # Each takes 64 MiB while it works, and a thread of the server while it waits for that.
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        self._places = threading.BoundedSemaphore(_AT_ONCE + _MOST_WAITING)
        self._brake = _Brake(clock)

    def all(self) -> tuple[Person, ...]:
        """Return everybody, also those who left."""
        with self._store.read() as kept:
            return tuple(kept.people.all())

    def get(self, name: str) -> Person:
        """Return somebody.

        Raises:
            UsageError: There is nobody of this name.
        """
        with self._store.read() as kept:
            return _found(kept, name)

    def add(self, name: str, password: str, duties: Iterable[Duty]) -> Person:
        """Add somebody.

        Raises:
            UsageError: The name is taken or none, the password too short, or there is no duty.
        """
        person = Person(PersonName(name), _some(duties), self._clock.now())
        hashed = self._hash(password)
        with self._store.begin() as kept:
            if kept.people.get(name) is not None:
                raise UsageError(f"{name} is somebody already: choose another name, or change what that person may do")
            kept.people.add(person, hashed)
        return person

    def add_first(self, name: str, password: str) -> Person:
        """Add the first person, who manages all others.

        Raises:
            PermissionDenied: There is somebody already.
        """
        person = Person(PersonName(name), frozenset({Duty.ADMIN}), self._clock.now())
        hashed = self._hash(password)
        with self._store.begin() as kept:
            if kept.people.all():
                raise PermissionDenied("this node has people already: one of its admins adds others")
            kept.people.add(person, hashed)
        return person

    def change(
        self,
        name: str,
        by: Person,
        *,
        duties: Iterable[Duty] | None = None,
        active: bool | None = None,
        projects: Iterable[ProjectId] | None = None,
    ) -> Person:
        """Change what somebody may do; it holds from their next request on.

        Raises:
            PermissionDenied: It is oneself: nobody gives or takes rights of their own.
            UsageError: There is nobody of this name, or there would be no duty.
        """
        if name == by.name:
            raise PermissionDenied("nobody changes what they may do themselves: another admin does")
        with self._store.begin() as kept:
            person = _found(kept, name)
            changed = replace(
                person,
                duties=person.duties if duties is None else _some(duties),
                active=person.active if active is None else active,
                projects=person.projects if projects is None else frozenset(projects),
            )
            kept.people.change(changed)
            if not changed.active:
                kept.people.end_sessions(name)
        return changed

    def assign(self, name: str, project: ProjectId) -> None:
        """Let somebody work on one project more."""
        with self._store.begin() as kept:
            person = _found(kept, name)
            kept.people.change(replace(person, projects=person.projects | {project}))

    def set_password(self, name: str, password: str) -> None:
        """Give somebody another password, and end their sessions.

        Raises:
            UsageError: There is nobody of this name, or the password is too short.
        """
        hashed = self._hash(password)
        with self._store.begin() as kept:
            _found(kept, name)
            kept.people.set_password(name, hashed)
            kept.people.end_sessions(name)

    def check_password(self, name: str, password: str) -> None:
        """Pass if somebody knows their password.

        Raises:
            SignInRefused: It is another one, or too many were.
            Crowded: Too many ask at once.
        """
        with self._place():
            self._brake.attempt(name)
            kept_hash = self._hash_of(name)
            right = self._verified(kept_hash or _nobody(self._hasher), password)
        if kept_hash is None or not right:
            raise SignInRefused("name or password are wrong")
        self._brake.succeeded(name)

    def _hash_of(self, name: str) -> str | None:
        if not PersonName.pattern.fullmatch(name):
            return None
        with self._store.read() as kept:
            person = kept.people.get(name)
            return kept.people.password_hash(name) if person is not None and person.active else None

    # --- signing in ----------------------------------------------------------------------------------------------

    def sign_in(self, name: str, password: str) -> Session:
        """Begin a session.

        Raises:
            SignInRefused: Name or password are wrong, or too many were.
            Crowded: Too many ask at once.
        """
        self.check_password(name, password)
        token, until = secrets.token_urlsafe(32), self._clock.now() + SESSION
        with self._store.begin() as kept:
            person = _found(kept, name)
            kept.people.forget_sessions(self._clock.now())
            kept.people.begin_session(_digest(token), name, until)
        return Session(token, person, until)

    def signed_in(self, token: str) -> Person | None:
        """Return whose session a token is, ``None`` if it is nobody's."""
        with self._store.read() as kept:
            name = kept.people.session(_digest(token), self._clock.now())
            person = kept.people.get(name) if name is not None else None
        return person if person is not None and person.active else None

    def sign_out(self, token: str) -> None:
        """End a session."""
        with self._store.begin() as kept:
            kept.people.end_session(_digest(token))

    # --- passwords -----------------------------------------------------------------------------------------------

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise Crowded("too many sign in at this moment: try again in some seconds")
        try:
            yield
        finally:
            self._places.release()

    def _hash(self, password: str) -> str:
        if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
            raise UsageError(f"a password has {LEAST_PASSWORD} to {MOST_PASSWORD} characters")
        with self._place(), self._turns:
            return self._hasher.hash(password)

    def _verified(self, hashed: str, password: str) -> bool:
        with self._turns:
            try:
                return self._hasher.verify(hashed, password[:MOST_PASSWORD])
            except (VerificationError, InvalidHashError):
                return False


class _Brake:
    """Counts attempts by name, in memory: a restart forgives, and costs an attacker more than it gives.

    They count before anybody knows whether they fail: many at the same moment are as many as one after the other.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._attempts: dict[str, tuple[int, datetime]] = {}

    def attempt(self, name: str) -> None:
        now = self._clock.now()
        with self._lock:
            if len(self._attempts) >= _MOST_NAMES:
                self._attempts = {key: value for key, value in self._attempts.items() if value[1] + PENALTY > now}
            count, since = self._attempts.get(name, (0, now))
            wait = since + PENALTY - now
            if count >= MOST_FAILURES and wait > timedelta(0):
                _log.warning("sign-in as %s: too many attempts", shown(name))
                raise SignInRefused(f"too many attempts under this name: wait {wait.total_seconds():.0f} s")
            self._attempts[name] = (count + 1 if wait > timedelta(0) else 1, now)

    def succeeded(self, name: str) -> None:
        with self._lock:
            self._attempts.pop(name, None)


def _found(kept: Kept, name: str) -> Person:
    person = kept.people.get(name)
    if person is None:
        raise UsageError(f"nobody here is called {name}")
    return person


def _some(duties: Iterable[Duty]) -> frozenset[Duty]:
    found = frozenset(duties)
    if not found:
        raise UsageError(f"somebody has a duty at least, of {', '.join(Duty)}")
    return found


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@cache
def _nobody(hasher: PasswordHasher) -> str:
    """Return the hash of a password that nobody has."""
    return hasher.hash(secrets.token_urlsafe(32))
