"""Settings of a node from its file and from variables: which comes first, and what is said of those that are wrong."""

from __future__ import annotations

import json

import pytest
import yaml

from unseen.errors import UsageError
from unseen.node.folder import CONFIG_FILE, Node, NodeConfig
from unseen.node.oidc import OidcConfig
from unseen.node.settings import PREFIX, from_environment, variable
from unseen.node.sources.config import SourceConfig
from unseen.node.storage import store_url

SOURCES = {"crm": {"url": "postgresql://reader@db/crm", "schemas": ["public"]}}
OIDC = {"issuer": "https://login.bank.example", "client_id": "unseen", "url": "https://node.bank.example"}
SAID = {
    "name": ("bank", "bank"),
    "listen": ("0.0.0.0:7443", "0.0.0.0:7443"),  # what a node listens at
    "store": ("postgresql://unseen@db/unseen", "postgresql://unseen@db/unseen"),
    "artifacts": ("s3://bucket/bank", "s3://bucket/bank"),
    "jobs": ("7", 7),
    "worker_gib": ("1.5", 1.5),
    "http": ("0.0.0.0:8700", "0.0.0.0:8700"),
    "http_hosts": ("node.bank.example, bank", ("node.bank.example", "bank")),
    "http_certificate": ("http.pem", "http.pem"),
    "http_key": ("http-key.pem", "http-key.pem"),
    "metrics_token": ("a token of mine that is long", "a token of mine that is long"),
    "metrics_token_file": ("/run/secrets/token", "/run/secrets/token"),
    "oidc": (json.dumps(OIDC), OidcConfig(**OIDC)),
    "sources": (json.dumps(SOURCES), {"crm": SourceConfig(**SOURCES["crm"])}),
    "log": ("json", "json"),
}


def write(node: Node, **fields: object) -> None:
    path = node.folder / CONFIG_FILE
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **fields}))


@pytest.mark.parametrize("field", NodeConfig.model_fields)
def test_every_field_has_a_variable_which_comes_before_the_file(bank, monkeypatch, field) -> None:
    text, value = SAID[field]
    monkeypatch.setenv(variable(field), text)
    read = getattr(Node(bank.folder).config, field)
    assert read == value if isinstance(value, tuple | int | float | OidcConfig | dict) else str(read) == value
    monkeypatch.setenv(variable(field), "")
    assert getattr(Node(bank.folder).config, field) == getattr(bank.config, field), "an empty one is none"


def test_what_the_file_says_holds_where_no_variable_does(bank, monkeypatch) -> None:
    write(bank, jobs=5, store="sqlite:////elsewhere.db", log="json")
    monkeypatch.setenv("UNSEEN_NODE_STORE", "sqlite:////here.db")
    node = Node(bank.folder)
    assert (node.config.jobs, node.config.log, store_url(node)) == (5, "json", "sqlite:////here.db")


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("UNSEEN_NODE_JOBS", "many", "UNSEEN_NODE_JOBS: Input should be a valid integer"),
        ("UNSEEN_NODE_JOBS", "0", "UNSEEN_NODE_JOBS: Input should be greater than or equal to 1"),
        ("UNSEEN_NODE_LOG", "xml", "UNSEEN_NODE_LOG: Input should be 'text' or 'json'"),
        ("UNSEEN_NODE_NAME", "No Name", "UNSEEN_NODE_NAME: "),
        ("UNSEEN_NODE_NAME", "insurer", "UNSEEN_NODE_NAME is insurer, and the node in .* is bank"),
        ("UNSEEN_NODE_METRICS_TOKEN", "hunter2", "UNSEEN_NODE_METRICS_TOKEN: String should have at least 16"),
        ("UNSEEN_NODE_STORES", "x", "UNSEEN_NODE_STORES, which is no setting of a node: known are UNSEEN_NODE_ARTIF"),
        ("UNSEEN_NODE_PORT_7443_TCP", "tcp://10.0.0.1:7443", "UNSEEN_NODE_PORT_7443_TCP, which is no setting"),
    ],
)
def test_a_wrong_variable_is_named_and_not_quoted(bank, monkeypatch, name, text, words) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(UsageError, match=words) as told:
        Node(bank.folder)
    assert "hunter2" not in str(told.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("name: bank\nmetrics_token: hunter2\n", "metrics_token: String should have at least 16"),
        ("name: bank\nmetrics_token: 'hunter2hunter2hunter2\n", "line 3: found unexpected end of stream"),
        ("name: bank\nmetrics_token: hunter2hunter2hunter2: x\n", "line 2: mapping values are not allowed"),
        ("name: bank\nunheard: hunter2\n", "unheard: Extra inputs are not permitted"),
        ("hunter2", "expected settings, one on each line"),
        ("", "expected settings, one on each line"),
        ("7: hunter2\nname: bank\n", "7: Keys should be strings|Extra inputs|7"),
        ("name: bank\nmetrics_token: hunter2hunter2hunter2\nmetrics_token_file: x\n", "are both given"),
    ],
)
def test_a_wrong_file_is_told_where_and_not_quoted(bank, content, words) -> None:
    (bank.folder / CONFIG_FILE).write_text(content)
    with pytest.raises(UsageError, match=words) as told:
        Node(bank.folder)
    assert "hunter2" not in str(told.value)
    assert told.value.__cause__ is None


def test_the_token_for_metrics_may_be_in_a_file_of_its_own(bank, tmp_path, monkeypatch) -> None:
    assert bank.metrics_token() is None
    path = tmp_path / "token"
    monkeypatch.setenv("UNSEEN_NODE_METRICS_TOKEN_FILE", str(path))
    node = Node(bank.folder)
    with pytest.raises(UsageError, match=r"token cannot be read: No such file"):
        node.metrics_token()
    path.write_text("short\n")
    with pytest.raises(UsageError, match="has 5 characters, expected 16 at least"):
        node.metrics_token()
    path.write_text("a long one, from a file\n")
    assert node.metrics_token() == "a long one, from a file"


def test_settings_show_no_secret() -> None:
    text = repr(NodeConfig(name="bank", store="postgresql://unseen:hunter2@db/unseen", metrics_token="x" * 16))  # type: ignore[arg-type]
    assert "hunter2" not in text
    assert "xxxx" not in text


def test_variables_of_others_are_left_alone() -> None:
    assert from_environment(NodeConfig, {"UNSEEN_TOKEN": "x", "PATH": "/bin", f"{PREFIX}JOBS": "3"}) == {"jobs": "3"}
