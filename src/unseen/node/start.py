"""A whole node: store, artifacts, port, letters, use cases and supervisor, wired together and stopped in order.

In the node's folder, beside what ``folder`` keeps there::

    signing.pem       the key that signs statements
    workspaces/       results and checkpoints, a folder for each project
    run/              the socket for workers

and what ``storage`` says of database and tables.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from unseen.clock import SystemClock
from unseen.node.artifacts import Artifacts
from unseen.node.books import Books, Owner
from unseen.node.folder import Node, read_private
from unseen.node.http.app import make_app
from unseen.node.http.guard import LOOPBACK, HttpSettings
from unseen.node.http.metrics import Figures, NodeCollector
from unseen.node.http.serve import serving
from unseen.node.http.services import Services, SetUpToken, checks_of
from unseen.node.http.sign_on import CALLBACK
from unseen.node.importing import Apart
from unseen.node.logs import LogForm
from unseen.node.mailroom import Mailroom
from unseen.node.oidc import OidcConfig, Provider
from unseen.node.partners import alone
from unseen.node.renewal import Renewal
from unseen.node.storage import RUN_FOLDER, open_node_artifacts, open_node_store, open_sources
from unseen.node.store import Store
from unseen.node.supervisor import Settings, Supervisor, Way
from unseen.node.traces import Traces, open_traces
from unseen.node.usecases.audit import Audit
from unseen.node.usecases.catalogue import Catalogue
from unseen.node.usecases.jobs import Jobs
from unseen.node.usecases.pairings import Pairings
from unseen.node.usecases.people import People
from unseen.node.usecases.projects import Projects
from unseen.node.usecases.runs import Runs
from unseen.node.usecases.sign_on import SignOn
from unseen.node.usecases.sources import Sources
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
    pairings: Pairings
    port: Port
    supervisor: Supervisor
    figures: Figures
    traces: Traces | None = None
    url: str | None = None
    """Where people are served, once they are."""


@contextmanager
def open_node(folder: Path, *, log: LogForm | None = None) -> Iterator[Running]:
    """Run the node in a folder until the block ends; workers are stopped then, and their jobs go on next time.

    ``log`` is how workers log, if not as the node's settings say.

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
        books = Books(store, owner, SystemClock(), lambda peer: node.partners.roots().get(peer))
        books.check()
        projects, jobs, audit = Projects(books), Jobs(books), Audit(books)
        runs = Runs(books, folder.resolve() / "workspaces")
        pairings = Pairings(node)
        port = opened.enter_context(
            Port(
                identity,
                listen=node.config.listen,
                partners=node.partners.endpoints,
                mail=Mailroom(books, projects, jobs),
                relay=folder / RUN_FOLDER,
                admits=jobs.admits,
                guests=pairings,
            )
        )
        pairings.after_each(port.look)
        settings = Settings(
            concurrent=node.config.jobs, memory_bytes=_bytes(node.config.worker_gib), log=log or node.config.log
        )
        chores = (
            Renewal(node, port.show),
            lambda: projects.send_cards(node.partners.roots()),
            projects.announce_tables,
            jobs.ask_what_was_lost,
        )
        figures, traces = Figures(), open_traces(node.name, os.environ)
        supervisor = Supervisor(node.name, runs, jobs, Way(port, port.socket, artifacts), settings, chores)
        books.after_each(supervisor.stir)
        books.after_each(figures.turned)
        supervisor.watched_by(figures)
        if traces is not None:
            opened.callback(traces.close)
            supervisor.watched_by(traces)
        supervisor.start()
        opened.callback(supervisor.stop)
        yield Running(
            node, store, artifacts, books, projects, jobs, runs, audit, pairings, port, supervisor, figures, traces
        )


def run_node(folder: Path, *, ready: Callable[[Running], None], log: LogForm | None = None) -> None:
    """Run the node in a folder until the process is told to stop; ``ready`` is called once it does.

    Raises:
        UsageError: There is no node, it runs already, or its port is taken.
        DataError: Its store is damaged.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with open_node(folder, log=log) as running, serving_people(running) as url:
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
        hosts=LOOPBACK | {*config.http_hosts, split_endpoint(config.http)[0], *_sent_back_to(config.oidc)},
        secure=certificate is not None,
        metrics_token=running.node.metrics_token(),
    )
    notes = [running.figures.answered, *([running.traces.answered] if running.traces else [])]
    with provider_of(running.node, clock) as provider:
        app = make_app(_services(running, provider, clock), settings, tuple(notes))
        with serving(app, config.http, certificate=certificate, key=key) as (host, port):
            yield f"{'https' if certificate else 'http'}://{host}:{port}"


@contextmanager
def provider_of(node: Node, clock: SystemClock) -> Iterator[Provider | None]:
    """The identity provider that the node's configuration names.

    Raises:
        UsageError: The client's secret cannot be read, or others may.
    """
    config = node.config.oidc
    if config is None:
        yield None
        return
    file, authority = config.client_secret_file, config.authority
    secret = read_private(node.folder / file).decode().strip() if file is not None else None
    trusted = node.folder / authority if authority is not None else None
    with closing(Provider(config, secret, CALLBACK, clock, authority=trusted)) as provider:
        yield provider


def _sent_back_to(config: OidcConfig | None) -> tuple[str, ...]:
    """Return the name by which the identity provider sends browsers back here."""
    host = urlsplit(config.url).hostname if config is not None else None
    return (f"[{host}]" if ":" in host else host,) if host else ()


def _catalogue(running: Running, clock: SystemClock) -> Catalogue:
    return Catalogue(running.store, running.artifacts, clock, Apart(_bytes(running.node.config.worker_gib)))


def _services(running: Running, provider: Provider | None, clock: SystemClock) -> Services:
    running.figures.registry.register(NodeCollector(running.node, running.store, clock, running.port.traffic.all))
    people, catalogue = People(running.store, running.books), _catalogue(running, clock)
    return Services(
        name=running.node.name,
        people=people,
        sign_on=SignOn(people, provider, clock),
        catalogue=catalogue,
        sources=Sources(catalogue, open_sources(running.node, clock)),
        projects=running.projects,
        jobs=running.jobs,
        runs=running.runs,
        audit=running.audit,
        partners=running.node.partners,
        pairings=running.pairings,
        set_up=SetUpToken(running.node.folder),
        clock=clock,
        store=running.store,
        registry=running.figures.registry,
        checks=checks_of(running.node, clock),
    )


def _signing_key(folder: Path) -> SigningKey:
    if not (folder / SIGNING_KEY_FILE).exists():
        SigningKey.generate().save(folder)
    return SigningKey.load(folder)


def _bytes(gib: float | None) -> int | None:
    return None if gib is None else int(gib * 2**30)
