"""``unseen``: every command with its options. What a command needs is loaded when it runs, so that help is quick."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from unseen import errors
from unseen.cli import node_commands, remote_commands
from unseen.cli.terminal import harmless
from unseen.version import VERSION

app = typer.Typer(
    name="unseen",
    help="Federated learning between organisations: one model, and no row leaves its owner.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

agreements = typer.Typer(
    name="agreement", no_args_is_help=True, rich_markup_mode=None, help="What parties sign before they compute."
)
audits = typer.Typer(name="audit", no_args_is_help=True, rich_markup_mode=None, help="Trails of decisions.")
app.add_typer(agreements)
app.add_typer(audits)
app.add_typer(node_commands.app)

EXIT_CODES: tuple[tuple[type[errors.UnseenError], int], ...] = (
    (errors.UsageError, 2),
    (errors.PermissionDenied, 3),
    (errors.TransportError, 4),
    (errors.UnseenError, 1),
)
"""0 done, 1 the job failed or was stopped, 2 the request is wrong, 3 a policy refused it, 4 a peer is out of reach."""


FlowFile = Annotated[Path, typer.Argument(help="The flow, in YAML or JSON.", metavar="FLOW")]


def _command(name: str) -> ModuleType:
    """Return the module behind a command; loading it is what takes the time."""
    return import_module(f"unseen.cli.{name}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("unseen-demo"),
    data: Annotated[
        Path | None, typer.Option(help="Folder with one CSV or Parquet file per party, instead of the embedded data.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=100, help="Take this many of the embedded people.")] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help="private: the pooled model, no scores shown. linearised: close to it, any number of parties. exact: "
            "passive scores go to the label holder. Default: private if it can be."
        ),
    ] = None,
    scheme: Annotated[str, typer.Option(help="Encryption of the sums: lattice or paillier (slow).")] = "lattice",
    quiet: Annotated[bool, typer.Option("--quiet", help="No live display, only the result.")] = False,
) -> None:
    """Train one credit model by two processes over mutual TLS, and compare it with the bank alone and pooled data."""
    _command("demo").run(out=out, data=data, rows=rows, mode=mode, scheme=scheme, quiet=quiet)


@app.command("demo-nodes")
def demo_nodes(
    out: Annotated[Path, typer.Option(help="Folder for the nodes; a new or an empty one.")] = Path("unseen-nodes"),
    rows: Annotated[int | None, typer.Option(min=400, help="Take this many of the embedded people.")] = None,
) -> None:
    """Let two nodes pair, agree, train and score the credit model; then revoke, and verify what was recorded."""
    _command("demo_nodes").run(out=out, rows=rows)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="Folder of a demo, or the workspace of `unseen run`.")] = Path(
        "unseen-demo"
    ),
    quiet: Annotated[bool, typer.Option("--quiet", help="No live display, only the result.")] = False,
) -> None:
    """Go on with a job that was stopped or killed; finished steps are not run again."""
    _command("resume").run(folder=folder, quiet=quiet)


@app.command()
def run(
    flow: FlowFile,
    workspace: Annotated[Path, typer.Option(help="Folder that keeps results, for reuse by later runs.")] = Path(
        ".unseen"
    ),
    table: Annotated[
        list[str] | None, typer.Option(help="PARTY.NAME=FILE: where a table lies, if the flow does not say it.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this step, on earlier results (see --again).")] = None,
    again: Annotated[list[str] | None, typer.Option(help="Run this step even if its result could be reused.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run a flow with all its parties in this process (a simulation), reusing results of earlier runs."""
    _command("run").run(flow=flow, workspace=workspace, table=table, only=only, again=again, as_json=json)


@app.command()
def validate(flow: FlowFile) -> None:
    """Check a flow as a whole, without running it."""
    _command("flows").validate(flow)


