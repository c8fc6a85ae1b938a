"""The commands of ``unseen node``; what they need is loaded when they run, so that help is quick."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

app = typer.Typer(
    name="node",
    help="An organisation's node: its root and certificate, pairing with partners, and the service itself.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(help="Folder of the node.", metavar="DIR")]
RootKey = Annotated[Path | None, typer.Option(help="File with the root's key, if it is not in the folder.")]
HERE = Path("node")


def _work() -> ModuleType:
    return import_module("unseen.cli.node")


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The organisation's name, by which partners know it.")],
    folder: Folder = HERE,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT of its one port; without, it can only dial.")] = None,
) -> None:
    """Make a node: a root of its own, a key, and a certificate for 90 days."""
    _work().init(folder=folder, name=name, listen=listen)


@app.command()
def start(folder: Folder = HERE) -> None:
    """Run the node, its port, letters and jobs, until it is told to stop; jobs go on when it is started again."""
    import_module("unseen.cli.start").start(folder=folder)


@app.command()
def status(
    folder: Folder = HERE,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show name, root, certificate with the days left, and partners."""
    _work().status(folder=folder, as_json=json)


@app.command()
def renew(
    folder: Folder = HERE,
    days: Annotated[int, typer.Option(min=1, max=90, help="For how long it is valid.")] = 90,
    root_key: RootKey = None,
) -> None:
    """Put a new key and certificate in place; partners notice nothing, and what runs goes on."""
    _work().renew(folder=folder, days=days, root_key=root_key)


@app.command()
def revoke(
    folder: Folder = HERE,
    partner: Annotated[str | None, typer.Option(help="Strike this partner off instead.")] = None,
    take: Annotated[Path | None, typer.Option(help="Take this revocation list, which a partner sent, instead.")] = None,
    root_key: RootKey = None,
) -> None:
    """Revoke all certificates that this node has had, tell the partners, and put a new one in place."""
    _work().revoke(folder=folder, partner=partner, take=take, root_key=root_key)


@app.command()
def invite(
    folder: Folder = HERE,
    to: Annotated[str | None, typer.Option(help="Name of the partner; nobody else can join then.")] = None,
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT at which the partner reaches this node, if not where it listens.")
    ] = None,
    minutes: Annotated[int, typer.Option(min=1, max=1440, help="For how long the invitation is good.")] = 60,
) -> None:
    """Print a line for a partner, wait until it joins, and compare a short code with the people there."""
    _work().invite(folder=folder, to=to, address=address, minutes=minutes)


@app.command()
def join(
    line: Annotated[str, typer.Argument(help="What `unseen node invite` printed; - to be asked.", metavar="LINE")],
    folder: Folder = HERE,
    name: Annotated[str | None, typer.Option(help="Name of the node, if it has to be made first.")] = None,
) -> None:
    """Pair with the one who made an invitation, and compare a short code with the people there."""
    _work().join(line=line, folder=folder, name=name)
