"""What a node's admins do about partners while it runs: invite, join, compare codes, strike off."""

from __future__ import annotations

import time
from datetime import datetime

from unseen.cli.answers import print_answer, say
from unseen.cli.session import session
from unseen.client import Client, Json
from unseen.errors import PermissionDenied, UsageError
from unseen.node.pairing import grouped

_LOOK_SECONDS = 0.5


def invite(*, to: str | None, address: str | None, minutes: int, as_json: bool) -> None:
    """Print an invitation; wait for whoever joins, and compare codes."""
    with session() as client:
        found = client.invite(to, address=address, minutes=minutes)
        if as_json:
            print_answer(found, as_json=True)
            return
        until = f"{datetime.fromisoformat(found['expires']):%H:%M} UTC"
        say(f"Send this line to {to or 'the partner'}; it works once, until {until}:")
        say(found["line"])
        try:
            _compare(client, found["pairing"])
        except KeyboardInterrupt:
            client.take_back(found["pairing"])
            raise


def join(*, line: str, as_json: bool) -> None:
    """Let the node dial an inviter, and compare codes."""
    with session() as client:
        found = client.join(input("invitation: ") if line == "-" else line)
        if as_json:
            print_answer(found, as_json=True)
            return
        _compare(client, found["pairing"])


def _compare(client: Client, pairing: str) -> None:
    """Wait until somebody has answered, let people compare the code, and wait for the other side."""
    found = _once_not(client, pairing, "waiting")
    say(f"{found['peer']} has answered. Call the people there, by a number that you know already, and compare:")
    say(f"  read to them   {grouped(found['read_out'])}")
    while found["stage"] == "comparing":
        try:
            found = client.confirm(pairing, input("  type what they read: "))
        except UsageError as error:
            say(f"  {error}")
            found = client.pairing(pairing)
        except EOFError:
            client.take_back(pairing)
            raise UsageError("no code was typed: the pairing was given up") from None
    found = _once_not(client, pairing, "confirmed")
    say(f"{found['peer']} is a partner: " + ("it dials this node" if found["inviting"] else "this node dials it"))


def _once_not(client: Client, pairing: str, stage: str) -> Json:
    """Return a pairing once it has left a stage.

    Raises:
        PermissionDenied: Nothing came of it.
    """
    while (found := client.pairing(pairing))["stage"] == stage:
        time.sleep(_LOOK_SECONDS)
    if found["stage"] == "ended":
        raise PermissionDenied(found["reason"])
    return found


def strike(*, name: str) -> None:
    """Let the node trust a partner no more."""
    with session() as client:
        client.strike(name)
    say(f"{name} is refused from now on; what is up between the two nodes ends within seconds")
