"""The description of all routes (OpenAPI): each with its refusals, which are problems, and who may call it."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel

from unseen.node.http.guard import COOKIE
from unseen.node.http.problems import MEDIA_TYPE

_SECURITY = {
    "token": {"type": "http", "scheme": "bearer", "description": "A session's token, for programs."},
    "cookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": "The same for browsers; what changes something has the header X-Unseen-Request as well.",
    },
}
_MADE_BY_FASTAPI = ("HTTPValidationError", "ValidationError")


class Place(BaseModel):
    """Where a request is not as it has to be, and what is expected."""

    where: str
    what: str


class Problem(BaseModel):
    """What is wrong with a request, and what to do (RFC 9457)."""

    type: str
    title: str
    """The kind of problem; stable, for programs."""
    status: int
    detail: str
    """For people."""
    problems: list[Place] = []
    """With 422, where the request itself is malformed."""


def describe(app: FastAPI, open_routes: frozenset[tuple[str, str]]) -> None:
    """Let ``app`` describe itself in full; ``open_routes`` need nobody to be signed in."""
    made: dict[str, Any] = {}

    def described() -> dict[str, Any]:
        if not made:
            made.update(_description(app, open_routes))
        return made

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way


def _description(app: FastAPI, open_routes: frozenset[tuple[str, str]]) -> dict[str, Any]:
    whole = get_openapi(title=app.title, version=app.version, routes=app.routes)
    parts = whole["components"]
    for name in _MADE_BY_FASTAPI:
        parts["schemas"].pop(name, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    parts["schemas"] |= {**problem.pop("$defs"), "Problem": problem}
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    parts["responses"] = {"Problem": {"description": "What is wrong, and what to do.", "content": content}}
    parts["securitySchemes"] = _SECURITY
    for route in app.routes:
        if isinstance(route, APIRoute):
            for method in route.methods or ():
                operation = whole["paths"][route.path_format][method.lower()]
                operation["responses"].pop("422", None)
                operation["responses"]["4XX"] = {"$ref": "#/components/responses/Problem"}
                is_open = (method, route.path) in open_routes
                operation["security"] = [] if is_open else [{name: []} for name in _SECURITY]
    return whole
