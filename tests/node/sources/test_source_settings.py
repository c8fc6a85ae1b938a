"""Sources in a node's configuration: what is said wrongly is told and not quoted, and passwords come from files."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from unseen.clock import SystemClock
from unseen.errors import UsageError
from unseen.node.folder import CONFIG_FILE, Node
from unseen.node.sources.config import SourceConfig
from unseen.node.storage import open_sources

CRM = {"url": "postgresql://reader@db.example/crm", "schemas": ["public"]}


def with_sources(node: Node, sources: object) -> Node:
    path = node.folder / CONFIG_FILE
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "sources": sources}))
    return Node(node.folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": "postgresql://reader:hunter2@db/crm"}, "url: holds a password: put it into a file"),
        ({"url": "postgresql://reader@db/crm?password=hunter2"}, "its query may name a socket of this machine"),
        ({"url": "postgresql://reader@db/crm?host=/tmp"}, "its query may name a socket of this machine"),
        ({"url": "mysql://reader@/crm?unix_socket=tmp"}, "its query may name a socket of this machine"),
        ({"url": "mysql://reader@/?local_infile=1"}, "its query may name a socket of this machine"),
        ({"url": "oracle://hunter2@db/crm"}, "url: expected postgresql://"),
        ({"url": "postgresql://reader@db:hunter2/crm"}, "url: expected postgresql://"),
        ({"url": "file:///etc/passwd"}, "url: expected postgresql://"),
        ({"schemas": []}, "schemas: name those whose tables may be taken"),
        ({"schemas": ["a.b"]}, "schemas: expected names without a dot"),
        ({"password": "hunter2"}, "password: Extra inputs are not permitted"),
        ({"url": "s3://bucket/x"}, "are of databases; S3 has AWS's own settings"),
        ({"url": "s3://hunter2@bucket/x", "schemas": []}, "expected s3://BUCKET/PREFIX/, without credentials"),
        ({"url": "s3:///x", "schemas": []}, "expected s3://BUCKET/PREFIX/"),
    ],
)
def test_a_wrong_source_is_told_and_not_quoted(bank, change, words):
    with pytest.raises(UsageError, match=words) as told:
        with_sources(bank, {"crm": {**CRM, **change}})
    assert "sources.crm" in str(told.value)
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize("name", ["CRM", "", "../x", "a b", "a" * 64])
def test_names_of_sources_are_plain(bank, name):
    with pytest.raises(UsageError, match="sources"):
        with_sources(bank, {name: CRM})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://reader@/crm?host=/run/postgresql",
        "mysql://reader@localhost/?unix_socket=/run/mysqld.sock",
        "mariadb://reader@[::1]:3306/",
    ],
)
def test_a_server_of_this_machine_needs_no_tls(url):
    assert SourceConfig(url=url, schemas=("crm",)).is_here


def test_a_password_comes_from_a_file_that_only_its_owner_may_read(bank):
    node = with_sources(bank, {"crm": {**CRM, "password_file": "crm-password"}})
    with pytest.raises(UsageError, match="crm-password cannot be read"):
        open_sources(node, SystemClock())
    path = node.folder / "crm-password"
    path.write_text("hunter2hunter2\n")
    path.chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        open_sources(node, SystemClock())
    path.chmod(0o600)
    found = open_sources(node, SystemClock())
    assert list(found) == ["crm"]
    assert "hunter2" not in repr(found) + repr(found["crm"]._engine) + repr(node.config)


def test_an_authority_that_is_not_there_is_told_before_anybody_is_asked(bank):
    node = with_sources(bank, {"crm": {**CRM, "authority": "ca.pem"}})
    with pytest.raises(UsageError, match=r"source crm: there is no file .*ca\.pem"):
        open_sources(node, SystemClock())


def test_the_settings_in_the_guide_are_some():
    text = (Path(__file__).parents[3] / "docs" / "guides" / "data_sources.md").read_text(encoding="utf-8")
    found = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])["sources"]
    assert {SourceConfig.model_validate(one).kind.value for one in found.values()} == {"postgresql", "mysql", "s3"}
    for name in SourceConfig.model_fields:
        assert f"| `{name}` |" in text
