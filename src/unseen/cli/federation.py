"""``unseen serve`` and ``unseen attend``: a program's rounds by real processes, one server and its clients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from unseen.cli.interrupt import cancel_on_signal
from unseen.cli.learn import quiet_accountant, watching_rounds
from unseen.cli.learned import about_of
from unseen.cli.terminal import harmless
from unseen.clock import SystemClock
from unseen.data.federated.images import SETS, load_images
from unseen.errors import UsageError
from unseen.ids import JobId, PartyId
from unseen.learners.horizontal.process import Examples
from unseen.node.rounds import client_channels, read_roster, server_channel, voucher
from unseen.rounds.attend import attend
from unseen.rounds.building import Built
from unseen.rounds.events import Event, What
from unseen.rounds.identities import Signer, public_key, signing_key
from unseen.rounds.kept import keep
from unseen.rounds.program import Program
from unseen.rounds.program_data import examples_in, own_examples
from unseen.rounds.serve import Server
from unseen.rounds.settings import AttendSettings, ServeSettings

_SIGNING = "signing.key"


@dataclass(frozen=True, slots=True)
class Serving:
    """What a server is told beside the program."""

    run: str
    identity: Path
    listen: str
    clients: str
    folder: Path | None
    rounds: int | None
    minimum: int
    deadline: float
    test: Path | None
    vouchers: Path | None


@dataclass(frozen=True, slots=True)
class Attending:
    """What a client is told beside the program."""

    run: str
    identity: Path
    server: str
    data: str
    folder: Path | None
    seed: int | None
    patience: float
    vouchers: Path | None


def serve(program: Path, told: Serving) -> None:
    """Serve a run until its last round."""
    quiet_accountant()
    spec = Program.load(program)
    names = [PartyId(name.strip()) for name in told.clients.split(",")]
    if spec.cohort.weighted:
        raise UsageError("cohort.weighted: a server does not know how many examples its clients have: leave it out")
    built, console = Built(spec, told.folder, real=len(names)), Console()
    settings = ServeSettings(
        JobId(told.run),
        cohort=built.cohort,
        seed=spec.seed,
        minimum=told.minimum,
        deadline=told.deadline,
        folder=told.folder,
        evaluate_every=spec.evaluate_every,
        roster=_roster(told.identity, told.vouchers),
        watch=lambda event: _tell(console, event),
    )
    count, test, process = told.rounds or spec.rounds, _test(spec, told.test), built.deployed
    if told.folder is not None:
        keep(told.folder, about_of(built, data="their own data", clients=len(names), spread=None, real=True))
    with (
        cancel_on_signal() as cancel,
        server_channel(told.identity, names, told.listen) as channel,
        Server(channel, process, built.trainer, settings, test=test) as server,
    ):
        _say(console, f"{channel.party} serves run {told.run} at port {channel.port} for {', '.join(names)}")
        with watching_rounds(console, count) as observe:
            run = server.rounds(count, observe=observe, cancel=cancel)
    figures = ", ".join(f"test {name} {value:.4f}" for name, value in sorted(run.test.items())) if test else ""
    _say(console, f"done: {run.state.round} rounds{figures and ', '}{figures}")
    if built.guard is not None:
        _say(console, f"privacy: {built.guard.budget.left()}")


def attend_run(program: Path, told: Attending) -> None:
    """Take part in a run until it is over."""
    quiet_accountant()
    spec, console = Program.load(program), Console()
    name, found, address = told.server.partition("=")
    if not found:
        raise UsageError(f"--server {told.server}: expected NAME=HOST:PORT, the server's name as in its certificate")
    examples, built = own_examples(spec, told.data), Built(spec)
    own, connect = client_channels(told.identity, PartyId(name), address)
    signer = None
    if told.vouchers is not None:
        signer = Signer(signing_key(told.identity / _SIGNING), _roster(told.identity, told.vouchers))
    seed = spec.seed if told.seed is None else told.seed
    with cancel_on_signal() as cancel:
        settings = AttendSettings(
            JobId(told.run),
            seed=seed,
            folder=told.folder,
            patience=told.patience,
            signer=signer,
            watch=lambda event: _tell(console, event),
        )
        _say(console, f"{own} attends run {told.run} of {name} with {len(examples):,} examples")
        done = attend(connect, built.deployed, built.trainer, examples, settings, cancel=cancel)
    _say(console, f"done: {done.rounds} rounds, trained in {done.trained}")


def vouch(identity: Path, out: Path) -> None:
    """Write a voucher for this client's signing key into the folder of all vouchers; the key is made if need be."""
    party, content = voucher(identity, public_key(signing_key(identity / _SIGNING)))
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{party}.json"
    path.write_bytes(content)
    _say(Console(), f"voucher: {path.resolve()}; it is no secret: give it to the server and all other clients")


def _roster(identity: Path, vouchers: Path | None) -> dict[PartyId, bytes]:
    return {} if vouchers is None else read_roster(identity, vouchers, SystemClock().now())


def _test(spec: Program, given: Path | None) -> Examples | None:
    """Return what the server evaluates on: a file, or what an image set has for it; nothing if there is neither."""
    if given is not None:
        return examples_in(given)
    return Examples(*load_images(spec.data.source).test) if spec.data.source in SETS else None


def _tell(console: Console, event: Event) -> None:
    """Print what is worth a line: not that a round goes on as it should."""
    if event.note and event.what is not What.SUMMED:
        who = f" {event.client}" if event.client else ""
        _say(console, f"round {event.round + 1}:{who} {event.what.name.lower()}: {event.note}")


def _say(console: Console, text: str) -> None:
    console.print(Text(harmless(text)), soft_wrap=True)
