"""The decision: whether this node issues a grant for a job.

Four have to agree: the agreement (in force, not revoked), the site's own policy (which only narrows; a project that it
does not name is refused), the flow as this node's own components check it, and the clock. ``decide`` lists everything
that stands against a job, not only the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field

from unseen.component import Role
from unseen.data.schema import Role as TableRole
from unseen.errors import UsageError
from unseen.flow.graph import Graph, Node
from unseen.flow.spec import TABLES
from unseen.ids import JobId, PartyId
from unseen.privacy.facts import TableId, Variant
from unseen.trust.agreement import AgreedComponent, Agreement, Bound, ColumnRole, Project, ProjectId
from unseen.trust.audit import Code
from unseen.trust.envelope import Part
from unseen.trust.grant import MAX_VALIDITY, Binding, Grant, Rows, Snapshot

VARIANTS: Mapping[str, Variant] = {
    "psi_join": Variant.INTERSECT,
    "psi_count": Variant.COUNT,
    "psi_sum": Variant.SUM,
    "psi_union": Variant.UNION,
    "psi_lookup": Variant.LOOKUP,
    "prepare_lookup": Variant.LOOKUP,
}
"""Components that compare ids, and as what their points are counted."""

_USES = {
    TableRole.ID: ColumnRole.JOIN_KEY,
    TableRole.LABEL: ColumnRole.LABEL,
    TableRole.FEATURE: ColumnRole.FEATURE,
    TableRole.WEIGHT: ColumnRole.FEATURE,
}


class SiteProject(Part):
    """What a site lets a project do with its own tables, at most."""

    initiators: tuple[PartyId, ...]
    tables: tuple[TableId, ...]
    components: dict[str, dict[str, Bound]]
    """The kinds of steps that may run here → tighter bounds for their parameters."""
    max_points: Rows = 0
    """For one job."""
    max_epsilon: Annotated[float, Field(ge=0)] = 0.0
    max_hours: Annotated[float, Field(gt=0, le=MAX_VALIDITY / timedelta(hours=1))] = 24.0
    """For how long a grant is valid."""
    automatic: bool = False
    """Whether jobs that nothing stands against are granted at once; otherwise a person has to approve each."""


class SitePolicy(Part):
    """What a site allows whatever its agreements say; a project that is not named is refused."""

    projects: dict[ProjectId, SiteProject] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TableUse:
    """One table as a job would use it, as its owner's node sees it."""

    snapshot: Snapshot
    schema_digest: str
    columns: Mapping[str, TableRole]
    """Those that the job uses."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A job that somebody asks for.

    Raises:
        UsageError: A time has no zone.
    """

    job: JobId
    initiator: PartyId
    graph: Graph
    """Of the flow, built from this node's own components."""
    snapshots: tuple[Snapshot, ...]
    """Of all parties, as the initiator names them."""
    points: int
    epsilon: float
    delta: float
    valid_until: datetime

    def __post_init__(self) -> None:
        if self.valid_until.tzinfo is None:
            raise UsageError(f"job {self.job}: valid_until {self.valid_until} has no time zone")


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of this owner's budgets for the parties of a job: the smallest, where there are several."""

    points: int = 0
    epsilon: float = 0.0


@dataclass(frozen=True, slots=True)
class Site:
    """The node that decides: who it is, what it allows, its own tables, what is left, and what time it is."""

    me: PartyId
    policy: SitePolicy | None
    tables: tuple[TableUse, ...]
    left: Left
    now: datetime


@dataclass(frozen=True, slots=True)
class Objection:
    """Something that stands against a job."""

    code: Code
    """For the trail."""
    rule: str
    """Whose rule, in words."""
    where: str
    expected: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.where}: expected {self.expected}"


@dataclass(frozen=True, slots=True)
class Allowed:
    """The grant to issue."""

    grant: Grant


@dataclass(frozen=True, slots=True)
class Refused:
    """Everything that stands against it."""

    reasons: tuple[Objection, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.reasons))


def decide(ask: Ask, project: Project | None, site: Site, nonce: str) -> Allowed | Refused:
    """Return the grant that this node issues for a job, or all that stands against it.

    Args:
        ask: The job.
        project: The agreement that it names, ``None`` if there is none.
        site: This node.
        nonce: 128 fresh random bits, in hexadecimal.
    """
    if project is None:
        return Refused((Objection(Code.AGREEMENT, "agreement", "project", "one that all parties have signed"),))
    agreement = project.current
    if reasons := tuple(_standing(project, ask, site)):
        return Refused(reasons)
    own = site.policy.projects.get(agreement.project) if site.policy else None
    if own is None:
        return Refused(
            (
                Objection(
                    Code.SITE,
                    f"site policy of {site.me}",
                    f"projects.{agreement.project}",
                    "an entry: unseen project policy",
                ),
            )
        )
    if reasons := (*_agreed(agreement, ask, site), *_narrowed(own, agreement, ask, site), *_afforded(ask, site)):
        return Refused(reasons)
    return Allowed(_grant(agreement, ask, site, nonce))


