"""Notes every request once it is over: a line in the log, figures, spans. It is known by the template of its route.

What a path names, what a query says and what a body holds stays out: a path may name a person, and whoever errs may
put a token anywhere.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unseen.node.http.problems import REQUEST_ID, problem
from unseen.node.logs import about

NO_ROUTE = "none"
"""Of what was refused before it was known where it leads, or leads nowhere."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_STOPPED = 503
_BROKE = 500

_log = logging.getLogger("unseen.node.http.access")


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that is over."""

    request: str
    """Its id, which the answer has as ``X-Request-Id``."""
    method: str
    """``OTHER`` for one that HTTP does not know."""
    route: str
    """The template of its path, as in ``/api/v1/projects/{project}``."""
    status: int
    person: str | None
    began: float
    """Seconds since the epoch."""
    seconds: float


Note = Callable[[Answered], None]


class Journal:
    """Gives every request an id, and notes it when it is over.

    Args:
        app: What answers.
        notes: Are called with every request, beside the log.
    """

    def __init__(self, app: ASGIApp, notes: tuple[Note, ...] = ()) -> None:
        self._app, self._notes = app, notes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name, began, clock = secrets.token_hex(8), time.time(), time.perf_counter()
        scope.setdefault("state", {})["request_id"] = name
        status = _BROKE

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), _header(name)]}
            await send(message)

        try:
            with about(request=name):
                await self._serve(scope, receive, noting)
        finally:
            self._note(
                Answered(
                    request=name,
                    method=scope["method"] if scope["method"] in _METHODS else "OTHER",
                    route=getattr(scope.get("route"), "path", NO_ROUTE),
                    status=status,
                    person=scope["state"].get("person"),
                    began=began,
                    seconds=time.perf_counter() - clock,
                )
            )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; one that the server ends, since it stops, is told so, if nothing was said yet."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if not begun:
                answer: JSONResponse = problem(_STOPPED, "Stopped", "the node stops: ask again once it is back")
                await answer(scope, receive, send)

    def _note(self, answered: Answered) -> None:
        _log.info(
            "%s %s %d",
            answered.method,
            answered.route,
            answered.status,
            extra={
                "request": answered.request,
                "person": answered.person,
                "method": answered.method,
                "route": answered.route,
                "status": answered.status,
                "milliseconds": round(1000 * answered.seconds, 1),
            },
        )
        for note in self._notes:
            note(answered)


def _header(name: str) -> tuple[bytes, bytes]:
    return REQUEST_ID.lower().encode(), name.encode()
