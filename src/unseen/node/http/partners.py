"""Routes for partners: who they are, pairing with others while the node runs, and striking one off."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from unseen.errors import UsageError
from unseen.ids import PartyId
from unseen.node.domain import Person, Right
from unseen.node.http.guard import PREFIX, Needs, services_of
from unseen.node.http.people import Body
from unseen.node.http.problems import NotFound
from unseen.node.usecases.pairings import MOST_MINUTES, Seen, Stage

router = APIRouter(prefix=f"{PREFIX}/partners", tags=["partners"])
Reader = Annotated[Person, Depends(Needs(Right.SEE_PARTNERS))]
Admin = Annotated[Person, Depends(Needs(Right.MANAGE_PARTNERS))]


class PartnerShown(BaseModel):
    """An organisation that was paired with."""

    name: str
    root: str
    endpoint: str | None
    """Where it is dialled; ``None`` if it dials this node."""
    since: datetime
    struck: datetime | None


class Guest(Body):
    """Who is invited."""

    to: PartyId | None = None
    """Who alone may join; ``None`` for whoever holds the line."""
    address: Annotated[str, Field(max_length=255)] | None = None
    """``HOST:PORT`` at which the partner reaches this node, if not where it listens."""
    minutes: Annotated[int, Field(ge=1, le=MOST_MINUTES)] = 60


class Joining(Body):
    """An invitation of somebody else."""

    line: Annotated[str, Field(max_length=2000, repr=False)]


class Heard(Body):
    """What the other side's people have read."""

    code: Annotated[str, Field(max_length=64)]


class PairingShown(BaseModel):
    """A pairing, and how far it has come."""

    pairing: str
    stage: Stage
    inviting: bool
    """Whether this node invited; else it joins."""
    peer: str | None
    by: str
    expires: datetime
    read_out: str | None
    """The code to be read to the other side's people, while codes are compared."""
    reason: str
    """Why nothing came of it."""


class Invited(PairingShown):
    """A new invitation."""

    line: Annotated[str, Field(repr=False)]
    """For the partner; it holds a secret, and is told this once."""


@router.get("")
def partners(request: Request, person: Reader) -> list[PartnerShown]:
    """Return the organisations that this node was paired with."""
    del person
    return [
        PartnerShown(
            name=name,
            root=partner.fingerprint,
            endpoint=partner.endpoint,
            since=partner.since,
            struck=partner.struck,
        )
        for name, partner in sorted(services_of(request).partners.all().items())
    ]


@router.post("/invitations", status_code=201)
def invite(request: Request, person: Admin, guest: Guest) -> Invited:
    """Open an invitation at the node's port."""
    seen, line = services_of(request).pairings.invite(
        person, joiner=guest.to, address=guest.address, minutes=guest.minutes
    )
    return Invited(**_shown(seen).model_dump(), line=line)


@router.post("/joinings", status_code=201)
def join(request: Request, person: Admin, joining: Joining) -> PairingShown:
    """Dial the node that made an invitation."""
    return _shown(services_of(request).pairings.join(person, joining.line))


@router.get("/pairings")
def pairings(request: Request, person: Admin) -> list[PairingShown]:
    """Return the pairings since the node was started."""
    return [_shown(seen) for seen in services_of(request).pairings.all(person)]


@router.get("/pairings/{pairing}")
def pairing_of(request: Request, person: Admin, pairing: str) -> PairingShown:
    """Return one pairing."""
    return _shown(_known(request, person, pairing))


@router.post("/pairings/{pairing}/confirmation")
def confirm(request: Request, person: Admin, pairing: str, heard: Heard) -> PairingShown:
    """Say which code the other side's people have read."""
    _known(request, person, pairing)
    return _shown(services_of(request).pairings.confirm(person, pairing, heard.code))


@router.delete("/pairings/{pairing}")
def cancel(request: Request, person: Admin, pairing: str) -> PairingShown:
    """Give a pairing up."""
    _known(request, person, pairing)
    return _shown(services_of(request).pairings.cancel(person, pairing))


@router.delete("/{partner}", status_code=204)
def strike(request: Request, person: Admin, partner: str) -> None:
    """Trust a partner no more; what is up between the two ends within seconds."""
    if partner not in services_of(request).partners.all():
        raise NotFound("there is no partner of this name")
    services_of(request).pairings.strike(person, PartyId(partner))


def _known(request: Request, person: Person, pairing: str) -> Seen:
    try:
        return services_of(request).pairings.get(person, pairing)
    except UsageError as error:
        raise NotFound(str(error)) from error


def _shown(seen: Seen) -> PairingShown:
    return PairingShown(
        pairing=seen.name,
        stage=seen.stage,
        inviting=seen.inviting,
        peer=seen.peer,
        by=seen.by,
        expires=seen.expires,
        read_out=seen.read_out,
        reason=seen.reason,
    )
