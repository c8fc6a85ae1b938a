"""One party's process, its configuration and its work: here two of them as two threads, over mutual TLS on loopback."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
import yaml

from unseen.errors import Cancelled, DataError, HandshakeRefused, PeerFailed, PeerUnreachable, UsageError
from unseen.flow.store import Workspace
from unseen.ids import JobId, PartyId
from unseen.node.app import PartyConfig, run_party
from unseen.transport.tls import issue, make_authority

BANK, PARTNER = PartyId("bank"), PartyId("partner")
JOB = JobId("job-1")
FLOW = """\
name: small
parties: {bank: active, partner: passive}
steps:
  read: {use: read_table, in: {source: tables.customers}}
  align: {use: psi_join, in: {table: read.table}}
"""
TABLES = {BANK: "id,x,y\n1,5,0\n2,6,1\n3,7,1\n", PARTNER: "id,z\n2,0.5\n3,0.25\n4,0.125\n"}


@pytest.fixture(scope="module")
def identities():
    now = datetime.now(UTC)
    authority = make_authority("Test federation", days=1, now=now)
    return {party: issue(authority, party, days=1, now=now) for party in TABLES}


@pytest.fixture
def homes(tmp_path, identities):
    """A folder for each party with all it needs; the partner dials the bank."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    addresses = {BANK: {"listen": address, "peers": {"partner": None}}, PARTNER: {"peers": {"bank": address}}}
    for party, table in TABLES.items():
        home = tmp_path / party
        (home / "workspace").mkdir(parents=True)
        (home / "flow.yaml").write_text(FLOW)
        (home / "customers.csv").write_text(table)
        identities[party].save(home / "identity")
        config = {
            "party": str(party),
            "flow": "flow.yaml",
            "job": str(JOB),
            "workspace": "workspace",
            "identity": "identity",
            "tables": {"customers": "customers.csv"},
            "connect_seconds": 20,
            **addresses[party],
        }
        (home / "party.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def config_of(homes, owner, **changes):
    return PartyConfig.read(homes / owner / "party.yaml").model_copy(update=changes)


def both(*configs):
    """Run these parties at the same time; return what each returned or raised."""
    with ThreadPoolExecutor(len(configs)) as pool:
        futures = [pool.submit(run_party, config) for config in configs]
        return [future.exception(timeout=30) or future.result() for future in futures]


def record(homes, party):
    return Workspace(homes / party / "workspace").job(JOB)


# --- the configuration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"party": "Bank"}, "party"),
        ({"party": None}, "party"),
        ({"job": 7}, "job"),
        ({"flow": 3}, "flow"),
        ({"workspace": []}, "workspace"),
        ({"identity": {}}, "identity"),
        ({"tables": ["customers.csv"]}, "tables"),
        ({"tables": {"customers": None}}, "tables.customers"),
        ({"listen": 7001}, "listen"),
        ({"peers": {"Partner": None}}, "peers.Partner"),
        ({"peers": {"partner": 7001}}, "peers.partner"),
        ({"connect_seconds": 0}, "connect_seconds"),
        ({"connect_seconds": float("nan")}, "connect_seconds"),
        ({"silence_seconds": -1}, "silence_seconds"),
        ({"silence_seconds": "long"}, "silence_seconds"),
        ({"lisetn": "127.0.0.1:1"}, "lisetn"),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else "",
)
def test_every_mistake_names_the_file_and_the_key(homes, change, place):
    path = homes / BANK / "party.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(UsageError) as refused:
        PartyConfig.read(path)
    first, second = str(refused.value).splitlines()
    assert first == f"{path}: 1 problem(s)"
    assert second.startswith(f"  - {place}: ")


@pytest.mark.parametrize("key", ["party", "flow", "job", "workspace", "identity"])
def test_what_is_missing_is_named(homes, key):
    path = homes / BANK / "party.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in yaml.safe_load(path.read_text()).items() if k != key}))
    with pytest.raises(UsageError, match=rf"party\.yaml: 1 problem\(s\)\n  - {key}: Field required"):
        PartyConfig.read(path)


