"""A project of a bank and an insurer, and everything that is needed to ask for a job in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from unseen.component import installed_components
from unseen.data.schema import Role
from unseen.flow.graph import build_graph
from unseen.flow.spec import FlowSpec
from unseen.ids import JobId, PartyId
from unseen.privacy.events import Relation, Unit
from unseen.privacy.facts import TableId, Variant
from unseen.privacy.limits import Allowance
from unseen.trust.agreement import (
    AgreedColumn,
    AgreedComponent,
    AgreedEpsilon,
    AgreedPoints,
    AgreedTable,
    Agreement,
    ColumnRole,
    Member,
    OneOf,
    Project,
    ProjectId,
    Range,
)
from unseen.trust.envelope import seal
from unseen.trust.gate import Gate, Memory
from unseen.trust.grant import Snapshot
from unseen.trust.keys import SigningKey
from unseen.trust.policy import Ask, Left, Site, SitePolicy, SiteProject, TableUse

NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
BANK, INSURER, MALLORY = PartyId("bank"), PartyId("insurer"), PartyId("mallory")
BOTH = (BANK, INSURER)
CUSTOMERS = TableId("customers")
CREDIT = ProjectId("credit")


def key_of(name: str) -> SigningKey:
    """The same key for the same name: tests name keys in failures."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(name.encode()).digest()))


def digest_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


KEYS = {party: key_of(party) for party in (BANK, INSURER, MALLORY)}

FLOW = FlowSpec.model_validate(
    {
        "name": "small",
        "parties": {"bank": "active", "insurer": "passive"},
        "steps": {
            "read": {"use": "read_table", "in": {"source": "tables.customers"}},
            "align": {"use": "psi_join", "in": {"table": "read.table"}},
            "split": {"use": "split", "in": {"table": "align.table"}, "params": {"test": 0.3}},
        },
    }
)
GRAPH = build_graph(FLOW, installed_components())


def member(party: PartyId) -> Member:
    return Member(party=party, key=KEYS[party].public, certificate=digest_of(f"certificate of {party}"))


def agreed_table(owner: PartyId) -> AgreedTable:
    columns = [("phone", ColumnRole.JOIN_KEY), ("age", ColumnRole.FEATURE), ("name", ColumnRole.NEVER)]
    return AgreedTable(
        owner=owner,
        name=CUSTOMERS,
        schema_digest=digest_of(f"schema of {owner}"),
        columns=tuple(AgreedColumn(name=name, role=role) for name, role in columns),
    )


def component(name: str, **bounds: object) -> AgreedComponent:
    found = installed_components()[name]
    return AgreedComponent(name=name, version=found.version, bounds=bounds, outputs=dict.fromkeys(found.outputs, BOTH))


def allowance(partner: PartyId) -> Allowance:
    return Allowance(
        partner=partner,
        table=CUSTOMERS,
        key_columns=("phone",),
        variants=frozenset({Variant.INTERSECT, Variant.COUNT}),
        valid_from=NOW,
        valid_until=NOW + timedelta(days=300),
        points_per_session=80_000,
        points_total=240_000,
        sessions_per_day=1000,
    )


def agreement(**changes: object) -> Agreement:
    fields = {
        "project": CREDIT,
        "version": 1,
        "previous": None,
        "purpose": "one credit score of both sides' columns",
        "valid_from": NOW - timedelta(days=1),
        "valid_until": NOW + timedelta(days=365),
        "members": (member(BANK), member(INSURER)),
        "initiators": (BANK,),
        "tables": (agreed_table(BANK), agreed_table(INSURER)),
        "components": (
            component("read_table"),
            component("psi_join", protocol=OneOf(values=("auto", "ecdh"))),
            component("split", test=Range(low=0.1, high=0.5)),
        ),
        "points": tuple(
            AgreedPoints(owner=owner, allowance=allowance(partner)) for owner, partner in (BOTH, BOTH[::-1])
        ),
        "epsilon": (
            AgreedEpsilon(
                owner=BANK,
                partner=INSURER,
                table=CUSTOMERS,
                epsilon=3.0,
                delta=1e-6,
                unit=Unit.EXAMPLE,
                relation=Relation.ADD_OR_REMOVE,
            ),
        ),
    }
    return Agreement(**{**fields, **changes})


def project(made: Agreement | None = None, *revocations: object) -> Project:
    made = made or agreement()
    return Project([seal(made, *(KEYS[party.party] for party in made.members))], revocations)


def snapshot(owner: PartyId) -> Snapshot:
    return Snapshot(owner=owner, name=CUSTOMERS, digest=digest_of(f"rows of {owner}"), rows=100_000)


def ask(**changes: object) -> Ask:
    made = Ask(
        job=JobId("job-1"),
        initiator=BANK,
        graph=GRAPH,
        snapshots=(snapshot(BANK), snapshot(INSURER)),
        points=80_000,
        epsilon=0.0,
        delta=0.0,
        valid_until=NOW + timedelta(hours=2),
    )
    return replace(made, **changes)


def policy(**changes: object) -> SitePolicy:
    fields = {
        "initiators": (BANK,),
        "tables": (CUSTOMERS,),
        "components": {"read_table": {}, "psi_join": {}, "split": {}},
        "max_points": 80_000,
        "max_epsilon": 1.0,
    }
    return SitePolicy(projects={CREDIT: SiteProject(**{**fields, **changes})})


def use(owner: PartyId) -> TableUse:
    columns = {"phone": Role.ID, "age": Role.FEATURE}
    return TableUse(snapshot(owner), digest_of(f"schema of {owner}"), columns)


def site(**changes: object) -> Site:
    return replace(Site(INSURER, policy(), (use(INSURER),), Left(100_000, 1.0), NOW), **changes)


@dataclass
class Clock:
    """A clock that is set by hand."""

    time: datetime = NOW

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return 0.0


@dataclass
class Node:
    """A gate with its lines in memory."""

    me: PartyId
    of: Project = field(default_factory=project)
    clock: Clock = field(default_factory=Clock)
    trail: list[bytes] = field(default_factory=list)
    marks: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        memory = Memory(tuple(self.trail), tuple(self.marks), self.trail.append, self.marks.append)
        self.gate = Gate(self.me, KEYS[self.me], self.of, memory, self.clock)

    def issue(self, made: Ask | None = None, nonce: str = "0f" * 16):
        return self.gate.issue(made or ask(), policy(), (use(self.me),), Left(100_000, 1.0), nonce)
