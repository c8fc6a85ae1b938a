"""Organisations with nodes in one process: what they post is handed over by ``deliver``, letter by letter."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from unseen.component import installed_components
from unseen.data.schema import Role
from unseen.flow.spec import FlowSpec
from unseen.ids import PartyId
from unseen.node.books import Books, Owner
from unseen.node.domain import CatalogueTable, Column, Duty, Person
from unseen.node.mailroom import Mailroom
from unseen.node.store import Store
from unseen.node.usecases.audit import Audit
from unseen.node.usecases.jobs import Jobs
from unseen.node.usecases.projects import Pending, Projects
from unseen.privacy.facts import TableId
from unseen.trust.agreement import Project, ProjectId
from unseen.trust.keys import SigningKey
from unseen.trust.policy import SiteProject

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
BANK, INSURER, SHOP, MALLORY = (PartyId(name) for name in ("bank", "insurer", "shop", "mallory"))
CUSTOMERS = TableId("customers")
CREDIT = ProjectId("credit")
ANN, BEN = (
    Person(name, frozenset(duties), NOW, projects=frozenset({ProjectId("credit")}))
    for name, duties in (("ann", (Duty.ANALYST, Duty.DATA_OWNER)), ("ben", (Duty.APPROVER,)))
)
STEPS = ("read_table", "psi_join", "split")


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def key_of(name: str) -> SigningKey:
    return SigningKey(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


@dataclass
class Clock:
    """A clock that is set by hand, and goes on by itself whenever somebody looks."""

    time: datetime = NOW

    def now(self) -> datetime:
        self.time += timedelta(microseconds=1)
        return self.time

    def monotonic(self) -> float:
        return 0.0


@dataclass
class Organisation:
    """A node without network and workers."""

    me: PartyId
    folder: Path
    clock: Clock = field(default_factory=Clock)
    partners: set[PartyId] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.store = Store(f"sqlite:///{self.folder}/{self.me}.db")
        self.start()

    def put_back(self, copy: Path) -> None:
        """Take a copy of the database in place of the present one, as ``unseen node restore`` does."""
        self.store.close()
        shutil.copy(copy, self.folder / f"{self.me}.db")
        for left in ("-wal", "-shm"):
            (self.folder / f"{self.me}.db{left}").unlink(missing_ok=True)
        self.__post_init__()
        with self.books.turn() as turn:
            turn.kept.recovery.begin(self.partners, self.clock.now())

    def start(self) -> None:
        """Begin from what is in the store, as after a crash."""
        owner = Owner(self.me, key_of(self.me), root_of(self.me))
        self.books = Books(self.store, owner, self.clock, self.root)
        self.projects, self.jobs, self.audit = Projects(self.books), Jobs(self.books), Audit(self.books)
        self.mailroom = Mailroom(self.books, self.projects, self.jobs)

    def root(self, peer: PartyId) -> str | None:
        return root_of(peer) if peer in self.partners else None

    def agreed(self) -> Project:
        """Return the agreement of the one project that all have signed, with its versions."""
        (seen,) = self.projects.seen([CREDIT])
        assert seen.held is not None
        return seen.held

    def pending(self) -> Pending | None:
        """Return the agreement of the one project that waits for signatures."""
        return self.projects.seen([CREDIT])[0].pending


def root_of(party: str) -> str:
    return digest_of(f"root of {party}")


def deliver(nodes: Iterable[Organisation]) -> int:
    """Hand letters over until nobody has any; return how many there were."""
    known = {node.me: node for node in nodes}
    count = 0
    for node in known.values():
        for peer in node.partners & known.keys():
            node.mailroom.delivered(peer, known[peer].mailroom.received(node.me))
    while True:
        moved = 0
        for node in known.values():
            for peer in node.partners & known.keys():
                for number, body in node.mailroom.waiting(peer):
                    known[peer].mailroom.take(node.me, number, body)
                    node.mailroom.delivered(peer, number)
                    moved += 1
        if not moved:
            return count
        count += moved


def acquainted(folder: Path, *names: PartyId) -> tuple[Organisation, ...]:
    """Return nodes that are paired with each other and have introduced their keys."""
    nodes = tuple(Organisation(name, folder, partners=set(names) - {name}) for name in names)
    for node in nodes:
        node.projects.send_cards({peer: root_of(peer) for peer in node.partners})
        register(node)
    deliver(nodes)
    return nodes


def register(node: Organisation, content: str = "first", rows: int = 2000) -> CatalogueTable:
    """Put a table into a node's catalogue."""
    columns = [("phone", Role.ID), ("age", Role.FEATURE), ("secret", None)]
    with node.books.turn() as turn:
        entry = CatalogueTable(
            name=CUSTOMERS,
            version=1 + sum(known.name == CUSTOMERS for known in turn.kept.tables.all()),
            digest=digest_of(f"{content} of {node.me}"),
            schema_digest=digest_of(f"schema of {node.me}"),
            rows=rows,
            columns=tuple(Column(name, "integer", role) for name, role in columns),
            origin="test",
            by="ann",
            created=NOW,
        )
        turn.kept.tables.add(entry)
    return entry