@pytest.mark.parametrize("content", [b"", b"- bank\n", b"bank\n"], ids=["empty", "list", "text"])
def test_a_file_that_holds_something_else_is_refused(tmp_path, content):
    (tmp_path / "party.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=r"party\.yaml: 1 problem\(s\)\n  - configuration: "):
        PartyConfig.read(tmp_path / "party.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"party: [", b"[" * 1500], ids=["bytes", "open", "deep"])
def test_a_file_that_is_no_yaml_is_refused(tmp_path, content):
    (tmp_path / "party.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=r"cannot read the party's configuration .*party\.yaml"):
        PartyConfig.read(tmp_path / "party.yaml")


def test_relative_paths_belong_to_the_file_and_not_to_the_working_folder(homes, monkeypatch):
    monkeypatch.chdir(homes)
    config = PartyConfig.read((homes / BANK / "party.yaml").relative_to(homes))
    assert config.flow == homes / BANK / "flow.yaml"
    assert config.workspace == homes / BANK / "workspace"
    assert config.identity == homes / BANK / "identity"
    assert config.tables == {"customers": homes / BANK / "customers.csv"}


def test_other_addresses_replace_only_their_own(homes):
    config = config_of(homes, BANK).reach(None, {PartyId("telco"): "telco.example:1"})
    assert config.listen == config_of(homes, BANK).listen
    assert config.peers == {PARTNER: None, "telco": "telco.example:1"}


# --- what is refused before anything is sent ---------------------------------------------------------------------


def test_the_certificate_of_another_party_is_refused_and_no_job_begins(homes):
    config = config_of(homes, BANK, identity=homes / PARTNER / "identity")
    with pytest.raises(UsageError, match="holds the certificate of partner, not of bank: correct one of them"):
        run_party(config)
    assert not list((homes / BANK / "workspace").rglob("job.json"))


def test_a_party_that_is_not_paired_is_refused_and_no_job_begins(homes):
    with pytest.raises(UsageError, match=r"certificate\.pem cannot be read: .*make its certificate first"):
        run_party(config_of(homes, BANK, identity=homes / "nowhere"))
    assert not list((homes / BANK / "workspace").rglob("job.json"))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"party": PartyId("telco")}, r"flow\.yaml: party telco takes no part in this flow \(bank, partner\)"),
        ({"peers": {}}, "party bank: peers does not say how to reach partner"),
        ({"tables": {}}, "party bank has no table 'customers'"),
    ],
    ids=["party", "peers", "tables"],
)
def test_a_configuration_that_does_not_fit_the_flow_is_refused(homes, change, complaint):
    with pytest.raises(UsageError, match=complaint):
        run_party(config_of(homes, BANK, **change))


def test_two_processes_do_not_share_a_workspace(homes):
    config = config_of(homes, BANK)
    with Workspace(config.workspace).locked(), pytest.raises(UsageError, match="another process works in"):
        run_party(config)


def test_a_party_that_nobody_can_dial_says_so_and_the_job_is_not_left_running(homes):
    with pytest.raises(UsageError):
        run_party(config_of(homes, BANK, listen=None))
    assert record(homes, BANK).state == "failed"


# --- jobs --------------------------------------------------------------------------------------------------------


def test_two_parties_finish_a_flow_and_reuse_it_the_second_time(homes):
    configs = config_of(homes, BANK), config_of(homes, PARTNER)
    first = both(*configs)
    for result, party in zip(first, TABLES, strict=True):
        assert list(result.steps) == ["read", "align"] == list(result.graph.nodes)
        assert not any(step.reused for step in result.steps.values())
        table = result.workspace.get(
            result.steps["align"].outputs["table"], result.graph.nodes["align"].component.outputs["table"].kind
        )
        assert table.rows == 2
        assert (record(homes, party).state, record(homes, party).reason) == ("finished", "")
        # Both directions were counted, each at its own end.
        other = first[1 - first.index(result)]
        assert result.steps["align"].usage.bytes_sent == other.steps["align"].usage.bytes_received > 0

    again = both(*(config.model_copy(update={"job": JobId("job-2")}) for config in configs))
    for before, after in zip(first, again, strict=True):
        assert all(step.reused for step in after.steps.values())
        assert {name: step.outputs for name, step in after.steps.items()} == {
            name: step.outputs for name, step in before.steps.items()
        }


def test_alone_a_party_gives_up_in_time_and_says_what_to_do(homes):
    started = time.monotonic()
    reason = (
        r"^bank was out of reach for 2 s: bank at 127\.0\.0\.1:\d+: connection refused; is the party's process running"
    )
    with pytest.raises(PeerUnreachable, match=reason):
        run_party(config_of(homes, PARTNER, connect_seconds=2.0))
    assert 2 <= time.monotonic() - started < 5
    ended = record(homes, PARTNER)
    assert ended.state == "failed"
    assert ended.reason.startswith("bank was out of reach for 2 s")


def test_a_stranger_to_the_federation_is_not_talked_to(homes):
    now = datetime.now(UTC)
    issue(make_authority("Other federation", days=1, now=now), PARTNER, days=1, now=now).save(homes / "stranger")
    bank, stranger = both(
        config_of(homes, BANK, connect_seconds=2.0),
        config_of(homes, PARTNER, identity=homes / "stranger", connect_seconds=10.0),
    )
    assert isinstance(stranger, HandshakeRefused)
    assert isinstance(bank, PeerUnreachable)
    assert not record(homes, BANK).steps


def test_a_party_that_fails_tells_the_other_why(homes):
    (homes / PARTNER / "customers.csv").write_text("id,x\na,1\na,2\n")
    bank, partner = both(config_of(homes, BANK), config_of(homes, PARTNER))
    assert isinstance(partner, DataError)
    assert isinstance(bank, PeerFailed)
    assert str(bank).startswith("partner stopped in step read: ")
    assert "customers" in str(partner)
    assert "customers" not in str(bank), "the details are the partner's own"
    assert record(homes, BANK).reason == str(bank)
    assert record(homes, PARTNER).reason == str(partner)


def test_a_table_that_is_not_there_is_found_before_anybody_is_called(homes):
    (homes / BANK / "customers.csv").unlink()
    with pytest.raises(UsageError, match=r"party bank: tables\.customers is .*customers\.csv, where there is no file"):
        run_party(config_of(homes, BANK))


def test_peers_that_take_no_part_are_a_mistake(homes):
    with pytest.raises(UsageError, match="party bank: peers names parnter, which take no part in the flow"):
        run_party(config_of(homes, BANK).reach(None, {PartyId("parnter"): "localhost:1"}))


def test_a_cancelled_job_is_noted_as_such_and_can_be_finished(homes):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        run_party(config_of(homes, BANK, connect_seconds=0.3), cancel=cancel)
    assert record(homes, BANK).state == "cancelled"
    for result in both(config_of(homes, BANK), config_of(homes, PARTNER)):
        assert list(result.steps) == ["read", "align"]
    assert record(homes, BANK).state == "finished"