def _grant(agreement: Agreement, ask: Ask, site: Site, nonce: str) -> Grant:
    return Grant(
        id=nonce,
        issuer=site.me,
        project=agreement.project,
        agreement=agreement.digest,
        flow=ask.graph.spec.digest,
        job=ask.job,
        initiator=ask.initiator,
        tables=ask.snapshots,
        points=ask.points,
        epsilon=ask.epsilon,
        delta=ask.delta,
        valid_from=site.now,
        valid_until=ask.valid_until,
        bindings=bindings(agreement, ask),
    )


def bindings(agreement: Agreement, ask: Ask) -> tuple[Binding, ...]:
    """Return the keys of certificates with which the parties of a job take part."""
    return tuple(
        Binding(party=member.party, certificate=member.certificate)
        for member in agreement.members
        if member.party in ask.graph.spec.parties
    )


def _standing(project: Project, ask: Ask, site: Site) -> Iterator[Objection]:
    agreement, rule = project.current, str(project.current)
    if (word := project.revoked) is not None:
        yield Objection(
            Code.REVOKED, "revocation", f"{agreement}, by {word.by}", "an agreement that stands: make a new one"
        )
    if not agreement.valid_from <= site.now < agreement.valid_until:
        window = f"{agreement.valid_from.isoformat()} to {agreement.valid_until.isoformat()}"
        yield Objection(Code.TIME, rule, f"the time {site.now.isoformat()}", window)
    if not site.now < ask.valid_until <= min(agreement.valid_until, site.now + MAX_VALIDITY):
        yield Objection(
            Code.TIME, rule, f"valid_until {ask.valid_until.isoformat()}", "a time before the agreement ends"
        )
    for party in {site.me, ask.initiator, *ask.graph.spec.parties}:
        if agreement.member(party) is None:
            yield Objection(Code.AGREEMENT, rule, f"party {party}", "a member")
    if ask.initiator not in agreement.initiators:
        yield Objection(Code.AGREEMENT, rule, f"initiator {ask.initiator}", ", ".join(agreement.initiators) or "nobody")


# --- the agreement ---------------------------------------------------------------------------------------------------


def _agreed(agreement: Agreement, ask: Ask, site: Site) -> Iterator[Objection]:
    yield from _agreed_tables(agreement, ask, site)
    for step, node in ask.graph.nodes.items():
        component, place = agreement.component(node.component.name), f"steps.{step}"
        if component is None:
            yield Objection(
                Code.AGREEMENT, str(agreement), f"{place}.use {node.component.name}", "a component that is listed"
            )
            continue
        if component.version != node.component.version:
            found = f"{place}.use {node.component.name} version {node.component.version}"
            yield Objection(Code.AGREEMENT, str(agreement), found, f"version {component.version}")
        yield from _bounded(Code.AGREEMENT, str(agreement), node, component.bounds)
        yield from _seen(agreement, component, node, ask)
        yield from _compared(agreement, node, ask, site)


def _bounded(code: Code, rule: str, node: Node, bounds: Mapping[str, Bound]) -> Iterator[Objection]:
    """Object to parameters out of bounds; in an agreement, to those without bounds that are not the default as well."""
    values = node.params.model_dump(mode="json")
    usual = {
        name: field.get_default(call_default_factory=True) for name, field in type(node.params).model_fields.items()
    }
    for name, value in values.items():
        where = f"steps.{node.step}.params.{name}"
        if name in bounds:
            if not bounds[name].admits(value):
                yield Objection(code, rule, where, str(bounds[name]))
        elif code is Code.AGREEMENT and getattr(node.params, name) != usual[name]:
            yield Objection(code, rule, where, "the component's default, since it has no bounds")


def _seen(agreement: Agreement, component: AgreedComponent, node: Node, ask: Ask) -> Iterator[Objection]:
    for port, output in node.component.outputs.items():
        allowed = component.outputs.get(port, ())
        for party, role in ask.graph.spec.parties.items():
            if output.exists_at(Role(role)) and party not in allowed:
                where = f"steps.{node.step}, output {port} at {party}"
                yield Objection(Code.AGREEMENT, str(agreement), where, ", ".join(allowed) or "nobody")


def _compared(agreement: Agreement, node: Node, ask: Ask, site: Site) -> Iterator[Objection]:
    variant = VARIANTS.get(node.component.name)
    if variant is None:
        return
    for partner in ask.graph.spec.parties:
        if partner == site.me:
            continue
        allowances = [known for known in agreement.allowances(site.me, partner) if variant in known.variants]
        if not allowances:
            where = f"steps.{node.step}, {variant} by {partner}"
            yield Objection(Code.AGREEMENT, str(agreement), where, "points that the agreement allows for it")
        elif ask.points > max(known.points_per_session for known in allowances):
            most = max(known.points_per_session for known in allowances)
            yield Objection(
                Code.AGREEMENT, str(agreement), f"points {ask.points}", f"at most {most} in a session of {partner}"
            )


