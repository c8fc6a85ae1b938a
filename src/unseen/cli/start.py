"""``unseen node start``: the service itself."""

from __future__ import annotations

import logging
from pathlib import Path

from rich.console import Console

from unseen.node.folder import CONFIG_FILE
from unseen.node.http.services import SetUpToken
from unseen.node.start import Running, run_node


def start(*, folder: Path) -> None:
    """Run the node until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run_node(folder, ready=_say_ready)


def _say_ready(running: Running) -> None:
    where = f"listens at {running.node.config.listen}" if running.port.port else "dials its partners"
    known = [peer for peer, partner in running.node.partners.all().items() if partner.struck is None]
    partners = ", ".join(sorted(known)) or "nobody yet"
    Console().print(f"{running.node.name} {where}; partners: {partners}", highlight=False, markup=False, soft_wrap=True)
    if running.url is not None:
        _say_people(running, running.url)
    else:
        place = running.node.folder / CONFIG_FILE
        Console().print(f"people are not served: {place} says no `http`", highlight=False, markup=False, soft_wrap=True)


def _say_people(running: Running, url: str) -> None:
    """Say where people sign in, and how the first one does; the token is of use once, and to whoever sees this."""
    with running.store.begin() as kept:
        somebody = bool(kept.people.all())
    console = Console()
    console.print(f"people sign in at {url}", highlight=False, markup=False, soft_wrap=True)
    if not somebody:
        token = SetUpToken(running.node.folder).write()
        console.print(
            f"the first one: unseen login {url} --name NAME --set-up, with the token {token}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
