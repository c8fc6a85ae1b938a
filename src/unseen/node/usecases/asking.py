"""What this node's gate has to know of a job: the flow as its own components make it, tables, points, and sessions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from unseen.catalog.join_keys import KeyParams
from unseen.catalog.prepare_lookup import PrepareLookupParams
from unseen.catalog.psi_join import PsiJoinParams
from unseen.catalog.psi_lookup import PsiLookupParams
from unseen.catalog.psi_sum import PsiSumParams
from unseen.catalog.read_table import ReadTableParams
from unseen.codec import read_json
from unseen.component import installed_components
from unseen.data.readers import assign_roles, with_recorded
from unseen.data.schema import Role
from unseen.errors import UsageError
from unseen.flow.graph import Graph, Node, build_graph
from unseen.flow.spec import TABLES, FlowSpec, canonical_json
from unseen.ids import JobId, PartyId, StepId
from unseen.node.books import Turn
from unseen.node.domain import CatalogueTable, Job
from unseen.privacy.enumeration import remaining
from unseen.privacy.facts import Request, SessionId, TableId
from unseen.protocols.psi.automatic import points
from unseen.trust.agreement import Agreement
from unseen.trust.budgets import points_of
from unseen.trust.grant import Snapshot
from unseen.trust.policy import VARIANTS, Ask, Left, TableUse, tables_of


def graph_of(flow: FlowSpec) -> Graph:
    """Return the flow as the components that are installed here make it.

    Raises:
        UsageError: It cannot run.
    """
    return build_graph(flow, installed_components(), name=flow.name)


def ask_of(job: Job) -> Ask:
    """Return a job as the gate is asked for it.

    Raises:
        UsageError: Its flow cannot run here.
    """
    return Ask(
        job=job.job,
        initiator=job.initiator,
        graph=graph_of(FlowSpec.model_validate_json(job.flow)),
        snapshots=job.snapshots,
        points=job.points,
        epsilon=job.epsilon,
        delta=job.delta,
        valid_until=job.valid_until,
    )


# --- tables ---------------------------------------------------------------------------------------------------------


def held_tables(turn: Turn, project: str, party: PartyId) -> dict[str, Snapshot]:
    """Return the versions of tables that a party last said it holds, by name."""
    line = turn.kept.lines.last(f"held/{project}/{party}") or b"[]"
    return {found["name"]: Snapshot.model_validate(found) for found in read_json(line)}


def own_table(turn: Turn, ask: Ask, name: str) -> CatalogueTable | None:
    """Return the version of an own table that a job names; the newest one if it names none that is here."""
    named = {snapshot.digest for snapshot in ask.snapshots if (snapshot.owner, snapshot.name) == (turn.me, name)}
    for digest in named:
        entry = turn.kept.tables.by_digest(digest)
        if entry is not None and entry.name == name and not entry.retired:
            return entry
    return turn.kept.tables.newest(TableId(name)) if TableId.pattern.fullmatch(name) else None


def uses_of(turn: Turn, ask: Ask) -> tuple[TableUse, ...]:
    """Return how a job would use this node's tables; those that are not here are left out.

    Raises:
        UsageError: The flow gives roles to columns that are not there.
    """
    found = []
    for name in sorted(tables_of(ask.graph)):
        entry = own_table(turn, ask, name)
        if entry is not None:
            columns = _columns(ask.graph, turn.me, entry)
            found.append(TableUse(entry.snapshot(turn.me), entry.schema_digest, columns))
    return tuple(found)


def _columns(graph: Graph, me: PartyId, entry: CatalogueTable) -> Mapping[str, Role]:
    """Return the columns that the flow's steps read of a table, and as what; as ``read_table`` decides."""
    used: dict[str, Role] = {}
    for node in graph.nodes.values():
        if (TABLES, entry.name) not in node.inputs.values():
            continue
        params = node.params
        if not isinstance(params, ReadTableParams):
            raise UsageError(
                f"steps.{node.step}: only read_table may read tables at a node, found {node.component.name}"
            )
        recorded = {column.name: column.role for column in entry.columns if column.role is not None}
        given = with_recorded(params.columns.get(me, {}), recorded)
        try:
            roles = assign_roles([column.name for column in entry.columns], given)
        except UsageError as error:
            # Others read this: what the columns are called is not for everybody.
            raise UsageError(f"steps.{node.step}: its columns do not fit table {entry.name} of {me}") from error
        left_out = params.leave_out.get(me, ())
        used |= {name: role for name, role in roles.items() if role is not Role.FEATURE or name not in left_out}
    return used


