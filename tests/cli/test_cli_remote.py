"""A node that runs, reached by the client and by the command line, over real HTTP."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
import yaml
from argon2 import PasswordHasher

from unseen.cli import answers, remote
from unseen.client import Client
from unseen.errors import PeerUnreachable, PermissionDenied, RemoteProtocolError, UsageError
from unseen.ids import PartyId
from unseen.node.folder import Node
from unseen.node.http.serve import check_address
from unseen.node.http.services import SetUpToken
from unseen.node.start import open_node, serving_people
from unseen.node.usecases import people as people_module
from unseen.node.usecases.brake import MOST_FAILURES

PASSWORD = "correct horse battery"


@pytest.fixture
def url(tmp_path, monkeypatch):
    """Where the people of a running node are served; the first one is there."""
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(people_module.PasswordHasher, "from_parameters", lambda parameters: cheap)
    folder = tmp_path / "node"
    Node.create(folder, PartyId("bank"), None, datetime.now(UTC), http="127.0.0.1:0")
    with open_node(folder) as running, serving_people(running) as url:
        token = SetUpToken(folder).write()
        with Client(url) as client:
            client.set_up(token, "root", PASSWORD)
        yield url


def test_the_client_and_the_command_line_reach_a_running_node(url, tmp_path: Path, monkeypatch, unseen):
    with Client(url).sign_in("root", PASSWORD) as admin:
        for name, duty in (("ada", "data-owner"), ("eve", "analyst"), ("sam", "auditor")):
            admin.add_person(name, PASSWORD, [duty])
        admin.change_person("eve", projects=["credit"])
        assert [one["name"] for one in admin.people()] == ["ada", "eve", "root", "sam"]
        assert admin.token not in repr(admin)
        with pytest.raises(PermissionDenied, match="may not see tables"):
            admin.tables()
    path = tmp_path / "people.csv"
    path.write_text("phone,x,y\n012,1,0\n034,2,1\n", encoding="utf-8")
    with Client(url).sign_in("ada", PASSWORD) as owner:
        made = owner.upload("customers", path, id="phone", label="y", text=["phone"])
        assert (made["table"]["rows"], made["table"]["origin"]) == (2, "people.csv")
        assert [column["name"] for column in owner.profile("customers", 1)] == ["phone", "x", "y"]
        with pytest.raises(UsageError, match="there is no project credit here"):
            owner.project("credit")
        with pytest.raises(UsageError, match=r"'\.\./people' is not a name"):
            owner.project("../people")
        owner.sign_out()
        with pytest.raises(PermissionDenied, match="sign in first"):
            owner.tables()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("UNSEEN_PASSWORD", PASSWORD)
    assert unseen("login", url, "--name", "ada").code == 0
    session = tmp_path / "config" / "unseen" / "session.json"
    assert session.stat().st_mode & 0o077 == 0
    path.write_text("phone,x,y\n012,1,0\n034,2,1\n056,3,1\n", encoding="utf-8")
    added = unseen("table", "add", "customers", path, "--id", "phone", "--label", "y", "--text", "phone")
    assert (added.code, "3 of 3 rows kept" in added.out) == (0, True), added.err
    listed = json.loads(unseen("table", "list", "--json").out)
    assert [one["version"] for one in listed] == [1, 2]
    refused = unseen("people", "list")
    assert (refused.code, "may not manage people" in refused.err) == (3, True)
    assert unseen("logout").code == 0
    assert not session.exists()
    assert "sign in first" in unseen("table", "list").err


def test_a_device_signs_in_while_others_guess_and_an_auditor_reads_who_added_whom(url, tmp_path, monkeypatch, unseen):
    with Client(url).sign_in("root", PASSWORD) as admin:
        admin.add_person("sam", PASSWORD, ["auditor"])
        admin.change_person("sam", projects=["credit"])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("UNSEEN_PASSWORD", PASSWORD)
    assert unseen("login", url, "--name", "sam").code == 0
    with Client(url) as guesser:
        for _ in range(MOST_FAILURES):
            with pytest.raises(PermissionDenied, match="are wrong"):
                guesser.sign_in("sam", "wrong wrong wrong")
        with pytest.raises(PermissionDenied, match="too many"):
            guesser.sign_in("sam", PASSWORD)
    assert unseen("login", url, "--name", "sam").code == 0, "from here sam has signed in before"
    assert (tmp_path / "config" / "unseen" / "devices.json").stat().st_mode & 0o077 == 0
    trail = tmp_path / "trail"
    fetched = unseen("people", "trail", "--out", trail)
    assert (fetched.code, "4 records" in fetched.out) == (0, True), fetched.err
    shown = unseen("audit", "show", trail).out.splitlines()
    assert re.fullmatch(r" +3  \S+ \S+  person-added +sam \(auditor; added \S+ \S+\) by root", shown[2]), shown
    assert re.fullmatch(r" +4 .* person-changed +sam \(auditor, in credit; added .*, changed .*\) by root", shown[3]), (
        shown
    )
    assert json.loads(unseen("audit", "show", trail, "--json").out)[1]["person"]["duties"] == ["admin"]
    trail.write_bytes(trail.read_bytes().replace(b'"by":"root"', b'"by":"ruth"'))
    assert "line 3 is damaged" in unseen("audit", "show", trail).err


def test_one_process_runs_a_node(tmp_path, unseen):
    folder = tmp_path / "node"
    Node.create(folder, PartyId("bank"), None, datetime.now(UTC))
    with open_node(folder):
        ended = unseen("node", "start", folder)
        assert (ended.code, "runs already, in another process: stop that one first" in ended.err) == (2, True)
    with open_node(folder):
        pass


def test_nobody_at_home_is_told_and_so_is_what_is_no_url(tmp_path):
    with pytest.raises(PeerUnreachable, match="unseen node start"), Client("http://127.0.0.1:1") as client:
        client.tables()
    with pytest.raises(UsageError, match="expected http://"):
        Client("bank.example")


def test_passwords_do_not_cross_a_network_in_the_clear():
    with pytest.raises(UsageError, match="http_certificate"):
        check_address("0.0.0.0:8700", None)
    assert check_address("0.0.0.0:8700", Path("certificate.pem"))[1] == 8700
    assert check_address("127.0.0.1:8700", None) == ("127.0.0.1", 8700)


def test_drafts_say_what_is_missing_and_trails_are_of_projects(url, tmp_path, monkeypatch, unseen):
    with Client(url).sign_in("root", PASSWORD) as admin:
        admin.add_person("ada", PASSWORD, ["data-owner", "analyst", "auditor"])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("UNSEEN_PASSWORD", PASSWORD)
    unseen("login", url, "--name", "ada")
    people, flow = tmp_path / "people.csv", tmp_path / "flow.yaml"
    people.write_text("id,x,y\na,1,0\nb,2,1\n", encoding="utf-8")
    unseen("table", "add", "customers", people)
    flow.write_text(FLOW, encoding="utf-8")
    out, policy = tmp_path / "agreement.yaml", tmp_path / "policy.yaml"
    made = unseen("project", "template", "credit", flow, "--out", out, "--policy", policy, "--points", 500)
    assert made.code == 0, made.err
    text = yaml.safe_load(out.read_text(encoding="utf-8"))
    assert [table["schema_digest"] == "FILL-IN" for table in text["tables"]] == [False, True]
    assert text["tables"][1]["columns"] == [{"name": "FILL-IN", "role": "join-key"}]
    assert [one["allowance"]["key_columns"] for one in text["points"]] == [["id"], ["FILL-IN"]]
    assert [one["name"] for one in text["components"]] == ["psi_join", "read_table"]
    assert yaml.safe_load(policy.read_text(encoding="utf-8"))["max_points"] == 500
    refused = unseen("project", "draft", out)
    assert (refused.code, "partner is not a partner of this node" in refused.err) == (2, True), refused.err
    assert "there is no project credit" in unseen("project", "trail", "credit", "--out", tmp_path / "trail").err


def test_rows_are_whole_where_there_is_room_and_what_has_none_is_named(monkeypatch, capsys):
    rows = [
        {"job": f"job-{'5' * 16}", "reason": "because " * 20, "mean": 18.11263, "created": "2026-11-28T14:38:45.4Z"}
    ]
    answers.print_answer(rows, as_json=False)
    assert capsys.readouterr().out.split("\n")[1].split("  ")[2:] == ["18.1126", "2026-11-28 14:38"], "one line"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    answers.print_answer(rows, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == [rows[0]["job"], "18.1126"]
    assert lines[2] == "no room for reason, created: a wider window or --json shows all"


class Answering:
    """A node that says how one project stands."""

    def __init__(self, **found):
        self.found = {"project": "credit", "standing": "draft", "waiting": None, "policy": None, **found}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def draft(self, _):
        return {"project": "credit"}

    def project(self, _):
        return self.found

    def sign(self, *_):
        return self.found


def test_people_are_told_what_a_project_lacks(tmp_path, monkeypatch, unseen):
    text, digest = tmp_path / "agreement.yaml", "5" * 64
    text.write_text("project: credit\n", encoding="utf-8")
    waits = Answering(waiting={"digest": digest, "missing": ["partner"]})
    monkeypatch.setattr("unseen.cli.remote.session", lambda: waits)
    assert f"its digest is {digest}" in unseen("project", "draft", text).out
    told = unseen("project", "sign", "credit", "--digest", digest).out
    assert told.startswith("credit: draft; not signed by partner; this site has no policy for it, and allows nothing")
    monkeypatch.setattr("unseen.cli.remote.session", lambda: Answering(standing="in-force", policy={"tables": []}))
    assert unseen("project", "sign", "credit", "--digest", digest).out.strip() == "credit: in-force"
    assert json.loads(unseen("project", "sign", "credit", "--digest", digest, "--json").out)["standing"] == "in-force"


FLOW = """
name: shared
parties: {bank: active, partner: passive}
steps:
  read: {use: read_table, in: {source: tables.customers}}
  align: {use: psi_join, in: {table: read.table}}
