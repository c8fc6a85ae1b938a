"""``unseen serve`` and ``unseen attend``: a program's rounds by real processes, one server and its clients."""

from __future__ import annotations

from collections.abc import Callable
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
from unseen.node.rounds import client_channels, peer_channel, read_roster, server_channel, voucher
from unseen.rounds.attend import attend
from unseen.rounds.building import Built
from unseen.rounds.events import Event, What
from unseen.rounds.identities import Signer, public_key, signing_key
from unseen.rounds.kept import keep
from unseen.rounds.private import ADD_NOISE
from unseen.rounds.program import Program
from unseen.rounds.program_data import examples_in, own_examples
from unseen.rounds.run import Round
from unseen.rounds.serve import Server
from unseen.rounds.settings import AttendSettings, ServeSettings
from unseen.rounds.without_server import Party

_SIGNING, _NOISE, _OWN = "signing.key", "noise.bin", "private"


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
    server: str | None
    peers: str | None
    listen: str | None
    data: str
    folder: Path | None
    seed: int | None
    patience: float
    budget: Path | None
    vouchers: Path | None


def serve(program: Path, told: Serving) -> None:
    """Serve a run until its last round."""
    quiet_accountant()
    spec = Program.load(program)
    names = [PartyId(name.strip()) for name in told.clients.split(",")]
    with spec.located():
        _check_served(spec)
    if spec.privacy is not None and told.folder is None:
        raise UsageError("--folder: a private run needs one, or a server that is started again forgets what it spent")
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
    count, test, process = told.rounds or built.rounds, _test(spec, told.test), built.deployed
    if told.folder is not None:
        keep(told.folder, about_of(built, count, data="their own data", clients=len(names), real=True))
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


def _check_served(spec: Program) -> None:
    """Pass if a server can play a program.

    Raises:
        UsageError: It is for simulations, or for a run without a server.
    """
    if spec.asynchronous is not None:
        raise UsageError(
            "asynchronous: a server waits for its cohort; leave it out, or simulate it with `unseen learn`"
        )
    if spec.topology is not None:
        raise UsageError("topology: this program has no server: everybody uses `unseen attend` with --peers")
    if spec.cohort.weighted:
        raise UsageError("cohort.weighted: a server does not know how many examples its clients have: leave it out")


def attend_run(program: Path, told: Attending) -> None:
    """Take part in a run until it is over."""
    quiet_accountant()
    spec, console = Program.load(program), Console()
    if spec.topology is not None:
        _attend_peers(spec, told, console)
        return
    if told.server is None or told.peers is not None:
        raise UsageError(
            "--server NAME=HOST:PORT is needed, and no --peers: this program has a server, and no topology"
        )
    name, found, address = told.server.partition("=")
    if not found:
        raise UsageError(f"--server {told.server}: expected NAME=HOST:PORT, the server's name as in its certificate")
    examples, built = own_examples(spec, told.data), Built(spec, own=_own_secret(spec, told.folder))
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
            budget=told.budget,
            patience=told.patience,
            signer=signer,
            watch=lambda event: _tell(console, event),
        )
        _say(console, f"{own} attends run {told.run} of {name} with {len(examples):,} examples")
        done = attend(connect, built.deployed, built.trainer, examples, settings, cancel=cancel)
    _say(console, f"done: {done.rounds} rounds, trained in {done.trained}")


def _attend_peers(spec: Program, told: Attending, console: Console) -> None:
    """Take part in a run without a server until its last round."""
    if told.peers is None or told.server is not None or told.seed is not None:
        raise UsageError(
            "--peers a=HOST:PORT,b=HOST:PORT,c is needed, and neither --server nor --seed: this program has a "
            "topology, and one seed for all"
        )
    addresses = peers_of(told.peers)
    own = _own_secret(spec, told.folder)
    built = Built(spec, None if own is None else own.parent / _OWN, real=len(addresses))
    test = _test(spec, None)
    examples = own_examples(spec, told.data)

    def party(me: PartyId, observe: Callable[[Round], None] | None = None) -> Party:
        return Party(
            program=spec,
            run=JobId(told.run),
            me=me,
            everybody=tuple(addresses),
            rounds=built.rounds,
            folder=told.folder,
            patience=told.patience,
            test=test,
            observe=observe,
        )

    with cancel_on_signal() as cancel, watching_rounds(console, built.rounds) as observe:
        channel = peer_channel(told.identity, addresses, told.listen, lambda me: party(me).linked)
        _say(console, f"{channel.party} takes part in run {told.run} with {len(examples):,} examples")
        me = party(channel.party, observe)
        run, troubles = me.play(channel, built.deployed, built.trainer, examples, cancel=cancel)
    for peer, why in sorted(troubles.items()):
        _say(console, f"{peer} {why}")
    _say(console, f"done: {run.state.round} rounds")


def peers_of(text: str) -> dict[PartyId, str | None]:
    """Return the names of all parties, and where those that are to be dialled listen.

    Raises:
        UsageError: A name stands twice, or an address is missing after its sign.
    """
    found: dict[PartyId, str | None] = {}
    for one in text.split(","):
        name, sign, address = one.strip().partition("=")
        if (sign and not address) or PartyId(name) in found:
            raise UsageError(f"--peers {text}: expected NAME or NAME=HOST:PORT of everybody, each once; see {one!r}")
        found[PartyId(name)] = address or None
    return found


def _own_secret(spec: Program, folder: Path | None) -> Path | None:
    """Return where a client that adds noise keeps its secret.

    Raises:
        UsageError: It has no folder: after a restart, the same update would leave with other noise.
    """
    if spec.privacy is None or spec.privacy.mode not in ADD_NOISE:
        return None
    if folder is None:
        raise UsageError(
            f"privacy.mode {spec.privacy.mode}: this client adds noise, which has to be the same after a restart: give "
            "it a --folder"
        )
    return folder / _NOISE


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
        return examples_in(spec, given)
    return Examples(*load_images(spec.data.source).test) if spec.data.source in SETS else None


def _tell(console: Console, event: Event) -> None:
    """Print what is worth a line: not that a round goes on as it should."""
    if event.note and event.what is not What.SUMMED:
        who = f" {event.client}" if event.client else ""
        _say(console, f"round {event.round + 1}:{who} {event.what.name.lower()}: {event.note}")


def _say(console: Console, text: str) -> None:
    console.print(Text(harmless(text)), soft_wrap=True)
