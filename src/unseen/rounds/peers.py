"""Rounds without a server: every organisation runs the whole process, and the state is the same at all of them.

::

    every peer                                     every other peer
    PeerHello(run, process, …, rounds held)  ◀──▶          all must agree; all go on from the lowest round held
    the messages of one sum                  ◀──▶          each round: shares, or a ring
    Stands(round, digest of the state)       ◀──▶

A peer makes the broadcast of the common state, trains on its own examples, and turns its update into words. The words
are summed by a ``PeerSum``, so that nobody sees another one's update; each peer decodes the same sum and finalizes it.
Floating-point numbers are met in the same order everywhere, so that all states have the same bits: a digest is compared
after every round, and goes into the context of every sum. Whoever differs is named, and the run ends for all.

*Security model*: that of the sum (``shares``, ``ring``): semi-honest peers. *Leakage*: every peer learns the state, so
the sum of the others' weighted updates, metrics and weights, of every round. *Rounds*: those of the sum and one.
Nobody may drop out: if a peer is lost everybody ends with the cause, and a run that is begun again in the same folders
goes on from the last common round, with the bits of an undisturbed one.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from unseen.codec import Shape, message, read_json, shown
from unseen.crypto.hashing import framed_digest
from unseen.crypto.prg import Prg
from unseen.data.atomic import whole_file
from unseen.dialogue import (
    CancelToken,
    CheckpointStore,
    Dialogue,
    Enter,
    Held,
    Leave,
    Load,
    MemoryCheckpoints,
    Progress,
    Usage,
    checkpoint,
    converse,
    receive_all,
    send_all,
)
from unseen.errors import DataError, RemoteProtocolError, UsageError
from unseen.ids import ClientId, JobId, PartyId, StepId
from unseen.learners.horizontal.process import (
    Aggregate,
    Assignment,
    Examples,
    Memory,
    Process,
    State,
    Trainer,
    Update,
    stream,
)
from unseen.learners.horizontal.sums import Layout, SumAggregator, check_count
from unseen.protocols.secure_aggregation.port import PeerSum, Setting
from unseen.protocols.secure_aggregation.ring import ring_all_reduce
from unseen.protocols.secure_aggregation.shares import AdditiveShares
from unseen.rounds.checkpoint import NamedVector, pack, unpack
from unseen.rounds.digest import digest_of
from unseen.rounds.identities import secret_of
from unseen.rounds.notes import only_here
from unseen.rounds.run import Clients, Round, Run
from unseen.transport.channel import Channel
from unseen.transport.session import Session

SUMS: Mapping[str, PeerSum] = {"shares": AdditiveShares(), "ring": ring_all_reduce}
"""How a sum is taken, by name: few rounds and much traffic at three members, or many rounds and the least traffic."""
_STEP = StepId("rounds")
_EVERYBODY = "nothing: all peers are in every round"
"""What draws the cohorts; a finalizer that needs others refuses it by these words."""
_FILE = re.compile(r"round-(\d+)\.bin")


# --- messages ----------------------------------------------------------------------------------------------------


@message("peers/hello")
class PeerHello:
    """What the sender takes part in; all but ``held`` is the same at every peer."""

    run: str
    process: str
    """``digest_of`` the process."""
    peers: str
    """All of them in ascending order, with commas."""
    scheme: str
    size: int
    """Numbers of the model."""
    seed: int
    rounds: int
    held: int
    """How many rounds the sender has finished."""


@message("peers/stands")
class Stands:
    """Where the sender stands after a round."""

    round: int
    digest: Annotated[NDArray[np.uint8], Shape(32)]


@message("peers/kept")
class KeptRound:
    """What a peer keeps of a round, all in one file."""

    agreed: str
    """What was agreed, as JSON: a run is not continued as another one."""
    round: int
    model: Annotated[NDArray[np.float32], Shape(None)]
    extra: tuple[NamedVector, ...]
    memory: tuple[NamedVector, ...]
    history: str


# --- what a peer is given ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """How a run without a server is played; what stands after ``seed`` is a peer's own choice.

    Raises:
        UsageError: A number or a name is not what it has to be.
    """

    run: JobId
    peers: tuple[PartyId, ...]
    """Everybody, in ascending order; three at least."""
    rounds: int
    """In all, those of an earlier process included."""
    scheme: str = "shares"
    """One of ``SUMS``."""
    seed: int = 0
    """Of the first model, and of what training draws."""
    folder: Path | None = None
    """Where this peer keeps its rounds; nowhere if ``None``: then a run begins anew after a crash of any peer."""
    deadline: float = 600.0
    """Seconds for which a peer may be connected and silent: the longest training takes less."""
    evaluate_every: int = 1
    test: Examples | None = field(default=None, repr=False)
    """This peer's own examples to evaluate on: where peers have different ones, their histories differ in that."""
    observe: Callable[[Round], None] | None = field(default=None, repr=False)
    """Is told every finished round."""

    def __post_init__(self) -> None:
        if self.scheme not in SUMS:
            raise UsageError(f"peers take sums by one of {', '.join(sorted(SUMS))}, found {self.scheme!r}")
        if list(self.peers) != sorted(set(self.peers)) or len(self.peers) < 3:
            raise UsageError("the peers of a run are three at least, named in ascending order, each once")
        if min(self.rounds, self.evaluate_every) < 1 or not self.deadline > 0:
            raise UsageError(f"run {self.run}: rounds, evaluate_every and deadline are above 0")


