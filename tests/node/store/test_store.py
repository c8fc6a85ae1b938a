"""The same on SQLite and on PostgreSQL: values in and out, transactions, leases, letters, migrations."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sql
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from unseen.data.schema import Role
from unseen.errors import DataError, LocalProtocolError, RemoteProtocolError, UsageError
from unseen.ids import JobId, PartyId
from unseen.node.domain import CatalogueTable, Column, Duty, Job, JobState, Link, Person
from unseen.node.store import Store
from unseen.node.store.engine import open_engine
from unseen.node.store.schema import metadata
from unseen.privacy.facts import TableId
from unseen.trust.agreement import ProjectId
from unseen.trust.grant import Snapshot

NOW = datetime(2026, 11, 28, 9, 30, 0, 123456, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
BANK, TELECOM = PartyId("bank"), PartyId("telecom")
CREDIT = ProjectId("credit")
ADA = Person("ada", frozenset({Duty.ANALYST}), NOW, projects=frozenset({CREDIT}))
TABLE = CatalogueTable(
    TableId("customers"), 1, "a" * 64, "b" * 64, 3, (Column("id", "text", Role.ID), Column("x", "real", None)), "x.csv",
    "ada", NOW,
)  # fmt: skip


def job(name: str, **changes: object) -> Job:
    snapshot = Snapshot(owner=BANK, name=TableId("customers"), digest="a" * 64, rows=3)
    made = Job(JobId(name), CREDIT, BANK, "{}", (snapshot,), 10, 0.5, 1e-6, NOW + timedelta(hours=1), NOW, "ada")
    return replace(made, **changes)


def test_whoever_reads_sees_one_moment_while_others_write_and_changes_nothing(opened):
    store = opened()
    with store.begin() as kept:
        for number in range(1, 6):
            kept.lines.append("events/one", b"%d" % number)
        for peer, body in ((BANK, b"a"), (BANK, b"b"), (TELECOM, b"c")):
            kept.mail.post(peer, body)
        kept.people.add(ADA, "hash")
        kept.people.begin_session("old", "ada", NOW)
    with store.read() as seen:
        assert list(seen.lines.read("events/one", after=3)) == [b"4", b"5"]
        assert list(seen.lines.read("events/one", after=5)) == []
        assert seen.mail.lengths() == {BANK: 2, TELECOM: 1}
        assert seen.people.session("old", LATER) is None
        with store.begin() as kept:
            kept.lines.append("events/one", b"6")
            kept.people.forget_sessions(LATER)
        assert seen.lines.count("events/one") == 5
    with pytest.raises(DataError), store.read() as seen:
        seen.lines.append("events/one", b"7")
    with store.read() as seen:
        assert seen.lines.count("events/one") == 6
    assert store.size() >= 4096


def test_everything_comes_back_as_it_was_also_after_a_restart(opened):
    with opened().begin() as kept:
        kept.people.add(ADA, "hash")
        kept.people.begin_session("token", "ada", LATER)
        kept.tables.add(TABLE)
        kept.projects.set_pending(CREDIT, b"draft")
        kept.projects.add_version(CREDIT, 1, b"first")
        kept.projects.add_revocation(CREDIT, b"over")
        kept.projects.set_policy(CREDIT, "{}")
        kept.jobs.add(job("one"))
        kept.jobs.keep_grant(JobId("one"), BANK, b"grant")
        kept.jobs.note_step(JobId("one"), "read", "done", "{}")
        kept.lines.append("trail", b"one")
        kept.lines.append("trail", b"two")
    with opened().begin() as kept:
        assert kept.people.all() == (ADA,)
        assert kept.people.password_hash("ada") == "hash"
        assert kept.people.session("token", NOW) == "ada"
        assert kept.people.session("token", LATER) is None
        assert kept.tables.newest("customers") == TABLE == kept.tables.by_digest("a" * 64)
        assert (kept.projects.pending(CREDIT), kept.projects.policy(CREDIT)) == (b"draft", "{}")
        assert kept.projects.versions(CREDIT) == (b"first",)
        assert kept.projects.revocations(CREDIT) == (b"over",)
        assert kept.jobs.get(JobId("one")) == job("one", order=1)
        assert kept.jobs.grants(JobId("one")) == {BANK: b"grant"}
        assert kept.jobs.steps(JobId("one")) == (("read", "done", "{}"),)
        assert (tuple(kept.lines.read("trail")), kept.lines.last("trail")) == ((b"one", b"two"), b"two")
        assert kept.projects.all() == (CREDIT,)


def test_what_changes_is_changed_and_nothing_else(store):
    other = replace(ADA, name="bob")
    with store.begin() as kept:
        for person in (ADA, other):
            kept.people.add(person, "hash")
            kept.people.begin_session(person.name, person.name, LATER)
        kept.people.change(replace(ADA, active=False, duties=frozenset({Duty.AUDITOR})))
        kept.people.set_password("ada", "new")
        kept.people.end_sessions("ada")
        assert kept.people.get("bob") == other
        assert kept.people.get("ada") == replace(ADA, active=False, duties=frozenset({Duty.AUDITOR}))
        assert [kept.people.session(name, NOW) for name in ("ada", "bob")] == [None, "bob"]
        assert [kept.people.password_hash(name) for name in ("ada", "bob", "eve")] == ["new", "hash", None]
        kept.tables.add(TABLE)
        kept.tables.add(replace(TABLE, version=2, digest="c" * 64))
        kept.tables.retire("customers", 2)
        assert kept.tables.newest("customers") == TABLE
        assert kept.tables.last_number("customers") == 2
        kept.projects.set_pending(CREDIT, b"draft")
        kept.projects.set_pending(CREDIT, None)
        assert kept.projects.pending(CREDIT) is None


def test_links_are_of_one_person_each_and_devices_have_a_number(store):
    bob, link = replace(ADA, name="bob"), Link("https://idp.example", "a")
    with store.begin() as kept:
        for person in (ADA, bob):
            kept.people.add(person, "hash")
        kept.people.set_link("ada", Link("https://idp.example", "old"))
        kept.people.set_link("ada", link)
        kept.people.set_link("bob", Link("https://other.example", "a"))
        assert [kept.people.linked(one) for one in (link, replace(link, subject="old"))] == ["ada", None]
        for number in range(3):
            kept.people.keep_device(f"d{number}", "ada", LATER + timedelta(minutes=number), 2)
        kept.people.keep_device("e", "bob", LATER, 2)
        assert [kept.people.is_device(one, "ada", NOW) for one in ("d0", "d1", "d2", "e")] == [False, True, True, False]
        assert not kept.people.is_device("d1", "ada", LATER + timedelta(minutes=1)), "it ran out"
        kept.people.forget_devices("ada")
        assert [kept.people.is_device("d2", "ada", NOW), kept.people.is_device("e", "bob", NOW)] == [False, True]
    with pytest.raises(LocalProtocolError, match="does not fit"), store.begin() as kept:
        kept.people.set_link("bob", link)
    with store.begin() as kept:
        assert kept.people.links() == {"ada": link, "bob": Link("https://other.example", "a")}
        kept.people.set_link("ada", None)
        assert kept.people.linked(link) is None


def test_an_error_leaves_nothing_behind(store):
    def broken() -> None:
        with store.begin() as kept:
            kept.lines.append("trail", b"one")
            kept.mail.post(TELECOM, b"hello")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    with store.begin() as kept:
        assert kept.lines.count("trail") == 0
        assert kept.mail.waiting(TELECOM) == ()


def test_jobs_move_along_their_course_only(store):
    with store.begin() as kept:
        kept.jobs.add(job("one"))
        kept.jobs.add(job("two", project=ProjectId("other")))
        kept.jobs.move(JobId("one"), JobState.GRANTED, now=LATER)
        with pytest.raises(LocalProtocolError, match="cannot become finished: it is granted"):
            kept.jobs.move(JobId("one"), JobState.FINISHED)
        with pytest.raises(LocalProtocolError, match="not here"):
            kept.jobs.move(JobId("three"), JobState.FAILED)
        assert [one.job for one in kept.jobs.all()] == ["two", "one"]
        assert [one.job for one in kept.jobs.all(CREDIT)] == ["one"]
        assert [one.job for one in kept.jobs.all(states={JobState.PROPOSED})] == ["two"]
        assert [one.job for one in kept.jobs.all(before_order=2)] == ["one"]
        assert kept.jobs.count({JobState.PROPOSED, JobState.GRANTED}) == 2
        assert kept.jobs.get(JobId("one")).changed == LATER


def ready(store: Store, *names: str) -> None:
    with store.begin() as kept:
        for name in names:
            kept.jobs.add(job(name, state=JobState.READY))


def test_a_lost_worker_is_fenced_off(store):
    ready(store, "one")
    with store.begin() as kept:
        first = kept.jobs.lease("w1", NOW, LATER)
        assert (first.job, first.fence) == ("one", 1)
        assert kept.jobs.lease("w2", NOW, LATER) is None, "it is taken"
        second = kept.jobs.lease("w2", LATER, LATER + timedelta(minutes=1))
        assert (second.job, second.fence) == ("one", 2)
        assert not kept.jobs.renew(first, LATER + timedelta(hours=1))
        assert not kept.jobs.release(first)
        assert kept.jobs.renew(second, LATER + timedelta(hours=1))
        assert kept.jobs.lease("w3", LATER + timedelta(minutes=2), LATER + timedelta(hours=1)) is None
        kept.jobs.move(JobId("one"), JobState.FINISHED)
        assert not kept.jobs.renew(second, LATER + timedelta(hours=2)), "it is over"
        assert kept.jobs.fence(JobId("one")) == 2


def test_many_workers_at_once_never_share_a_job(opened):
    names = [f"job-{number}" for number in range(12)]
    ready(opened(), *names)
    taken: list[str] = []

    def work(store: Store, worker: str) -> None:
        while True:
            with store.begin() as kept:
                lease = kept.jobs.lease(worker, NOW, LATER)
            if lease is None:
                return
            taken.append(lease.job)

    stores = [opened() for _ in range(4)]
    threads = [threading.Thread(target=work, args=(store, f"w{number}")) for number, store in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert Counter(taken) == Counter(names)


def test_letters_are_numbered_kept_until_they_are_there_and_taken_once(store):
    with store.begin() as kept:
        assert [kept.mail.post(TELECOM, body) for body in (b"a", b"b", b"c")] == [1, 2, 3]
        assert kept.mail.post(BANK, b"x") == 1
        kept.mail.delivered(TELECOM, 2)
        assert kept.mail.waiting(TELECOM) == ((3, b"c"),)
        kept.mail.delivered(TELECOM, 3)
        assert kept.mail.post(TELECOM, b"d") == 4, "numbers do not begin anew when the outbox is empty"
    with store.begin() as kept:
        assert [kept.mail.take(BANK, number, body) for number, body in ((1, b"a"), (2, b"b"), (1, b"a"))] == [
            True,
            True,
            False,
        ]
        assert kept.mail.received(BANK) == 2
        with pytest.raises(RemoteProtocolError, match="letter 1: another letter came under this number"):
            kept.mail.take(BANK, 1, b"z")
        with pytest.raises(RemoteProtocolError, match="letter 3 has not come"):
            kept.mail.take(BANK, 4, b"d")


# --- the database itself


def test_migrations_lead_to_the_schema(url):
    engine = open_engine(url)
    with engine.begin() as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)
    engine.dispose()
    assert [one for one in found if "Moment" not in repr(one)] == []


def test_a_newer_database_is_refused(url):
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(sql.text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(DataError, match=r"newer version of Unseen \(9999\)"):
        open_engine(url)


def test_a_damaged_file_is_told_and_kept(tmp_path):
    path = tmp_path / "books.db"
    Store(f"sqlite:///{path}").close()
    content = bytearray(path.read_bytes())
    content[200:20_000] = bytes(19_800)
    path.write_bytes(content)
    with pytest.raises((DataError, UsageError)):
        Store(f"sqlite:///{path}")
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("books.db", "is no URL of a database"),
        ("mysql://u:secret@h/d", "SQLite or PostgreSQL, not in mysql"),
        ("sqlite://", "is a file"),
        ("postgresql://u:secret@127.0.0.1:1/d", "cannot be reached"),
    ],
)
def test_urls_that_lead_nowhere_are_told_without_their_password(url, words):
    with pytest.raises(UsageError, match=words) as told:
        open_engine(url)
    assert "secret" not in str(told.value)
