"""Two nodes, each with its own database, keys and process, go through a project from pairing to revocation.

What is theirs lies in a folder for each; they meet at one port of the active party's node, which the others dial.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from unseen.client import Client
from unseen.data.demo import write_parties
from unseen.demo.flow import TABLE, credit_flow
from unseen.errors import DataError, LocalProtocolError, PeerFailed, PermissionDenied, UsageError
from unseen.flow.spec import FlowSpec
from unseen.ids import PartyId
from unseen.node.drafting import agreement_for, policy_for
from unseen.node.folder import Node
from unseen.node.meeting import Host, join
from unseen.trust.agreement import ProjectId
from unseen.trust.audit import Trail
from unseen.trust.envelope import NOTHING

PROJECT = ProjectId("credit")
_PATIENCE = 60.0
_PEOPLE = {"ann": ["analyst", "data-owner"], "ben": ["approver"], "max": ["auditor"]}
_PEOPLE_FILE = "people-are-added"
_POINTS = 50_000

Say = Callable[[str], None]


class NodeProcess:
    """A node in a process of its own, and its people, who reach it over HTTP.

    Ada adds people; Ann owns the data and asks for jobs, Ben signs and approves, Max looks at trails.

    Raises:
        PeerFailed: It did not start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = Node(folder).name
        self._passwords = {name: secrets.token_urlsafe(16) for name in ("ada", *_PEOPLE)}
        self._clients = ExitStack()
        self.start()

    def start(self) -> None:
        """Start it, for the first time or again, and let its people sign in."""
        self._log = self.folder / "node.log"
        with self._log.open("a") as log:
            self.process = subprocess.Popen(  # noqa: S603  # our own program, no shell
                (sys.executable, "-P", "-u", "-m", "unseen", "node", "start", str(self.folder), "--log", "text"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )
        self._url = self._told("people sign in at ")
        if not self._people_are_there():
            self._add_people(self._told("with the token "))
        self.ann, self.ben, self.max = map(self._signed_in, _PEOPLE)

    def _told(self, before: str) -> str:
        """Return what the node prints after some words."""
        for line in self.process.stdout or ():
            if before in line:
                return line.partition(before)[2].strip()
        raise PeerFailed(f"the node of {self.name} has ended: see {self._log}")

    def _people_are_there(self) -> bool:
        return (self.folder / _PEOPLE_FILE).exists()

    def _add_people(self, token: str) -> None:
        ada = self._clients.enter_context(Client(self._url))
        ada.set_up(token, "ada", self._passwords["ada"])
        ada.sign_in("ada", self._passwords["ada"])
        for name, duties in _PEOPLE.items():
            ada.add_person(name, self._passwords[name], duties)
        ada.change_person("ann", projects=[PROJECT])
        (self.folder / _PEOPLE_FILE).touch()

    def _signed_in(self, name: str) -> Client:
        return self._clients.enter_context(Client(self._url)).sign_in(name, self._passwords[name])

    def standing(self) -> str:
        """Return how the project stands at this node; nothing, if it has not heard of it."""
        try:
            return str(self.ben.project(PROJECT)["standing"])
        except UsageError:
            return ""

    def job(self, name: str) -> dict[str, Any]:
        """Return a job as this node sees it; its state is empty if the node has not heard of it."""
        try:
            return self.ann.job(PROJECT, name)
        except UsageError:
            return {"state": "", "reason": ""}

    def results(self, job: str) -> dict[str, str]:
        """Return the results of a job, by name, each with its digest."""
        return {found["name"]: found["digest"] for found in self.ann.results(PROJECT, job)}

    def stop(self) -> None:
        """End the node in order."""
        self._clients.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

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
        results = {node.name: node.results(job) for node in nodes}
        say(f"scores of people without a label are at {active}: artifact {results[active]['score_new.scores'][:16]}…")
        for node in nodes:
            node.ann.report(PROJECT, job, page := out / f"{node.name}.html")
            say(f"what the job left at {node.name}: {page}")
        revoke(partner, nodes, flow, say)
        verify_trails(nodes, say)
    return Outcome(job, flow, results)


def make_nodes(out: Path, parties: Sequence[PartyId], say: Say) -> dict[PartyId, Path]:
    """Make a node for each party, and pair them all; each dials those before it, so that the last one only dials."""
    nodes: list[Node] = []
    for party in parties:
        listen = None if party == parties[-1] else _free_endpoint()
        nodes.append(Node.create(out / party, party, listen, datetime.now(UTC), http="127.0.0.1:0"))
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
    """Upload tables, write an agreement for a flow, let all sign it, and set every site's policy."""
    tables = [_uploaded(node, files[node.name]) for node in nodes]
    for table in tables:
        say(f"ann of {table['owner']} uploads the table {TABLE}: {table['rows']} rows, kept encrypted")
    text = agreement_text(flow, tables)
    until(lambda: _drafted(nodes[0], text), "all keys are known")
    say(f"ann of {nodes[0].name} drafts the agreement {PROJECT} and offers it")
    until(lambda: all(node.standing() == "draft" for node in nodes), "the draft has arrived")
    for node in nodes:
        node.ben.sign(PROJECT, node.ben.project(PROJECT)["waiting"]["digest"])
        say(f"ben of {node.name} reads it and signs")
    until(lambda: all(node.standing() == "in-force" for node in nodes), "all signatures are everywhere")
    say(f"in force everywhere, digest {nodes[0].ben.project(PROJECT)['digest'][:16]}…")
    for node in nodes:
        node.ann.set_policy(PROJECT, site_policy(flow, nodes[0].name))


def _uploaded(node: NodeProcess, path: Path) -> dict[str, Any]:
    """Upload a table; return what an agreement has to say of it."""
    table = node.ann.upload(TABLE, path)["table"]
    columns = [(column["name"], column["role"]) for column in table["columns"]]
    return {**table, "owner": node.name, "columns": columns}


def run_job(nodes: Sequence[NodeProcess], flow: FlowSpec, say: Say) -> str:
    """Propose a job at the first node, approve it everywhere, and wait until it is finished; return its name."""
    job = propose(nodes, flow, say)
    for event in nodes[0].ann.events(PROJECT, job):
        if event["what"] == "leave" and not event["note"]:
            say(f"  {event['step']} is done: {event['seconds']:.1f} s, {event['bytes_sent']:,} bytes sent")
    for node in nodes:
        node.ann.wait(PROJECT, job, seconds=_PATIENCE)
    say("finished at all parties")
    return job


def propose(nodes: Sequence[NodeProcess], flow: FlowSpec, say: Say) -> str:
    """Propose a job at the first node and approve it everywhere; return its name."""
    job = str(until(lambda: _proposed(nodes[0], flow), "the partners' tables are known"))
    say(f"ann of {nodes[0].name} proposes {job}; nobody approves their own job, ben has to")
    until(lambda: all(node.job(job)["state"] == "proposed" for node in nodes), "the proposal is everywhere")
    for node in nodes:
        node.ben.approve(PROJECT, job)
        say(f"ben of {node.name} approves: its gate gives a grant")
    return job


def revoke(node: NodeProcess, nodes: Sequence[NodeProcess], flow: FlowSpec, say: Say) -> None:
    """Revoke at one node, and show that the next job is refused."""
    node.ben.revoke(PROJECT, "the campaign is over")
    say(f"ben of {node.name} revokes the agreement, alone and at once")
    until(lambda: all(other.standing() == "revoked" for other in nodes), "all know of the revocation")
    try:
        nodes[0].ann.propose(PROJECT, _plain(flow))
    except PermissionDenied as error:
        say(f"the next job is refused: {error}")
        return
    raise LocalProtocolError("a job was granted after the agreement was revoked")


def verify_trails(nodes: Sequence[NodeProcess], say: Say) -> None:
    """Check every node's trail: its chain, and that it passes through what the others hold of it.

    Raises:
        DataError: It does not.
    """
    for node in nodes:
        trail, digests = Trail(), [NOTHING]
        for line in node.max.audit(PROJECT).splitlines():
            trail = trail.after(line)
            digests.append(trail.digest)
        held = [
            head
            for other in nodes
            if other is not node
            for head in other.max.trail(PROJECT)["heads"]
            if head["party"] == node.name
        ]
        for head in held:
            if head["count"] > trail.count or digests[head["count"]] != head["digest"]:
                raise DataError(f"the trail of {node.name} is another one than it showed its partners")
        vouched = max((head["count"] for head in held), default=0)
        say(
            f"trail of {node.name}: {trail.count} records follow each other and pass through {len(held)} heads that "
            f"others hold; they vouch for the first {vouched}"
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
        node.ann.draft(text)
    except UsageError as error:
        if "has not introduced its key" not in str(error):
            raise
        return False
    return True


def _proposed(node: NodeProcess, flow: FlowSpec) -> str | None:
    try:
        return str(node.ann.propose(PROJECT, _plain(flow), hours=1.0)["job"])
    except UsageError as error:
        if "has not said that it holds" not in str(error):
            raise
        return None


def _plain(flow: FlowSpec) -> dict[str, Any]:
    return flow.model_dump(mode="json", by_alias=True)
