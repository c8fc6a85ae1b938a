"""``unseen node start``: the service itself."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from rich.console import Console

from unseen.errors import UsageError
from unseen.node.folder import CONFIG_FILE, Node
from unseen.node.http.services import SetUpToken
from unseen.node.logs import LogForm, configure, secrets_in
from unseen.node.start import Running, run_node

_log = logging.getLogger(__name__)


def start(*, folder: Path, log: str | None = None) -> None:
    """Run the node until SIGTERM or SIGINT."""
    node = Node(folder)
    form = node.config.log if log is None else _form(log)
    token = node.metrics_token()
    configure(form, secrets=(*secrets_in(os.environ), *([token] if token else [])))
    run_node(folder, log=form, ready=_log_ready if form is LogForm.JSON else _say_ready)


def _form(text: str) -> LogForm:
    try:
        return LogForm(text)
    except ValueError as error:
        raise UsageError(f"--log {text}: expected one of {', '.join(LogForm)}") from error


def _log_ready(running: Running) -> None:
    """Log where the node is; only the token for the first person is printed, as it belongs in no log."""
    _log.info("%s", _where(running))
    _log.info("people sign in at %s", running.url) if running.url else _log.info("people are not served")
    _say_first(running)


def _say_ready(running: Running) -> None:
    _say(_where(running))
    if running.url is not None:
        _say(f"people sign in at {running.url}")
    else:
        _say(f"people are not served: {running.node.folder / CONFIG_FILE} says no `http`")
    _say_first(running)


def _where(running: Running) -> str:
    where = f"listens at {running.node.config.listen}" if running.port.port else "dials its partners"
    known = [peer for peer, partner in running.node.partners.all().items() if partner.struck is None]
    return f"{running.node.name} {where}; partners: {', '.join(sorted(known)) or 'nobody yet'}"


def _say_first(running: Running) -> None:
    """Say how the first person signs in; the token is of use once, and to whoever sees this."""
    with running.store.read() as kept:
        somebody = bool(kept.people.all())
    if running.url is not None and not somebody:
        token = SetUpToken(running.node.folder).write()
        _say(f"the first one: unseen login {running.url} --name NAME --set-up, with the token {token}")


def _say(text: str) -> None:
    Console().print(text, highlight=False, markup=False, soft_wrap=True)
