"""Routes of signing in by the organisation's identity provider; each takes a secret of its own."""

from __future__ import annotations

from datetime import datetime
from html import escape
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field

from unseen.codec import shown
from unseen.node.http.guard import PREFIX, HttpSettings, services_of
from unseen.node.http.people import Body, SignedIn, begun
from unseen.node.usecases.brake import SignInRefused

router = APIRouter(prefix=PREFIX, tags=["people"])
CALLBACK = f"{PREFIX}/session/sso/callback"
"""Where the provider sends browsers back to; the only place."""
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Unseen</title>
<p>This browser is signed in as <b>{name}</b>. Type this code into the terminal in which you began:</p>
<h1>{code}</h1>
<p>Give it to nobody. If you did not begin in a terminal yourself, close this page: whoever sent you here wants to act
in your name.</p></html>
"""


class BegunShown(BaseModel):
    """Where to sign in, and what the terminal that began keeps to itself."""

    url: str
    secret: Annotated[str, Field(repr=False)]
    until: datetime


class Typed(Body):
    """The code that the browser showed, with the secret of whoever began."""

    secret: Annotated[str, Field(max_length=256, repr=False)]
    code: Annotated[str, Field(max_length=64, repr=False)]


@router.post("/session/sso", status_code=201)
def begin(request: Request) -> BegunShown:
    """Begin to sign in by the identity provider."""
    begun = services_of(request).sign_on.begin()
    return BegunShown(url=begun.url, secret=begun.secret, until=begun.until)


@router.get("/session/sso/callback")
def come_back(
    request: Request,
    state: Annotated[str, Query(max_length=256)],
    code: Annotated[str | None, Query(max_length=4096)] = None,
    error: Annotated[str, Query(max_length=256)] = "",
    iss: Annotated[str | None, Query(max_length=2048)] = None,
) -> HTMLResponse:
    """Take a browser back from the identity provider, and show the code for the terminal."""
    sign_on = services_of(request).sign_on
    if code is None or iss not in (None, sign_on.provider.issuer):
        raise SignInRefused(f"the provider says no: {shown(error)}" if error else "this is not the provider's answer")
    name, typed = sign_on.returned(state, code)
    return HTMLResponse(_PAGE.format(name=escape(name), code=escape(typed)))


@router.post("/session/sso/code", status_code=201)
def finish(request: Request, response: Response, body: Typed) -> SignedIn:
    """Begin a session by the code that the browser showed."""
    settings: HttpSettings = request.app.state.settings
    session = services_of(request).sign_on.finish(body.secret, body.code)
    return begun(response, session, secure=settings.secure)
