"""What a node's own people do from the command line, once they have signed in: one call of the client each."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import yaml

from unseen.cli.answers import one_line, print_answer, say
from unseen.cli.session import asked_password, session
from unseen.client import Client, Json
from unseen.codec import read_json
from unseen.component import installed_components
from unseen.data.atomic import whole_file
from unseen.errors import PeerUnreachable, RemoteProtocolError, UsageError
from unseen.flow.graph import build_graph
from unseen.flow.spec import read_flow
from unseen.ids import PartyId
from unseen.node.domain import JobState
from unseen.node.drafting import agreement_for, policy_for
from unseen.trust.policy import tables_of
from unseen.trust.store import Lines

_UNKNOWN = "FILL-IN"
_OVER = frozenset(state.value for state in JobState if state.is_over)


def show(call: str, *arguments: object, as_json: bool) -> None:
    """Call the client, and print the answer."""
    with session() as client:
        print_answer(getattr(client, call)(*arguments), as_json=as_json)


def add_person(*, name: str, duties: list[str], sso: str | None, with_password: bool, as_json: bool) -> None:
    """Add somebody; who comes by the identity provider has a password if it is asked for."""
    with session() as client:
        password = asked_password(twice=True) if sso is None or with_password else None
        print_answer(client.add_person(name, password, duties, sso=sso), as_json=as_json)


def change_person(name: str, *, as_json: bool, **said: object) -> None:
    """Change what somebody may do; ``said`` are the fields of ``Client.change_person``, what is ``None`` stays."""
    changes = {key: value for key, value in said.items() if value is not None}
    if not changes:
        raise UsageError("say what is to change: --duty, --project, --sso, --no-sso, --active or --inactive")
    with session() as client:
        print_answer(client.change_person(name, **changes), as_json=as_json)


def add_table(*, name: str, file: Path | None, how: Mapping[str, Any], as_json: bool) -> None:
    """Import a file, or from the source that ``how`` names."""
    with session() as client:
        made = client.import_table(name, **how) if file is None else client.upload(name, file, **how)
    if as_json:
        print_answer(made, as_json=True)
        return
    table, report = made["table"], made["report"]
    say(f"{table['name']} version {table['version']}: {report['rows_kept']} of {report['rows_read']} rows kept")
    for cause, count in report["problems"].items():
        say(f"  {cause}: {count}, at {'; '.join(report['places'].get(cause, ()))}")
    for column, count in report["missing"].items():
        say(f"  missing values in column {column}: {count}")
    for note in report["notes"]:
        say(f"  {note}")


def template(*, project: str, flow: Path, out: Path, policy_out: Path, days: int, points: int) -> None:
    """Write an agreement and a policy for a flow; what this node cannot know says so."""
    spec, now = read_flow(flow), datetime.now(UTC).replace(microsecond=0)
    with session() as client:
        me, own = client.node(), {table["name"]: table for table in client.tables() if not table["retired"]}
    names = sorted(tables_of(build_graph(spec, installed_components())))
    tables = [
        _agreed(party, own[name] if party == me and name in own else None, name)
        for party in spec.parties
        for name in names
    ]
    text = agreement_for(spec, project, tables, (now, now + timedelta(days=days)), points)
    policy = policy_for(spec, next(iter(spec.parties)), points)
    for path, content in ((out, text), (policy_out, policy)):
        with whole_file(path) as file:
            plain = read_json(json.dumps(content))  # identifiers are text of their own kinds
            file.write(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).encode())
    say(f"{out}: complete what says {_UNKNOWN}, with what the partners tell you (unseen table list --json)")
    say(f"{policy_out}: what a site lets the project do; each party has its own")


def _agreed(party: PartyId, table: Json | None, name: str) -> Json:
    """Return what an agreement says of a table."""
    if table is None:
        return {"owner": party, "name": name, "schema_digest": _UNKNOWN, "columns": [(_UNKNOWN, "id")]}
    columns = [(column["name"], column["role"]) for column in table["columns"]]
    return {"owner": party, "name": name, "schema_digest": table["schema_digest"], "columns": columns}


def draft(*, text: Path, as_json: bool) -> None:
    """Write an agreement, and say how to go on."""
    with session() as client:
        made = client.draft(_mapping(text))
        waiting = client.project(made["project"])["waiting"] or {}
    if as_json:
        print_answer(made, as_json=True)
        return
    say(f"{made['project']}: drafted, and offered to its members; its digest is {waiting.get('digest')}")
    say(f"read it by `unseen project show {made['project']}`; an approver signs by `unseen project sign`")


def change_project(call: str, *arguments: object, as_json: bool) -> None:
    """Do something to a project, and say how it stands."""
    with session() as client:
        _print_standing(getattr(client, call)(*arguments), as_json=as_json)


def _print_standing(found: Json, *, as_json: bool) -> None:
    if as_json:
        print_answer(found, as_json=True)
        return
    waiting = found["waiting"] or {}
    missing = f"; not signed by {', '.join(waiting['missing'])}" if waiting.get("missing") else ""
    policy = "" if found["policy"] else "; this site has no policy for it, and allows nothing: unseen project policy"
    say(f"{found['project']}: {found['standing']}{missing}{policy}")


def set_policy(*, project: str, file: Path | None, nothing: bool, as_json: bool) -> None:
    """Say what this site lets a project do."""
    if (file is None) != nothing:
        raise UsageError("give a file with the policy, or --nothing")
    with session() as client:
        _print_standing(client.set_policy(project, _mapping(file) if file else None), as_json=as_json)


def trail(*, project: str | None, out: Path, heads: Path | None = None) -> None:
    """Write the trail of a project, or the node's own, to a file; and the heads that partners signed to a folder."""
    for place in (out, heads):
        if place is not None and place.exists():
            raise UsageError(f"{place} is there already: choose another name")
    with session() as client:
        records = (client.node_trail() if project is None else client.audit(project)).splitlines()
        held = client.trail(project)["heads"] if heads is not None and project is not None else []
    with Lines(out) as lines:
        lines.append(*records)
    say(f"{out}: {len(records)} records; check them by `unseen audit verify {out}`")
    if heads is None:
        return
    heads.mkdir(parents=True)
    for head in held:
        file = heads / f"{PartyId(head['party'])}.head"
        file.write_bytes(b64decode(head["frame"], validate=True))
        say(f"{file}: {head['party']} has signed {head['count']} records; check its trail with `--head {file}`")


