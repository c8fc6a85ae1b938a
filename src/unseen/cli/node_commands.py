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
Http = Annotated[str, typer.Option(help='HOST:PORT for its own people; "none" for a node without.')]
HERE = Path("node")
LOOPBACK = "127.0.0.1:8700"


def _work() -> ModuleType:
    return import_module("unseen.cli.node")


@app.command()
def init(
    name: Annotated[str, typer.Option(help="The organisation's name, by which partners know it.")],
    folder: Folder = HERE,
    listen: Annotated[str | None, typer.Option(help="HOST:PORT of its one port; without, it can only dial.")] = None,
    http: Http = LOOPBACK,
) -> None:
    """Make a node: a root of its own, a key, and a certificate for 90 days."""
    _work().init(folder=folder, name=name, listen=listen, http=_place(http))


@app.command()
def start(
    folder: Folder = HERE,
    log: Annotated[
        str | None, typer.Option(help="How the log is written: text or json; without, as the settings say.")
    ] = None,
) -> None:
    """Run the node, its port, letters and jobs, until it is told to stop; jobs go on when it is started again."""
    import_module("unseen.cli.start").start(folder=folder, log=log)


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
    """Put a new key and certificate in place; partners notice nothing, and a node that runs takes them up."""
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
    http: Http = LOOPBACK,
) -> None:
    """Pair with the one who made an invitation, and compare a short code with the people there."""
    _work().join(line=line, folder=folder, name=name, http=_place(http))


PassphraseFile = Annotated[
    Path | None, typer.Option(help="File whose first line is the passphrase; without, you are asked.")
]
BackupFile = Annotated[Path, typer.Argument(help="The backup.", metavar="FILE")]


@app.command()
def backup(
    file: BackupFile,
    folder: Folder = HERE,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write database, artifacts, keys and configuration into one encrypted file, while the node runs or not."""
    _storage().backup(folder=folder, file=file, passphrase_file=passphrase_file)


@app.command()
def restore(
    file: BackupFile,
    folder: Folder = HERE,
    store: Annotated[str | None, typer.Option(help="URL of an empty database, instead of the one it had.")] = None,
    artifacts: Annotated[str | None, typer.Option(help="URL for artifacts, instead of the one it had.")] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a node in an empty folder from a backup."""
    _storage().restore(file=file, folder=folder, store=store, artifacts=artifacts, passphrase_file=passphrase_file)


@app.command()
def reconcile(folder: Folder = HERE) -> None:
    """Say that a node's files were put back by other means: it compares with its partners before it goes on."""
    _storage().reconcile(folder=folder)


@app.command()
def purge(
    days: Annotated[int, typer.Option(min=0, help="What has been over or out of use for so long goes.")],
    folder: Folder = HERE,
) -> None:
    """Remove jobs that are over and the content of tables out of use; trails, ledgers and agreements stay."""
    _storage().purge(folder=folder, days=days)


def _place(http: str) -> str | None:
    return None if http == "none" else http


def _storage() -> ModuleType:
    return import_module("unseen.cli.node_storage")
