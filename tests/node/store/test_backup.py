"""A node comes back from its backup as it was, to another place or database, and knows that others know more."""

from __future__ import annotations

import io
import json
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sql
from alembic import command
from alembic.script import ScriptDirectory

from unseen.data.schema import Role
from unseen.errors import DataError, UsageError
from unseen.ids import JobId, PartyId
from unseen.node import backup as backups
from unseen.node.backup import make_backup, reconcile, restore
from unseen.node.domain import CatalogueTable, Column, Duty, Job, JobState, Link, Person
from unseen.node.folder import Node
from unseen.node.retention import purge
from unseen.node.sealed import seal_file
from unseen.node.storage import open_node_artifacts, open_node_store
from unseen.node.store import Kept
from unseen.node.store.engine import configuration, unopened
from unseen.privacy.facts import TableId
from unseen.trust.agreement import ProjectId
from unseen.trust.grant import Snapshot

PHRASE = "correct horse battery"
BANK, PARTNER, CREDIT = PartyId("bank"), PartyId("partner"), ProjectId("credit")
ONE, TWO = JobId("one"), JobId("two")
OLDER = [script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()][1:]


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys from passphrases take 64 MiB and a fifth of a second each; not here."""
    monkeypatch.setattr(backups, "_SCRYPT_N", 1 << 10)


def everything(kept: Kept) -> tuple[object, ...]:
    """What a node keeps, but for jobs."""
    return (
        kept.people.all(),
        kept.people.password_hash("ada"),
        kept.tables.all(),
        kept.projects.versions(CREDIT),
        kept.projects.pending(CREDIT),
        kept.projects.policy(CREDIT),
        kept.projects.revocations(CREDIT),
        kept.jobs.grants(ONE),
        tuple(kept.lines.read("trail/credit")),
    )


@pytest.fixture
def digest(paired, now) -> str:
    """The bank with something of everything; returns the digest of its table."""
    node = paired[0]
    artifacts = open_node_artifacts(node)
    digest = artifacts.put(io.BytesIO(b"id,x\n1,2\n"))
    artifacts.close()
    table = CatalogueTable(
        TableId("customers"), 1, digest, "b" * 64, 1, (Column("id", "text", Role.ID),), "x.csv", "ada", now
    )
    snapshot = Snapshot(owner=BANK, name=TableId("customers"), digest=digest, rows=1)
    job = Job(ONE, CREDIT, BANK, '{"ö": 1}', (snapshot,), 7, 0.1, 1e-6, now + timedelta(hours=1), now, "ada")
    with open_node_store(node) as store, store.begin() as kept:
        kept.people.add(Person("ada", frozenset({Duty.ANALYST}), now, projects=frozenset({CREDIT})), "hash")
        kept.people.begin_session("token", "ada", now + timedelta(hours=1))
        kept.people.set_link("ada", Link("https://idp.example", "ada"))
        kept.people.keep_device("device", "ada", now + timedelta(hours=1), 1)
        kept.tables.add(table)
        kept.projects.add_version(CREDIT, 1, b"\x00\xff")
        kept.projects.add_revocation(CREDIT, b"over")
        kept.projects.set_policy(CREDIT, "{}")
        kept.jobs.add(job)
        kept.jobs.move(ONE, JobState.GRANTED, now=now)
        kept.jobs.keep_grant(ONE, BANK, b"grant")
        kept.lines.append("trail/credit", b"first")
        kept.mail.post(PARTNER, b"letter")
    workspace = node.folder / "workspaces" / "credit"
    workspace.mkdir(parents=True)
    (workspace / "model").write_bytes(b"model")
    return digest


@pytest.fixture
def made(paired, digest, tmp_path, now) -> Path:
    """A backup of the bank."""
    make_backup(paired[0], tmp_path / "bank.backup", PHRASE, now)
    return tmp_path / "bank.backup"


def test_all_comes_back_and_the_node_knows_that_partners_know_more(paired, digest, made, tmp_path, now):
    with open_node_store(paired[0]) as store, store.begin() as kept:
        before = everything(kept)
    restored = restore(made, tmp_path / "again", PHRASE, now)
    assert (restored.manifest.name, restored.ended, restored.artifacts) == ("bank", 1, 1)
    node = Node(tmp_path / "again")
    assert node.identity().certificate_pem == paired[0].identity().certificate_pem
    assert node.partners.all() == paired[0].partners.all()
    assert (node.folder / "workspaces/credit/model").read_bytes() == b"model"
    with open_node_store(node) as store, store.begin() as kept:
        assert everything(kept) == before
        assert kept.people.session("token", now) == "ada"
        assert kept.people.linked(Link("https://idp.example", "ada")) == "ada"
        assert kept.people.is_device("device", "ada", now)
        job = kept.jobs.get(ONE)
        assert (job.state, job.reason) == (
            JobState.FAILED,
            "this node was put back from a backup: propose the job anew",
        )
        assert kept.recovery.open() == (PARTNER,)
        assert kept.mail.waiting(PARTNER) == ()
        kept.mail.delivered(PARTNER, 5)
        assert kept.mail.waiting(PARTNER) == ((6, b"letter"),)
        assert kept.mail.take(PARTNER, 9, b"some were lost")
        kept.recovery.compared(PARTNER)
        assert kept.recovery.open() == ()
        kept.jobs.add(Job(TWO, CREDIT, BANK, "{}", (), 0, 0.0, 0.0, now, now, ""))
        assert kept.jobs.get(TWO).order == 2, "numbers go on"
    artifacts = open_node_artifacts(node)
    with artifacts.open(digest) as path:
        assert path.read_bytes() == b"id,x\n1,2\n"
    artifacts.close()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in node.folder.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert stat.S_IMODE(node.folder.stat().st_mode) == 0o700


def test_a_backup_tells_nothing_without_its_passphrase(made, digest, tmp_path, now):
    content = made.read_bytes()
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    for secret in (b"bank", b"PRIVATE KEY", b"hash", b"manifest"):
        assert secret not in content
    with pytest.raises(DataError, match="another passphrase"):
        restore(made, tmp_path / "again", PHRASE + "?", now)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "bank.backup", "partner"], "nothing is left"
    assert list((tmp_path / "bank" / "run" / "plain").iterdir()) == []


@pytest.mark.parametrize("at", [0, 12, 40, 60, 100, -1])
def test_a_damaged_backup_restores_nothing(made, tmp_path, now, at):
    content = bytearray(made.read_bytes())
    content[at] ^= 1
    made.write_bytes(content)
    with pytest.raises(DataError, match=r"no backup of a node|does not open"):
        restore(made, tmp_path / "again", PHRASE, now)
    assert not (tmp_path / "again").exists()


def test_nothing_is_overwritten(paired, made, tmp_path, now):
    with pytest.raises(UsageError, match="is there already"):
        make_backup(paired[0], made, PHRASE, now)
    with pytest.raises(UsageError, match="holds something already"):
        restore(made, paired[0].folder, PHRASE, now)
    with pytest.raises(UsageError, match="in the node's own folder"):
        make_backup(paired[0], paired[0].folder / "workspaces" / "copy", PHRASE, now)
    with pytest.raises(UsageError, match="at least 12"):
        make_backup(paired[0], tmp_path / "other", "short", now)
    other = tmp_path / "old.db"
    restore(made, tmp_path / "one", PHRASE, now, store=f"sqlite:///{other}")
    with pytest.raises(UsageError, match="is not empty"):
        restore(made, tmp_path / "two", PHRASE, now, store=f"sqlite:///{other}")
    assert not (tmp_path / "two").exists()


def as_of(revision: str, folder: Path) -> sql.MetaData:
    """The tables of an older version of the schema."""
    found, engine = sql.MetaData(), unopened(f"sqlite:///{folder}/older.db")
    with engine.begin() as connection:
        command.upgrade(configuration(connection), revision)
        found.reflect(connection)
    engine.dispose()
    return found


def trimmed(lines: bytes, columns: list[str]) -> bytes:
    """A table's lines with these columns only."""
    names, *rows = (json.loads(line) for line in lines.splitlines())
    kept = [names.index(name) for name in columns]
    return b"".join(json.dumps([row[at] for at in kept]).encode() + b"\n" for row in (names, *rows))


