"""A bank's node behind its HTTP, with people of every duty, and an insurer to make projects with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from starlette.testclient import TestClient
from tests.node.organisations import BANK, CREDIT, INSURER, NOW, Organisation, acquainted, agreement_text, deliver, site

from unseen.node.artifacts import Artifacts
from unseen.node.domain import Duty
from unseen.node.folder import Node
from unseen.node.http.app import PREFIX, make_app
from unseen.node.http.guard import HttpSettings
from unseen.node.http.metrics import Figures, NodeCollector
from unseen.node.http.services import Services, SetUpToken, checks_of
from unseen.node.importing import import_here
from unseen.node.usecases import people as people_module
from unseen.node.usecases.catalogue import Catalogue
from unseen.node.usecases.pairings import Pairings
from unseen.node.usecases.people import People
from unseen.node.usecases.runs import Runs
from unseen.node.usecases.sign_on import SignOn
from unseen.node.usecases.sources import Sources

PASSWORD = "correct horse battery"
NAMES = {duty: f"{duty.value.replace('-', '')}" for duty in Duty}


@dataclass
class Site:
    """The bank, as its people reach it."""

    app: FastAPI
    services: Services
    bank: Organisation
    insurer: Organisation
    set_up: str
    clients: dict[str, TestClient] = field(default_factory=dict)

    def client(self, name: str | None = None) -> TestClient:
        """Somebody's client, signed in by token; nobody's without a name."""
        if name is None:
            return TestClient(self.app, base_url="http://localhost")
        if name not in self.clients:
            made = TestClient(self.app, base_url="http://localhost")
            answer = made.post(f"{PREFIX}/session", json={"name": name, "password": PASSWORD})
            made.cookies.clear()
            made.headers["authorization"] = f"Bearer {answer.json()['token']}"
            self.clients[name] = made
        return self.clients[name]

    def of(self, duty: Duty) -> TestClient:
        """The client of whoever has one duty."""
        return self.client(NAMES[duty])


@pytest.fixture(autouse=True)
def quick_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash passwords at the least cost; one test below looks at the real parameters."""
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(people_module.PasswordHasher, "from_parameters", lambda parameters: cheap)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Site]:
    """A node without people."""
    bank, insurer = acquainted(tmp_path, BANK, INSURER)
    node = Node.create(tmp_path / "node", BANK, None, NOW)
    artifacts = Artifacts(f"file://{tmp_path / 'artifacts'}", bytes(32), scratch=tmp_path / "scratch")
    set_up, figures = SetUpToken(node.folder), Figures()
    bank.books.after_each(figures.turned)
    figures.registry.register(NodeCollector(node, bank.store, bank.clock, lambda: {INSURER: (1, 2)}))
    people, catalogue = People(bank.store, bank.books), Catalogue(bank.store, artifacts, bank.clock, import_here)
    services = Services(
        name=BANK,
        people=people,
        sign_on=SignOn(people, None, bank.clock),
        catalogue=catalogue,
        sources=Sources(catalogue, {}),
        projects=bank.projects,
        jobs=bank.jobs,
        runs=Runs(bank.books, tmp_path / "workspaces"),
        audit=bank.audit,
        partners=node.partners,
        pairings=Pairings(node),
        set_up=set_up,
        clock=bank.clock,
        store=bank.store,
        registry=figures.registry,
        checks=checks_of(node, bank.clock),
    )
    settings = HttpSettings(body_bytes=100_000, upload_bytes=200_000, metrics_token="scrape")
    site = Site(make_app(services, settings, (figures.answered,)), services, bank, insurer, set_up.write())
    yield site
    for client in site.clients.values():
        client.close()
    for each in (bank, insurer):
        each.store.close()


@pytest.fixture
def staffed(bare: Site) -> Site:
    """The same with somebody of every duty; the analyst works on the project ``credit``."""
    for duty, name in NAMES.items():
        bare.services.people.add(name, PASSWORD, {duty}, None)
    bare.services.people.assign(NAMES[Duty.ANALYST], CREDIT)
    return bare


@pytest.fixture
def allied(staffed: Site) -> Site:
    """The same with an agreement that holds, and policies that wait for approval."""
    nodes = (staffed.bank, staffed.insurer)
    analyst = staffed.services.people.get(NAMES[Duty.ANALYST])
    approver = staffed.services.people.get(NAMES[Duty.APPROVER])
    owner = staffed.services.people.get(NAMES[Duty.DATA_OWNER])
    staffed.bank.projects.draft(agreement_text(BANK, INSURER), analyst)
    deliver(nodes)
    for node in nodes:
        node.projects.sign(CREDIT, approver)
        deliver(nodes)
    for node in nodes:
        node.projects.set_policy(CREDIT, site(BANK, INSURER, automatic=node is staffed.insurer), owner)
    deliver(nodes)
    return staffed