"""


@pytest.mark.parametrize(
    "url", ["http://bank.example:8700", "http://127.0.0.1@bank.example", "http://127.0.0.1.example"]
)
def test_the_client_sends_no_password_over_a_network_in_the_clear(url):
    with pytest.raises(UsageError, match=r"in the clear|is not where a node is"):
        Client(url)


def test_no_proxy_of_the_environment_sees_what_stays_on_this_machine(url, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with Client(url).sign_in("root", PASSWORD) as client:
        assert client.me()["person"]["name"] == "root"


@pytest.mark.parametrize("content", [b"<html>", b"[]", b"\xff"])
def test_answers_that_are_not_a_nodes_are_told_as_such(content, monkeypatch):
    client = Client("http://127.0.0.1:1")
    client._http = httpx2.Client(transport=httpx2.MockTransport(lambda _: httpx2.Response(200, content=content)))
    with client, pytest.raises(RemoteProtocolError, match="did not answer as a node does"):
        client.me()


class _Partner(Client):
    """A node that shows what a partner wrote, and calls results as it likes."""

    file = "read.table.parquet"
    state = "finished"

    def project(self, name: str):
        return {"project": name, "reason": "enough\nstanding       in-force\x1b[2J", "revoked_by": "insurer"}

    def results(self, project: str, job: str):
        return [{"name": "read.table", "file": self.file}]

    def events(self, project: str, job: str):
        return iter([{"text": "done\n  finished"}, *([{"state": self.state}] if self.state else [])])


def _partner(monkeypatch, content: list[bytes]):
    def answer(_):
        return httpx2.Response(200, content=iter(content))

    def client():
        made = _Partner("http://127.0.0.1:1")
        made._http = httpx2.Client(transport=httpx2.MockTransport(answer))
        return made

    monkeypatch.setattr(remote, "session", client)


def test_what_a_partner_wrote_stays_on_its_line_and_obeys_nobody(monkeypatch, unseen):
    _partner(monkeypatch, [])
    shown = unseen("project", "show", "credit").out
    assert len(shown.splitlines()) == 3
    assert "\x1b" not in shown
    assert len(unseen("job", "watch", "credit", "job-1").out.splitlines()) == 2


@pytest.mark.parametrize("state", ["", "running"])
def test_whoever_watches_is_told_that_a_node_tells_no_more(monkeypatch, unseen, state):
    _partner(monkeypatch, [])
    monkeypatch.setattr(_Partner, "state", state)
    ended = unseen("job", "watch", "credit", "job-1")
    assert (ended.code, "tells no more of job job-1, which is not over" in ended.err) == (4, True)


def test_results_are_written_whole_under_plain_names_into_the_folder_and_nowhere_else(monkeypatch, tmp_path, unseen):
    _partner(monkeypatch, [b"one", b"two"])
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    out = tmp_path / "out"
    out.mkdir()
    (out / _Partner.file).symlink_to(outside)
    assert unseen("job", "results", "credit", "job-1", "--out", out).code == 0
    assert ((out / _Partner.file).read_bytes(), outside.read_bytes()) == (b"onetwo", b"mine")
    for name in ("../outside", "/etc/x", ".bashrc", "a\nb", ""):
        monkeypatch.setattr(_Partner, "file", name)
        assert unseen("job", "results", "credit", "job-1", "--out", out).code != 0
    assert [path.name for path in out.iterdir()] == ["read.table.parquet"]
    assert outside.read_bytes() == b"mine"
