"""What a node's own people do from the command line: sign in, and then one call of the client each."""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
import time
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import yaml
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unseen.cli.terminal import harmless
from unseen.client import Client, Json
from unseen.codec import read_json
from unseen.component import installed_components
from unseen.data.atomic import whole_file
from unseen.errors import PeerUnreachable, PermissionDenied, RemoteProtocolError, UsageError
from unseen.flow.graph import build_graph
from unseen.flow.spec import read_flow
from unseen.ids import PartyId
from unseen.node.domain import JobState
from unseen.node.drafting import agreement_for, policy_for
from unseen.node.pairing import grouped
from unseen.trust.policy import tables_of
from unseen.trust.store import Lines

_LONGEST_CELL = 60
_WIDEST = 10_000
_GAP = 2
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:")
_MINUTES = len("2026-11-28T14:53")
_LOOK_SECONDS = 0.5
_UNKNOWN = "FILL-IN"
_OVER = frozenset(state.value for state in JobState if state.is_over)


def _session_file() -> Path:
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "unseen" / "session.json"


def login(*, url: str, name: str | None, set_up: bool, sso: bool, authority: Path | None) -> None:
    """Sign in, and keep the session for later commands in a file that only its owner may read."""
    if sso == (name is not None) or (sso and set_up):
        raise UsageError("say who you are by --name NAME, or let the identity provider do it by --sso")
    with Client(url, authority=authority) as client:
        if name is None:
            _by_provider(client)
        else:
            if set_up:
                client.set_up(_asked("set-up token", "UNSEEN_SETUP_TOKEN"), name, _password(twice=True))
            _by_password(client, name)
        kept = {"url": client.url, "token": client.token, "authority": str(authority.resolve()) if authority else None}
        _keep(_session_file(), kept)
        person = client.me()["person"]
    _say(f"signed in at {client.url} as {person['name']}: {', '.join(person['duties'])}")


def _by_password(client: Client, name: str) -> None:
    """Sign in, and keep what lets this device sign in again while others guess at the name."""
    path, place = _session_file().with_name("devices.json"), f"{name} at {client.url}"
    known = _kept(path) if path.exists() else {}
    client.sign_in(name, _password(), known.get(place, ""))
    _keep(path, {**known, place: client.device})


def _by_provider(client: Client) -> None:
    begun = client.begin_sso()
    _say(f"open this in a browser, here or elsewhere, and sign in:\n{_line(begun['url'])}")
    client.finish_sso(begun["secret"], _asked("code that the browser shows", "UNSEEN_SSO_CODE"))