@app.command()
def components(
    name: Annotated[str | None, typer.Argument(help="Show everything about this one.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the kinds of steps, with their inputs, outputs, parameters, and what each party learns."""
    _command("flows").components(name, as_json=json)


@app.command()
def schema() -> None:
    """Print the JSON Schema of flows, for editors and forms."""
    _command("flows").schema()


@app.command()
def party(
    config: Annotated[Path, typer.Argument(help="The party's configuration, a YAML file.")],
    listen: Annotated[str | None, typer.Option(help="HOST:PORT where peers dial in.")] = None,
    peer: Annotated[list[str] | None, typer.Option(help="NAME=HOST:PORT of a peer to dial.")] = None,
    events: Annotated[bool, typer.Option("--events", help="Print progress as JSON lines.")] = False,
) -> None:
    """Run, or resume, one party's side of a job as a process of its own, over mutual TLS."""
    _command("party").run(config=config, listen=listen, peer=peer, events=events)


@app.command()
def doctor(
    peer: Annotated[str | None, typer.Argument(help="The peer; without, all of them.")] = None,
    at: Annotated[Path, typer.Option(help="Folder of the node, or a party file.")] = Path("node"),
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Walk the way to a peer, from its name to its version, and say what is wrong and what to do."""
    _command("doctor").run(peer=peer, at=at, as_json=json)


@app.command()
def report(
    folder: Annotated[
        Path,
        typer.Argument(
            help="The workspace of `unseen run`, or a party's own; or the --folder of `unseen learn` or `unseen serve`."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("report.html"),
    table: Annotated[
        bool, typer.Option("--table", help="Print the figures in the console, and write no file.")
    ] = False,
) -> None:
    """Write an HTML report of a job or a run: measures, learning curves, costs, who learned what."""
    _command("report").run(folder=folder, out=out, table=table)


@app.command()
def clients(
    source: Annotated[
        str,
        typer.Argument(
            help="An image set (digits, fashion-mnist, mnist), or a file: LEAF's JSON (or its folder), TFF's HDF5 or "
            "SQLite.",
            metavar="SOURCE",
        ),
    ],
    partition: Annotated[
        str | None,
        typer.Option(
            help="Deal the examples out anew: iid, dirichlet:0.5, dirichlet-per-label:0.5, shards:2, labels:2, "
            "power-law:1.2, dirichlet-sizes:0.5, overlap:1. Default: a file's own clients, iid for an image set."
        ),
    ] = None,
    clients: Annotated[int | None, typer.Option(min=1, help="To how many clients. Default: 100.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same partition.")] = 0,
    split: Annotated[
        str | None,
        typer.Option(help="Part of it: train or test of an image set; a split_name, if it is not digits_only_train."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture to write, an HTML file.")] = Path("clients.html"),
) -> None:
    """Show who has how many examples of which label, in figures and as a picture."""
    _command("clients").run(source=source, partition=partition, count=clients, seed=seed, split=split, out=out)


ProgramFile = Annotated[Path, typer.Argument(help="The program, in YAML or JSON.", metavar="PROGRAM")]


@app.command()
def learn(  # noqa: PLR0913, PLR0917  each is an option
    program: ProgramFile,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds in all, instead of the program's.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that train. Default: one for each core.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Keep the run here; the same command goes on with it.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report to this file.")] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Train on pooled examples and by single clients as well.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Simulate a program of horizontal learning: many clients on this machine, one model."""
    module = _command("learn")
    module.run(program, module.Wishes(rounds, workers, folder, report, compare, json))


Run = Annotated[str, typer.Option(help="Name of the run: the same at the server and all clients.")]
Vouchers = Annotated[
    Path | None, typer.Option(help="Folder with the vouchers of all clients, for secure aggregation (`unseen vouch`).")
]
Who = Annotated[Path, typer.Option(help="Folder of the node, or one with certificate, key and authority.")]


@app.command()
def serve(  # noqa: PLR0913, PLR0917  each is an option
    program: ProgramFile,
    run: Run,
    identity: Who,
    listen: Annotated[str, typer.Option(help="HOST:PORT where clients dial in.")],
    clients: Annotated[str, typer.Option(help="Names of all clients, as in their certificates: a,b,c.")],
    folder: Annotated[Path | None, typer.Option(help="Keep the run here; the same command goes on with it.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Rounds in all, instead of the program's.")] = None,
    minimum: Annotated[int, typer.Option(min=1, help="A round with fewer answers does not count.")] = 1,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds after which a round ends.")] = 600.0,
    test: Annotated[Path | None, typer.Option(help="Examples to evaluate on; default: those of an image set.")] = None,
    vouchers: Vouchers = None,
) -> None:
    """Serve a program's rounds to real clients, over mutual TLS."""
    module = _command("federation")
    module.serve(
        program, module.Serving(run, identity, listen, clients, folder, rounds, minimum, deadline, test, vouchers)
    )


@app.command()
def attend(  # noqa: PLR0913, PLR0917  each is an option
    program: ProgramFile,
    run: Run,
    identity: Who,
    data: Annotated[
        str,
        typer.Option(
            help="This client's examples: an .npz file with inputs and labels, LEAF's JSON, TFF's HDF5 or SQLite; or "
            "client:ID, one of the program's own clients, to rehearse. Of a learner of tables, a CSV or Parquet file."
        ),
    ],
    server: Annotated[str | None, typer.Option(help="NAME=HOST:PORT of the server.")] = None,
    peers: Annotated[
        str | None,
        typer.Option(help="Without a server: the names of all, with an address where this one dials: a=HOST:PORT,b,c."),
    ] = None,
    listen: Annotated[str | None, typer.Option(help="Without a server: HOST:PORT where other peers dial in.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Keep here what a restart needs.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of its training; default: the program's.")] = None,
    patience: Annotated[
        float, typer.Option(min=0, help="For how many seconds the server, or a peer, may be away.")
    ] = 600.0,
    budget: Annotated[
        Path | None,
        typer.Option(
            help="Count answers that cost privacy here, for all runs on these examples. Default: in --folder."
        ),
    ] = None,
    vouchers: Vouchers = None,
) -> None:
    """Take part in a program's rounds as a client, or as a peer: its examples stay here."""
    module = _command("federation")
    module.attend_run(
        program, module.Attending(run, identity, server, peers, listen, data, folder, seed, patience, budget, vouchers)
    )


@app.command()
def vouch(
    identity: Who,
    out: Annotated[Path, typer.Option(help="Folder of all vouchers.")] = Path("vouchers"),
) -> None:
    """Make the voucher of a client's signing key, by which others know it in secure aggregation."""
    _command("federation").vouch(identity, out)


@app.command()
def lineage(
    workspace: Annotated[Path, typer.Argument(help="One party's workspace.")],
    artifact: Annotated[str, typer.Argument(help="Digest of an artifact, or its first characters.")],
) -> None:
    """Print how an artifact came to be, back to the tables."""
    _command("flows").lineage(workspace, artifact)


AgreementFile = Annotated[Path, typer.Argument(help="The file of an agreement.", metavar="FILE")]


@agreements.command()
def key(
    folder: Annotated[Path, typer.Argument(help="The party's identity: the folder of its certificate.")],
    party: Annotated[str, typer.Option(help="The name of the party.")],
) -> None:
    """Make the key with which a party signs, unless it is there, and print the party's entry among the members."""
    _command("agreement").key(folder, party)


@agreements.command()
def new(
    text: Annotated[Path, typer.Argument(help="What the parties agree on, in YAML or JSON.", metavar="TEXT")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("agreement.unseen"),
    after: Annotated[Path | None, typer.Option(help="The version that this one replaces.")] = None,
) -> None:
    """Make the file that parties sign from the text of an agreement."""
    _command("agreement").new(text, out, after)


@agreements.command()
def show(file: AgreementFile) -> None:
    """Print what an agreement says, and who has signed it."""
    _command("agreement").show(file)


@agreements.command()
def sign(
    file: AgreementFile,
    identity: Annotated[Path, typer.Option(help="Folder with the party's certificate and signing key.")],
    after: Annotated[Path | None, typer.Option(help="The version before, if a member or a key was changed.")] = None,
) -> None:
    """Add a party's signature to an agreement."""
    _command("agreement").sign(file, identity, after)


@agreements.command()
def check(
    files: Annotated[
        list[Path], typer.Argument(help="The agreement; if it was changed, all its versions in order.", metavar="FILE")
    ],
) -> None:
    """Check that all parties have signed an agreement, and that it holds today."""
    _command("agreement").check(files)


@audits.command()
def verify(
    file: Annotated[Path, typer.Argument(help="The trail.", metavar="FILE")],
    head: Annotated[list[Path] | None, typer.Option(help="A head of it that somebody holds; once for each.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Check that a trail of decisions was not changed since its records were written."""
    _command("audit").verify(file, head or [], as_json=json)


@audits.command("show")
def show_trail(
    file: Annotated[Path, typer.Argument(help="The trail.", metavar="FILE")],
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show the records of a trail: what was decided when, and, in a node's own, who added and approved."""
    _command("audit").show(file, as_json=json)


def _version(wanted: bool) -> None:
    if wanted:
        Console().print(f"unseen {VERSION}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Accept the options that stand before a command."""


remote_commands.add_to(app)


def main() -> None:
    """Run the command line; a mistake ends with one clear message and an exit code of its own."""
    try:
        app()
    except errors.UnseenError as error:
        screen = Console(stderr=True)
        screen.print(Text("Error: ", style="bold red") + Text(harmless(str(error))), highlight=False, soft_wrap=True)
        for note in getattr(error, "__notes__", []):
            screen.print(Text(harmless(f"  {note}"), style="dim"), highlight=False, soft_wrap=True)
        sys.exit(next(code for kind, code in EXIT_CODES if isinstance(error, kind)))
    except OSError as error:  # a folder that cannot be made, a full disk: the system's words name the place
        Console(stderr=True).print(
            Text("Error: ", style="bold red") + Text(harmless(str(error))), highlight=False, soft_wrap=True
        )
        sys.exit(1)
