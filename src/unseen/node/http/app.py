"""The node's HTTP service for its own people: one application, every route behind a right."""

from __future__ import annotations

import threading

from fastapi import FastAPI
from fastapi.routing import APIRoute

from unseen.node.http import audit, jobs, partners, people, problems, projects, sign_on, sources, status, tables
from unseen.node.http.description import describe
from unseen.node.http.guard import PREFIX, Ceiling, Doorkeeper, HttpSettings, Needs, Places, signed_in
from unseen.node.http.journal import Journal, Note
from unseen.node.http.services import Services
from unseen.version import VERSION

OPEN = {
    ("POST", f"{PREFIX}/setup"): "takes a token of its own, once",
    ("POST", f"{PREFIX}/session"): "is how people sign in",
    ("POST", f"{PREFIX}/session/sso"): "begins to sign in by the identity provider",
    ("GET", sign_on.CALLBACK): "takes the state of somebody who has begun, once, and the provider's code",
    ("POST", f"{PREFIX}/session/sso/code"): "takes the secret of whoever began, and the browser's code",
    ("GET", "/healthz"): "says nothing but that the process runs",
    ("GET", "/readyz"): "says nothing but whether the node can work",
    ("GET", "/metrics"): "takes a token of its own",
}
"""Routes that need nobody to be signed in, and why."""


def make_app(services: Services, settings: HttpSettings | None = None, notes: tuple[Note, ...] = ()) -> FastAPI:
    """Return the application.

    Args:
        services: The node's use cases.
        settings: Names and limits.
        notes: Are called with every request that is over.
    """
    settings = settings or HttpSettings()
    app = FastAPI(
        title=f"Unseen node {services.name}",
        version=VERSION,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        # FastAPI's own spans hold paths, queries and the words of errors; `notes` hold what may be told.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.stopping = threading.Event()
    app.state.services, app.state.settings = services, settings
    app.state.watchers, app.state.uploads = Places(64), Places(4)
    problems.install(app)
    # Not by `include_router`, which keeps routes where nobody who checks them finds them.
    for module in (people, sign_on, partners, tables, sources, projects, jobs, audit, status):
        app.router.routes.extend(module.router.routes)
    app.add_middleware(Ceiling, settings=settings, uploads=f"{PREFIX}/tables/")
    app.add_middleware(Doorkeeper, settings=settings)
    app.add_middleware(Journal, notes=notes)
    check_guarded(app)
    describe(app, frozenset(OPEN))
    return app


def check_guarded(app: FastAPI) -> None:
    """Pass if every route needs a right, or somebody to be signed in, or says why it is open.

    Raises:
        RuntimeError: One does not.
    """
    for route in app.routes:
        if not isinstance(route, APIRoute):
            if getattr(route, "path", None) != app.openapi_url:
                raise RuntimeError(f"{route!r} cannot be checked: add routes of FastAPI to the application itself")
            continue
        calls = [dependency.call for dependency in route.dependant.dependencies]
        guarded = any(isinstance(call, Needs) or call is signed_in for call in calls)
        for method in route.methods or ():
            if not guarded and (method, route.path) not in OPEN:
                raise RuntimeError(f"{method} {route.path} is open to everybody, and nothing says why")
