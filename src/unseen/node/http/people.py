"""Routes of signing in, and of the people who may."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from unseen.errors import PermissionDenied
from unseen.ids import PartyId
from unseen.node.domain import RIGHTS, Duty, Person, Right
from unseen.node.http.guard import COOKIE, PREFIX, HttpSettings, Me, Needs, services_of, token_of
from unseen.node.http.problems import NotFound
from unseen.node.usecases.people import SESSION
from unseen.trust.agreement import ProjectId

_log = logging.getLogger(__name__)

router = APIRouter(prefix=PREFIX, tags=["people"])
Manager = Annotated[Person, Depends(Needs(Right.MANAGE_PEOPLE))]
Text = Annotated[str, Field(max_length=256)]


class Body(BaseModel):
    """Base of what requests carry: unknown fields are refused, and no value is quoted in an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Credentials(Body):
    """A name and its password."""

    name: Text
    password: Annotated[str, Field(max_length=256, repr=False)]


class SetUp(Credentials):
    """The first person, by the token that the node wrote when it began."""

    token: Annotated[str, Field(max_length=256, repr=False)]


class NewPerson(Credentials):
    """Somebody to be added."""

    duties: frozenset[Duty]


class Change(Body):
    """What becomes of somebody; what is left out stays."""

    duties: frozenset[Duty] | None = None
    active: bool | None = None
    projects: frozenset[ProjectId] | None = None


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

    @classmethod
    def of(cls, person: Person) -> PersonShown:
        """Return what is shown of a person."""
        return cls(
            name=person.name,
            duties=tuple(sorted(person.duties)),
            active=person.active,
            projects=tuple(sorted(person.projects)),
            created=person.created,
        )


class SignedIn(BaseModel):
    """A session: its token, for programs; browsers have it as a cookie."""

    token: Annotated[str, Field(repr=False)]
    until: datetime
    person: PersonShown


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
def sign_in(request: Request, response: Response, body: Credentials) -> SignedIn:
    """Begin a session."""
    session = services_of(request).people.sign_in(body.name, body.password)
    settings: HttpSettings = request.app.state.settings
    seconds = int(SESSION.total_seconds())
    response.set_cookie(
        COOKIE, session.token, max_age=seconds, httponly=True, samesite="strict", secure=settings.secure
    )
    return SignedIn(token=session.token, until=session.until, person=PersonShown.of(session.person))


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
    people.check_password(person.name, body.old)
    people.set_password(person.name, body.password)


@router.get("/people")
def everybody(request: Request, person: Manager) -> list[PersonShown]:
    """Return all people of this node."""
    del person
    return [PersonShown.of(one) for one in services_of(request).people.all()]


@router.post("/people", status_code=201)
def add(request: Request, person: Manager, body: NewPerson) -> PersonShown:
    """Add somebody."""
    made = PersonShown.of(services_of(request).people.add(body.name, body.password, body.duties))
    _log.warning("%s added %s: %s", person.name, made.name, ", ".join(made.duties), extra={"person": person.name})
    return made


@router.patch("/people/{name}")
def change(request: Request, name: str, person: Manager, body: Change) -> PersonShown:
    """Change what somebody may do."""
    people = services_of(request).people
    _check_there(request, name)
    made = PersonShown.of(people.change(name, person, duties=body.duties, active=body.active, projects=body.projects))
    standing = "" if made.active else ", not active any more"
    projects = ", ".join(made.projects) or "none"
    _log.warning(
        "%s changed %s: %s; projects: %s%s",
        person.name,
        name,
        ", ".join(made.duties),
        projects,
        standing,
        extra={"person": person.name},
    )
    return made


@router.put("/people/{name}/password", status_code=204)
def set_password(request: Request, name: str, person: Manager, body: NewPassword) -> None:
    """Give somebody another password; their sessions end. One's own takes the old one, which a stolen token lacks."""
    if name == person.name:
        raise PermissionDenied("one's own password takes the old one: PUT /api/v1/session/password")
    _check_there(request, name)
    services_of(request).people.set_password(name, body.password)
    _log.warning("%s gave %s another password", person.name, name, extra={"person": person.name})


def _check_there(request: Request, name: str) -> None:
    if all(person.name != name for person in services_of(request).people.all()):
        raise NotFound(f"nobody here is called {name[:64]!r}")