def _agreed_tables(agreement: Agreement, ask: Ask, site: Site) -> Iterator[Objection]:
    named = {(snapshot.owner, snapshot.name) for snapshot in ask.snapshots}
    if len(named) != len(ask.snapshots):
        yield Objection(Code.AGREEMENT, str(agreement), "tables", "each once")
    used = {(party, table) for table in tables_of(ask.graph) for party in ask.graph.spec.parties}
    for party, table in sorted(used ^ named):
        yield Objection(
            Code.FLOW, "flow", f"table {table} of {party}", "the tables that the flow reads, each with its version"
        )
    for party, table in sorted(used | named):
        if agreement.table(party, table) is None:
            yield Objection(Code.AGREEMENT, str(agreement), f"table {table} of {party}", "a table that is listed")
    for use in site.tables:
        yield from _own_table(agreement, use, ask, site)
    held = {use.snapshot.name for use in site.tables if use.snapshot.owner == site.me}
    for table in sorted(tables_of(ask.graph) - held):
        yield Objection(Code.TABLES, f"tables of {site.me}", table, "a table that is here")


def _own_table(agreement: Agreement, use: TableUse, ask: Ask, site: Site) -> Iterator[Objection]:
    if use.snapshot.owner != site.me:
        yield Objection(
            Code.TABLES, f"tables of {site.me}", f"{use.snapshot.name} of {use.snapshot.owner}", "own tables only"
        )
        return
    agreed = agreement.table(site.me, use.snapshot.name)
    if agreed is None:
        return
    if use.snapshot not in ask.snapshots:
        yield Objection(Code.TABLES, f"tables of {site.me}", f"version of {use.snapshot.name}", "the one that is here")
    if use.schema_digest != agreed.schema_digest:
        yield Objection(Code.AGREEMENT, str(agreement), f"columns of {use.snapshot.name}", "those of the agreement")
    for column, role in use.columns.items():
        if agreed.role(column) != _USES[role]:
            where = f"{use.snapshot.name}.{column} as {_USES[role]}"
            yield Objection(Code.AGREEMENT, str(agreement), where, agreed.role(column))


def tables_of(graph: Graph) -> frozenset[str]:
    """Return the names of the tables that a flow reads."""
    inputs = (source for node in graph.nodes.values() for source in node.inputs.values())
    return frozenset(name for source, name in inputs if source == TABLES)


# --- the site and what is left ---------------------------------------------------------------------------------------


def _narrowed(own: SiteProject, agreement: Agreement, ask: Ask, site: Site) -> Iterator[Objection]:
    rule = f"site policy of {site.me}"
    if ask.initiator not in own.initiators:
        yield Objection(Code.SITE, rule, f"initiator {ask.initiator}", ", ".join(own.initiators) or "nobody")
    for table in sorted(tables_of(ask.graph)):
        if table not in own.tables:
            yield Objection(Code.SITE, rule, f"table {table}", ", ".join(own.tables) or "none")
    for step, node in ask.graph.nodes.items():
        bounds = own.components.get(node.component.name)
        if bounds is None:
            yield Objection(Code.SITE, rule, f"steps.{step}.use {node.component.name}", "a component that is listed")
        else:
            yield from _bounded(Code.SITE, rule, node, bounds)
    if ask.points > own.max_points:
        yield Objection(Code.SITE, rule, f"points {ask.points}", f"at most {own.max_points}")
    if ask.epsilon > own.max_epsilon:
        yield Objection(Code.SITE, rule, f"epsilon {ask.epsilon:g}", f"at most {own.max_epsilon:g}")
    if ask.valid_until - site.now > timedelta(hours=own.max_hours):
        yield Objection(
            Code.SITE, rule, f"valid_until {ask.valid_until.isoformat()}", f"within {own.max_hours:g} hours"
        )


def _afforded(ask: Ask, site: Site) -> Iterator[Objection]:
    if not 0 <= ask.points <= site.left.points:
        yield Objection(Code.BUDGET, f"budget of {site.me}", f"points {ask.points}", f"0 to {site.left.points}")
    if not (0 <= ask.epsilon <= site.left.epsilon and math.isfinite(ask.epsilon)):
        yield Objection(Code.BUDGET, f"budget of {site.me}", f"epsilon {ask.epsilon:g}", f"0 to {site.left.epsilon:g}")
    if not 0 <= ask.delta < 1:
        yield Objection(Code.BUDGET, f"budget of {site.me}", f"delta {ask.delta:g}", "0 to 1")