class PeerFolder:
    """A folder with the last two rounds of one peer, and its secret; a ``CheckpointStore``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def secret(self) -> Prg:
        """Return what this peer rounds with: drawn once, so that a round that is played again has the same bits."""
        return secret_of(self._folder / "secret.bin")

    def held(self, step: StepId | None) -> int:
        """Return the newest round."""
        del step
        return max(self._rounds(), default=0)

    def save(self, step: StepId | None, index: int, state: bytes) -> None:
        """Keep a round durably, and forget all but the one before it: no two peers are further apart."""
        del step
        with whole_file(self._path(index)) as file:
            file.write(state)
        for other in self._rounds():
            if other not in (index, index - 1):
                self._path(other).unlink()

    def load(self, step: StepId | None, index: int) -> bytes:
        """Return a round."""
        del step
        return self._path(index).read_bytes()

    def clear(self, step: StepId | None) -> None:
        """Forget all rounds."""
        del step
        for index in self._rounds():
            self._path(index).unlink()

    def _path(self, index: int) -> Path:
        return self._folder / f"round-{index}.bin"

    def _rounds(self) -> list[int]:
        return [int(match[1]) for path in self._folder.iterdir() if (match := _FILE.fullmatch(path.name))]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one peer brings to a run."""

    me: PartyId
    process: Process
    trainer: Trainer
    examples: Examples
    secret: Prg = field(repr=False)
    """Rounds its updates; the same after a restart."""


def take_part(
    channel: Channel,
    process: Process,
    trainer: Trainer,
    examples: Examples,
    settings: PeerSettings,
    *,
    cancel: CancelToken | None = None,
) -> Run:
    """Play a run with the peers at the other ends of ``channel``, which is closed; return the common state.

    Args:
        channel: Leads to all other peers.
        process: Of a strategy made ``secure``.
        trainer: The model.
        examples: This peer's own.
        settings: What is agreed, and what is this peer's own choice.
        cancel: Looked at while waiting.

    Raises:
        UsageError: The process takes no sums. Another process works in the folder. Or there is none, and answers cost
            privacy.
        PeerFailed: A peer stopped; the message says why.
        PeerUnreachable: A peer was lost.
        DeadlineExceeded: A peer was silent for longer than ``deadline``.
        RemoteProtocolError: A peer broke the rules, runs something else, or has another state.
    """
    folder = None if settings.folder is None else PeerFolder(settings.folder)
    store: CheckpointStore = folder or MemoryCheckpoints()
    secret = folder.secret() if folder else Prg.fresh()
    part = Part(channel.party, process, trainer, examples, secret)
    trainer.settle()
    session = Session(channel, job=settings.run, checkpoints=store, cancel=cancel, silence=settings.deadline)
    with session, only_here(settings.run, process, settings.folder):
        return session.run(peer_rounds(part, settings, Prg.fresh()))