def agreement_text(*parties: PartyId, **changes: object) -> dict[str, object]:
    allowance = {
        "table": "customers",
        "key_columns": ["phone"],
        "variants": ["intersect"],
        "valid_from": NOW.isoformat(),
        "valid_until": (NOW + timedelta(days=300)).isoformat(),
        "points_per_session": 3000,
        "points_total": 6500,
    }
    roles = {"phone": "join-key", "age": "feature", "secret": "never"}
    found = installed_components()
    text = {
        "project": "credit",
        "purpose": "one credit score",
        "valid_from": (NOW - timedelta(days=1)).isoformat(),
        "valid_until": (NOW + timedelta(days=365)).isoformat(),
        "members": list(parties),
        "initiators": [parties[0]],
        "tables": [
            {
                "owner": party,
                "name": "customers",
                "schema_digest": digest_of(f"schema of {party}"),
                "columns": [{"name": name, "role": role} for name, role in roles.items()],
            }
            for party in parties
        ],
        "components": [
            {
                "name": name,
                "version": found[name].version,
                "bounds": {
                    "read_table": {
                        field: {"bound": "one-of", "values": [value]}
                        for field, value in small_flow(*parties)["steps"]["read"]["params"].items()
                    },
                    "psi_join": {"protocol": {"bound": "one-of", "values": ["ecdh"]}},
                    "split": {"test": {"bound": "range", "low": 0.1, "high": 0.5}},
                }.get(name, {}),
                "outputs": {port: list(parties) for port in found[name].outputs},
            }
            for name in STEPS
        ],
        "points": [
            {"owner": owner, "allowance": {**allowance, "partner": partner}}
            for owner in parties
            for partner in parties
            if owner != partner
        ],
    }
    return {**text, **changes}


def small_flow(*parties: PartyId) -> dict[str, object]:
    return {
        "name": "small",
        "parties": {party: "passive" if index else "active" for index, party in enumerate(parties)},
        "steps": {
            "read": {
                "use": "read_table",
                "in": {"source": "tables.customers"},
                "params": {
                    "columns": {party: {"phone": "id"} for party in parties},
                    "leave_out": {party: ["secret"] for party in parties},
                },
            },
            "align": {"use": "psi_join", "in": {"table": "read.table"}, "params": {"protocol": "ecdh"}},
            "split": {"use": "split", "in": {"table": "align.table"}, "params": {"test": 0.3}},
        },
    }


def site(*parties: PartyId, **changes: object) -> SiteProject:
    fields: Mapping[str, object] = {
        "initiators": parties[:1],
        "tables": (CUSTOMERS,),
        "components": {name: {} for name in STEPS},
        "max_points": 3000,
        "automatic": True,
    }
    return SiteProject(**{**fields, **changes})


def allied(folder: Path, *names: PartyId, automatic: bool = True) -> tuple[Organisation, ...]:
    """Return nodes with an agreement that all have signed, and policies for it."""
    template = _allied(*names, automatic=automatic)
    for name in names:
        shutil.copy(template / f"{name}.db", folder / f"{name}.db")
    return tuple(Organisation(name, folder, partners=set(names) - {name}) for name in names)


@cache
def _allied(*names: PartyId, automatic: bool) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="unseen-allies-"))
    atexit.register(shutil.rmtree, folder)
    nodes = acquainted(folder, *names)
    nodes[0].projects.draft(agreement_text(*names), ANN)
    deliver(nodes)
    for node in nodes:
        node.projects.sign(CREDIT, BEN)
        node.projects.set_policy(CREDIT, site(*names, automatic=automatic), ANN)
    deliver(nodes)
    for node in nodes:
        node.store.close()
    return folder


def propose(node: Organisation, *parties: PartyId, **changes: object):
    flow = FlowSpec.model_validate(small_flow(*parties))
    fields = {
        "tables": {},
        "points": None,
        "epsilon": 0.0,
        "delta": 0.0,
        "valid_until": node.clock.now() + timedelta(hours=2),
        "by": ANN,
    }
    return node.jobs.propose(CREDIT, flow, **{**fields, **changes})


def outcome(nodes: Iterable[Organisation]) -> list[object]:
    """Return what became of all jobs at each node: states, charges, the trail, letters that wait."""
    found: list[object] = []
    for node in nodes:
        with node.books.turn() as turn:
            ledgers = {partner: turn.ledger(CREDIT, partner) for partner in sorted(node.partners)}
            waiting = [peer for peer in node.partners if turn.kept.mail.waiting(peer)]
        accounts = [
            (partner, ledger.settled, len(ledger.receipts), [type(fact).__name__ for fact in ledger.noted])
            for partner, ledger in ledgers.items()
        ]
        jobs = [(known.state, known.reason.partition("job-")[0]) for known in node.jobs.all()]
        events = Counter(record.event for record in node.audit.records(CREDIT))
        assert node.audit.verify(CREDIT).count == sum(events.values())
        own = [(record.event, record.person and record.person.name) for record in node.audit.records(None)]
        heads = len(node.audit.heads(CREDIT))
        found.append((node.me, jobs, accounts, sorted(events.items()), waiting, heads, own))
    return found
