"""What ``unseen party`` refuses before it talks to anybody, and what it prints."""

import json
import os
import signal
from types import SimpleNamespace

import pytest

from unseen.dialogue import Event
from unseen.errors import Cancelled, DataError, PeerFailed, UsageError
from unseen.node.app import PartyConfig

CONFIG = """\
party: bank
flow: flow.yaml
job: job-1
workspace: ws
identity: identity
tables: {customers: bank.csv}
listen: 127.0.0.1:0
peers: {partner: null}
"""


@pytest.fixture
def config(project):
    def write(old="", new=""):
        assert old in CONFIG
        (project / "party.yaml").write_text(CONFIG.replace(old, new) if old else CONFIG)
        return project / "party.yaml"

    return write


def test_paths_are_relative_to_the_file(config, project):
    settings = PartyConfig.read(
        config("tables: {customers: bank.csv}", "tables: {customers: /data/bank.csv, b: b.csv}")
    )
    assert settings.flow == project / "flow.yaml"
    assert settings.workspace == project / "ws"
    assert settings.identity == project / "identity"
    assert {name: str(path) for name, path in settings.tables.items()} == {
        "customers": "/data/bank.csv",
        "b": str(project / "b.csv"),
    }


def test_addresses_may_be_given_at_the_start(config):
    settings = PartyConfig.read(config())
    changed = settings.reach("0.0.0.0:9", {"partner": "host:1"})
    assert (changed.listen, changed.peers) == ("0.0.0.0:9", {"partner": "host:1"})
    assert settings.reach(None, {}) == settings
    assert settings.peers == {"partner": None}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("party: bank", "party: Bank", "party: String should match pattern"),
        ("job: job-1\n", "", "job: Field required"),
        ("listen:", "lisetn:", "lisetn: Extra inputs are not permitted"),
        ("party: bank", "party: [", "cannot read the party's configuration"),
        ("party: bank", "party: shop", "party shop takes no part in this flow (bank, partner)"),
        ("peers: {partner: null}", "", "peers does not say how to reach partner"),
        ("tables: {customers: bank.csv}", "", "party bank has no table 'customers'"),
        ("flow: flow.yaml", "flow: none.yaml", "cannot read the flow"),
        ("identity: identity", "identity: none", "none"),
    ],
)
def test_a_wrong_configuration_is_refused(unseen, config, old, new, expected):
    ended = unseen("party", config(old, new))
    assert ended.code == 2
    assert expected in ended.err
    assert "Traceback" not in ended.err


def test_a_missing_configuration_is_refused(unseen, tmp_path):
    ended = unseen("party", tmp_path / "none.yaml")
    assert ended.code == 2
    assert "none.yaml" in ended.err
    with pytest.raises(UsageError):
        PartyConfig.read(tmp_path)


def test_a_malformed_address_is_refused(unseen, config):
    ended = unseen("party", config(), "--peer", "partner")
    assert ended.code == 2
    assert "--peer partner: expected NAME=HOST:PORT" in ended.err


# --- what it prints; the job itself is a stand-in ----------------------------------------------------------------


@pytest.fixture
def job(monkeypatch):
    """Let ``unseen party`` do this instead of the job."""

    def become(work):
        monkeypatch.setattr("unseen.cli.party.run_party", work)

    return become


def test_people_see_steps_and_where_the_results_are(unseen, config, project, job):
    def work(settings, *, observe, cancel):
        assert settings.peers == {"partner": "host:1"}
        assert settings.listen == "127.0.0.1:9"
        assert not cancel.is_set()
        observe(Event("bank", "read", "enter"))
        observe(Event("bank", "read", "leave"))
        return SimpleNamespace(workspace=SimpleNamespace(root=settings.workspace))

    job(work)
    ended = unseen("party", config(), "--listen", "127.0.0.1:9", "--peer", "partner=host:1")
    assert (ended.code, ended.err) == (0, "")
    first, second = ended.out.splitlines()
    assert first.split()[:2] == ["read", "done"]
    assert second == f"done: results are in {project / 'ws'}"


def test_programs_get_one_line_of_json_for_each_event(unseen, config, job):
    def work(_, *, observe, **__):
        observe(Event("bank", None, "progress", 1, 2, "\x1b[2J caf\xe9\n"))

    job(work)
    ended = unseen("party", config(), "--events")
    assert (ended.code, ended.err) == (0, "")
    (line,) = ended.out.splitlines()
    assert json.loads(line) == ["bank", None, "progress", 1, 2, "\x1b[2J caf\xe9\n", [0, 0, 0, 0, 0.0]]


def test_programs_get_the_error_with_its_notes_and_people_get_it_too(unseen, config, job):
    def work(_, **__):
        error = DataError("bank.csv: no column id")
        error.add_note("at party bank, step read")
        raise error

    job(work)
    ended = unseen("party", config(), "--events")
    assert ended.code == 1
    said = {"error": "DataError", "text": "bank.csv: no column id", "notes": ["at party bank, step read"]}
    assert json.loads(ended.out) == said
    assert ended.err == "Error: bank.csv: no column id\n  at party bank, step read\n"


def test_what_a_peer_says_is_not_obeyed_by_the_terminal(unseen, config, job):
    def work(_, **__):
        raise PeerFailed("partner: \x1b]0;owned\x07 \u202egnp.exe")

    job(work)
    ended = unseen("party", config())
    assert ended.err == "Error: partner: \\x1b]0;owned\\x07 \\u202egnp.exe\n"


@pytest.mark.parametrize("events", [(), ("--events",)], ids=["people", "programs"])
def test_a_signal_cancels_the_job(unseen, config, job, events):
    def work(_, *, cancel, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        assert cancel.wait(5)
        raise Cancelled("bank: stopped on request")

    job(work)
    before = signal.getsignal(signal.SIGTERM)
    ended = unseen("party", config(), *events)
    assert ended.code == 1
    assert "Error: bank: stopped on request" in ended.err
    assert signal.getsignal(signal.SIGTERM) is before