def simulate_peers(clients: Clients, trainer: Trainer, process: Process, settings: PeerSettings) -> Run:
    """Play all peers in one thread; the n-th peer has the examples of the n-th client. Return the common end.

    Nothing is secret here: what peers round and mask with follows from the seed. ``folder`` is not used.

    Raises:
        UsageError: There are not as many clients as peers, or the process takes no sums.
    """
    if len(clients.ids) != len(settings.peers):
        raise UsageError(f"expected a client for each of {len(settings.peers)} peers, found {len(clients.ids)}")
    trainer.settle()
    dialogues: dict[PartyId, Dialogue[Run]] = {}
    for me, client in zip(settings.peers, clients.ids, strict=True):
        secret = Prg(framed_digest(b"unseen/peers/simulated", str(settings.seed).encode(), me.encode()))
        part = Part(me, process, trainer, Examples(*clients.client(client)), secret.derive("rounding"))
        only_one = settings if me == settings.peers[0] else replace(settings, observe=None, test=None)
        dialogues[me] = peer_rounds(part, only_one, secret.derive("masks"))
    return converse(dialogues)[settings.peers[0]]


# --- the dialogue ------------------------------------------------------------------------------------------------


def peer_rounds(part: Part, settings: PeerSettings, prg: Prg) -> Dialogue[Run]:
    """Return the run at its end: one peer's dialogue with all others.

    Args:
        part: What this peer brings.
        settings: What all have agreed.
        prg: Fresh: draws shares and keys.

    Raises:
        UsageError: The process takes no sums, or this party is no peer.
        RemoteProtocolError: A peer runs something else, or has another state after a round.
        DataError: The training has diverged, or what was kept belongs to another run.
    """
    by = part.process.aggregator
    if not isinstance(by, SumAggregator):
        raise UsageError(
            f"{part.process.name} needs every single update, and peers see sums only: make a strategy that takes a "
            "mean secure(process, SecureMean(…)) first"
        )
    check_count(by, len(settings.peers))
    part.process.check_cohort(_EVERYBODY, len(settings.peers))
    if part.me not in settings.peers:
        raise UsageError(f"{part.me} is not among the peers {', '.join(settings.peers)}")
    yield Enter(_STEP)
    play = _Play(part, settings, by, prg)
    run, memory = yield from play.first()
    while run.state.round < settings.rounds:
        run, memory = yield from play.round(run, memory)
    yield Leave()
    return run


