"""Who works at a node from here: signing in and out, and the session that later commands use."""

from __future__ import annotations

import getpass
import json
import os
import sys
from pathlib import Path

from unseen.cli.answers import one_line, say
from unseen.client import Client, Json
from unseen.codec import read_json
from unseen.data.atomic import whole_file
from unseen.errors import UsageError


def _session_file() -> Path:
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "unseen" / "session.json"


def login(*, url: str, name: str | None, set_up: bool, sso: bool, authority: Path | None) -> None:
    """Sign in, and keep the session for later commands in a file that only its owner may read."""
    if sso == (name is not None) or (sso and set_up):
        raise UsageError("say who you are by --name NAME, or let the identity provider do it by --sso")
    with Client(url, authority=authority) as client:
        if name is None:
            _by_provider(client)
        else:
            if set_up:
                client.set_up(_asked("set-up token", "UNSEEN_SETUP_TOKEN"), name, asked_password(twice=True))
            _by_password(client, name)
        kept = {"url": client.url, "token": client.token, "authority": str(authority.resolve()) if authority else None}
        _keep(_session_file(), kept)
        person = client.me()["person"]
    say(f"signed in at {client.url} as {person['name']}: {', '.join(person['duties'])}")


def _by_password(client: Client, name: str) -> None:
    """Sign in, and keep what lets this device sign in again while others guess at the name."""
    path, place = _session_file().with_name("devices.json"), f"{name} at {client.url}"
    known = _kept(path) if path.exists() else {}
    client.sign_in(name, asked_password(), known.get(place, ""))
    _keep(path, {**known, place: client.device})


def _by_provider(client: Client) -> None:
    begun = client.begin_sso()
    say(f"open this in a browser, here or elsewhere, and sign in:\n{one_line(begun['url'])}")
    client.finish_sso(begun["secret"], _asked("code that the browser shows", "UNSEEN_SSO_CODE"))


def _keep(path: Path, content: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with whole_file(path) as file:
        file.write(json.dumps(content).encode())


def _kept(path: Path) -> Json:
    try:
        found = read_json(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{path} is damaged: remove it, and sign in again")
    return found


def logout() -> None:
    """End the session and forget it."""
    with session() as client:
        client.sign_out()
    _session_file().unlink(missing_ok=True)


def session() -> Client:
    """Return the client of the session that was begun, by ``login`` or by UNSEEN_URL and UNSEEN_TOKEN."""
    url, token = os.environ.get("UNSEEN_URL"), os.environ.get("UNSEEN_TOKEN")
    if url and token:
        return Client(url, token)
    try:
        kept = _kept(_session_file())
    except FileNotFoundError as error:
        raise UsageError("sign in first: unseen login URL --name NAME") from error
    return Client(kept["url"], kept["token"], authority=Path(kept["authority"]) if kept["authority"] else None)


def asked_password(*, twice: bool = False) -> str:
    """Return the password from the environment or the terminal; never from the command line, which others can see."""
    password = _asked("password", "UNSEEN_PASSWORD", hidden=True)
    if twice and "UNSEEN_PASSWORD" not in os.environ and getpass.getpass("once more: ") != password:
        raise UsageError("the two passwords differ: nothing was done")
    return password


def _asked(what: str, variable: str, *, hidden: bool = False) -> str:
    if variable in os.environ:
        return os.environ[variable]
    if not sys.stdin.isatty():
        raise UsageError(f"there is no terminal to ask for the {what}: set {variable}")
    return getpass.getpass(f"{what}: ") if hidden else input(f"{what}: ")
