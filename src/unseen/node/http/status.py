"""Routes for machines that watch the node: alive, ready, figures; and its partners."""

from __future__ import annotations

import hmac
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from unseen.node.domain import Person, Right
from unseen.node.http.guard import PREFIX, HttpSettings, Needs, services_of
from unseen.node.http.problems import NotSignedIn

router = APIRouter(tags=["status"])
Reader = Annotated[Person, Depends(Needs(Right.SEE_PARTNERS))]


class PartnerShown(BaseModel):
    """An organisation that was paired with."""

    name: str
    root: str
    endpoint: str | None
    """Where it is dialled; ``None`` if it dials this node."""
    since: datetime
    struck: datetime | None


class Figures(Response):
    """Prometheus' text format."""

    media_type = CONTENT_TYPE_LATEST


@router.get("/healthz")
def health() -> dict[str, str]:
    """Return that the process runs."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: {"description": "Its store does not answer.", "model": dict[str, str]}})
def readiness(request: Request, response: Response) -> dict[str, str]:
    """Return whether the node can work: whether its store answers, there is room, and its certificate is good."""
    found = services_of(request).readiness()
    ready = set(found.values()) == {"ok"}
    response.status_code = 200 if ready else 503
    return {"status": "ready" if ready else "not ready", **found}


@router.get("/metrics", response_class=Figures)
def metrics(request: Request) -> Response:
    """Return figures for Prometheus."""
    settings: HttpSettings = request.app.state.settings
    given = request.headers.get("authorization", "").encode()
    if settings.metrics_token is None or not hmac.compare_digest(given, f"Bearer {settings.metrics_token}".encode()):
        raise NotSignedIn("metrics are for whoever has the token `metrics_token` of the node's settings")
    return Figures(generate_latest(services_of(request).registry))


@router.get(f"{PREFIX}/partners")
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
