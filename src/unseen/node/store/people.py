"""People, their sessions, and how else they are known."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sql

from unseen.node.domain import Duty, Link, Person
from unseen.node.store.schema import devices, links, people, sessions
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

    # --- identity providers ------------------------------------------------------------------------------------------

    def links(self) -> dict[str, Link]:
        """Return as whom the identity provider knows people, by name."""
        return {row.person: Link(row.issuer, row.subject) for row in self._connection.execute(sql.select(links))}

    def linked(self, link: Link) -> str | None:
        """Return whom the identity provider knows as that."""
        known = (links.c.issuer == link.issuer, links.c.subject == link.subject)
        return self._connection.execute(sql.select(links.c.person).where(*known)).scalar_one_or_none()

    def set_link(self, name: str, link: Link | None) -> None:
        """Put another one in place, or none."""
        self._connection.execute(sql.delete(links).where(links.c.person == name))
        if link is not None:
            added = {"person": name, "issuer": link.issuer, "subject": link.subject}
            self._connection.execute(sql.insert(links).values(added))

    # --- devices -----------------------------------------------------------------------------------------------------

    def keep_device(self, token: str, name: str, until: datetime, most: int) -> None:
        """Keep a device by the digest of its token; of somebody's, the oldest go if there are more than ``most``."""
        self._connection.execute(sql.delete(devices).where(devices.c.token == token))
        self._connection.execute(sql.insert(devices).values(token=token, person=name, until=until))
        own = sql.select(devices.c.token).where(devices.c.person == name).order_by(devices.c.until.desc())
        beyond = self._connection.execute(own.offset(most)).scalars().all()
        self._connection.execute(sql.delete(devices).where(devices.c.token.in_(beyond)))

    def is_device(self, token: str, name: str, now: datetime) -> bool:
        """Return whether somebody has signed in with this device."""
        known = (devices.c.token == token, devices.c.person == name, devices.c.until > now)
        return self._connection.execute(sql.select(devices.c.token).where(*known)).one_or_none() is not None

    def forget_devices(self, name: str) -> None:
        """Forget all devices of somebody."""
        self._connection.execute(sql.delete(devices).where(devices.c.person == name))


def _fields(person: Person) -> dict[str, object]:
    return {
        "duties": sorted(person.duties),
        "projects": sorted(person.projects),
        "created": person.created,
        "active": person.active,
        "changed": person.changed,
    }


def _person(row: sql.Row[tuple[object, ...]]) -> Person:
    return Person(
        name=row.name,
        duties=frozenset(map(Duty, row.duties)),
        created=row.created,
        active=row.active,
        projects=frozenset(map(ProjectId, row.projects)),
        changed=row.changed,
    )
