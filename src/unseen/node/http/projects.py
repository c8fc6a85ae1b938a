"""Routes of projects: agreements from draft to signatures, revocation, what this site lets them do."""

from __future__ import annotations

import enum
import json
from dataclasses import replace
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field, JsonValue, ValidationError

from unseen.errors import PermissionDenied, UsageError
from unseen.flow.spec import problems_text
from unseen.ids import PartyId
from unseen.node.domain import Person, Right
from unseen.node.http.guard import PREFIX, Needs, check_project, services_of
from unseen.node.http.people import Body
from unseen.node.usecases.projects import Pending, Seen
from unseen.trust.agreement import Agreement, ProjectId
from unseen.trust.keys import Digest
from unseen.trust.policy import SiteProject

router = APIRouter(prefix=f"{PREFIX}/projects", tags=["projects"])
Reader = Annotated[Person, Depends(Needs(Right.SEE_PROJECTS))]
Drafter = Annotated[Person, Depends(Needs(Right.DRAFT_AGREEMENTS))]
Signer = Annotated[Person, Depends(Needs(Right.SIGN_AGREEMENTS))]
Revoker = Annotated[Person, Depends(Needs(Right.REVOKE_AGREEMENTS))]
PolicyMaker = Annotated[Person, Depends(Needs(Right.SET_POLICY))]


class Standing(enum.StrEnum):
    """How a project stands."""

    DRAFT = "draft"
    """Nothing holds yet; signatures are missing."""
    IN_FORCE = "in-force"
    NOT_YET = "not-yet"
    EXPIRED = "expired"
    REVOKED = "revoked"


class Waiting(BaseModel):
    """An agreement that not all have signed."""

    digest: str
    version: int
    missing: tuple[PartyId, ...]
    """Whose signatures are not here."""
    agreement: dict[str, JsonValue]

    @classmethod
    def of(cls, pending: Pending) -> Waiting:
        """Return what is shown of it."""
        made = pending.agreement
        return cls(digest=made.digest, version=made.version, missing=pending.missing, agreement=_plain(made))


class ProjectShown(BaseModel):
    """A project: the agreement that holds, if one does, and the one that waits."""

    project: ProjectId
    standing: Standing
    digest: str | None
    agreement: dict[str, JsonValue] | None
    revoked_by: PartyId | None
    reason: str | None
    waiting: Waiting | None
    policy: SiteProject | None
    """What this site lets it do, at most; without one nothing."""


class Revoking(Body):
    """Why an agreement is over."""

    reason: Annotated[str, Field(min_length=1, max_length=1000)]


class Signing(Body):
    """What was read before it was signed."""

    digest: Digest


class Drafted(BaseModel):
    """The project that a draft is about."""

    project: ProjectId


@router.get("")
def projects(request: Request, person: Reader) -> list[ProjectShown]:
    """Return the projects that one may see."""
    services = services_of(request)
    names = [name for name in services.projects.all() if person.may_in(Right.SEE_PROJECTS, name)]
    now = services.clock.now()
    return [_told(seen, now) for seen in services.projects.seen(names)]


@router.post("", status_code=201)
def draft(request: Request, person: Drafter, body: dict[str, JsonValue]) -> Drafted:
    """Write an agreement, or its next version, and offer it to its members.

    The body has the fields of an agreement; ``members`` are names of partners and of this node, and versions are filled
    in.
    """
    services, name = services_of(request), body.get("project")
    is_new = isinstance(name, str) and name not in services.projects.all()
    if not is_new and isinstance(name, str) and not person.may_in(Right.DRAFT_AGREEMENTS, ProjectId(name)):
        raise PermissionDenied(f"{person.name} does not work on {name}; an admin assigns projects")
    # Whoever begins a project works on it.
    drafter = replace(person, projects=person.projects | {ProjectId(str(name))}) if is_new else person
    project = services.projects.draft(body, drafter)
    if is_new:
        services.people.assign(person.name, project)
    return Drafted(project=project)


@router.get("/{project}")
def project_(request: Request, project: ProjectId, person: Reader) -> ProjectShown:
    """Return a project."""
    del person
    check_project(request, project)
    return _shown(request, project)


@router.post("/{project}/signature")
def sign(request: Request, project: ProjectId, person: Signer, body: Signing) -> ProjectShown:
    """Sign the agreement that waits, if it is the one that was read."""
    check_project(request, project)
    services_of(request).projects.sign(project, person, body.digest)
    return _shown(request, project)


@router.delete("/{project}/signature")
def withdraw(request: Request, project: ProjectId, person: Signer) -> ProjectShown:
    """Put the agreement that waits aside."""
    check_project(request, project)
    services_of(request).projects.withdraw(project, person)
    return _shown(request, project)


@router.post("/{project}/revocation")
def revoke(request: Request, project: ProjectId, person: Revoker, body: Revoking) -> ProjectShown:
    """End the agreement, alone and for good; its jobs end with it, here and at the partners."""
    check_project(request, project)
    services_of(request).projects.revoke(project, body.reason, person)
    return _shown(request, project)


@router.put("/{project}/policy")
def set_policy(request: Request, project: ProjectId, person: PolicyMaker, body: dict[str, JsonValue]) -> ProjectShown:
    """Say what this site lets the project do, at most: the fields of a ``SiteProject``."""
    check_project(request, project)
    try:
        policy = SiteProject.model_validate_json(json.dumps(body))
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, item['loc'])) or 'the whole'}: {item['msg']}" for item in error.errors()]
        raise UsageError(problems_text("policy", problems)) from error
    services_of(request).projects.set_policy(project, policy, person)
    return _shown(request, project)


@router.delete("/{project}/policy")
def drop_policy(request: Request, project: ProjectId, person: PolicyMaker) -> ProjectShown:
    """Let the project do nothing here."""
    check_project(request, project)
    services_of(request).projects.set_policy(project, None, person)
    return _shown(request, project)


def _shown(request: Request, name: ProjectId) -> ProjectShown:
    (seen,) = services_of(request).projects.seen([name])
    return _told(seen, services_of(request).clock.now())


def _told(seen: Seen, now: datetime) -> ProjectShown:
    held = seen.held
    revoked = held.revoked if held else None
    return ProjectShown(
        project=seen.project,
        standing=_standing(held.current, now, revoked=revoked is not None) if held else Standing.DRAFT,
        digest=held.current.digest if held else None,
        agreement=_plain(held.current) if held else None,
        revoked_by=revoked.by if revoked else None,
        reason=revoked.reason if revoked else None,
        waiting=Waiting.of(seen.pending) if seen.pending else None,
        policy=seen.policy,
    )


def _standing(agreement: Agreement, now: datetime, *, revoked: bool) -> Standing:
    if revoked:
        return Standing.REVOKED
    if now < agreement.valid_from:
        return Standing.NOT_YET
    return Standing.IN_FORCE if now < agreement.valid_until else Standing.EXPIRED


def _plain(agreement: Agreement) -> dict[str, JsonValue]:
    plain: dict[str, JsonValue] = agreement.model_dump(mode="json")
    return plain
