"""Routes for machines that watch the node: alive, ready, figures."""

from __future__ import annotations

import hmac

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from unseen.node.http.guard import HttpSettings, services_of
from unseen.node.http.problems import NotSignedIn

router = APIRouter(tags=["status"])


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