@dataclass(frozen=True, slots=True, eq=False)
class _Play:
    """One peer's side of a run."""

    part: Part
    settings: PeerSettings
    by: SumAggregator
    prg: Prg

    @property
    def others(self) -> list[PartyId]:
        return [peer for peer in self.settings.peers if peer != self.part.me]

    def first(self) -> Dialogue[tuple[Run, Memory]]:
        """Agree with everybody, and return where all go on from."""
        part, held = self.part, (yield Held())
        mine = self._hello(held)
        yield from send_all(self.others, mine)
        helds = {part.me: held}
        for peer, hello in (yield from receive_all(self.others, PeerHello)).items():
            _same(peer, asdict(hello), asdict(mine))
            helds[peer] = hello.held
        lowest, highest = min(helds.values()), max(helds.values())
        behind = [peer for peer, count in sorted(helds.items()) if count == lowest]
        if not 0 <= lowest <= highest <= lowest + 1:
            raise RemoteProtocolError(
                f"{', '.join(behind)} holds {lowest} rounds and others {highest}, more than one apart: give it its "
                "folder back, or begin the run in other folders everywhere"
            )
        if not lowest:
            return Run(part.process.start(part.trainer.initial(self.settings.seed)), ()), {}
        kept: KeptRound = yield Load(lowest, KeptRound)
        if kept.agreed != self._agreed():
            raise DataError(
                f"the folder of {part.me} holds another run than {self.settings.run}, or one with other settings: "
                "choose another folder"
            )
        try:
            history = tuple(Round(**fields) for fields in read_json(kept.history))
        except (ValueError, TypeError) as error:
            raise DataError(
                f"the folder of {part.me} is damaged: its history {error}: choose another folder"
            ) from error
        return Run(State(kept.round, kept.model, unpack(kept.extra)), history), unpack(kept.memory)

    def round(self, run: Run, memory: Memory) -> Dialogue[tuple[Run, Memory]]:
        """Play one round, and return where the run stands and what this peer keeps."""
        part, settings, state = self.part, self.settings, run.state
        before: Usage = yield Progress(state.round, settings.rounds, "rounds")
        rng = stream(settings.seed, state.round, part.me, "work")
        broadcast = part.process.distributor(state)
        assignment = Assignment(ClientId(part.me), broadcast, part.examples, memory, rng)
        update, kept = part.process.client_round(part.trainer, assignment)
        aggregate = yield from self._sum(state, update)
        after = part.process.finalizer(state, aggregate)
        yield from self._compare(after)
        usage: Usage = yield Progress(after.round, settings.rounds, "rounds")
        last = after.round == settings.rounds
        test = self._evaluated(after) if last or after.round % settings.evaluate_every == 0 else {}
        entry = Round(
            number=after.round,
            cohort=len(settings.peers),
            dropped=0,
            training=dict(aggregate.metrics),
            test=test,
            seconds=round(usage.seconds - before.seconds, 6),
            bytes_up=usage.bytes_sent - before.bytes_sent,
            bytes_down=usage.bytes_received - before.bytes_received,
        )
        run = Run(after, (*run.history, entry))
        history = json.dumps([asdict(one) for one in run.history])
        yield from checkpoint(
            KeptRound(self._agreed(), after.round, after.model, pack(after.extra), pack(kept), history)
        )
        if settings.observe is not None:
            settings.observe(entry)
        return run, kept

    def _sum(self, state: State, update: Update) -> Dialogue[Aggregate]:
        """Return the aggregate of everybody's updates, of which only the sum is seen."""
        part, settings, by = self.part, self.settings, self.by
        if not np.isfinite(update.delta).all():
            raise DataError(f"the training of {part.me} diverged in round {state.round + 1}: lower the learning rate")
        layout = Layout.of(update)
        contribution = by.encode(update, part.secret)
        session = f"{settings.run}/{state.round}/{layout}".encode()
        setting = Setting(settings.peers, layout.length, by.bits, session, _digest(state))
        masks = self.prg.derive("peers/sum", state.round.to_bytes(8, "little"))
        total = yield from SUMS[settings.scheme](part.me, contribution, setting, masks)
        return by.decode(total.words, total.weight, len(settings.peers), layout)

    def _compare(self, state: State) -> Dialogue[None]:
        """End with an error if any peer has another state."""
        mine = _digest(state)
        yield from send_all(self.others, Stands(state.round, np.frombuffer(mine, np.uint8)))
        stands = {self.part.me: (state.round, mine)}
        for peer, told in (yield from receive_all(self.others, Stands)).items():
            stands[peer] = told.round, told.digest.tobytes()
        if len(set(stands.values())) == 1:
            return
        common = Counter(stands.values()).most_common(1)[0][0]
        odd = [peer for peer, where in stands.items() if where != common]
        raise RemoteProtocolError(
            f"after round {state.round} {', '.join(sorted(odd))} has another state than most peers: it deviates, its "
            "machine computes other floats, or a peer lied in the sum; the round does not count"
        )

    def _evaluated(self, state: State) -> dict[str, float]:
        test = self.settings.test
        return {} if test is None else dict(self.part.trainer.evaluate(state.model, test))

    def _hello(self, held: int) -> PeerHello:
        settings, size = self.settings, self.part.trainer.size
        peers, digest = ",".join(settings.peers), digest_of(self.part.process)
        return PeerHello(settings.run, digest, peers, settings.scheme, size, settings.seed, settings.rounds, held)

    def _agreed(self) -> str:
        agreed = asdict(self._hello(0))
        del agreed["rounds"]  # a run may be prolonged
        return json.dumps(agreed, sort_keys=True)


def _same(peer: PartyId, theirs: dict[str, object], mine: dict[str, object]) -> None:
    for name, value in mine.items():
        if name != "held" and theirs[name] != value:
            raise RemoteProtocolError(
                f"{peer}: expected {name} {shown(str(value))}, found {shown(str(theirs[name]))}: give all peers the "
                "same program and settings"
            )


def _digest(state: State) -> bytes:
    """Return what two peers compare (32 bytes)."""
    names = [part for name in sorted(state.extra) for part in (name.encode(), state.extra[name].tobytes())]
    return framed_digest(b"unseen/peers/state", state.round.to_bytes(8, "little"), state.model.tobytes(), *names)
