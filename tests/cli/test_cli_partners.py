"""Pairing at a node that runs, by the client and from the command line; and what such a node takes up by itself."""

from __future__ import annotations

import json
import os
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from unseen.client import Client
from unseen.errors import PermissionDenied, UsageError
from unseen.ids import PartyId
from unseen.node.folder import Node
from unseen.node.http.services import SetUpToken
from unseen.node.invitation import Invitation
from unseen.node.meeting import Host, join
from unseen.node.start import open_node, serving_people

PASSWORD = "correct horse battery"
BANK = PartyId("bank")


def free_endpoint():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def certificate_at(endpoint):
    """What a port shows; it is closed for a moment whenever it lets other partners in."""
    host, port = endpoint.split(":")
    while True:
        with suppress(OSError):
            return ssl.get_server_certificate((host, int(port)), timeout=20)


@pytest.fixture
def bank(tmp_path, monkeypatch):
    """A node that runs, and the session of its admin."""
    folder, now = tmp_path / "bank", datetime.now(UTC)
    node = Node.create(folder, BANK, free_endpoint(), now, http="127.0.0.1:0")
    with open_node(folder) as running, serving_people(running) as url:
        with Client(url) as client:
            client.set_up(SetUpToken(folder).write(), "root", PASSWORD)
            client.sign_in("root", PASSWORD)
            monkeypatch.setenv("UNSEEN_URL", url)
            monkeypatch.setenv("UNSEEN_TOKEN", client.token)
        yield node


def made(tmp_path, name, listen=None):
    return Node.create(tmp_path / name, PartyId(name), listen, datetime.now(UTC))


def test_a_running_node_invites_joins_strikes_and_takes_a_renewed_certificate_up(bank, tmp_path, unseen, monkeypatch):
    # It invites, and a program does what a person would.
    invited = json.loads(unseen("partner", "invite", "--to", "insurer", "--json").out)
    assert (invited["stage"], invited["peer"]) == ("waiting", "insurer")
    assert "line" not in json.loads(unseen("partner", "pairings", "--json").out)[0]
    with join(made(tmp_path, "insurer"), Invitation.read(invited["line"])) as encounter:
        until(lambda: json.loads(unseen("partner", "pairings", "--json").out)[0]["stage"] == "comparing")
        (seen,) = json.loads(unseen("partner", "pairings", "--json").out)
        wrong = unseen("partner", "confirm", seen["pairing"], "000-000")
        assert (wrong.code, "that is not the code; listen again (2 more)" in wrong.err) == (2, True)
        told = unseen("partner", "confirm", seen["pairing"], encounter.found.read_out, "--json")
        assert json.loads(told.out)["stage"] == "confirmed"
        encounter.conclude(seen["read_out"])
    until(lambda: json.loads(unseen("partner", "pairings", "--json").out)[0]["stage"] == "paired")

    # It joins, and a person types.
    with (
        Host(made(tmp_path, "telecom", free_endpoint()), lifetime=timedelta(minutes=5)) as host,
        ThreadPoolExecutor(1) as people,
    ):
        told = people.submit(host.wait)

        def typed(_):
            encounter = told.result(timeout=20)
            monkeypatch.setattr("builtins.input", lambda _: encounter.found.read_out)
            people.submit(encounter.conclude, encounter.found.hear)
            return "000-000"

        monkeypatch.setattr("builtins.input", typed)
        out = unseen("partner", "join", host.invitation.line()).out
    assert "telecom has answered. Call the people there" in out
    assert "that is not the code; listen again (2 more)" in out
    assert "telecom is a partner: this node dials it" in out

    # It strikes off.
    assert "insurer is refused from now on" in unseen("partner", "strike", "insurer").out
    struck = {one["name"]: one["struck"] is not None for one in json.loads(unseen("partner", "list", "--json").out)}
    assert struck == {"insurer": True, "telecom": False}
    assert "no partner of this name" in unseen("partner", "strike", "nobody").err

    # It takes a new certificate up.
    before = certificate_at(bank.config.listen)
    assert unseen("node", "renew", bank.folder).code == 0
    until(lambda: certificate_at(bank.config.listen) != before)


def test_who_types_nothing_gives_the_pairing_up_and_who_may_not_is_told(bank, tmp_path, unseen, monkeypatch):
    def gone(_):
        raise EOFError

    monkeypatch.setattr("builtins.input", gone)
    with Host(made(tmp_path, "telecom", free_endpoint()), lifetime=timedelta(minutes=5)) as host:
        result = unseen("partner", "join", host.invitation.line())
        assert (result.code, "no code was typed: the pairing was given up" in result.err) == (2, True)
        with host.wait() as encounter, pytest.raises(PermissionDenied, match="at bank the code was not confirmed"):
            encounter.conclude(encounter.found.hear)
    stopped = unseen("node", "invite", bank.folder)
    assert (stopped.code, "runs: let it invite by `unseen partner invite`" in stopped.err) == (2, True)
    invited = json.loads(unseen("partner", "invite", "--json").out)
    assert json.loads(unseen("partner", "cancel", invited["pairing"], "--json").out)["stage"] == "ended"
    assert "is ended: there is no code" in unseen("partner", "confirm", invited["pairing"], "x").err
    client = Client(os.environ["UNSEEN_URL"], os.environ["UNSEEN_TOKEN"])
    with client, pytest.raises(UsageError, match="there is no pairing x"):
        client.pairing("x")
