"""A whole node: store, artifacts, port, letters, use cases and supervisor, wired together and stopped in order.

In the node's folder, beside what ``folder`` keeps there::

    signing.pem       the key that signs statements
    workspaces/       results and checkpoints, a folder for each project
    run/              the socket for workers

and what ``storage`` says of database and tables.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from unseen.clock import SystemClock
from unseen.ids import PartyId
from unseen.node.artifacts import Artifacts
from unseen.node.books import Books, Owner
from unseen.node.folder import Node
from unseen.node.http.app import make_app
from unseen.node.http.guard import LOOPBACK, HttpSettings
from unseen.node.http.metrics import registry_of
from unseen.node.http.serve import serving
from unseen.node.http.services import Services, SetUpToken
from unseen.node.mailroom import Mailroom
from unseen.node.partners import alone
from unseen.node.storage import RUN_FOLDER, open_node_artifacts, open_node_store
from unseen.node.store import Store
from unseen.node.supervisor import Settings, Supervisor, Way
from unseen.node.usecases.audit import Audit
from unseen.node.usecases.catalogue import Catalogue
from unseen.node.usecases.jobs import Jobs
from unseen.node.usecases.people import People
from unseen.node.usecases.projects import Projects
from unseen.node.usecases.runs import Runs
from unseen.transport.diagnosis import split_endpoint
from unseen.transport.port import Port
from unseen.trust.keys import SIGNING_KEY_FILE, SigningKey, certificate_fingerprint


@dataclass(frozen=True, slots=True)
class Running:
    """A node that runs: what whoever serves people needs."""

    node: Node
    store: Store
    artifacts: Artifacts
    books: Books
    projects: Projects
    jobs: Jobs
    runs: Runs
    audit: Audit
    port: Port
    supervisor: Supervisor
    url: str | None = None
    """Where people are served, once they are."""


@contextmanager
def open_node(folder: Path) -> Iterator[Running]:
    """Run the node in a folder until the block ends; workers are stopped then, and their jobs go on next time.

    Raises:
        UsageError: There is no node, it runs already, or its port is taken.
        DataError: Its store is damaged.
    """
    node = Node(folder)
    identity = node.identity()
    with ExitStack() as opened:
        opened.enter_context(alone(folder))
        store, artifacts = opened.enter_context(open_node_store(node)), open_node_artifacts(node)
        opened.callback(artifacts.close)
        owner = Owner(node.name, _signing_key(folder), certificate_fingerprint(identity.ca_pem))
        books = Books(store, owner, SystemClock(), lambda peer: _roots(node).get(peer))
        books.check()
        projects, jobs, audit = Projects(books), Jobs(books), Audit(books)
        runs = Runs(books, folder.resolve() / "workspaces")
        port = opened.enter_context(
            Port(
                identity,
                listen=node.config.listen,
                partners=lambda: {peer: node.partners.get(peer).endpoint for peer in _roots(node)},
                mail=Mailroom(books, projects, jobs),
                relay=folder / RUN_FOLDER,
                admits=jobs.admits,
            )
        )
        settings = Settings(concurrent=node.config.jobs, memory_bytes=_bytes(node.config.worker_gib))
        chores = (lambda: projects.send_cards(_roots(node)), projects.announce_tables, jobs.ask_what_was_lost)
        supervisor = Supervisor(node.name, runs, jobs, Way(port, port.socket, artifacts), settings, chores)
        books.after_each(supervisor.stir)
        supervisor.start()
        opened.callback(supervisor.stop)
        yield Running(node, store, artifacts, books, projects, jobs, runs, audit, port, supervisor)


def run_node(folder: Path, *, ready: Callable[[Running], None]) -> None:
    """Run the node in a folder until the process is told to stop; ``ready`` is called once it does.

    Raises:
        UsageError: There is no node, it runs already, or its port is taken.
        DataError: Its store is damaged.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with open_node(folder) as running, serving_people(running) as url:
        ready(replace(running, url=url))
        stop.wait()


@contextmanager
def serving_people(running: Running) -> Iterator[str | None]:
    """Serve the organisation's own people over HTTP, if the node's configuration says where; yield the URL.

    Raises:
        UsageError: The address cannot be used.
    """
    config, clock, folder = running.node.config, SystemClock(), running.node.folder
    if config.http is None:
        yield None
        return
    certificate = folder / config.http_certificate if config.http_certificate else None
    key = folder / config.http_key if config.http_key else None
    settings = HttpSettings(
        hosts=LOOPBACK | {*config.http_hosts, split_endpoint(config.http)[0]},
        secure=certificate is not None,
        metrics_token=config.metrics_token,
    )
    app = make_app(_services(running, clock), settings)
    with serving(app, config.http, certificate=certificate, key=key) as (host, port):
        yield f"{'https' if certificate else 'http'}://{host}:{port}"


def _services(running: Running, clock: SystemClock) -> Services:
    return Services(
        name=running.node.name,
        people=People(running.store, clock),
        catalogue=Catalogue(running.store, running.artifacts, clock),
        projects=running.projects,
        jobs=running.jobs,
        runs=running.runs,
        audit=running.audit,
        partners=running.node.partners,
        set_up=SetUpToken(running.node.folder),
        clock=clock,
        store=running.store,
        registry=registry_of(running.node, running.store, clock),
    )


def _roots(node: Node) -> Mapping[PartyId, str]:
    """Return the partners that are trusted now, each with the digest of its root's key."""
    partners = node.partners.all().items()
    return {peer: certificate_fingerprint(known.root.encode()) for peer, known in partners if known.struck is None}


def _signing_key(folder: Path) -> SigningKey:
    if not (folder / SIGNING_KEY_FILE).exists():
        SigningKey.generate().save(folder)
    return SigningKey.load(folder)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)
