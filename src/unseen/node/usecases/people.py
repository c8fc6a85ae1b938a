"""People of this node: passwords, sessions, duties. Nothing but hashes of secrets is kept.

Passwords are hashed by Argon2id with the parameters of RFC 9106, section 4, second choice (64 MiB, three passes, four
lanes). Tokens of sessions and devices are 256 random bits, kept as their SHA-256. Whoever fails to sign in five times
under a name waits (``brake``); a name that does not exist costs the same time as one that does. Only so many are let in
to have a password hashed, so that a flood of them takes neither the memory nor the threads that others are served with.

What is done to people is a turn of the node, with its record in the node's own trail: whoever makes a second person, to
approve what the first one asked for, is seen there.
"""

from __future__ import annotations

import hashlib
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

from unseen.errors import PermissionDenied, UsageError
from unseen.ids import Identifier
from unseen.node.books import Books, Turn
from unseen.node.domain import NO_LINK, Duty, Link, Person
from unseen.node.store import Kept, Store
from unseen.node.usecases.brake import Brake, SignInRefused
from unseen.node.usecases.rights import colleague
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import Event

SESSION = timedelta(hours=12)
LEAST_PASSWORD, MOST_PASSWORD = 12, 256
DEVICE = timedelta(days=180)
_MOST_DEVICES = 10
_NO_PASSWORD = ""
"""Stands where somebody's hash would: no password has it."""
_SIGNED_IN = "a session"
"""Stands where the digest of a device would: a count of its own for those who are signed in."""
_AT_ONCE = 4
_MOST_WAITING = 8


class PersonName(Identifier):
    """How somebody signs in."""

    __slots__ = ()


class Crowded(PermissionDenied):
    """Too many passwords are being looked at already."""


@dataclass(frozen=True, slots=True)
class Session:
    """What signing in gives: a token for the client to keep, and until when it is good."""

    token: str
    person: Person
    until: datetime
    device: str = ""
    """To be shown when this person signs in there the next time; a secret as well."""

    def __repr__(self) -> str:
        return f"Session(of {self.person.name!r} until {self.until.isoformat()})"


