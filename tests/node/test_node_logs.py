"""A node's log: one line for one event, with fields, and without secrets wherever they come from."""

from __future__ import annotations

import base64
import io
import json
import logging
import secrets
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unseen.ids import PartyId
from unseen.node.invitation import Invitation
from unseen.node.logs import HIDDEN, LONGEST, JsonLines, LogForm, Redactor, TextLines, about, configure, secrets_in

TOKEN = secrets.token_urlsafe(32)
KEY = base64.b64encode(bytes(range(48))).decode()
INVITATION = Invitation(
    "bank.example:7443", PartyId("bank"), None, bytes(range(32)), datetime(2026, 3, 2, tzinfo=UTC), bytes(range(16))
).line()
PLANTED = {
    "session": (f"token {TOKEN} is nobody's", TOKEN),
    "set-up token": ("with the token HvCzV9-_aB3dE5fG7hJ9kL1mN3pQ5rS7", "HvCzV9-_aB3dE5fG7hJ9kL1mN3pQ5rS7"),
    "invitation": (f"unseen node join {INVITATION} node", INVITATION),
    "url": ("postgresql://unseen:hunter2@db:5432/unseen fails", "hunter2"),
    "url with signs": ("see 'postgresql://unseen:h/u:n@ter2@db/unseen'", "h/u:n@ter2"),
    "url without a name": ("redis://:hunter2@cache", "hunter2"),
    "header": ("{'Authorization': 'Bearer hunter2'}", "hunter2"),
    "basic": ("authorization: Basic aHVudGVyMg==", "aHVudGVyMg"),
    "bearer": ("sent Bearer hunter2.with-dots", "hunter2"),
    "cookie": ("Cookie: theme=dark; unseen_session=hunter2", "hunter2"),
    "cookie of a device": ("Cookie: theme=dark; unseen_device=hunter2", "hunter2"),
    "keyword": ('password="hunter2", name', "hunter2"),
    "json": ('{"metrics_token": "hunter2"}', "hunter2"),
    "query": ("GET /x?token=hunter2&a=1", "hunter2"),
    "environment": ("AWS_SECRET_ACCESS_KEY=hunter2", "hunter2"),
    "key": (f"-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY-----", KEY[:20]),
    "half a key": (f"-----BEGIN EC PRIVATE KEY-----\n{KEY}", KEY[:20]),
}


@pytest.fixture
def written() -> Iterator[Callable[[LogForm], list[str]]]:
    """Lets a form be configured for the block; returns what was written."""
    stream, root, unseen = io.StringIO(), logging.getLogger(), logging.getLogger("unseen")
    before = (root.handlers[:], root.level, unseen.level, logging.raiseExceptions, sys.excepthook, threading.excepthook)

    def begin(form: LogForm, **more: object) -> Callable[[], list[str]]:
        configure(form, stream=stream, **more)  # type: ignore[arg-type]
        return lambda: stream.getvalue().splitlines()

    yield begin  # type: ignore[misc]
    logging.captureWarnings(capture=False)
    root.handlers[:], root.level, unseen.level, logging.raiseExceptions, sys.excepthook, threading.excepthook = before


def test_a_line_of_json_has_time_level_logger_message_and_fields(written) -> None:
    lines = written(LogForm.JSON)
    with about(request="r1", job="other"):
        logging.getLogger("unseen.node.x").info("step %s is over", "align", extra={"job": "job-1", "milliseconds": 3.5})
    logging.getLogger("elsewhere").info("not said")
    (line,) = map(json.loads, lines())
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {
        "level": "INFO",
        "logger": "unseen.node.x",
        "message": "step align is over",
        "request": "r1",
        "job": "job-1",
        "milliseconds": 3.5,
    }


def test_a_line_of_text_names_its_fields_and_sets_an_error_in(written) -> None:
    lines = written(LogForm.TEXT)
    try:
        raise ValueError("first\n2026-01-01T00:00:00.000Z WARNING unseen: forged\x1b[2J")  # noqa: TRY301
    except ValueError:
        logging.getLogger("unseen.x").exception("broken", extra={"partner": "shop"})
    head, *rest = lines()
    assert head.endswith("Z ERROR unseen.x: broken (partner=shop)")
    assert all(line.startswith("  ") for line in rest)
    assert "\x1b" not in "".join(rest)
    assert any("forged" in line for line in rest)