def _keep(path: Path, content: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with whole_file(path) as file:
        file.write(json.dumps(content).encode())


def _kept(path: Path) -> Json:
    try:
        found = read_json(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{path} is damaged: remove it, and sign in again")
    return found


def logout() -> None:
    """End the session and forget it."""
    with _client() as client:
        client.sign_out()
    _session_file().unlink(missing_ok=True)


def _client() -> Client:
    """Return the client of the session that was begun, by ``login`` or by UNSEEN_URL and UNSEEN_TOKEN."""
    url, token = os.environ.get("UNSEEN_URL"), os.environ.get("UNSEEN_TOKEN")
    if url and token:
        return Client(url, token)
    try:
        kept = _kept(_session_file())
    except FileNotFoundError as error:
        raise UsageError("sign in first: unseen login URL --name NAME") from error
    return Client(kept["url"], kept["token"], authority=Path(kept["authority"]) if kept["authority"] else None)


# --- commands that are one call --------------------------------------------------------------------------------------


def show(call: str, *arguments: object, as_json: bool) -> None:
    """Call the client, and print the answer."""
    with _client() as client:
        _print(getattr(client, call)(*arguments), as_json=as_json)


def invite(*, to: str | None, address: str | None, minutes: int, as_json: bool) -> None:
    """Print an invitation; wait for whoever joins, and compare codes."""
    with _client() as client:
        found = client.invite(to, address=address, minutes=minutes)
        if as_json:
            _print(found, as_json=True)
            return
        until = f"{datetime.fromisoformat(found['expires']):%H:%M} UTC"
        _say(f"Send this line to {to or 'the partner'}; it works once, until {until}:")
        _say(found["line"])
        try:
            _compare(client, found["pairing"])
        except KeyboardInterrupt:
            client.take_back(found["pairing"])
            raise


def join(*, line: str, as_json: bool) -> None:
    """Let the node dial an inviter, and compare codes."""
    with _client() as client:
        found = client.join(input("invitation: ") if line == "-" else line)
        if as_json:
            _print(found, as_json=True)
            return
        _compare(client, found["pairing"])


def _compare(client: Client, pairing: str) -> None:
    """Wait until somebody has answered, let people compare the code, and wait for the other side."""
    found = _once_not(client, pairing, "waiting")
    _say(f"{found['peer']} has answered. Call the people there, by a number that you know already, and compare:")
    _say(f"  read to them   {grouped(found['read_out'])}")
    while found["stage"] == "comparing":
        try:
            found = client.confirm(pairing, input("  type what they read: "))
        except UsageError as error:
            _say(f"  {error}")
            found = client.pairing(pairing)
        except EOFError:
            client.take_back(pairing)
            raise UsageError("no code was typed: the pairing was given up") from None
    found = _once_not(client, pairing, "confirmed")
    _say(f"{found['peer']} is a partner: " + ("it dials this node" if found["inviting"] else "this node dials it"))


def _once_not(client: Client, pairing: str, stage: str) -> Json:
    """Return a pairing once it has left a stage.

    Raises:
        PermissionDenied: Nothing came of it.
    """
    while (found := client.pairing(pairing))["stage"] == stage:
        time.sleep(_LOOK_SECONDS)
    if found["stage"] == "ended":
        raise PermissionDenied(found["reason"])
    return found


def strike(*, name: str) -> None:
    """Let the node trust a partner no more."""
    with _client() as client:
        client.strike(name)
    _say(f"{name} is refused from now on; what is up between the two nodes ends within seconds")


def add_person(*, name: str, duties: list[str], sso: str | None, with_password: bool, as_json: bool) -> None:
    """Add somebody; who comes by the identity provider has a password if it is asked for."""
    with _client() as client:
        password = _password(twice=True) if sso is None or with_password else None
        _print(client.add_person(name, password, duties, sso=sso), as_json=as_json)


def change_person(name: str, *, as_json: bool, **said: object) -> None:
    """Change what somebody may do; ``said`` are the fields of ``Client.change_person``, what is ``None`` stays."""
    changes = {key: value for key, value in said.items() if value is not None}
    if not changes:
        raise UsageError("say what is to change: --duty, --project, --sso, --no-sso, --active or --inactive")
    with _client() as client:
        _print(client.change_person(name, **changes), as_json=as_json)


def add_table(*, name: str, file: Path | None, how: Mapping[str, Any], as_json: bool) -> None:
    """Import a file, or from the source that ``how`` names."""
    with _client() as client:
        made = client.import_table(name, **how) if file is None else client.upload(name, file, **how)
    if as_json:
        _print(made, as_json=True)
        return
    table, report = made["table"], made["report"]
    _say(f"{table['name']} version {table['version']}: {report['rows_kept']} of {report['rows_read']} rows kept")
    for cause, count in report["problems"].items():
        _say(f"  {cause}: {count}, at {'; '.join(report['places'].get(cause, ()))}")
    for column, count in report["missing"].items():
        _say(f"  missing values in column {column}: {count}")
    for note in report["notes"]:
        _say(f"  {note}")


def template(*, project: str, flow: Path, out: Path, policy_out: Path, days: int, points: int) -> None:
    """Write an agreement and a policy for a flow; what this node cannot know says so."""
    spec, now = read_flow(flow), datetime.now(UTC).replace(microsecond=0)
    with _client() as client:
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
    _say(f"{out}: complete what says {_UNKNOWN}, with what the partners tell you (unseen table list --json)")
    _say(f"{policy_out}: what a site lets the project do; each party has its own")


def _agreed(party: PartyId, table: Json | None, name: str) -> Json:
    """Return what an agreement says of a table."""
    if table is None:
        return {"owner": party, "name": name, "schema_digest": _UNKNOWN, "columns": [(_UNKNOWN, "id")]}
    columns = [(column["name"], column["role"]) for column in table["columns"]]
    return {"owner": party, "name": name, "schema_digest": table["schema_digest"], "columns": columns}


def draft(*, text: Path, as_json: bool) -> None:
    """Write an agreement, and say how to go on."""
    with _client() as client:
        made = client.draft(_mapping(text))
        waiting = client.project(made["project"])["waiting"] or {}
    if as_json:
        _print(made, as_json=True)
        return
    _say(f"{made['project']}: drafted, and offered to its members; its digest is {waiting.get('digest')}")
    _say(f"read it by `unseen project show {made['project']}`; an approver signs by `unseen project sign`")


def change_project(call: str, *arguments: object, as_json: bool) -> None:
    """Do something to a project, and say how it stands."""
    with _client() as client:
        _print_standing(getattr(client, call)(*arguments), as_json=as_json)


def _print_standing(found: Json, *, as_json: bool) -> None:
    if as_json:
        _print(found, as_json=True)
        return
    waiting = found["waiting"] or {}
    missing = f"; not signed by {', '.join(waiting['missing'])}" if waiting.get("missing") else ""
    policy = "" if found["policy"] else "; this site has no policy for it, and allows nothing: unseen project policy"
    _say(f"{found['project']}: {found['standing']}{missing}{policy}")


def set_policy(*, project: str, file: Path | None, nothing: bool, as_json: bool) -> None:
    """Say what this site lets a project do."""
    if (file is None) != nothing:
        raise UsageError("give a file with the policy, or --nothing")
    with _client() as client:
        _print_standing(client.set_policy(project, _mapping(file) if file else None), as_json=as_json)


def trail(*, project: str | None, out: Path, heads: Path | None = None) -> None:
    """Write the trail of a project, or the node's own, to a file; and the heads that partners signed to a folder."""
    for place in (out, heads):
        if place is not None and place.exists():
            raise UsageError(f"{place} is there already: choose another name")
    with _client() as client:
        records = (client.node_trail() if project is None else client.audit(project)).splitlines()
        held = client.trail(project)["heads"] if heads is not None and project is not None else []
    with Lines(out) as lines:
        lines.append(*records)
    _say(f"{out}: {len(records)} records; check them by `unseen audit verify {out}`")
    if heads is None:
        return
    heads.mkdir(parents=True)
    for head in held:
        file = heads / f"{PartyId(head['party'])}.head"
        file.write_bytes(b64decode(head["frame"], validate=True))
        _say(f"{file}: {head['party']} has signed {head['count']} records; check its trail with `--head {file}`")


def propose(*, project: str, flow: Path, terms: Mapping[str, object], wait: bool, as_json: bool) -> None:
    """Ask for a job."""
    spec = read_flow(flow)
    with _client() as client:
        made = client.propose(project, spec.model_dump(mode="json"), **terms)
        if wait:
            _follow(client, project, made["job"])
            made = client.job(project, made["job"])
    _print(made, as_json=as_json)


def watch(*, project: str, job: str) -> None:
    """Show how a job goes."""
    with _client() as client:
        _follow(client, project, job)


def results(*, project: str, job: str, out: Path | None, as_json: bool) -> None:
    """List results, or write them to a folder."""
    with _client() as client:
        found = client.results(project, job)
        if out is None:
            _print(found, as_json=as_json)
            return
        out.mkdir(parents=True, exist_ok=True)
        for result in found:
            client.download(project, job, result["name"], path := out / _plain_name(result["file"]))
            _say(f"{path}")


def report(*, project: str, job: str, out: Path) -> None:
    """Write a page about a job."""
    with _client() as client:
        client.report(project, job, out)
    _say(f"{out}")


def save(*, project: str, job: str, result: str, out: Path) -> None:
    """Write one result to a file."""
    with _client() as client:
        client.download(project, job, result, out)
    _say(f"{out}")


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
            _say(_line(f"{state}  {holders or told.get('reason', '')}".rstrip()))
        else:
            done = f"{told['done']} of {told['total']}" if event.get("total") else ""
            words = (
                f"  {told.get('step', ''):<16}",
                f"{told.get('what', ''):<10}",
                f"{done:<12}",
                told.get("note", ""),
            )
            _say(_line(" ".join(words).rstrip()))
    if state not in _OVER:
        raise PeerUnreachable(
            f"{client.url} tells no more of job {job}, which is not over: the node stops, or you may not see it any "
            f"more; ask again: unseen job watch {project} {job}"
        )


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else []


# --- input and output ------------------------------------------------------------------------------------------------


def _password(*, twice: bool = False) -> str:
    """Return the password from the environment or the terminal; never from the command line, which others can see."""
    password = _asked("password", "UNSEEN_PASSWORD", hidden=True)
    if twice and "UNSEEN_PASSWORD" not in os.environ and getpass.getpass("once more: ") != password:
        raise UsageError("the two passwords differ: nothing was done")
    return password


def _asked(what: str, variable: str, *, hidden: bool = False) -> str:
    if variable in os.environ:
        return os.environ[variable]
    if not sys.stdin.isatty():
        raise UsageError(f"there is no terminal to ask for the {what}: set {variable}")
    return getpass.getpass(f"{what}: ") if hidden else input(f"{what}: ")


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


def _print(found: Json | list[Json], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=True) + "\n")
    elif isinstance(found, list):
        _print_rows(found)
    else:
        for key, value in found.items():
            _say(f"{key:<14} {_cell(value)}")


def _print_rows(rows: list[Json]) -> None:
    if not rows:
        _say("none")
        return
    names = [name for name in rows[0] if "digest" not in name and any(_is_short(row.get(name)) for row in rows)]
    console = Console() if sys.stdout.isatty() else Console(width=_WIDEST)
    fits: dict[str, list[str]] = {}
    room, left_out = console.width + _GAP, []
    for name in names:
        cells = [_short(row.get(name)) for row in rows]
        width = max(map(cell_len, [name, *cells])) + _GAP
        if fits and width > room:
            left_out.append(name)
        else:
            fits[name], room = cells, room - width
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in fits:
        grid.add_column(name, no_wrap=True)
    for line in zip(*fits.values(), strict=True):
        grid.add_row(*map(Text, line))
    console.print(grid)
    if left_out:
        _say(f"no room for {', '.join(left_out)}: a wider window or --json shows all")


def _is_short(value: object) -> bool:
    return value not in (None, "", [], {}) and not isinstance(value, dict)


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else _cell(value)
    if _MOMENT.match(text):
        return text[:_MINUTES].replace("T", " ")
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"


def _cell(value: object) -> str:
    if isinstance(value, list) and all(not isinstance(one, dict | list) for one in value):
        return ", ".join(map(_line, value))
    if isinstance(value, list) and all(isinstance(one, dict) and "name" in one for one in value):
        return ", ".join(_line(one["name"]) for one in value)
    if isinstance(value, dict | list):
        return harmless(json.dumps(value, indent=2))
    return "" if value is None else _line(value)


def _line(value: object) -> str:
    """Return text on one line: what a partner wrote must not look like lines of this program."""
    return harmless(str(value)).replace("\n", "\\n")


def _say(text: str) -> None:
    Console().print(Text(harmless(text)), soft_wrap=True)