class People:
    """Who works at this node.

    Args:
        store: Keeps them.
        books: What is done to them is a turn there, with its record.
    """

    def __init__(self, store: Store, books: Books) -> None:
        self._store, self._books, self._clock = store, books, books.clock
        self._hasher = PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)
        # Each takes 64 MiB while it works, and a thread of the server while it waits for that.
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        self._places = threading.BoundedSemaphore(_AT_ONCE + _MOST_WAITING)
        self._brake = Brake(books.clock)

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

    def links(self) -> dict[str, Link]:
        """Return as whom the identity provider knows people, by name."""
        with self._store.begin() as kept:
            return kept.people.links()

    def add(
        self, name: str, password: str | None, duties: Iterable[Duty], by: Person | None, *, link: Link | None = None
    ) -> Person:
        """Add somebody; without a password they come by the identity provider only.

        Raises:
            UsageError: The name is taken or none, the password too short, or there is no duty or no way to sign in.
        """
        person = Person(PersonName(name), _some(duties), self._clock.now())
        if password is None and link is None:
            raise UsageError(f"{name} could not sign in: give a password, or the subject at the identity provider")
        hashed = _NO_PASSWORD if password is None else self._hash(password)
        with self._books.turn() as turn:
            people = turn.kept.people
            if people.get(name) is not None:
                raise UsageError(f"{name} is somebody already: choose another name, or change what that person may do")
            people.add(person, hashed)
            _note(turn, Event.PERSON_ADDED, person, by)
            if link is not None:
                _link(turn, person, link, by)
        return person

    def add_first(self, name: str, password: str) -> Person:
        """Add the first person, who manages all others.

        Raises:
            PermissionDenied: There is somebody already.
        """
        person = Person(PersonName(name), frozenset({Duty.ADMIN}), self._clock.now())
        hashed = self._hash(password)
        with self._books.turn() as turn:
            if turn.kept.people.all():
                raise PermissionDenied("this node has people already: one of its admins adds others")
            turn.kept.people.add(person, hashed)
            _note(turn, Event.PERSON_ADDED, person, None)
        return person

    def change(
        self,
        name: str,
        by: Person,
        *,
        duties: Iterable[Duty] | None = None,
        active: bool | None = None,
        projects: Iterable[ProjectId] | None = None,
        link: Link | None = None,
    ) -> Person:
        """Change what somebody may do, which holds from their next request on, or their link, which ends sessions.

        Raises:
            PermissionDenied: It is oneself: nobody gives or takes rights of their own.
            UsageError: There is nobody of this name, there would be no duty, or the link is somebody else's.
        """
        if name == by.name:
            raise PermissionDenied("nobody changes what they may do themselves: another admin does")
        with self._books.turn() as turn:
            people, person = turn.kept.people, _found(turn.kept, name)
            changed = replace(
                person,
                duties=person.duties if duties is None else _some(duties),
                active=person.active if active is None else active,
                projects=person.projects if projects is None else frozenset(projects),
                changed=turn.now,
            )
            people.change(changed)
            if not changed.active or link is not None:
                people.end_sessions(name)
            if not changed.active:
                people.forget_devices(name)
            _note(turn, Event.PERSON_CHANGED, changed, by)
            if link is not None:
                _link(turn, changed, link, by)
        return changed

    def assign(self, name: str, project: ProjectId) -> None:
        """Let somebody work on one project more, which they drafted themselves."""
        with self._books.turn() as turn:
            person = _found(turn.kept, name)
            changed = replace(person, projects=person.projects | {project})
            if changed != person:
                turn.kept.people.change(changed)
                _note(turn, Event.PERSON_CHANGED, changed, person)

    def set_password(self, name: str, password: str, by: Person) -> None:
        """Give somebody another password, and end their sessions; if another does that, their devices are forgotten.

        Raises:
            UsageError: There is nobody of this name, or the password is too short.
        """
        hashed = self._hash(password)
        with self._books.turn() as turn:
            people, person = turn.kept.people, _found(turn.kept, name)
            people.set_password(name, hashed)
            people.end_sessions(name)
            if by.name != name:
                person = replace(person, changed=turn.now)
                people.change(person)
                people.forget_devices(name)
            _note(turn, Event.PASSWORD_SET, person, by)

    def check_own_password(self, person: Person, password: str) -> None:
        """Pass if somebody who is signed in knows their password; guesses from elsewhere do not count against them.

        Raises:
            SignInRefused: It is another one, or too many were.
            Crowded: Too many ask at once.
        """
        self._check_password(person.name, password, _SIGNED_IN)

    def _check_password(self, name: str, password: str, device: str) -> str:
        """Return the hash of the password, which is the right one."""
        with self._place():
            self._brake.attempt(name, device)
            kept_hash = self._hash_of(name)
            right = self._verified(kept_hash or _nobody(self._hasher), password)
        if not kept_hash or not right:
            raise SignInRefused("name or password are wrong")
        self._brake.succeeded(name, device)
        return kept_hash

    def _hash_of(self, name: str) -> str | None:
        if not PersonName.pattern.fullmatch(name):
            return None
        with self._store.read() as kept:
            person = kept.people.get(name)
            return kept.people.password_hash(name) if person is not None and person.active else None

    # --- signing in ----------------------------------------------------------------------------------------------

    def sign_in(self, name: str, password: str, device: str | None = None) -> Session:
        """Begin a session.

        Args:
            name: Who it is to be.
            password: What they know.
            device: What an earlier session gave, so that guesses from elsewhere do not count here; empty, to be given
                one; ``None``, to be none that is remembered.

        Raises:
            SignInRefused: Name or password are wrong, or too many were.
            Crowded: Too many ask at once.
        """
        known = self._known_device(name, device)
        hashed = self._check_password(name, password, _digest(known) if known else "")
        with self._store.begin() as kept:
            if kept.people.password_hash(name) != hashed:
                raise SignInRefused("the password was changed a moment ago")
            session = self._begin(kept, name)
            if device is None:
                return session
            token = known or secrets.token_urlsafe(32)
            kept.people.keep_device(_digest(token), name, self._clock.now() + DEVICE, _MOST_DEVICES)
        return replace(session, device=token)

    def linked(self, link: Link) -> Person | None:
        """Return whom the identity provider knows as that, if they are active."""
        with self._store.begin() as kept:
            name = kept.people.linked(link)
            person = kept.people.get(name) if name is not None else None
        return person if person is not None and person.active else None

    def sign_in_by(self, link: Link) -> Session:
        """Begin a session of somebody whom the identity provider has just named.

        Raises:
            SignInRefused: Nobody is linked to that, or not any more, or they are not active.
        """
        with self._store.begin() as kept:
            return self._begin(kept, kept.people.linked(link))

    def _begin(self, kept: Kept, name: str | None) -> Session:
        person = kept.people.get(name) if name is not None else None
        if person is None or not person.active:
            raise SignInRefused("nobody may sign in here by that, or not any more")
        token, until = secrets.token_urlsafe(32), self._clock.now() + SESSION
        kept.people.forget_sessions(self._clock.now())
        kept.people.begin_session(_digest(token), person.name, until)
        return Session(token, person, until)

    def _known_device(self, name: str, device: str | None) -> str | None:
        if not device or not PersonName.pattern.fullmatch(name):
            return None
        with self._store.begin() as kept:
            return device if kept.people.is_device(_digest(device), name, self._clock.now()) else None

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


def _found(kept: Kept, name: str) -> Person:
    person = kept.people.get(name)
    if person is None:
        raise UsageError(f"nobody here is called {name}")
    return person


def _note(turn: Turn, event: Event, person: Person, by: Person | None, **more: object) -> None:
    turn.note(event, person=colleague(person), by=None if by is None else by.name, **more)


def _link(turn: Turn, person: Person, link: Link, by: Person | None) -> None:
    other = turn.kept.people.linked(link)
    if other not in (None, person.name):
        raise UsageError(f"{other} is linked to this subject already: one subject is one person")
    turn.kept.people.set_link(person.name, None if link == NO_LINK else link)
    _note(turn, Event.SIGN_ON_LINKED, person, by, subject=None if link == NO_LINK else link.digest)


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
