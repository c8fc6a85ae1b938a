"""Who asks, and whether they may: every route names a right, or says why it needs none.

A session's token comes as ``Authorization: Bearer`` (programs), or as a cookie (browsers). A request with the cookie
that changes something needs the header ``X-Unseen-Request`` as well, which another site's page cannot set without a
preflight, that is refused; and an ``Origin`` that is this node's own. ``Host`` has to be one of the node's names, so
that no other name can be made to point here (DNS rebinding).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias
from urllib.parse import urlsplit

from fastapi import Depends, Request, Response
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unseen.errors import PermissionDenied
from unseen.node.domain import Person, Right
from unseen.node.http.problems import SECURITY_HEADERS, NotFound, NotSignedIn, told
from unseen.node.http.services import Services
from unseen.trust.agreement import ProjectId

PREFIX = "/api/v1"
COOKIE = "unseen_session"
DEVICE_COOKIE = "unseen_device"
REQUEST_HEADER = "x-unseen-request"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_CHANGES_NOTHING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How the node is reached by its own people."""

    hosts: frozenset[str] = LOOPBACK
    """Names that ``Host`` may have, without the port."""
    secure: bool = False
    """Whether people come over TLS: then the cookie is sent over nothing else."""
    body_bytes: int = 1 << 20
    """Most bytes of a request that is not an upload."""
    upload_bytes: int = 4 << 30
    body_seconds: float = 30.0
    """For a body that is not an upload; of an upload, for each piece."""
    metrics_token: str | None = field(default=None, repr=False)
    """Bearer token of whoever reads ``/metrics``; nobody does without one."""


def services_of(request: Request) -> Services:
    """Return the node's use cases."""
    services: Services = request.app.state.services
    return services


def check_project(request: Request, project: ProjectId) -> None:
    """Pass if this node knows a project.

    Raises:
        NotFound: It does not.
    """
    if project not in services_of(request).projects.all():
        raise NotFound(f"there is no project {project} here")


def token_of(request: Request) -> str | None:
    """Return the session's token that a request brings.

    Raises:
        PermissionDenied: It came by cookie, and the request may be another site's.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token:
        return token.strip()
    cookie = request.cookies.get(COOKIE)
    if cookie and request.method not in _CHANGES_NOTHING and REQUEST_HEADER not in request.headers:
        raise PermissionDenied(f"a request by cookie that changes something has the header {REQUEST_HEADER}")
    return cookie


def signed_in(request: Request) -> Person:
    """Return who asks.

    Raises:
        NotSignedIn: Nobody.
    """
    token = token_of(request)
    person = services_of(request).people.signed_in(token) if token else None
    if person is None:
        raise NotSignedIn("sign in first: POST /api/v1/session, or `unseen login`")
    request.state.person = person.name
    return person


class Needs:
    """A dependency: the caller, who has this right; in the project of the path, if there is one."""

    def __init__(self, right: Right) -> None:
        self.right = right

    def __call__(self, request: Request) -> Person:
        """Return who asks.

        Raises:
            NotSignedIn: Nobody.
            PermissionDenied: Somebody who may not.
        """
        person, project = signed_in(request), request.path_params.get("project")
        allowed = person.may(self.right) if project is None else person.may_in(self.right, ProjectId(project))
        if not allowed and person.may(self.right):
            raise PermissionDenied(
                f"{person.name} does not work in project {project}; an admin adds it: unseen people change "
                f"{person.name} --project {project}"
            )
        if not allowed:
            raise PermissionDenied(f"{person.name} may not {self.right.replace('-', ' ')} here; an admin gives duties")
        return person


class Places:
    """Counts what goes on at once in the event loop's thread, and costs the node something as long as it does."""

    def __init__(self, most: int) -> None:
        self.most, self._count = most, 0

    @property
    def full(self) -> bool:
        """Whether there is no place for one more."""
        return self._count >= self.most

    @contextmanager
    def place(self) -> Iterator[None]:
        """Count one more as long as the block lasts."""
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1


Me: TypeAlias = Annotated[Person, Depends(signed_in)]
"""Somebody who is signed in; for routes about themselves."""
Next = Callable[[Request], Awaitable[Response]]


class Doorkeeper(BaseHTTPMiddleware):
    """Refuses foreign hosts and origins, and puts security headers on every answer."""

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        super().__init__(app)
        self._settings = settings

    async def dispatch(self, request: Request, call_next: Next) -> Response:
        """Answer a request."""
        refused = self._objection(request)
        response = await call_next(request) if refused is None else told(PermissionDenied(refused))
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _objection(self, request: Request) -> str | None:
        host = _without_port(request.headers.get("host", ""))
        if host not in self._settings.hosts:
            return "the name in Host is not one of this node's: add it to `http_hosts` if it is"
        origin = request.headers.get("origin")
        if origin is not None and _without_port(_place_of(origin)) not in self._settings.hosts:
            return "requests from other sites are refused"
        return None


class Ceiling:
    """Ends a body that is larger than allowed, whatever its length header says, or that comes too slowly."""

    def __init__(self, app: ASGIApp, settings: HttpSettings, uploads: str) -> None:
        self._app, self._settings, self._uploads = app, settings, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        upload = scope["method"] == "POST" and path.startswith(self._uploads) and path.endswith("/versions")
        await self._app(scope, _Counted(receive, self._settings, upload=upload), send)


class _Counted:
    """Receives a request's body, of so many bytes in so much time at most; what comes after it may take any time."""

    def __init__(self, receive: Receive, settings: HttpSettings, *, upload: bool) -> None:
        self._receive, self._upload, self._seconds = receive, upload, settings.body_seconds
        self._most = settings.upload_bytes if upload else settings.body_bytes
        self._seen, self._whole = 0, False
        self._until: float | None = None

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        if self._until is None or self._upload:
            self._until = now + self._seconds
        try:
            message = await asyncio.wait_for(self._receive(), self._until - now)
        except TimeoutError as error:
            raise HTTPException(408, "the body came too slowly", _HANG_UP) from error
        self._whole = not message.get("more_body", False)
        self._seen += len(message.get("body", b""))
        if self._seen > self._most:
            raise HTTPException(413, f"the body has more than {self._most} bytes", _HANG_UP)
        return message


_HANG_UP = {"connection": "close"}


def _place_of(origin: str) -> str:
    """Return host and port of an origin; nothing, if it is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _without_port(host: str) -> str:
    """Return a host's name; an IPv6 address keeps its brackets."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0].lower()
