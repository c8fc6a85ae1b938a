"""What a node and its workers write to their logs: a line for each event, as text or JSON, without secrets.

Every line begins with the time in UTC, and whatever a line quotes is escaped, so that nothing that comes from outside
can end it and begin another one. What looks like a secret is left out, wherever it stands: passwords in URLs, headers
that authorise, tokens, invitations, private keys, and the values that the node was given as secrets.

Fields say what a line is about, so that lines can be found by them: a call of ``logging`` gives them as ``extra``, or a
block as ``about``. ``FIELDS`` are all that there are.
"""

from __future__ import annotations

import enum
import json
import logging
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import IO

FIELDS = (
    "request",
    "person",
    "job",
    "project",
    "partner",
    "step",
    "component",
    "method",
    "route",
    "status",
    "milliseconds",
)
"""What a line may be about, beside its message."""
LONGEST = 20_000
"""Characters of a message, or of a traceback."""
HIDDEN = "[hidden]"
_SHORTEST_SECRET = 8
_SECRET_NAME = re.compile(r"(?i)password|passwd|secret|token|passphrase|headers")
_PATTERNS = (
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*?-----END [A-Z ]*PRIVATE KEY-----|.*)", re.DOTALL), HIDDEN),
    (re.compile(r"(://[^\s:/@'\"]{0,200}):[^\s'\"]{0,500}@"), rf"\1:{HIDDEN}@"),
    (
        re.compile(r"(?i)\b(authorization\W{1,5})(?:(?:bearer|basic|digest|negotiate)\s+)?[^\s'\",}\])]+"),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(?i)\b(bearer\s+)[^\s'\",}\])]+"), rf"\1{HIDDEN}"),
    (
        re.compile(
            r"(?i)((?:password|passwd|passphrase|secret|token|unseen_(?:session|device))[\w-]{0,20}['\"]?\s?[=:]\s?['\"]?)[^\s'\",;&}\])]+"
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\bunseen-[A-Za-z0-9_-]{40,}"), HIDDEN),
)
_RANDOM = re.compile(r"[A-Za-z0-9_-]{32,}")
"""Tokens are so long at least, of these characters; digests and names of tests have no capitals."""

_about: ContextVar[Mapping[str, object]] = ContextVar("unseen_log_about")


class LogForm(enum.StrEnum):
    """How a log is written."""

    TEXT = "text"
    JSON = "json"


@contextmanager
def about(**fields: object) -> Iterator[None]:
    """Say of all lines in a block, those of functions that it calls included, what they are about."""
    token = _about.set({**_about.get({}), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def configure(form: LogForm, *, secrets: Iterable[str] = (), stream: IO[str] | None = None) -> None:
    """Let this process log in a form, to its standard error if no stream is named; unhandled errors as well.

    Args:
        form: Text or JSON.
        secrets: What must not appear; what is too short to be found safely is left to the patterns.
        stream: Where to.
    """
    handler = logging.StreamHandler(stream)
    hide = Redactor(secrets)
    handler.setFormatter(JsonLines(hide) if form is LogForm.JSON else TextLines(hide))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("unseen").setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
    # A line that cannot be written must not be printed raw instead.
    logging.raiseExceptions = False
    sys.excepthook = _unhandled
    threading.excepthook = _unhandled_in_thread


def secrets_in(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of variables that hold secrets, by their names."""
    return tuple(
        value for name, value in environment.items() if _SECRET_NAME.search(name) and not name.endswith("_FILE")
    )


class Redactor:
    """Takes out of a text what looks like a secret, and what is known to be one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        # The longest first: one may be part of another.
        known = sorted({text for text in secrets if len(text) >= _SHORTEST_SECRET}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None

    def __call__(self, text: str) -> str:
        """Return the text without secrets, and not longer than lines are."""
        if len(text) > LONGEST:
            # Not in the middle of a word, which might be a token that is not recognised any more.
            text = text[: max(text.rfind(" ", 0, LONGEST), text.rfind("\n", 0, LONGEST), 0)] + " …"
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return _RANDOM.sub(_unless_plain, text)


def _unless_plain(found: re.Match[str]) -> str:
    text = found[0]
    return text if text == text.lower() or text == text.upper() else HIDDEN


class _Lines(logging.Formatter):
    """What both forms have in common."""

    def __init__(self, hide: Redactor) -> None:
        super().__init__()
        self.hide = hide

    def facts(self, record: logging.LogRecord) -> dict[str, str | int | float]:
        """Return the fields of a line, without secrets."""
        given = {**_about.get({}), **vars(record)}
        found = {name: given[name] for name in FIELDS if given.get(name) is not None}
        return {
            name: value if isinstance(value, int | float) else self.hide(str(value)) for name, value in found.items()
        }

    def trace(self, record: logging.LogRecord) -> str:
        """Return where an error came from, without secrets; nothing, if the line is about none."""
        if not record.exc_info or not record.exc_info[0]:
            return ""
        text = self.formatException(record.exc_info)
        if len(text) > LONGEST:
            # What matters stands at the end.
            text = "…\n" + text[text.find("\n", len(text) - LONGEST + 2) + 1 :]
        return self.hide(text)


class JsonLines(_Lines):
    """A JSON object on each line: ``time``, ``level``, ``logger``, ``message``, the fields, and ``error``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line."""
        said: dict[str, str | int | float] = {
            "time": _moment(record),
            "level": record.levelname,
            "logger": record.name,
            "message": self.hide(record.getMessage()),
            **self.facts(record),
        }
        if trace := self.trace(record):
            said["error"] = trace
        return json.dumps(said)


class TextLines(_Lines):
    """For people: time, level, logger, message, and the fields; what follows of an error is set in."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line, and the lines of its error."""
        fields = " ".join(f"{name}={value}" for name, value in self.facts(record).items())
        text = self.hide(record.getMessage()) + (f" ({fields})" if fields else "")
        head = f"{_moment(record)} {record.levelname} {record.name}: {_plain(text)}"
        return "\n  ".join((head, *map(_plain, self.trace(record).splitlines())))


def _moment(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(text: str) -> str:
    """Return a text with all that a terminal might obey, or that ends a line, escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _unhandled(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger(__name__).critical("the process breaks down", exc_info=(kind, error, trace))


def _unhandled_in_thread(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is not None and failure.exc_type is not SystemExit:
        name = failure.thread.name if failure.thread is not None else "unknown"
        logging.getLogger(__name__).error("thread %s ended by an error", name, exc_info=failure.exc_value)
