"""Routes of signing in, and of the people who may."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from unseen.errors import PermissionDenied
from unseen.ids import PartyId
from unseen.node.domain import NO_LINK, RIGHTS, Duty, Link, Person, Right
from unseen.node.http.guard import COOKIE, DEVICE_COOKIE, PREFIX, HttpSettings, Me, Needs, services_of, token_of
from unseen.node.http.problems import NotFound
from unseen.node.usecases.people import DEVICE, SESSION, Session
from unseen.trust.agreement import ProjectId

_log = logging.getLogger(__name__)

router = APIRouter(prefix=PREFIX, tags=["people"])
Manager = Annotated[Person, Depends(Needs(Right.MANAGE_PEOPLE))]
Text = Annotated[str, Field(max_length=256)]
Subject = Annotated[str | None, Field(max_length=255)]


class Body(BaseModel):
    """Base of what requests carry: unknown fields are refused, and no value is quoted in an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Credentials(Body):
    """A name and its password."""

    name: Text
    password: Annotated[str, Field(max_length=256, repr=False)]


class SignIn(Credentials):
    """The same, and what an earlier session gave this device, so that guesses from elsewhere do not count here.

    An empty one asks for one; without, the device is not remembered.
    """

    device: Annotated[str | None, Field(max_length=256, repr=False)] = None


class SetUp(Credentials):
    """The first person, by the token that the node wrote when it began."""

    token: Annotated[str, Field(max_length=256, repr=False)]


class NewPerson(Body):
    """Somebody to be added, who signs in by a password, by the identity provider, or by either."""

    name: Text
    duties: frozenset[Duty]
    password: Annotated[str | None, Field(max_length=256, repr=False)] = None
    sso: Subject = None


class Change(Body):
    """What becomes of somebody; what is left out stays."""

    duties: frozenset[Duty] | None = None
    active: bool | None = None
    projects: frozenset[ProjectId] | None = None
    sso: Subject = None
    """As whom the identity provider knows them; as nobody any more, if it is empty."""


class NewPassword(Body):
    """A password to be set."""

    password: Annotated[str, Field(max_length=256, repr=False)]


class OwnPassword(NewPassword):
    """One's own password, which takes the old one."""

    old: Annotated[str, Field(max_length=256, repr=False)]


class PersonShown(BaseModel):
    """Somebody, as people with the right to see them do."""

    name: str
    duties: tuple[Duty, ...]
    active: bool
    projects: tuple[ProjectId, ...]
    created: datetime
    changed: datetime | None = None
    """When an admin last changed what they may do, or how they sign in."""
    sso: str | None = None
    """As whom the identity provider knows them."""

    @classmethod
    def of(cls, person: Person, link: Link | None = None) -> PersonShown:
        """Return what is shown of a person."""
        return cls(
            name=person.name,
            duties=tuple(sorted(person.duties)),
            active=person.active,
            projects=tuple(sorted(person.projects)),
            created=person.created,
            changed=person.changed,
            sso=None if link is None else link.subject,
        )


class SignedIn(BaseModel):
    """A session: its token, for programs; browsers have it as a cookie."""

    token: Annotated[str, Field(repr=False)]
    until: datetime
    person: PersonShown
    device: Annotated[str, Field(repr=False)] = ""
    """To be shown by this device when this person signs in the next time."""


class MeShown(BaseModel):
    """Who is signed in where, and what they may do."""

    node: PartyId
    person: PersonShown
    rights: tuple[Right, ...]


@router.post("/setup", status_code=201)
def set_up(request: Request, body: SetUp) -> PersonShown:
    """Add the first person of a node."""
    services = services_of(request)
    if not services.set_up.is_good(body.token):
        raise PermissionDenied("the token is not the one that the node wrote when it began, or was used already")
    person = services.people.add_first(body.name, body.password)
    services.set_up.use()
    return PersonShown.of(person)


