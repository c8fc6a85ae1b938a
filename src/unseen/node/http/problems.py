"""Every refusal and failure as ``application/problem+json`` (RFC 9457), with words that say what to do."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from unseen.errors import (
    Cancelled,
    DataError,
    LocalProtocolError,
    PeerFailed,
    PermissionDenied,
    RemoteProtocolError,
    TransportError,
    UnseenError,
    UsageError,
)
from unseen.node.oidc import NotBelieved
from unseen.node.usecases.brake import SignInRefused
from unseen.node.usecases.people import Crowded

_log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
REQUEST_ID = "X-Request-Id"
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class NotSignedIn(PermissionDenied):
    """Nobody is signed in, or not any more."""


class NotFound(UsageError):
    """There is nothing of this name, or nothing that the caller may see."""


class TooMany(PermissionDenied):
    """Too many of one thing are going on at once."""


STATUS: tuple[tuple[type[UnseenError], HTTPStatus], ...] = (
    (NotSignedIn, HTTPStatus.UNAUTHORIZED),
    (SignInRefused, HTTPStatus.UNAUTHORIZED),
    (NotBelieved, HTTPStatus.UNAUTHORIZED),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Crowded, HTTPStatus.TOO_MANY_REQUESTS),
    (TooMany, HTTPStatus.TOO_MANY_REQUESTS),
    (PermissionDenied, HTTPStatus.FORBIDDEN),
    (UsageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (DataError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (Cancelled, HTTPStatus.CONFLICT),
    (RemoteProtocolError, HTTPStatus.BAD_GATEWAY),
    (PeerFailed, HTTPStatus.BAD_GATEWAY),
    (TransportError, HTTPStatus.GATEWAY_TIMEOUT),
    (LocalProtocolError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (UnseenError, HTTPStatus.INTERNAL_SERVER_ERROR),
)
"""Kind of error → status; the first that fits."""


def problem(status: int, title: str, detail: str, **more: object) -> JSONResponse:
    """Return a response that tells a problem; ``title`` names its kind, ``detail`` is for people."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return JSONResponse(body, status, media_type=MEDIA_TYPE)


def told(error: UnseenError) -> JSONResponse:
    """Return the response to an error of ours."""
    status = next(status for kind, status in STATUS if isinstance(error, kind))
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("request failed: %s", error)
    return problem(status.value, type(error).__name__, str(error))


def install(app: FastAPI) -> None:
    """Let an app answer every error in this form."""

    async def ours(request: Request, error: Exception) -> Response:
        return told(error) if isinstance(error, UnseenError) else _broken(request, error)

    async def malformed(request: Request, error: Exception) -> Response:
        del request
        places = error.errors() if isinstance(error, RequestValidationError) else []
        problems = [{"where": ".".join(map(str, item["loc"])), "what": str(item["msg"])} for item in places]
        text = "; ".join(f"{item['where']}: {item['what']}" for item in problems)
        return problem(422, "Malformed", f"the request is not as it has to be: {text}", problems=problems)

    async def by_framework(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = error.headers if isinstance(error, HTTPException) else None
        phrase = HTTPStatus(status).phrase
        detail = error.detail if isinstance(error, HTTPException) else phrase
        response = problem(status, phrase, f"{request.method} {request.url.path}: {detail.lower()}")
        response.headers.update(headers or {})
        return response

    async def gone(request: Request, error: Exception) -> Response:
        del request, error
        # Nobody reads this; it is no fault of the node that its log would have to tell.
        return problem(400, "Cut Off", "the request ended before its body did")

    app.add_exception_handler(ClientDisconnect, gone)
    app.add_exception_handler(UnseenError, ours)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, by_framework)
    app.add_exception_handler(Exception, ours)


def _broken(request: Request, error: Exception) -> Response:
    """Return the answer that is given outside of all other layers, so that it has their headers from here."""
    name = getattr(request.state, "request_id", "")
    _log.exception("request broke down", exc_info=error, extra={"request": name})
    answer = problem(500, "Internal Server Error", "the node broke down over this request: its log says where")
    answer.headers.update({**SECURITY_HEADERS, REQUEST_ID: name})
    return answer