# --- points ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Session:
    """A comparison of ids that a step of a job makes: what this node has to charge a partner for it."""

    step: StepId
    request: Request
    items: int
    """How many ids the partner may bring; ``request.partner_rows`` is how many it could come to test with them."""
    method: str
    """Digest of all that its result follows from, but secrets; see ``methods_of``."""


def session_id(job: JobId, step: StepId, partner: PartyId) -> SessionId:
    """Return the name of a step's session with a partner; the same whenever it is asked for."""
    return SessionId(f"s{hashlib.sha256(f'{job}/{step}/{partner}'.encode()).hexdigest()[:40]}")


def sessions_of(turn: Turn, ask: Ask) -> tuple[Session, ...]:
    """Return all sessions in which this node evaluates points of others.

    Raises:
        UsageError: It cannot be told which table's ids a step compares.
    """
    methods = methods_of(ask)
    return tuple(
        _session(turn, ask, node, partner, methods[node.step])
        for node in ask.graph.nodes.values()
        if _evaluates(ask.graph, node, turn.me)
        for partner in sorted(ask.graph.spec.parties)
        if partner != turn.me
    )


def methods_of(ask: Ask) -> Mapping[StepId, str]:
    """Return step → digest of its component, parameters, parties, and of the same of all steps and tables above it.

    The executor reuses a result if the key of its task is the same at all parties. Other methods make other keys; so
    that a session whose method is not that of an earlier one is computed anew, whatever else is alike.
    """
    methods: dict[StepId, str] = {}
    for step, node in ask.graph.nodes.items():
        inputs = {
            port: sorted([known.owner, known.digest] for known in ask.snapshots if known.name == name)
            if source == TABLES
            else [methods[StepId(source)], name]
            for port, (source, name) in node.inputs.items()
        }
        facts = {
            "component": [node.component.name, node.component.version],
            "params": node.params.model_dump(mode="json"),
            "parties": dict(ask.graph.spec.parties),
            "inputs": inputs,
        }
        methods[step] = hashlib.sha256(canonical_json(facts).encode()).hexdigest()
    return methods


def _evaluates(graph: Graph, node: Node, me: PartyId) -> bool:
    """Return whether a party evaluates points of others in a step: in look-ups only the holder does."""
    if node.component.name == "psi_lookup":
        return graph.spec.parties[me] == _prepared(graph, node).holder
    return node.component.name in VARIANTS and node.component.name != "prepare_lookup"


def _session(turn: Turn, ask: Ask, node: Node, partner: PartyId, method: str) -> Session:
    ports = ("catalogue", "table") if node.component.name == "psi_lookup" else ("table", "table")
    own_name, partner_name = (_table_above(ask.graph, node, port) for port in ports)
    own, other = _snapshot(ask, turn.me, own_name), _snapshot(ask, partner, partner_name)
    entry = turn.kept.tables.by_digest(own.digest)
    if entry is None:
        raise UsageError(f"steps.{node.step}: table {own_name} of {turn.me} is not here any more in the version named")
    told = _recipients(node)
    request = Request(
        partner=partner,
        session=session_id(ask.job, node.step, partner),
        at=turn.now,
        table=TableId(own_name),
        key_columns=_key_columns(ask.graph, node, turn.me, entry),
        value_columns=_value_columns(ask.graph, node),
        variant=VARIANTS[node.component.name],
        own_rows=own.rows,
        partner_rows=_points(ask, node, partner_name, partner),
        own_snapshot=own.digest,
        partner_snapshot=other.digest,
        owner_learns=not told or turn.me in told,
        partner_learns=not told or partner in told,
    )
    return Session(node.step, request, other.rows, method)


