"""``unseen run``: a simulated federation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from unseen.cli.board import watching
from unseen.cli.interrupt import cancel_on_signal
from unseen.cli.terminal import harmless
from unseen.codec import read_json
from unseen.component import Document, installed_components
from unseen.errors import Cancelled, UsageError
from unseen.flow.graph import build_graph
from unseen.flow.spec import FlowSpec, read_flow
from unseen.flow.store import write_file
from unseen.simulation import Options, SimulationResult, simulate

NOTE = "run.json"
"""Remembers in the workspace what was run, for `unseen resume`."""


def run(
    *,
    flow: Path,
    workspace: Path,
    table: list[str] | None,
    only: list[str] | None,
    again: list[str] | None,
    as_json: bool,
) -> None:
    """Run the flow and say what came out."""
    spec = read_flow(flow)
    tables = _tables(spec, flow.resolve().parent, table or [])
    known = {party: set(tables[party]) for party in spec.parties}
    build_graph(spec, installed_components(), tables=known, name=str(flow))  # a bad flow leaves no trace
    workspace.mkdir(parents=True, exist_ok=True)
    places = [f"{party}.{name}={path.resolve()}" for party, own in tables.items() for name, path in own.items()]
    note = {"flow": str(flow.resolve()), "tables": places, "only": only or [], "again": again or []}
    write_file(workspace / NOTE, json.dumps(note).encode())
    perform(spec, tables, workspace, Options(only=only or (), again=again or ()), as_json=as_json)


def resume(workspace: Path) -> None:
    """Go on with the last run in a workspace."""
    try:
        note = read_json((workspace / NOTE).read_text(encoding="utf-8"))
        flow, tables, options = Path(note["flow"]), note["tables"], Options(note["only"], note["again"], resume=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{workspace} holds neither a demo nor the workspace of `unseen run`: {error}") from error
    spec = read_flow(flow)
    perform(spec, _tables(spec, flow.parent, tables), workspace, options, as_json=False)


def perform(
    spec: FlowSpec, tables: Mapping[str, Mapping[str, Path]], workspace: Path, options: Options, *, as_json: bool
) -> None:
    """Run the flow with a live display, then list what every party has."""
    console = Console(stderr=as_json)
    with cancel_on_signal() as cancel, watching(console, spec.steps, len(spec.parties)) as observe:
        chosen = replace(options, observe=observe, cancel=cancel)
        try:
            result = simulate(spec, tables, workspace=workspace, options=chosen)
        except Cancelled as error:
            raise Cancelled(f"stopped on request; go on with `unseen resume {workspace}`") from error
    if as_json:
        Console().print_json(data=_summary(result))
        return
    reused = result.reused()
    if reused:
        console.print(
            f"reused: {', '.join(reused)} (nothing they depend on has changed)", highlight=False, markup=False
        )
    for place, value in _documents(result):
        if text := _short(value):
            console.print(f"{place}: {text}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"results are in {workspace}", highlight=False, markup=False, soft_wrap=True)


def _tables(spec: FlowSpec, home: Path, given: list[str]) -> dict[str, dict[str, Path]]:
    """Return where every party's tables lie, as the flow and the options say."""
    tables: dict[str, dict[str, Path]] = {party: {} for party in spec.parties}
    for name, places in spec.tables.items():
        for owner, path in places.items():
            tables.setdefault(owner, {})[name] = home / path
    for text in given:
        place, found, path = text.partition("=")
        owner_name, dot, name = place.partition(".")
        if not found or not dot or owner_name not in spec.parties:
            raise UsageError(f"--table {text}: expected PARTY.NAME=FILE with a party of the flow")
        tables[owner_name][name] = Path(path)
    return tables


def _documents(result: SimulationResult) -> list[tuple[str, Document]]:
    return [
        (f"{step}.{port} at {party}", value)
        for party, steps in result.steps.items()
        for step, done in steps.items()
        for port in done.outputs
        if issubclass(result.graph.nodes[step].component.outputs[port].kind.type, Document)
        and isinstance(value := result.get(f"{step}.{port}", party), Document)
    ]


def _short(value: Document) -> str:
    """Return the single numbers and words of a document; lists and tables are left to the files."""
    text = ", ".join(
        f"{name} {content}" for name, content in _scalars(value.model_dump(mode="json", exclude_none=True))
    )
    return harmless(text)


def _scalars(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _scalars(value)
        elif isinstance(value, float):
            yield name, f"{value:.4g}"
        elif isinstance(value, (bool, int, str)) and value != "":
            yield name, str(value)


def _summary(result: SimulationResult) -> dict[str, object]:
    return {
        "job": result.job,
        "reused": result.reused(),
        "parties": {
            party: {
                step: {
                    "reused": done.reused,
                    "seconds": done.usage.seconds,
                    "bytes_sent": done.usage.bytes_sent,
                    "outputs": {port: ref.digest for port, ref in done.outputs.items()},
                }
                for step, done in steps.items()
            }
            for party, steps in result.steps.items()
        },
        "documents": {place: value.model_dump(mode="json") for place, value in _documents(result)},
    }
