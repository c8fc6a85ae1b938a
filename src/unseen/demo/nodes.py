"""Two nodes, each with its own database, keys and process, go through a project from pairing to revocation.

What is theirs lies in a folder for each; they meet at one port of the active party's node, which the others dial.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from unseen import errors
from unseen.data.demo import write_parties
from unseen.demo.flow import TABLE, credit_flow
from unseen.errors import LocalProtocolError, PeerFailed, PermissionDenied, UnseenError
from unseen.flow.spec import FlowSpec
from unseen.ids import PartyId
from unseen.node.drafting import agreement_for, policy_for
from unseen.node.folder import Node
from unseen.node.meeting import Host, join
from unseen.trust.agreement import ProjectId

PROJECT = ProjectId("credit")
_PATIENCE = 60.0
_POINTS = 50_000

Say = Callable[[str], None]


class NodeProcess:
    """A node in a process of its own, and a way to tell its people what to do.

    Raises:
        PeerFailed: It did not start, or has ended.
    """

    def __init__(self, folder: Path, project: ProjectId = PROJECT) -> None:
        self.folder = folder
        self.name = Node(folder).name
        with (folder / "node.log").open("a") as log:
            self.process = subprocess.Popen(  # noqa: S603  # our own program, no shell
                (sys.executable, "-P", "-m", "unseen.demo.node_process", str(folder), project),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )
        self._heard()

    def ask(self, do: str, **arguments: Any) -> Any:
        """Let the people at the node do something, and return what came of it.

        Raises:
            UnseenError: What they met.
        """
        if self.process.stdin is not None:
            with suppress(OSError):  # it shows when the answer is missing
                self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
                self.process.stdin.flush()
        return self._heard()

    def _heard(self) -> Any:
        line = self.process.stdout.readline() if self.process.stdout is not None else ""
        if not line:
            raise PeerFailed(f"the node of {self.name} has ended: see {self.folder / 'node.log'}")
        answer = json.loads(line)
        if "error" in answer:
            kind = getattr(errors, answer["error"], UnseenError)
            raise kind(answer["text"])
        return answer["value"]

    def stop(self) -> None:
        """End the node in order."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def kill(self) -> None:
        """End the node as a power cut does."""
        self.process.kill()
        self.stop()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a demo left behind."""

    job: str
    flow: FlowSpec
    results: Mapping[PartyId, Mapping[str, str]]
    """Party → ``step.port`` → digest."""


# --- the story --------------------------------------------------------------------------------------------------------


def run_nodes(out: Path, say: Say, *, rows: int | None = None) -> Outcome:
    """Go through the whole project in a folder, which is made; tell what happens.

    Raises:
        UnseenError: Something went another way than it has to.
    """
    files = {PartyId(name): path for name, path in write_parties(out / "data", rows=rows).items()}
    active, passive = PartyId("bank"), PartyId("partner")
    flow = credit_flow(active, [passive]).spec
    folders = make_nodes(out, [active, passive], say)
    with started(folders.values()) as (bank, partner):
        nodes = (bank, partner)
        say("each node has its own process, database and keys")
        agree(nodes, flow, files, say)
        job = run_job(nodes, flow, say)
        results = {node.name: node.ask("results", job=job) for node in nodes}
        say(f"scores of people without a label are at {active}: artifact {results[active]['score_new.scores'][:16]}…")
        revoke(partner, nodes, flow, say)
        verify_trails(nodes, say)
    return Outcome(job, flow, results)


def make_nodes(out: Path, parties: Sequence[PartyId], say: Say) -> dict[PartyId, Path]:
    """Make a node for each party, and pair them all; each dials those before it, so that the last one only dials."""
    nodes: list[Node] = []
    for party in parties:
        listen = None if party == parties[-1] else _free_endpoint()
        nodes.append(Node.create(out / party, party, listen, datetime.now(UTC)))
        for earlier in nodes[:-1]:
            code = pair(earlier, nodes[-1])
            say(f"{party} joins by the invitation of {earlier.name}; their people compare the code {code}")
    return {node.name: node.folder for node in nodes}


def _free_endpoint() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def pair(host: Node, guest: Node) -> str:
    """Pair two nodes; return what the people read to each other."""
    with Host(host, lifetime=timedelta(minutes=5), joiner=guest.name) as waiting, ThreadPoolExecutor() as people:
        joined = people.submit(join, guest, waiting.invitation)
        with waiting.wait() as here, joined.result() as there:
            agreed = [people.submit(here.conclude, there.found.read_out)]
            agreed += [people.submit(there.conclude, here.found.read_out)]
            for done in agreed:
                done.result()
            return f"{here.found.read_out}/{there.found.read_out}"


@contextmanager
def started(folders: Sequence[Path] | Any) -> Iterator[tuple[NodeProcess, ...]]:
    """Start nodes, and stop them at the end of the block."""
    with ExitStack() as stack:
        nodes = []
        for folder in folders:
            nodes.append(NodeProcess(folder))
            stack.callback(nodes[-1].stop)
        yield tuple(nodes)


def agree(nodes: Sequence[NodeProcess], flow: FlowSpec, files: Mapping[PartyId, Path], say: Say) -> None:
    """Register tables, write an agreement for a flow, let all sign it, and set every site's policy."""
    tables = [node.ask("register", name=TABLE, path=str(files[node.name])) for node in nodes]
    for table in tables:
        say(f"{table['owner']} registers its table {TABLE}: {table['rows']} rows, kept encrypted")
    text = agreement_text(flow, tables)
    until(lambda: _drafted(nodes[0], text), "all keys are known")
    say(f"{nodes[0].name} drafts the agreement {PROJECT} and offers it")
    until(lambda: all(node.ask("status")["pending"] for node in nodes), "the draft has arrived")
    for node in nodes:
        node.ask("sign")
        say(f"{node.name} signs")
    until(lambda: all(node.ask("status")["in_force"] for node in nodes), "all signatures are everywhere")
    say(f"in force everywhere, digest {nodes[0].ask('status')['digest'][:16]}…")
    for node in nodes:
        node.ask("allow", policy=site_policy(flow, nodes[0].name))