def _points(ask: Ask, node: Node, table: str, partner: PartyId) -> int:
    """Return how many ids a partner can come to test in a step with its version of a table, whatever it does."""
    rows = _snapshot(ask, partner, table).rows
    if not isinstance(node.params, PsiJoinParams):
        return rows
    longest = max(snapshot.rows for snapshot in ask.snapshots if snapshot.name == table)
    return points(node.params.protocol, rows, longest)


def _table_above(graph: Graph, node: Node, port: str) -> str:
    """Return the one table from which the value at an input port is made."""
    names, waiting = set[str](), [node.inputs[port]]
    while waiting:
        source, name = waiting.pop()
        if source == TABLES:
            names.add(name)
        else:
            waiting += graph.nodes[StepId(source)].inputs.values()
    if len(names) != 1:
        raise UsageError(
            f"steps.{node.step}: ids are compared that come from {', '.join(sorted(names)) or 'no table'}: points are "
            "counted by table, so that it has to be one"
        )
    return names.pop()


def _snapshot(ask: Ask, owner: PartyId, name: str) -> Snapshot:
    for snapshot in ask.snapshots:
        if (snapshot.owner, snapshot.name) == (owner, name):
            return snapshot
    raise UsageError(f"job {ask.job} names no version of table {name} of {owner}")


def _key_columns(graph: Graph, node: Node, me: PartyId, entry: CatalogueTable) -> tuple[str, ...]:
    if isinstance(node.params, KeyParams) and me in node.params.keys:
        return node.params.keys[me]
    return tuple(name for name, role in _columns(graph, me, entry).items() if role is Role.ID)


def _value_columns(graph: Graph, node: Node) -> tuple[str, ...]:
    if isinstance(node.params, PsiSumParams):
        return tuple(name for names in node.params.columns.values() for name in names)
    return _prepared(graph, node).columns if node.component.name == "psi_lookup" else ()


def _recipients(node: Node) -> tuple[PartyId, ...]:
    """Return who learns a step's result; everybody if nobody is named."""
    if isinstance(node.params, PsiLookupParams):
        return ()  # the holder learns how many it answered at least, the asker the rest
    return tuple(getattr(node.params, "recipients", ()))


def _prepared(graph: Graph, node: Node) -> PrepareLookupParams:
    source, _ = node.inputs["catalogue"]
    params = graph.nodes[StepId(source)].params
    if not isinstance(params, PrepareLookupParams):
        raise UsageError(f"steps.{node.step}: expected a catalogue of prepare_lookup")
    return params


def points_needed(ask: Ask) -> int:
    """Return how many points of one partner an owner has to evaluate in a job, at most."""
    methods = methods_of(ask)
    # What stands twice in a flow is computed once.
    once = {methods[step]: node for step, node in ask.graph.nodes.items()}
    steps = [
        (node, _table_above(ask.graph, node, "table"))
        for node in once.values()
        if node.component.name in VARIANTS and node.component.name != "prepare_lookup"
    ]
    parties = ask.graph.spec.parties
    return max((sum(_points(ask, node, table, party) for node, table in steps) for party in parties), default=0)


def left_of(turn: Turn, ask: Ask, agreement: Agreement) -> Left:
    """Return what is left of this node's budgets for the other parties of a job: the smallest, if there are several."""
    left = [
        remaining(allowance, turn.ledger(agreement.project, allowance.partner).facts, turn.now).points
        for allowance in points_of(agreement, turn.me).allowances
        if allowance.partner in ask.graph.spec.parties
    ]
    # No component of a flow draws noise that is accounted towards a partner, so that there is no ε to give.
    return Left(points=min(left, default=0), epsilon=0.0)


def limits_of(turn: Turn, job: Job, ask: Ask) -> dict[StepId, dict[PartyId, int]]:
    """Return step → partner → how many ids were charged for, and may be brought; what is not named is nothing."""
    limits: dict[StepId, dict[PartyId, int]] = {}
    for session in sessions_of(turn, ask):
        request = session.request
        charged = {
            receipt.charge.session: receipt.charge.partner_rows
            for receipt in turn.ledger(job.project, request.partner).receipts
            if isinstance(receipt.charge, Request)
        }
        paid = charged.get(request.session, -1) >= request.partner_rows
        limits.setdefault(session.step, {})[request.partner] = session.items if paid else 0
    return limits
