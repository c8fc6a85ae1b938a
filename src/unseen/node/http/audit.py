"""Routes of auditors: trails, and the heads that partners signed."""

from __future__ import annotations

import base64
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Base64Bytes, BaseModel

from unseen.errors import DataError
from unseen.ids import PartyId
from unseen.node.domain import Person, Right
from unseen.node.http.guard import PREFIX, Needs, check_project, services_of
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import Record

router = APIRouter(prefix=PREFIX, tags=["audit"])
Auditor = Annotated[Person, Depends(Needs(Right.SEE_AUDIT))]


class Lines(Response):
    """Records of a trail, one a line."""

    media_type = "application/x-ndjson"


class HeadShown(BaseModel):
    """How far a partner's trail had got when it signed that."""

    party: PartyId
    count: int
    digest: str
    frame: Base64Bytes
    """In its envelope, for ``unseen audit verify --head`` with the partner's trail."""


class TrailShown(BaseModel):
    """Whether this node's trail is whole, and what partners signed of theirs."""

    count: int
    digest: str
    whole: bool
    fault: str
    heads: tuple[HeadShown, ...]


@router.get("/projects/{project}/trail", response_class=Lines)
def trail(request: Request, project: ProjectId, person: Auditor) -> Response:
    """Return the whole trail of a project, one record a line, for ``unseen audit verify``."""
    del person
    check_project(request, project)
    lines = services_of(request).audit.lines(project)
    return Lines(b"".join(line + b"\n" for line in lines))


@router.get("/projects/{project}/trail/records")
def records(
    request: Request, project: ProjectId, person: Auditor, after: Annotated[int, Query(ge=0)] = 0
) -> list[Record]:
    """Return up to 1,000 records after a number."""
    del person
    check_project(request, project)
    return list(services_of(request).audit.records(project, after))


@router.get("/projects/{project}/trail/state")
def state(request: Request, project: ProjectId, person: Auditor) -> TrailShown:
    """Check the trail's chain, and return the newest heads that partners signed."""
    del person
    check_project(request, project)
    audit = services_of(request).audit
    heads = tuple(
        HeadShown(
            party=held.party,
            count=held.head.count,
            digest=held.head.last,
            frame=base64.b64encode(held.frame),
        )
        for held in audit.heads(project)
    )
    try:
        found = audit.verify(project)
    except DataError as error:
        return TrailShown(count=0, digest="", whole=False, fault=str(error), heads=heads)
    return TrailShown(count=found.count, digest=found.digest, whole=True, fault="", heads=heads)


@router.get("/trail", response_class=Lines)
def own_trail(request: Request, person: Auditor) -> Response:
    """Return the trail of what could not be told to any project."""
    del person
    lines = services_of(request).audit.lines(None)
    return Lines(b"".join(line + b"\n" for line in lines))