@pytest.mark.parametrize("revision", OLDER)
def test_a_backup_of_an_older_version_is_brought_up(made, tmp_path, now, revision):
    known = as_of(revision, tmp_path)

    def older(members: dict[str, bytes]) -> None:
        manifest = json.loads(members["manifest.json"])
        members["manifest.json"] = json.dumps(manifest | {"revision": revision}).encode()
        for member in [name for name in members if name.startswith("database/")]:
            table = known.tables.get(member.removeprefix("database/"))
            lines = members.pop(member)
            if table is not None:
                members[member] = trimmed(lines, [column.name for column in table.columns])

    restore(_changed(made, tmp_path, older), tmp_path / "again", PHRASE, now)
    with open_node_store(Node(tmp_path / "again")) as store, store.begin() as kept:
        assert kept.recovery.open() == (PARTNER,)
        assert kept.jobs.get(ONE).points == 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda members: members.update({"node/../../escaped": b"x"}), "no plain file in its place"),
        (lambda members: members.update({"manifest.json": b"{}"}), "not a backup"),
        (lambda members: members.pop("manifest.json"), "not a backup"),
        (lambda members: members.update({"database/people": b'["name","evil"]\n'}), "columns that its version"),
        (lambda members: members.update({"database/people": b'["name"]\n["a","b"]\n'}), "rows do not fit"),
        (lambda members: members.update({"database/nothing": b'["name"]\n'}), "rows do not fit"),
    ],
)
def test_an_archive_that_is_not_what_it_has_to_be_restores_nothing(made, tmp_path, now, change, words):
    with pytest.raises(DataError, match=words):
        restore(_changed(made, tmp_path, change), tmp_path / "a" / "again", PHRASE, now)
    assert list((tmp_path / "a").iterdir()) == []
    assert not (tmp_path / "escaped").exists()


