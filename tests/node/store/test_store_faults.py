"""What the store does when a process dies, a database is old, or somebody asks for what cannot be; on both kinds."""

from __future__ import annotations

import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime

import pytest
import sqlalchemy as sql
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from unseen.errors import DataError, LocalProtocolError
from unseen.ids import PartyId
from unseen.node.domain import Person
from unseen.node.store import Store
from unseen.node.store.engine import configuration, open_engine, shown
from unseen.node.store.schema import metadata

NOW = datetime(2026, 11, 28, 9, 30, tzinfo=UTC)
TELECOM = PartyId("telecom")
VERSIONS = [script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()]

_DIES = """
import os, signal, sys
from unseen.ids import PartyId
from unseen.node.store import Store
with Store(sys.argv[1]).begin() as kept:
    kept.lines.append("trail", b"lost")
    kept.mail.post(PartyId("telecom"), b"lost")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_leaves_nothing_half_and_no_lock(opened, url):
    store = opened()
    with store.begin() as kept:
        kept.lines.append("trail", b"kept")
    died = subprocess.run([sys.executable, "-c", _DIES, url], timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    with store.begin() as kept:
        assert tuple(kept.lines.read("trail")) == (b"kept",)
        assert kept.mail.post(TELECOM, b"first") == 1


def test_nobody_waits_for_ever_for_a_writer_that_hangs(opened, monkeypatch):
    opened()  # its schema is made without that hurry
    monkeypatch.setattr("unseen.node.store.engine._BUSY_MS", 200)
    hanging, other = opened(), opened()
    with hanging.begin() as kept:
        kept.lines.append("trail", b"one")
        with pytest.raises(DataError, match=r"locked|lock timeout"), other.begin():
            pass
    with other.begin() as kept:
        assert kept.lines.count("trail") == 1


def test_a_snapshot_sees_one_moment_while_others_write(store):
    with store.begin() as kept:
        kept.lines.append("trail", b"one")
    counted = sql.select(sql.func.count()).select_from(metadata.tables["lines"])
    with store.snapshot() as seen:
        assert seen.execute(counted).scalar_one() == 1
        with store.begin() as kept:
            kept.lines.append("trail", b"two")
        assert seen.execute(counted).scalar_one() == 1
    with pytest.raises(DataError, match=r"read-?only"), store.snapshot() as seen:
        seen.execute(sql.delete(metadata.tables["lines"]))


def test_errors_are_ours_and_tell_no_value(store):
    with store.begin() as kept:
        kept.people.add(Person("ada", frozenset(), NOW), "hash-of-a-password")
    with pytest.raises(LocalProtocolError, match="refuses what does not fit") as told, store.begin() as kept:
        kept.people.add(Person("ada", frozenset(), NOW), "hash-of-a-password")
    assert "hash-of-a-password" not in f"{told.value} {told.value.__cause__}"
    with pytest.raises(LocalProtocolError, match="names no zone"), store.begin() as kept:
        kept.people.begin_session("token", "ada", NOW.replace(tzinfo=None))
    with pytest.raises(LocalProtocolError, match="does not fit"), store.begin() as kept:
        kept.people.begin_session("token", "nobody", NOW)


def test_the_password_of_a_url_is_not_shown():
    assert "secret" not in shown("postgresql://u:secret@h/d")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_older_version_is_brought_up_and_loses_nothing(url, version):
    engine = open_engine(url)
    with engine.begin() as connection:
        metadata.drop_all(connection)
        connection.execute(sql.text("DROP TABLE alembic_version"))
        command.upgrade(configuration(connection), version)
        connection.execute(sql.text("INSERT INTO posted (peer, number) VALUES ('telecom', 7)"))
    engine.dispose()
    engine = open_engine(url)
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert [one for one in compare_metadata(context, metadata) if "Moment" not in repr(one)] == []
        assert connection.execute(sql.text("SELECT number FROM posted")).scalars().all() == [7]
    engine.dispose()


def test_a_file_of_an_older_version_is_copied_before_it_is_changed(tmp_path):
    path = tmp_path / "of bank" / "books.db"
    engine = open_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        metadata.drop_all(connection)
        connection.execute(sql.text("DROP TABLE alembic_version"))
        command.upgrade(configuration(connection), "0001")
        connection.execute(sql.text("INSERT INTO posted (peer, number) VALUES ('telecom', 7)"))
    engine.dispose()
    assert [one.name for one in path.parent.iterdir()] == ["books.db"]
    open_engine(f"sqlite:///{path}").dispose()
    copy = path.with_name("books.db.0001")
    with closing(sqlite3.connect(copy)) as old:
        assert old.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
        assert old.execute("SELECT number FROM posted").fetchall() == [(7,)]
        assert old.execute("SELECT name FROM sqlite_master WHERE name = 'recovering'").fetchall() == []


def test_only_its_owner_reads_a_file(tmp_path):
    path = tmp_path / "of bank" / "books.db"
    with Store(f"sqlite:///{path}") as store, store.begin() as kept:
        kept.lines.append("trail", b"one")
        modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()}
    assert modes == dict.fromkeys(("books.db", "books.db-wal", "books.db-shm"), 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_sqlite_writes_as_durably_as_it_can(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path / 'books.db'}")
    with engine.begin() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    engine.dispose()
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}
