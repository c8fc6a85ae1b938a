"""People, and their sessions."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sql

from unseen.node.domain import Duty, Person
from unseen.node.store.schema import people, sessions
from unseen.trust.agreement import ProjectId


class PeopleRows:
    """Who works at the node."""

    def __init__(self, connection: sql.Connection) -> None:
        self._connection = connection

    def add(self, person: Person, password: str) -> None:
        """Add somebody; ``password`` is its hash."""
        self._connection.execute(sql.insert(people).values(name=person.name, password=password, **_fields(person)))

    def change(self, person: Person) -> None:
        """Put somebody's new duties, projects and state in place."""
        self._connection.execute(sql.update(people).where(people.c.name == person.name).values(**_fields(person)))

    def get(self, name: str) -> Person | None:
        """Return somebody."""
        row = self._connection.execute(sql.select(people).where(people.c.name == name)).one_or_none()
        return None if row is None else _person(row)

    def all(self) -> tuple[Person, ...]:
        """Return everybody by name."""
        return tuple(map(_person, self._connection.execute(sql.select(people).order_by(people.c.name))))

    def password_hash(self, name: str) -> str | None:
        """Return the hash of somebody's password."""
        return self._connection.execute(sql.select(people.c.password).where(people.c.name == name)).scalar_one_or_none()

    def set_password(self, name: str, password: str) -> None:
        """Put another hash in place."""
        self._connection.execute(sql.update(people).where(people.c.name == name).values(password=password))

    def begin_session(self, token: str, name: str, until: datetime) -> None:
        """Keep a session by the digest of its token."""
        self._connection.execute(sql.insert(sessions).values(token=token, person=name, until=until))

    def session(self, token: str, now: datetime) -> str | None:
        """Return whose session this is, ``None`` if it is nobody's or has run out."""
        row = self._connection.execute(sql.select(sessions).where(sessions.c.token == token)).one_or_none()
        return None if row is None or row.until <= now else str(row.person)

    def end_session(self, token: str) -> None:
        """Forget a session."""
        self._connection.execute(sql.delete(sessions).where(sessions.c.token == token))

    def forget_sessions(self, now: datetime) -> int:
        """Forget the sessions that ran out; return how many those were."""
        return self._connection.execute(sql.delete(sessions).where(sessions.c.until <= now)).rowcount

    def end_sessions(self, name: str) -> None:
        """Forget all sessions of somebody."""
        self._connection.execute(sql.delete(sessions).where(sessions.c.person == name))


def _fields(person: Person) -> dict[str, object]:
    return {
        "duties": sorted(person.duties),
        "projects": sorted(person.projects),
        "created": person.created,
        "active": person.active,
    }


def _person(row: sql.Row[tuple[object, ...]]) -> Person:
    return Person(
        name=row.name,
        duties=frozenset(map(Duty, row.duties)),
        created=row.created,
        active=row.active,
        projects=frozenset(map(ProjectId, row.projects)),
    )
