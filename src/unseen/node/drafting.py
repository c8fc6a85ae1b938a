"""What an agreement has to say so that one flow can run under it, and a site's policy for the same: drafts to edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from unseen.component import Role, installed_components
from unseen.flow.graph import build_graph
from unseen.flow.spec import FlowSpec
from unseen.ids import PartyId
from unseen.trust.agreement import ColumnRole
from unseen.trust.policy import VARIANTS, tables_of

_USES = {
    "id": ColumnRole.JOIN_KEY,
    "label": ColumnRole.LABEL,
    "feature": ColumnRole.FEATURE,
    "weight": ColumnRole.FEATURE,
}


def agreement_for(
    flow: FlowSpec, project: str, tables: Sequence[Mapping[str, Any]], valid: tuple[datetime, datetime], points: int
) -> dict[str, Any]:
    """Return the text of an agreement on one flow: its parameters as they are, outputs where the flow has them.

    Args:
        flow: What is to run.
        project: What the project is called.
        tables: Each with ``owner``, ``name``, ``schema_digest`` and ``columns``, pairs of a name and a role.
        valid: From when until when.
        points: How many ids each owner evaluates for a partner in one job; twice as many in all.
    """
    since, until = valid[0].isoformat(), valid[1].isoformat()
    parties = list(flow.parties)
    variants = sorted({VARIANTS[step.use].value for step in flow.steps.values() if step.use in VARIANTS})
    graph = build_graph(flow, installed_components())
    keys = {(table["owner"], table["name"]): _key(table) for table in tables}
    allowances = [
        {
            "owner": owner,
            "allowance": {
                "partner": partner,
                "table": name,
                "key_columns": keys.get((owner, name), ["id"]),
                "variants": variants,
                "valid_from": since,
                "valid_until": until,
                "points_per_session": points,
                "points_total": 2 * points,
            },
        }
        for name in sorted(tables_of(graph))
        for owner in parties
        for partner in parties
        if owner != partner and variants
    ]
    return {
        "project": project,
        "purpose": f"to run {flow.name}",
        "valid_from": since,
        "valid_until": until,
        "members": parties,
        "initiators": parties[:1],
        "tables": [_agreed_table(table) for table in tables],
        "components": [_agreed_component(flow, name) for name in sorted({step.use for step in flow.steps.values()})],
        "points": allowances,
    }


def policy_for(flow: FlowSpec, initiator: PartyId, points: int) -> dict[str, Any]:
    """Return what a site lets the project do: this flow, each time approved by a person."""
    return {
        "initiators": [initiator],
        "tables": sorted(tables_of(build_graph(flow, installed_components()))),
        "components": {step.use: {} for step in flow.steps.values()},
        "max_points": points,
    }


def _key(table: Mapping[str, Any]) -> list[str]:
    return [name for name, role in table["columns"] if role == "id"]


def _agreed_table(table: Mapping[str, Any]) -> dict[str, Any]:
    columns = [{"name": name, "role": _USES[role].value} for name, role in table["columns"]]
    return {**{key: table[key] for key in ("owner", "name", "schema_digest")}, "columns": columns}


def _agreed_component(flow: FlowSpec, name: str) -> dict[str, Any]:
    component = installed_components()[name]
    usual = component.params().model_dump(mode="json") if _has_defaults(name) else {}
    used: dict[str, list[Any]] = {}
    for step in flow.steps.values():
        for key in step.params if step.use == name else ():
            used.setdefault(key, [usual[key]] if key in usual else [])
    for step in flow.steps.values():
        for key, values in used.items() if step.use == name else ():
            if key in step.params and step.params[key] not in values:
                values.append(step.params[key])
    outputs = {
        port: [party for party, role in flow.parties.items() if output.exists_at(Role(role))]
        for port, output in component.outputs.items()
    }
    bounds = {key: {"bound": "one-of", "values": values} for key, values in used.items()}
    return {"name": name, "version": component.version, "bounds": bounds, "outputs": outputs}


def _has_defaults(name: str) -> bool:
    fields = installed_components()[name].params.model_fields
    return not any(field.is_required() for field in fields.values())
