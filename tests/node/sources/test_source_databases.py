"""Tables of real databases: values as they are, names as they are, one moment, and what is refused."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
import sqlalchemy as sql
from tests.node.organisations import Clock
from tests.node.sources.conftest import ODD, ODD_COLUMN, PASSWORD, Server

from unseen.errors import DataError, UnseenError, UsageError
from unseen.ids import PartyId
from unseen.node.sources import config as config_module
from unseen.node.sources import database as database_module
from unseen.node.sources.config import SourceConfig
from unseen.node.sources.port import Bounds, Columns
from unseen.transport.tls import host_name, issue, make_authority


def fetched(server: Server, table: str, folder: Path, wanted: Columns | None = None, **how: Bounds) -> pl.DataFrame:
    path, left = server.opened(**how).fetch(table, wanted or Columns(), folder)
    assert left == Columns(), "nothing is left to do"
    return pl.read_parquet(path, glob=False)


def test_cells_of_all_kinds_come_as_they_are(server, tmp_path):
    found = fetched(server, "crm.customers", tmp_path)
    postgresql = server.kind == "postgresql"
    assert found["phone"].to_list() == ["0123", "0456", "Zoë \U0001f98a"]
    assert found["age"].to_list() == [41, -3, None]
    assert found["points"].to_list() == [9007199254740993, -5 if postgresql else 5, None]
    assert found["rent"].to_list() == [12.5, -0.01, None]
    assert found["code"].to_list() == [7, 8, None]
    assert found["code"].dtype == pl.Int64, "digits that are numbers of customers stay exact, and may be ids"
    assert found["score"].to_list() == [0.5, None, None]
    assert found["born"].to_list() == ["1983-02-28", "0001-01-01", None]
    utc = "+00:00" if postgresql else ""
    assert found["seen"].to_list() == [f"2026-11-28 10:00:00.250000{utc}", f"1999-12-31 23:59:59{utc}", None]
    assert found["active"].to_list() == ([True, False, None] if postgresql else [1, 0, None])
    assert found["mood"].to_list() == ["glad", "sad", None]


def test_long_whole_numbers_are_never_rounded_into_each_other(server, tmp_path):
    ids = fetched(server, "crm.accounts", tmp_path, Columns(only=("id",)))
    assert ids["id"].to_list() == ["12345678901234567890", "12345678901234567891"]
    with pytest.raises(DataError, match="column total"):
        fetched(server, "crm.accounts", _fresh(tmp_path), Columns(only=("total",)))


def test_batches_make_one_file_in_the_order_of_the_columns(server, tmp_path, monkeypatch):
    monkeypatch.setattr(database_module, "_BATCH_CELLS", 2)
    found = fetched(server, "crm.customers", tmp_path, Columns(only=("age", "phone")))
    assert (found.columns, found.height) == (["phone", "age"], 3)
    assert len(list((tmp_path / "parts").iterdir())) == 3


@pytest.mark.parametrize(("letters", "most"), [(1000, 400), (1, 1000)])
def test_long_rows_come_fewer_at_a_time(monkeypatch, letters, most):
    monkeypatch.setattr(database_module, "_BATCH_LETTERS", 400_000)
    text = sql.column("x")
    with sql.create_engine("sqlite://").connect() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x text)")
        connection.exec_driver_sql("INSERT INTO t VALUES (?)", [("a" * letters,)] * 3000)
        found = [
            len(rows)
            for rows in database_module._batches(connection, sql.select(text).select_from(sql.table("t", text)), 1000)
        ]
    assert (sum(found), max(found)) == (3000, most)


def test_a_table_without_rows_has_its_columns(server, tmp_path):
    assert fetched(server, "crm.empty", tmp_path).schema == {"id": pl.Int64, "income": pl.Float64}


def test_tables_and_views_of_named_schemas_are_listed_and_no_others(server):
    found = server.opened().tables()
    assert {"crm.customers", "crm.adults", f"crm.{ODD}"} <= set(found)
    assert ("crm.kept" in found) is (server.kind == "postgresql")
    assert not [name for name in found if "salaries" in name]
    assert "hidden.salaries" in server.opened("crm", "hidden").tables()


def test_a_name_is_a_name_whatever_it_looks_like(server, tmp_path):
    found = fetched(server, f"crm.{ODD}", tmp_path)
    assert (found.columns, found.rows()) == (["id", ODD_COLUMN], [(1, "here")])


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("hidden.salaries", "of a schema that the node's configuration names: crm"),
        ("customers", "expected SCHEMA.TABLE"),
        ("", "expected SCHEMA.TABLE"),
        ("crm.", "there is no table"),
        ("crm.customers; DROP TABLE crm.customers", "there is no table"),
        ("crm.(SELECT 1) AS x", "there is no table"),
        ("crm.customers WHERE 1=1 --", "there is no table"),
        ('crm"."customers', "expected SCHEMA.TABLE"),
        ("information_schema.tables", "of a schema that"),
        ("pg_catalog.pg_authid", "of a schema that"),
        ("crm.\0", "there is no table"),
    ],
)
def test_what_is_no_table_of_a_named_schema_is_refused(server, tmp_path, table, words):
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        server.opened().fetch(table, Columns(), tmp_path)


def test_columns_are_those_that_are_wanted_and_known(server, tmp_path):
    wanted = Columns(only=("phone", "age", "rent"), leave_out=("rent",))
    assert fetched(server, "crm.customers", tmp_path, wanted).columns == ["phone", "age"]
    for bad in (Columns(only=("phone", "age AS x")), Columns(leave_out=("salary",))):
        with pytest.raises(UsageError, match=r"there is no column (age AS x|salary): the columns are phone, age"):
            server.opened().fetch("crm.customers", bad, _fresh(tmp_path))
    with pytest.raises(UsageError, match="no column is left"):
        server.opened().fetch("crm.empty", Columns(leave_out=("id", "income")), _fresh(tmp_path))


@pytest.mark.filterwarnings("ignore:Did not recognize type")
def test_binary_columns_are_refused_by_name_unless_they_are_left_out(server, tmp_path):
    kind = "bytea" if server.kind == "postgresql" else "blob"
    with pytest.raises(DataError, match=rf"columns of a type that no table here can have: photo \({kind}\), place"):
        server.opened().fetch("crm.blobs", Columns(), tmp_path)
    assert fetched(server, "crm.blobs", _fresh(tmp_path), Columns(leave_out=("photo", "place"))).columns == ["id"]


def test_what_the_user_may_not_read_is_refused_by_the_database_and_told_in_a_code(server, tmp_path):
    with pytest.raises(UsageError, match=r"refused to read the table|there is no table") as told:
        server.opened().fetch("crm.locked", Columns(), tmp_path)
    assert told.value.__cause__ is None, "the database's own words stay here"


def test_a_cell_that_cannot_be_read_is_told_by_its_column_or_code_and_not_quoted(postgres_source, tmp_path):
    with pytest.raises(UnseenError, match="source crm") as told:
        postgres_source.opened().fetch("crm.faulty", Columns(), tmp_path)
    assert "infinity" not in str(told.value)


def test_more_bytes_or_time_than_allowed_are_refused(server, tmp_path):
    with pytest.raises(DataError, match="more than 10 bytes"):
        server.opened(bounds=Bounds(max_bytes=10)).fetch("crm.customers", Columns(), tmp_path)
    with pytest.raises(DataError, match="took longer than -1 s"):
        server.opened(bounds=Bounds(seconds=-1)).fetch("crm.empty", Columns(), _fresh(tmp_path))
    # The next one is not hindered by what was broken off.
    assert fetched(server, "crm.empty", _fresh(tmp_path)).height == 0


def test_all_rows_are_of_one_moment(server, tmp_path, monkeypatch):
    """While a node reads, somebody adds a row: it is in none of the batches."""
    monkeypatch.setattr(database_module, "_BATCH_CELLS", 1)
    whole = database_module._batches

    def disturbed(connection, query, size):
        for number, rows in enumerate(whole(connection, query, size)):
            if number == 0:
                with server.engine.connect() as other:
                    other.exec_driver_sql("INSERT INTO crm.customers (phone) VALUES ('0999')")
            yield rows

    monkeypatch.setattr(database_module, "_batches", disturbed)
    try:
        assert fetched(server, "crm.customers", tmp_path).height == 3
    finally:
        with server.engine.connect() as other:
            other.exec_driver_sql("DELETE FROM crm.customers WHERE phone = '0999'")


def test_a_node_cannot_write(server):
    with server.opened()._reading("to write") as connection, pytest.raises(database_module.SQLAlchemyError):
        connection.exec_driver_sql("INSERT INTO crm.empty (id) VALUES (1)")


def test_a_password_is_in_no_error_log_or_repr(mariadb_source, caplog):
    wrong = "not the password, but a secret"
    source = mariadb_source.opened(password=wrong)
    with caplog.at_level(logging.DEBUG), pytest.raises(UsageError, match=r"refused a connection \(.*, 28000\)") as told:
        source.tables()
    said = f"{told.value!r} {source!r} {caplog.text} {mariadb_source.config()!r}"
    assert wrong not in said
    assert "Access denied for user 'reader'" in caplog.text, "whoever runs the node finds why"
    assert PASSWORD not in said


def test_a_server_that_is_not_there_is_told(server, caplog, free_port):
    at = f"{server.url.partition('://')[0]}://reader@127.0.0.1:{free_port}/x"
    config = server.config().model_copy(update={"url": at})
    with pytest.raises(UsageError, match="source crm: the database refused a connection"):
        database_module.Database("crm", config, None, None, Clock(), Bounds()).tables()


def test_elsewhere_nothing_goes_in_the_clear(server, monkeypatch):
    """The servers here have no TLS: seen as ones on another machine, they are not spoken to."""
    monkeypatch.setattr(config_module, "_HERE", frozenset())
    with pytest.raises(UsageError, match="refused a connection"):
        server.opened().tables()
    config = server.config().model_copy(update={"tls": False})
    source = database_module.Database("crm", config, PASSWORD, None, Clock(), Bounds())
    assert source.tables(), "unless the configuration says so"


@pytest.fixture
def with_tls(postgres_source: Server, tmp_path: Path) -> Iterator[Path]:
    """The file of the authority behind the certificate that PostgreSQL shows for a while."""
    now, files = datetime.now(UTC), ("root.pem", "leaf.pem", "key.pem")
    root = make_authority("database", days=2, now=now)
    leaf = issue(root, PartyId("localhost"), days=2, now=now)
    with postgres_source.engine.connect() as admin:
        data = Path(str(admin.exec_driver_sql("SHOW data_directory").scalar_one()))
        for name, content in zip(files, (root.certificate_pem, leaf.certificate_pem, leaf.key_pem), strict=True):
            (data / name).write_bytes(content)
            (data / name).chmod(0o600)
            shutil.chown(data / name, data.stat().st_uid, data.stat().st_gid)
        shutil.copyfile(data / "root.pem", tmp_path / "authority.pem")
        for setting in ("ssl_cert_file = 'leaf.pem'", "ssl_key_file = 'key.pem'", "ssl = on"):
            admin.exec_driver_sql(f"ALTER SYSTEM SET {setting}")
        admin.exec_driver_sql("SELECT pg_reload_conf()")
        yield tmp_path / "authority.pem"
        admin.exec_driver_sql("ALTER SYSTEM RESET ALL")
        admin.exec_driver_sql("SELECT pg_reload_conf()")


def test_elsewhere_a_server_shows_a_certificate_of_the_authority_and_of_its_name(
    postgres_source, with_tls, monkeypatch
):
    monkeypatch.setattr(config_module, "_HERE", frozenset())
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    named = postgres_source.url.replace("127.0.0.1", host_name(PartyId("localhost")))

    def tables(url: str, authority: Path | None) -> tuple[str, ...]:
        config = SourceConfig(url=url, schemas=("crm",))
        return database_module.Database("crm", config, PASSWORD, authority, Clock(), Bounds()).tables()

    assert tables(named, with_tls)
    for url, authority in ((named, None), (postgres_source.url, with_tls)):
        with pytest.raises(UsageError, match="refused a connection"):
            tables(url, authority)


def _fresh(folder: Path) -> Path:
    made = folder / str(len(list(folder.iterdir())))
    made.mkdir()
    return made