def _changed(made: Path, folder: Path, change: object) -> Path:
    """The backup with other members, under the same passphrase."""
    with tempfile.TemporaryFile() as plain, tempfile.TemporaryFile() as sealed:
        backups._open(made, PHRASE, plain)
        plain.seek(0)
        with tarfile.open(fileobj=plain, mode="r:") as archive:
            members = {one.name: archive.extractfile(one).read() for one in archive.getmembers()}
        change(members)
        other = io.BytesIO()
        with tarfile.open(fileobj=other, mode="w") as archive:
            for name, content in members.items():
                backups._add_bytes(archive, name, content)
        other.seek(0)
        salt = bytes(16)
        seal_file(other, sealed, backups._key(PHRASE, salt), backups._BOUND)
        sealed.seek(0)
        path = folder / "changed.backup"
        path.write_bytes(backups._MAGIC + salt + sealed.read())
    return path


def test_artifacts_go_to_another_place(made, digest, tmp_path, now):
    elsewhere = (tmp_path / "else where").as_uri()
    restore(made, tmp_path / "again", PHRASE, now, artifacts=elsewhere)
    node = Node(tmp_path / "again")
    assert (node.config.artifacts, node.config.listen) == (elsewhere, Node(tmp_path / "bank").config.listen)
    assert not (node.folder / "artifacts").exists()
    artifacts = open_node_artifacts(node)
    assert artifacts.digests() == (digest,)
    artifacts.close()


def test_files_that_were_put_back_by_other_means_are_told(paired, digest, now):
    node = paired[0]
    assert reconcile(node, now) == (PARTNER,)
    with open_node_store(node) as store, store.begin() as kept:
        assert kept.jobs.get(ONE).state is JobState.FAILED


