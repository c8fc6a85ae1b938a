"""Runs one party's side of a flow, as a dialogue: the same code in simulation and between organisations.

For every step the parties first offer each other the run of it whose results they hold. If all offer the same run,
nobody computes anything: the results are reused. Otherwise all run the step. Since the secrets of a task are derived
from the seed of the job and from the name of the run, a step that is run again after a crash sends the same bytes
again; but once the data of any party have changed in between, all parties draw new secrets and start from nothing.

What the parties learn from each other here: the flow (they must agree on it), and for every step a random number
that names the run whose results they hold. No hash of private data is sent.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TypeVar

from unseen.clock import Clock
from unseen.codec import encode, message, shown
from unseen.component import Role, Source, Task, Value
from unseen.crypto.prg import Prg
from unseen.dialogue import Dialogue, Enter, Leave, Progress, Receive, Usage, receive_all, send_all
from unseen.errors import Cancelled, LocalProtocolError, RemoteProtocolError, UnseenError, UsageError
from unseen.flow.graph import Graph, Node
from unseen.flow.spec import TABLES
from unseen.flow.store import Heard, Lineage, Mark, Ref, TaskRecord, Workspace, digest_of, task_key
from unseen.ids import JobId, PartyId, StepId
from unseen.version import VERSION

R = TypeVar("R")

NONCE_BYTES = 16
MOST_MARKS = 400


@message("flow/hello")
class Hello:
    """Opens a job: what the sender is about to run, and which of its steps."""

    version: str
    flow: str
    steps: tuple[str, ...]


@message("flow/offer")
class Offer:
    """Before each step: the run whose results the sender holds (empty: none), and its part of a new run's name."""

    joint: bytes
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Seat:
    """One party's place in a job: who it is, what it runs, with what, and where its results go."""

    me: PartyId
    graph: Graph
    job: JobId
    workspace: Workspace
    sources: Mapping[str, Source]
    clock: Clock
    simulated: bool = False
    only: Collection[StepId] = ()
    """Steps to run; their results must come from earlier runs if not listed. Empty: all steps."""
    again: Collection[StepId] = ()
    """Steps to run even if all parties hold their results."""
    points: Mapping[StepId, Mapping[PartyId, int]] | None = None
    """Step → peer → how many of its items may be evaluated; what is not named is none. ``None``: no limit."""

    @property
    def roles(self) -> Mapping[PartyId, Role]:
        """Every party's role."""
        return self.graph.spec.parties

    @property
    def peers(self) -> tuple[PartyId, ...]:
        """All other parties, in one order that is the same everywhere."""
        return tuple(sorted(party for party in self.roles if party != self.me))


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step left behind at this party."""

    record: TaskRecord
    usage: Usage
    reused: bool
    """Whether an earlier job computed it."""

    @property
    def outputs(self) -> Mapping[str, Ref]:
        """The artifacts, by output port."""
        return self.record.outputs


def play(seat: Seat) -> Dialogue[dict[StepId, StepResult]]:
    """Run this party's side of a flow; return what each step left behind.

    Raises:
        RemoteProtocolError: The parties are about to run different flows.
        UsageError: A step outside ``seat.only`` has no results to reuse.
    """
    yield from _agree(seat)
    done: dict[StepId, StepResult] = {}
    wanted = _wanted(seat)
    for step, node in seat.graph.nodes.items():
        if step in wanted:
            done[step] = yield from _step(seat, node, done)
    return done


@contextmanager
def noting_the_end(seats: Iterable[Seat]) -> Iterator[None]:
    """Note in the workspaces of these seats how their job ends: the block is what drives it."""
    state, reason = "failed", "interrupted"
    try:
        yield
        state, reason = "finished", ""
    except UnseenError as error:
        state, reason = ("cancelled" if isinstance(error, Cancelled) else "failed"), str(error)
        raise
    finally:
        for seat in seats:
            seat.workspace.end_job(seat.job, state, reason=reason)


def _wanted(seat: Seat) -> frozenset[StepId]:
    """Return the steps that are needed: all of them, or those asked for and what they depend on."""
    if not seat.only:
        return frozenset(seat.graph.nodes)
    return frozenset(seat.only).union(*(seat.graph.upstream(step) for step in seat.only))


def _agree(seat: Seat) -> Dialogue[None]:
    mine = Hello(VERSION, seat.graph.spec.digest, tuple(sorted(_wanted(seat))))
    yield from send_all(seat.peers, mine)
    answers = yield from receive_all(seat.peers, Hello)
    for peer, theirs in answers.items():
        if theirs.version.split(".")[:2] != mine.version.split(".")[:2]:
            raise RemoteProtocolError(
                f"{peer} runs Unseen {shown(theirs.version)}, {seat.me} runs {mine.version}: upgrade one"
            )
        if theirs.flow != mine.flow:
            raise RemoteProtocolError(
                f"{peer} is about to run another flow ({shown(theirs.flow[:12])}…) than {seat.me} ({mine.flow[:12]}…): "
                "give both the same file"
            )
        if theirs.steps != mine.steps:
            raise RemoteProtocolError(
                f"{peer} is about to run other steps ({shown(', '.join(theirs.steps))}) than {seat.me}"
            )


def _step(seat: Seat, node: Node, done: Mapping[StepId, StepResult]) -> Dialogue[StepResult]:
    yield Enter(node.step)
    digests = _input_digests(seat, node, done)
    facts = {
        "params": node.params.model_dump(mode="json"),
        "me": seat.me,
        "parties": dict(seat.roles),
        "inputs": digests,
    }
    key = task_key(node.component.name, node.component.version, facts)
    prg = seat.workspace.job_prg(seat.job).derive("task", node.step.encode(), key.encode())
    held = None if node.step in seat.again else seat.workspace.finished(key)
    joint, reused = yield from _offer(seat, node.step, held, prg)
    if reused and held is not None:
        seat.workspace.note_step(seat.job, node.step, key)
        usage: Usage = yield Leave("reused")
        return StepResult(held, usage, reused=held.job != seat.job)
    if seat.only and node.step not in seat.only:
        raise UsageError(f"step {node.step} has no results that all parties hold; run it first, or the whole flow")
    seat.workspace.begin_step(seat.job, node.step, joint)
    course: list[Mark] = []
    run = _run(seat, node, prg.derive("joint", bytes.fromhex(joint)), done, digests)
    if seat.points is not None and node.step in seat.points:
        run = listening(run, seat.workspace.heard(seat.job, node.step))
    outputs = yield from noting_progress(run, course)
    usage = yield Leave()
    lineage = {port: _lineage(seat, node, digests, port) for port in outputs}
    record = TaskRecord(
        key=key,
        joint=joint,
        job=seat.job,
        outputs=outputs,
        lineage=lineage,
        course=tuple(course),
        **asdict(usage),
    )
    seat.workspace.finish(record)
    seat.workspace.note_step(seat.job, node.step, key)
    return StepResult(record, usage, reused=False)


def _input_digests(seat: Seat, node: Node, done: Mapping[StepId, StepResult]) -> dict[str, str]:
    """Return the digest of every input that this party has."""
    digests = {}
    for port, (source, name) in node.inputs.items():
        if source == TABLES:
            digests[port] = digest_of(_source(seat, name))
        elif name in done[StepId(source)].outputs:
            digests[port] = done[StepId(source)].outputs[name].digest
    return digests


def _source(seat: Seat, name: str) -> Source:
    source = seat.sources.get(name)
    if source is None or not source.path.is_file():
        where = f"at {source.path}" if source else "in its list of tables"
        raise UsageError(f"party {seat.me} has no table {name!r} {where}; say where it is, or correct its name")
    return source


def _offer(seat: Seat, step: StepId, held: TaskRecord | None, prg: Prg) -> Dialogue[tuple[str, bool]]:
    """Agree whether a step is reused; return the name that all parties give to the run, and the decision."""
    mine = Offer(bytes.fromhex(held.joint) if held else b"", prg.derive("run").bytes(NONCE_BYTES))
    yield from send_all(seat.peers, mine)
    answers = yield from receive_all(seat.peers, Offer)
    for peer, offer in answers.items():
        if len(offer.nonce) != NONCE_BYTES:
            raise RemoteProtocolError(f"{peer}: expected a nonce of {NONCE_BYTES} bytes, found {len(offer.nonce)}")
    if held and all(offer.joint == mine.joint for offer in answers.values()):
        return held.joint, True
    nonces = sorted([mine.nonce, *(offer.nonce for offer in answers.values())])
    return hashlib.sha256(step.encode() + b"".join(nonces)).hexdigest(), False


def _run(
    seat: Seat, node: Node, prg: Prg, done: Mapping[StepId, StepResult], digests: Mapping[str, str]
) -> Dialogue[dict[str, Ref]]:
    task = Task(
        me=seat.me,
        step=node.step,
        roles=seat.roles,
        params=node.params,
        inputs=_inputs(seat, node, done),
        prg=prg,
        simulated=seat.simulated,
        points=None if seat.points is None else seat.points.get(node.step, {}),
    )
    values = yield from _work(task, node)
    wanted = {port: output.kind for port, output in node.component.outputs.items() if output.exists_at(task.role)}
    for port, kind in wanted.items():
        if not isinstance(values.get(port), kind.type):
            raise LocalProtocolError(
                f"component {node.component.name} gave {type(values.get(port)).__name__} for its output {port!r} "
                f"at {seat.me}, expected {kind.type.__name__}: please tell its author"
            )
    return {
        port: seat.workspace.put(values[port], kind, _lineage(seat, node, digests, port))
        for port, kind in wanted.items()
    }


def noting_progress(dialogue: Dialogue[R], course: list[Mark]) -> Dialogue[R]:
    """Run a dialogue; note in ``course`` what it had cost at each progress it tells of, if its driver says so.

    Once there are too many marks, every other one is dropped, and fewer are made.
    """
    answer: object = None
    seen, stride = 0, 1
    try:
        while True:
            effect = dialogue.send(answer)
            answer = yield effect
            if not isinstance(effect, Progress) or not isinstance(answer, Usage):
                continue
            seen += 1
            if seen % stride == 0:
                course.append(_mark(effect, answer))
            if len(course) > MOST_MARKS:
                course[:] = course[1::2]
                stride *= 2
    except StopIteration as end:
        result: R = end.value
        return result
    finally:
        dialogue.close()


def listening(dialogue: Dialogue[R], heard: Heard) -> Dialogue[R]:
    """Run a dialogue, and keep a digest of each message before it is acted upon; see ``store.Heard``."""
    answer: object = None
    counts: Counter[PartyId] = Counter()
    try:
        while True:
            effect = dialogue.send(answer)
            answer = yield effect
            if isinstance(effect, Receive):
                digest = hashlib.sha256()
                for part in encode(answer):
                    digest.update(part)
                heard.take(effect.peer, counts[effect.peer], digest.digest())
                counts[effect.peer] += 1
    except StopIteration as end:
        result: R = end.value
        return result
    finally:
        dialogue.close()


def _mark(effect: Progress, usage: Usage) -> Mark:
    return Mark(
        done=effect.done,
        total=effect.total,
        seconds=usage.seconds,
        bytes_sent=usage.bytes_sent,
        bytes_received=usage.bytes_received,
    )


def _work(task: Task, node: Node) -> Dialogue[Mapping[str, Value]]:
    """Run a component, which may be anybody's; whatever it breaks with becomes an error of ours that names it."""
    name = node.component.name
    try:
        values = yield from node.component.run(task)
    except UnseenError:
        raise
    except Exception as error:
        broken = LocalProtocolError(f"component {name} broke down in step {node.step} at {task.me}: tell its author")
        broken.add_note(f"{type(error).__name__}: {error}")  # a note stays here, the message goes to the peers
        raise broken from error
    if not isinstance(values, Mapping):
        raise LocalProtocolError(f"component {name} returned {type(values).__name__} at {task.me}: tell its author")
    return values


def _inputs(seat: Seat, node: Node, done: Mapping[StepId, StepResult]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for port, (source, name) in node.inputs.items():
        if source == TABLES:
            values[port] = _source(seat, name)
        elif name in done[StepId(source)].outputs:
            kind = seat.graph.nodes[StepId(source)].component.outputs[name].kind
            values[port] = seat.workspace.get(done[StepId(source)].outputs[name], kind)
    return values


def _lineage(seat: Seat, node: Node, digests: Mapping[str, str], output: str) -> Lineage:
    return Lineage(
        party=seat.me,
        parties={party: role.value for party, role in seat.roles.items()},
        job=seat.job,
        flow=seat.graph.spec.digest,
        step=node.step,
        component=node.component.name,
        component_version=node.component.version,
        params=node.params.model_dump(mode="json"),
        inputs=dict(digests),
        output=output,
        code_version=VERSION,
        created=seat.clock.now(),
    )
