"""What ``unseen party`` refuses before it talks to anybody."""

import pytest

from unseen.errors import UsageError
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
