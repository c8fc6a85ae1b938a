"""The graph of a flow, checked as a whole before anything runs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeAlias

from pydantic import ValidationError

from unseen.component import SOURCE, Component, Input, Output, Params, Registry, Role
from unseen.errors import UsageError
from unseen.flow.spec import TABLES, FlowSpec, StepSpec, canonical_json, problems_text
from unseen.ids import PartyId, StepId

TableNames: TypeAlias = Mapping[PartyId, Collection[str]]
"""Which tables each party has; parties that are left out are not checked."""


@dataclass(frozen=True, slots=True)
class Node:
    """One checked step: its component, its validated parameters, and the steps it needs."""

    step: StepId
    component: Component
    params: Params
    inputs: Mapping[str, tuple[str, str]]
    """Port → (step or ``tables``, that step's port or the table's name)."""

    @property
    def needs(self) -> frozenset[StepId]:
        """The steps whose results this one takes."""
        return frozenset(StepId(source) for source, _ in self.inputs.values() if source != TABLES)


@dataclass(frozen=True, slots=True)
class Graph:
    """A checked flow; ``nodes`` stand in an order in which they can run."""

    spec: FlowSpec
    nodes: Mapping[StepId, Node]

    def upstream(self, step: StepId) -> frozenset[StepId]:
        """Return the steps that ``step`` depends on, directly or not."""
        found: set[StepId] = set()
        waiting = set(self.nodes[step].needs)
        while waiting:
            earlier = waiting.pop()
            found.add(earlier)
            waiting |= self.nodes[earlier].needs - found
        return frozenset(found)

    def find(self, name: str) -> StepId:
        """Return the step called ``name``.

        Raises:
            UsageError: There is none.
        """
        if name not in self.nodes:
            raise UsageError(f"the flow has no step {name!r}{_did_you_mean(name, self.nodes)}")
        return StepId(name)


def build_graph(spec: FlowSpec, registry: Registry, *, tables: TableNames | None = None, name: str = "flow") -> Graph:
    """Return the checked graph of a flow.

    Raises:
        UsageError: The flow cannot run; every problem is listed with its place.
    """
    problems = [*_party_problems(spec), *_table_problems(spec, tables or {})]
    nodes: dict[StepId, Node] = {}
    for step, content in spec.steps.items():
        found, node = _check_step(spec, registry, step, content)
        problems += found
        if node is not None:
            nodes[step] = node
    problems += _wiring_problems(spec, registry)
    order = _order(spec)
    problems += _cycle_problems(spec, order)
    if problems:
        raise UsageError(problems_text(name, problems))
    return Graph(spec, {step: nodes[step] for step in order})


def _party_problems(spec: FlowSpec) -> Iterator[str]:
    active = [party for party, role in spec.parties.items() if role is Role.ACTIVE]
    if len(active) != 1:
        yield f"parties: exactly one party holds the label and is active, found {len(active)}: {', '.join(active)}"
    if TABLES in spec.steps:
        yield f"steps.{TABLES}: this name stands for the parties' own tables; rename the step"


def _table_problems(spec: FlowSpec, tables: TableNames) -> Iterator[str]:
    """Yield a problem for every party that lacks a table which some step reads."""
    used = {}
    for step, content in spec.steps.items():
        for port, reference in content.inputs.items():
            source, _, table = reference.partition(".")
            if source == TABLES:
                used[table] = f"steps.{step}.in.{port}"
    for table, place in used.items():
        for party in spec.parties:
            if party in tables and table not in tables[party]:
                yield f"{place}: party {party} has no table {table!r}; give it one under tables.{table}.{party}"


def _check_step(spec: FlowSpec, registry: Registry, step: StepId, content: StepSpec) -> tuple[list[str], Node | None]:
    component = registry.get(content.use)
    if component is None:
        hint = _did_you_mean(content.use, registry)
        return [f"steps.{step}.use: there is no component {content.use!r}{hint}; see `unseen components`"], None
    problems = [
        f"steps.{step}.in: component {component.name} needs the input {port!r} ({wanted.kind.name}: {wanted.about})"
        for port, wanted in component.inputs.items()
        if wanted.required and port not in content.inputs
    ]
    try:
        params = component.params.model_validate_json(canonical_json(content.params), strict=True)
    except ValidationError as error:
        for item in error.errors():
            place = ".".join(["steps", step, "params", *(str(part) for part in item["loc"])])
            problems.append(f"{place}: {item['msg']}, found {item['input']!r}")
        return problems, None
    inputs = {port: _split(reference) for port, reference in content.inputs.items()}
    return problems, Node(step, component, params, inputs)


def _split(reference: str) -> tuple[str, str]:
    source, _, port = reference.partition(".")
    return source, port


def _wiring_problems(spec: FlowSpec, registry: Registry) -> Iterator[str]:
    for step, content in spec.steps.items():
        component = registry.get(content.use)
        if component is None:
            continue
        for port, reference in content.inputs.items():
            place = f"steps.{step}.in.{port}"
            if port not in component.inputs:
                known = ", ".join(component.inputs) or "none"
                yield f"{place}: component {component.name} has no input {port!r}; its inputs: {known}"
                continue
            offered = _offered(spec, registry, reference)
            if isinstance(offered, str):
                yield f"{place}: {offered}"
            elif offered is not None:
                yield from _misfits(place, reference, component.inputs[port], offered, spec)


def _misfits(place: str, reference: str, wanted: Input, offered: Output, spec: FlowSpec) -> Iterator[str]:
    if not offered.kind.fits(wanted.kind):
        yield f"{place}: expected {wanted.kind.name}, but {reference} is {offered.kind.name}"
    elif wanted.required and offered.at not in (None, wanted.at) and len(set(spec.parties.values())) > 1:
        yield f"{place}: every party needs this input, but only the {offered.at} party has {reference}"


def _offered(spec: FlowSpec, registry: Registry, reference: str) -> Output | str | None:
    """Return the output behind a reference, or what is wrong with it, or ``None`` if that is told elsewhere."""
    source, port = _split(reference)
    if source == TABLES:
        return Output(SOURCE, "a party's own file")
    if source not in spec.steps:
        return f"there is no step {source!r}{_did_you_mean(source, spec.steps)}"
    component = registry.get(spec.steps[StepId(source)].use)
    if component is None:
        return None
    if port not in component.outputs:
        return f"step {source!r} ({component.name}) has no output {port!r}; it has: {', '.join(component.outputs)}"
    return component.outputs[port]


def _order(spec: FlowSpec) -> list[StepId]:
    """Return the steps in an order in which they can run; those on a cycle are left out."""
    waits = {
        step: {
            source for source, _ in map(_split, content.inputs.values()) if source in spec.steps and source != TABLES
        }
        for step, content in spec.steps.items()
    }
    order: list[StepId] = []
    while ready := [step for step, needs in waits.items() if step not in order and needs <= set(order)]:
        order.append(ready[0])
    return order


def _cycle_problems(spec: FlowSpec, order: list[StepId]) -> Iterator[str]:
    stuck = [step for step in spec.steps if step not in order]
    if stuck:
        yield f"steps: {', '.join(stuck)} wait for one another in a circle; no step may need its own result"


def _did_you_mean(name: str, known: Collection[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