@given(st.text())
def test_no_text_makes_a_second_line(text) -> None:
    record = logging.LogRecord("unseen", logging.INFO, "", 0, "%s", (text,), None)
    assert json.loads(JsonLines(str).format(record))["message"] == text  # type: ignore[arg-type]  # hides nothing
    line = TextLines(Redactor()).format(record)
    assert line.splitlines() == [line]
    assert line.isprintable()


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize("form", LogForm)
def test_what_looks_like_a_secret_is_left_out(written, form, planted) -> None:
    text, secret = PLANTED[planted]
    lines = written(form)
    logging.getLogger("unseen").warning("it says %s", text)
    logging.getLogger("unseen").warning("it is about", extra={"partner": text})
    try:
        raise RuntimeError(text)  # noqa: TRY301
    except RuntimeError:
        logging.getLogger("unseen").exception("broken")
    found = "\n".join(lines())
    assert secret not in found
    assert found.count(HIDDEN) >= 3


@pytest.mark.parametrize(
    "text",
    [
        "job job-d07402cef755a020 of 5f1c" + "0a" * 30 + " goes on",
        "http://localhost:8700/api/v1/session is a place",
        "a password has 12 to 256 characters; the token is another one",
        "test_a_session_that_ended_is_nobodys_any_more in tests/node/test_people.py",
        "ann@bank.example and https://bank.example/a@b",
        "the tokens of workers: three",
    ],
)
def test_what_is_no_secret_stays(text) -> None:
    assert Redactor()(text) == text


def test_every_token_that_a_node_makes_is_known_by_its_looks() -> None:
    hide = Redactor()
    for _ in range(300):
        for token in (secrets.token_urlsafe(32), secrets.token_urlsafe(24)):
            assert token not in hide(f"said {token!r}, twice")


def test_known_secrets_are_left_out_whatever_they_look_like(written) -> None:
    environment = {"PGPASSWORD": "correct horse", "PGPASSFILE": "/etc/pgpass", "SHORT_TOKEN": "abc", "HOME": "/root"}
    assert secrets_in(environment) == ("correct horse", "abc")
    lines = written(LogForm.TEXT, secrets=[*secrets_in(environment), "correct horse battery"])
    logging.getLogger("unseen").warning("the correct horse battery and a correct horse, abc")
    assert lines()[0].endswith(f"the {HIDDEN} and a {HIDDEN}, abc")


def test_lines_are_not_longer_than_lines_are_and_end_with_a_whole_word() -> None:
    hide = Redactor()
    found = hide("x " * (LONGEST // 2 - 10) + TOKEN + " y" * LONGEST)
    assert len(found) <= LONGEST + 2
    assert TOKEN[:20] not in found
    assert hide("A" * 3 * LONGEST) == " …"


def test_of_a_long_error_the_end_is_told(written) -> None:
    lines = written(LogForm.JSON)

    def deeper(left: int) -> None:
        if left == 0:
            raise RuntimeError("the reason")
        # A line that differs from the one before is not left out by Python.
        exec(f"{'#' * left}\nagain(left - 1)", {"again": deeper, "left": left})  # noqa: S102  # our own text

    try:
        deeper(300)
    except RuntimeError:
        logging.getLogger("unseen").exception("broken")
    (line,) = map(json.loads, lines())
    assert line["error"].startswith("…\n")
    assert line["error"].endswith("RuntimeError: the reason")
    assert len(line["error"]) <= LONGEST


@pytest.mark.parametrize(
    "piece", ["://a:", "password=", "bearer ", "-----BEGIN PRIVATE KEY-----", "authorization:", "aA"]
)
def test_no_text_takes_long_to_look_through(piece) -> None:
    Redactor()(piece * (LONGEST // len(piece)))  # seconds, if a pattern were tried from each place to the end


def test_warnings_threads_and_lines_that_cannot_be_written_go_the_same_way(written) -> None:
    lines = written(LogForm.JSON)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"old {TOKEN}", stacklevel=1)
    broken = threading.Thread(target=lambda: {}[TOKEN], name="broken")
    broken.start()
    broken.join()
    logging.getLogger("unseen").warning("%d", TOKEN)
    first, second = map(json.loads, lines())
    assert (first["logger"], second["message"]) == ("py.warnings", "thread broken ended by an error")
    assert "KeyError" in second["error"]
    assert TOKEN not in "".join(lines())


def test_a_process_that_breaks_down_says_so_in_its_own_form() -> None:
    code = "from unseen.node.logs import *; configure(LogForm.JSON); raise RuntimeError('Bearer hunter2')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    (line,) = ended.stderr.splitlines()
    assert (json.loads(line)["level"], "hunter2" in line, ended.returncode) == ("CRITICAL", False, 1)