def run_job(nodes: Sequence[NodeProcess], flow: FlowSpec, say: Say) -> str:
    """Propose a job at the first node, approve it everywhere, and wait until it is finished; return its name."""
    job = propose(nodes, flow, say)
    shown: set[str] = set()
    while not all(node.ask("job", job=job)["state"] == "finished" for node in nodes):
        for node in nodes:
            told = node.ask("job", job=job)
            if told["state"] in ("failed", "refused", "cancelled"):
                raise PeerFailed(f"the job is {told['state']} at {node.name}: {told['reason']}")
        for step in nodes[0].ask("job", job=job)["done"]:
            if step not in shown:
                shown.add(step)
                say(f"  {step} is done")
        time.sleep(0.2)
    say("finished at all parties")
    return job


def propose(nodes: Sequence[NodeProcess], flow: FlowSpec, say: Say) -> str:
    """Propose a job at the first node and approve it everywhere; return its name."""
    data = flow.model_dump(mode="json", by_alias=True)
    job = str(until(lambda: _proposed(nodes[0], data), "the partners' tables are known"))
    say(f"ann of {nodes[0].name} proposes {job}; nobody approves their own job, ben has to")
    until(lambda: all(node.ask("job", job=job)["state"] == "proposed" for node in nodes), "the proposal is everywhere")
    for node in nodes:
        node.ask("approve", job=job)
        say(f"ben of {node.name} approves: its gate gives a grant")
    return job


def revoke(node: NodeProcess, nodes: Sequence[NodeProcess], flow: FlowSpec, say: Say) -> None:
    """Revoke at one node, and show that the next job is refused."""
    node.ask("revoke", reason="the campaign is over")
    say(f"{node.name} revokes the agreement, alone and at once")
    until(lambda: all(other.ask("status")["revoked"] for other in nodes), "all know of the revocation")
    try:
        nodes[0].ask("propose", flow=flow.model_dump(mode="json", by_alias=True))
    except PermissionDenied as error:
        say(f"the next job is refused: {error}")
        return
    raise LocalProtocolError("a job was granted after the agreement was revoked")


def verify_trails(nodes: Sequence[NodeProcess], say: Say) -> None:
    """Check every node's trail against the heads that the others hold of it."""
    for node in nodes:
        heads = [held[node.name] for other in nodes if other is not node if node.name in (held := other.ask("heads"))]
        found = node.ask("verify", heads=heads)
        say(
            f"trail of {node.name}: {found['records']} records follow each other and pass through {found['heads']} "
            f"heads that others hold, the first {found['vouched']} of them vouched for"
        )


# --- what is agreed ---------------------------------------------------------------------------------------------------


def agreement_text(flow: FlowSpec, tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the text of an agreement on one flow."""
    now = datetime.now(UTC)
    valid = (now - timedelta(hours=1), now + timedelta(days=90))
    text = agreement_for(flow, PROJECT, tables, valid, _POINTS)
    for entry in text["points"]:
        entry["allowance"] |= {"min_own_rows": 100, "min_partner_rows": 100}
    return {**text, "purpose": "one credit score from both sides' columns"}


def site_policy(flow: FlowSpec, initiator: PartyId) -> dict[str, Any]:
    """Return what a site lets the project do: this flow, each time approved by a person."""
    return policy_for(flow, initiator, _POINTS)


# --- waiting ----------------------------------------------------------------------------------------------------------


def until(look: Callable[[], Any], what: str, seconds: float = _PATIENCE) -> Any:
    """Return what ``look`` returns once it is true.

    Raises:
        PeerFailed: It was not within so many seconds.
    """
    limit = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > limit:
            raise PeerFailed(f"it took longer than {seconds:g} s until {what}")
        time.sleep(0.1)
    return found


def _drafted(node: NodeProcess, text: Mapping[str, Any]) -> bool:
    try:
        node.ask("draft", text=text)
    except errors.UsageError as error:
        if "has not introduced its key" not in str(error):
            raise
        return False
    return True


def _proposed(node: NodeProcess, flow: Mapping[str, Any]) -> str | None:
    try:
        return str(node.ask("propose", flow=flow))
    except errors.UsageError as error:
        if "has not said that it holds" not in str(error):
            raise
        return None
