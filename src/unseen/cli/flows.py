"""``unseen validate``, ``components``, ``schema`` and ``lineage``: looking, without running anything."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unseen.cli.terminal import harmless
from unseen.component import Component, installed_components
from unseen.errors import UsageError
from unseen.flow.graph import build_graph
from unseen.flow.spec import FlowSpec, read_flow
from unseen.flow.store import Lineage, Ref, Workspace


def validate(path: Path) -> None:
    """Say that a flow can run, or list everything that is wrong with it."""
    spec = read_flow(path)
    known = {party: {name for name, places in spec.tables.items() if party in places} for party in spec.parties}
    graph = build_graph(spec, installed_components(), tables=known if spec.tables else None, name=str(path))
    _say(f"{path}: {len(graph.nodes)} steps, can run in the order {' → '.join(graph.nodes)}")


def components(name: str | None, *, as_json: bool) -> None:
    """List components, or show one."""
    registry = installed_components()
    if name is not None and name not in registry:
        raise UsageError(f"there is no component {name!r}; there are: {', '.join(registry)}")
    chosen = [registry[name]] if name is not None else list(registry.values())
    if as_json:
        Console().print_json(data=[_description(component) for component in chosen])
    elif name is not None:
        _show(chosen[0])
    else:
        table = Table(box=None, pad_edge=False)
        for column in ("component", "version", "what it does"):
            table.add_column(column)
        for component in chosen:
            table.add_row(component.name, str(component.version), Text(component.summary))
        Console().print(table)


def schema() -> None:
    """Print the JSON Schema of flows."""
    Console().print_json(data=FlowSpec.model_json_schema(by_alias=True))


def lineage(root: Path, artifact: str) -> None:
    """Print how an artifact came to be, one line per step back."""
    if not (root / "artifacts").is_dir():
        raise UsageError(f"{root} is not a party's workspace: it has no folder artifacts")
    workspace = Workspace(root)
    found = sorted(path.name for path in (root / "artifacts").iterdir() if path.name.startswith(artifact))
    if not found:
        raise UsageError(
            f"no artifact in {root} starts with {artifact!r}; see the folder names in {root / 'artifacts'}"
        )
    if len(found) != 1:
        raise UsageError(f"{len(found)} artifacts in {root} start with {artifact!r}; give a longer part of one")
    _tell_lineage(workspace, found[0], "")


def _tell_lineage(workspace: Workspace, digest: str, indent: str) -> None:
    if not (workspace.root / "artifacts" / digest).is_dir():
        _say(f"{indent}{digest[:12]}  a file of {workspace.root.name}")
        return
    line: Lineage = workspace.lineage(Ref(kind="", digest=digest))
    params = json.dumps(line.params, ensure_ascii=False)
    _say(f"{indent}{digest[:12]}  {line.step}.{line.output} = {line.component} {line.component_version} {params}")
    for earlier in line.inputs.values():
        _tell_lineage(workspace, earlier, indent + "  ")


def _description(component: Component) -> dict[str, object]:
    return {
        "name": component.name,
        "version": component.version,
        "summary": component.summary,
        "inputs": {port: {"kind": p.kind.name, "about": p.about} for port, p in component.inputs.items()},
        "outputs": {port: {"kind": p.kind.name, "about": p.about, "at": p.at} for port, p in component.outputs.items()},
        "params": component.params.model_json_schema(),
        "leaks": [{"who": leak.who, "learns": leak.learns, "when": dict(leak.when)} for leak in component.leaks],
    }


def _show(component: Component) -> None:
    _say(f"{component.name} (version {component.version})\n{component.summary}\n")
    for port, taken in component.inputs.items():
        _say(f"  in   {port}: {taken.kind.name} — {taken.about}")
    for port, offered in component.outputs.items():
        at = f", only at the {offered.at.value} party" if offered.at else ""
        _say(f"  out  {port}: {offered.kind.name} — {offered.about}{at}")
    for name, field in component.params.model_fields.items():
        about = " ".join((field.description or "").split())
        default = json.dumps(field.get_default(call_default_factory=True), ensure_ascii=False, default=str)
        _say(f"  par  {name} = {default}  {about}")
    for leak in component.leaks or ():
        when = "".join(f", if {name} = {value}" for name, value in leak.when.items())
        _say(f"  leak {leak.who}{when}: {leak.learns}")
    if not component.leaks:
        _say("  leak nobody learns anything: no message about data is sent")


def _say(text: str) -> None:
    Console().print(Text(harmless(text)), highlight=False, soft_wrap=True)