def test_a_node_goes_on_with_another_database(made, postgres_url, tmp_path, now):
    restore(made, tmp_path / "again", PHRASE, now, store=postgres_url)
    node = Node(tmp_path / "again")
    assert node.config.store == postgres_url
    assert not (node.folder / "node.db").exists()
    with open_node_store(node) as store, store.begin() as kept:
        assert kept.tables.all()[0].columns == (Column("id", "text", Role.ID),)
        assert kept.projects.versions(CREDIT) == (b"\x00\xff",)
        kept.jobs.add(Job(TWO, CREDIT, BANK, "{}", (), 0, 0.0, 0.0, now, now, ""))
        assert kept.jobs.get(TWO).order == 2, "the sequence goes on"
    make_backup(node, tmp_path / "second", PHRASE, now)
    restore(tmp_path / "second", tmp_path / "third", PHRASE, now, store=f"sqlite:///{tmp_path / 'x.db'}")
    with open_node_store(Node(tmp_path / "third")) as store, store.begin() as kept:
        assert [job.job for job in kept.jobs.all()] == [TWO, ONE]
        assert kept.jobs.get(ONE).created == now


# --- retention -------------------------------------------------------------------------------------------------------


@pytest.fixture
def aged(paired, digest, now) -> Iterator[tuple[Node, str]]:
    """The bank, where the job ended and the table's version was taken out of use a day ago."""
    node = paired[0]
    with open_node_store(node) as store, store.begin() as kept:
        kept.jobs.move(ONE, JobState.FAILED, now=now - timedelta(days=1))
        kept.lines.append("events/one", b"event")
        kept.tables.retire("customers", 1)
        kept.jobs.add(Job(TWO, CREDIT, BANK, "{}", (), 0, 0.0, 0.0, now, now - timedelta(days=9), ""))
    return node, digest


def _purged(node: Node, before: object, now: object) -> tuple[object, ...]:
    artifacts = open_node_artifacts(node)
    with open_node_store(node) as store:
        gone = purge(store, artifacts, before, now)
    left = tuple(artifacts.digests())
    artifacts.close()
    return gone.jobs, gone.artifacts, gone.sessions, left


def test_what_is_over_and_old_goes_and_what_budgets_stand_on_stays(aged, now):
    node, digest = aged
    assert _purged(node, now - timedelta(days=2), now) == ((), (), 0, (digest,))
    assert _purged(node, now + timedelta(seconds=1), now + timedelta(hours=2)) == ((ONE,), (digest,), 1, ())
    with open_node_store(node) as store, store.begin() as kept:
        assert [job.job for job in kept.jobs.all()] == [TWO], "it is not over"
        assert kept.jobs.grants(ONE) == {}
        assert kept.lines.count("events/one") == 0
        assert kept.lines.count("trail/credit") == 1
        assert kept.tables.version("customers", 1).digest == digest


def test_content_that_is_in_use_stays(aged, now):
    node, digest = aged
    with open_node_store(node) as store, store.begin() as kept:
        again = kept.tables.version("customers", 1)
        kept.tables.add(CatalogueTable(again.name, 2, digest, "b" * 64, 1, again.columns, "x.csv", "ada", now))
    assert _purged(node, now + timedelta(days=9), now)[1:] == ((), 0, (digest,))


def test_content_that_a_job_goes_on_with_stays(aged, now):
    node, digest = aged
    snapshot = Snapshot(owner=BANK, name=TableId("customers"), digest=digest, rows=1)
    with open_node_store(node) as store, store.begin() as kept:
        kept.jobs.add(Job(JobId("three"), CREDIT, BANK, "{}", (snapshot,), 0, 0.0, 0.0, now, now, ""))
    assert _purged(node, now + timedelta(days=9), now)[1:] == ((), 0, (digest,))


def test_a_variable_and_an_option_that_name_two_places_are_told_apart(made, tmp_path, now, monkeypatch):
    monkeypatch.setenv("UNSEEN_NODE_STORE", f"sqlite:///{tmp_path}/here.db")
    with pytest.raises(UsageError, match="UNSEEN_NODE_STORE says another place than --store"):
        restore(made, tmp_path / "again", PHRASE, now, store=f"sqlite:///{tmp_path}/there.db")
    assert list(tmp_path.glob("*here.db")) == []
    restore(made, tmp_path / "again", PHRASE, now)
    assert (tmp_path / "here.db").exists(), "the variable holds"
