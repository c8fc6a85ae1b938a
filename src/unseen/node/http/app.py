"""The node's HTTP service for its own people: one application, every route behind a right."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute

from unseen.node.http import audit, jobs, partners, people, problems, projects, status, tables
from unseen.node.http.guard import PREFIX, Ceiling, Doorkeeper, HttpSettings, Needs, Places, signed_in
from unseen.node.http.services import Services
from unseen.version import VERSION

OPEN = {
    ("POST", f"{PREFIX}/setup"): "takes a token of its own, once",
    ("POST", f"{PREFIX}/session"): "is how people sign in",
    ("GET", "/healthz"): "says nothing but that the process runs",
    ("GET", "/readyz"): "says nothing but whether the node can work",
    ("GET", "/metrics"): "takes a token of its own",
}
"""Routes that need nobody to be signed in, and why."""


def make_app(services: Services, settings: HttpSettings | None = None) -> FastAPI:
    """Return the application.

    Args:
        services: The node's use cases.
        settings: Names and limits.
    """
    settings = settings or HttpSettings()
    app = FastAPI(
        title=f"Unseen node {services.name}",
        version=VERSION,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.services, app.state.settings = services, settings
    app.state.watchers, app.state.uploads = Places(64), Places(4)
    problems.install(app)
    # Not by `include_router`, which keeps routes where nobody who checks them finds them.
    for module in (people, partners, tables, projects, jobs, audit, status):
        app.router.routes.extend(module.router.routes)
    app.add_middleware(Ceiling, settings=settings, uploads=f"{PREFIX}/tables/")
    app.add_middleware(Doorkeeper, settings=settings)
    check_guarded(app)
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
