"""A running node with a database and a bucket behind it, and a data owner at the command line."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import boto3
import yaml
from argon2 import PasswordHasher
from tests.node.sources.conftest import PASSWORD
from typer.testing import CliRunner

from unseen.cli.main import app
from unseen.client import Client
from unseen.ids import PartyId
from unseen.node.folder import CONFIG_FILE, Node
from unseen.node.http.services import SetUpToken
from unseen.node.start import open_node, serving_people
from unseen.node.usecases import people as people_module

OWNERS = "correct horse battery"


def run(*words: str) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_a_data_owner_imports_from_a_database_and_a_bucket(mariadb_source, s3, tmp_path, monkeypatch):
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    monkeypatch.setattr(people_module.PasswordHasher, "from_parameters", lambda parameters: cheap)
    lake = boto3.client("s3")
    lake.put_object(Bucket=s3, Key="exports/people.csv", Body=b"phone,x\n012,1\n034,2\n")
    lake.close()
    folder = tmp_path / "node"
    Node.create(folder, PartyId("bank"), None, datetime.now(UTC), http="127.0.0.1:0")
    (folder / "crm-password").touch(0o600)
    (folder / "crm-password").write_text(PASSWORD + "\n")
    crm = {"url": mariadb_source.url, "schemas": ["crm"], "password_file": "crm-password"}
    said = yaml.safe_load((folder / CONFIG_FILE).read_text())
    said["sources"] = {"crm": crm, "lake": {"url": f"s3://{s3}/exports/"}}
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(said))
    with open_node(folder) as running, serving_people(running) as url, Client(url) as client:
        client.set_up(SetUpToken(folder).write(), "root", OWNERS)
        client.sign_in("root", OWNERS).add_person("ada", OWNERS, ["data-owner"])
        monkeypatch.setenv("UNSEEN_URL", url)
        monkeypatch.setenv("UNSEEN_TOKEN", str(client.sign_in("ada", OWNERS).token))
        assert re.search(r"crm +mysql\nlake +s3 *\n", run("source", "list"))
        assert {"table": "crm.adults"} in json.loads(run("source", "tables", "crm", "--json"))
        told = run("table", "import", "grown", "--source", "crm", "--table", "crm.adults", "--text", "id")
        assert told == "grown version 1: 1 of 1 rows kept\n"
        words = ("--table", "people.csv", "--id", "phone", "--columns", "phone,x", "--text", "phone")
        assert run("table", "import", "people", "--source", "lake", *words).startswith("people version 1: 2 of 2 rows")
        origins = {table["name"]: table["origin"] for table in client.tables()}
        assert origins == {"grown": "crm: crm.adults", "people": "lake: people.csv"}
        refused = CliRunner().invoke(app, ["table", "import", "x", "--source", "crm", "--table", "hidden.salaries"])
        assert "of a schema that the node's configuration names: crm" in str(refused.exception)
    assert not any(path.is_file() for path in (folder / "run").rglob("*")), "nothing lies about in plain"