def propose(*, project: str, flow: Path, terms: Mapping[str, object], wait: bool, as_json: bool) -> None:
    """Ask for a job."""
    spec = read_flow(flow)
    with session() as client:
        made = client.propose(project, spec.model_dump(mode="json"), **terms)
        if wait:
            _follow(client, project, made["job"])
            made = client.job(project, made["job"])
    print_answer(made, as_json=as_json)


def watch(*, project: str, job: str) -> None:
    """Show how a job goes."""
    with session() as client:
        _follow(client, project, job)


def results(*, project: str, job: str, out: Path | None, as_json: bool) -> None:
    """List results, or write them to a folder."""
    with session() as client:
        found = client.results(project, job)
        if out is None:
            print_answer(found, as_json=as_json)
            return
        out.mkdir(parents=True, exist_ok=True)
        for result in found:
            client.download(project, job, result["name"], path := out / _plain_name(result["file"]))
            say(f"{path}")


def report(*, project: str, job: str, out: Path) -> None:
    """Write a page about a job."""
    with session() as client:
        client.report(project, job, out)
    say(f"{out}")


def save(*, project: str, job: str, result: str, out: Path) -> None:
    """Write one result to a file."""
    with session() as client:
        client.download(project, job, result, out)
    say(f"{out}")


def _plain_name(name: str) -> str:
    """Return the name of a file, if it is one and nothing more."""
    if not name or name.startswith(".") or not set(name) <= set(f"{ascii_letters}{digits}._-"):
        raise RemoteProtocolError(f"the node calls a result {name!r}, which is no name of a file here")
    return name


def _follow(client: Client, project: str, job: str) -> None:
    """Show what happens to a job until it is over.

    Raises:
        PeerUnreachable: The node told no more before it was.
    """
    state = ""
    for event in client.events(project, job):
        told = {key: "" if value is None else str(value) for key, value in event.items()}
        if "state" in told:
            state = told["state"]
            holders = f"paused by {', '.join(map(str, held))}" if (held := _listed(event.get("paused"))) else ""
            say(one_line(f"{state}  {holders or told.get('reason', '')}".rstrip()))
        else:
            done = f"{told['done']} of {told['total']}" if event.get("total") else ""
            words = (
                f"  {told.get('step', ''):<16}",
                f"{told.get('what', ''):<10}",
                f"{done:<12}",
                told.get("note", ""),
            )
            say(one_line(" ".join(words).rstrip()))
    if state not in _OVER:
        raise PeerUnreachable(
            f"{client.url} tells no more of job {job}, which is not over: the node stops, or you may not see it any "
            f"more; ask again: unseen job watch {project} {job}"
        )


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _mapping(path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_Plain)  # noqa: S506  # a safe loader without dates
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no mapping")
    return found


class _Plain(yaml.SafeLoader):
    """YAML whose moments stay text, as JSON has them."""


_Plain.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
