"""What ``unseen node start`` says once it runs, and how its log is chosen."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from unseen.cli import start
from unseen.ids import PartyId
from unseen.node.folder import Node
from unseen.node.http.services import SetUpToken
from unseen.node.logs import LogForm
from unseen.node.store import Store


@pytest.fixture
def running(tmp_path):
    node = Node.create(tmp_path / "node", PartyId("bank"), "127.0.0.1:7443", datetime.now(UTC))
    with Store(f"sqlite:///{tmp_path}/node.db") as store:
        yield SimpleNamespace(node=node, store=store, port=SimpleNamespace(port=7443), url="http://127.0.0.1:8700")


def test_in_json_only_the_token_of_the_first_person_is_printed_and_it_is_not_logged(running, capsys, caplog) -> None:
    caplog.set_level(logging.INFO)
    start._log_ready(running)
    printed = capsys.readouterr().out
    token = printed.split()[-1]
    assert printed.count("\n") == 1
    assert SetUpToken(running.node.folder).is_good(token)
    assert caplog.messages == [
        "bank listens at 127.0.0.1:7443; partners: nobody yet",
        "people sign in at http://127.0.0.1:8700",
    ]


def test_as_text_all_of_it_is_printed(running, capsys, caplog) -> None:
    caplog.set_level(logging.INFO)
    start._say_ready(running)
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "bank listens at 127.0.0.1:7443; partners: nobody yet"
    assert second == "people sign in at http://127.0.0.1:8700"
    assert third.startswith("the first one: unseen login http://127.0.0.1:8700")
    assert caplog.messages == []


def test_the_option_comes_before_the_setting_which_comes_from_file_or_variable(running, monkeypatch, unseen) -> None:
    chosen: list[LogForm] = []
    monkeypatch.setattr(start, "configure", lambda form, **_: chosen.append(form))
    monkeypatch.setattr(start, "run_node", lambda folder, log, ready: chosen.append(log))
    folder = running.node.folder
    start.start(folder=folder)
    monkeypatch.setenv("UNSEEN_NODE_LOG", "json")
    start.start(folder=folder)
    start.start(folder=folder, log="text")
    assert chosen == [LogForm.TEXT] * 2 + [LogForm.JSON] * 2 + [LogForm.TEXT] * 2
    ended = unseen("node", "start", folder, "--log", "xml")
    assert (ended.code, "--log xml: expected one of text, json" in ended.err) == (2, True)