@router.post("/session", status_code=201)
def sign_in(request: Request, response: Response, body: SignIn) -> SignedIn:
    """Begin a session."""
    device = body.device or request.cookies.get(DEVICE_COOKIE, body.device)
    session = services_of(request).people.sign_in(body.name, body.password, device)
    settings: HttpSettings = request.app.state.settings
    if session.device:
        response.set_cookie(
            DEVICE_COOKIE,
            session.device,
            max_age=int(DEVICE.total_seconds()),
            path=f"{PREFIX}/session",
            httponly=True,
            samesite="strict",
            secure=settings.secure,
        )
    return begun(response, session, secure=settings.secure)


def begun(response: Response, session: Session, *, secure: bool) -> SignedIn:
    """Return what whoever has signed in is told; browsers have the token as a cookie."""
    seconds = int(SESSION.total_seconds())
    response.set_cookie(COOKIE, session.token, max_age=seconds, httponly=True, samesite="strict", secure=secure)
    return SignedIn(
        token=session.token, until=session.until, person=PersonShown.of(session.person), device=session.device
    )


@router.get("/session")
def me(request: Request, person: Me) -> MeShown:
    """Return who is signed in."""
    rights = sorted({right for duty in person.duties for right in RIGHTS[duty]})
    return MeShown(node=services_of(request).name, person=PersonShown.of(person), rights=tuple(rights))


@router.delete("/session", status_code=204)
def sign_out(request: Request, response: Response, person: Me) -> None:
    """End the session."""
    del person
    services_of(request).people.sign_out(token_of(request) or "")
    response.delete_cookie(COOKIE)


@router.put("/session/password", status_code=204)
def set_own_password(request: Request, person: Me, body: OwnPassword) -> None:
    """Change one's own password; all sessions end."""
    people = services_of(request).people
    people.check_own_password(person, body.old)
    people.set_password(person.name, body.password, person)


@router.get("/people")
def everybody(request: Request, person: Manager) -> list[PersonShown]:
    """Return all people of this node."""
    del person
    people = services_of(request).people
    links = people.links()
    return [PersonShown.of(one, links.get(one.name)) for one in people.all()]


@router.post("/people", status_code=201)
def add(request: Request, person: Manager, body: NewPerson) -> PersonShown:
    """Add somebody."""
    services = services_of(request)
    link = services.sign_on.link(body.sso) if body.sso else None
    made = PersonShown.of(services.people.add(body.name, body.password, body.duties, person, link=link), link)
    _log.warning("%s added %s: %s", person.name, made.name, ", ".join(made.duties), extra={"person": person.name})
    return made


@router.patch("/people/{name}")
def change(request: Request, name: str, person: Manager, body: Change) -> PersonShown:
    """Change what somebody may do, or as whom the identity provider knows them."""
    services = services_of(request)
    _check_there(request, name)
    link = None
    if body.sso is not None:
        link = services.sign_on.link(body.sso) if body.sso else NO_LINK
        _log.warning(
            "%s changes as whom the identity provider knows %s", person.name, name, extra={"person": person.name}
        )
    changed = services.people.change(
        name, person, duties=body.duties, active=body.active, projects=body.projects, link=link
    )
    _log.warning("%s changed %s", person.name, _standing(changed), extra={"person": person.name})
    return PersonShown.of(changed, services.people.links().get(name))


def _standing(person: Person) -> str:
    standing = "" if person.active else ", not active any more"
    projects = ", ".join(sorted(person.projects)) or "none"
    return f"{person.name}: {', '.join(sorted(person.duties))}; projects: {projects}{standing}"


@router.put("/people/{name}/password", status_code=204)
def set_password(request: Request, name: str, person: Manager, body: NewPassword) -> None:
    """Give somebody another password; their sessions end. One's own takes the old one, which a stolen token lacks."""
    if name == person.name:
        raise PermissionDenied("one's own password takes the old one: PUT /api/v1/session/password")
    _check_there(request, name)
    services_of(request).people.set_password(name, body.password, person)
    _log.warning("%s gave %s another password", person.name, name, extra={"person": person.name})


def _check_there(request: Request, name: str) -> None:
    if all(person.name != name for person in services_of(request).people.all()):
        raise NotFound(f"nobody here is called {name[:64]!r}")
