"""The same tables in a real PostgreSQL and a real MariaDB, with a user who may read some of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import sqlalchemy as sql
from tests.node.organisations import Clock

from unseen.node.sources.config import SourceConfig
from unseen.node.sources.database import Database
from unseen.node.sources.port import Bounds

PASSWORD = "open, sesame: 1001"
ODD = "od\"d`n'a.m%e; DROP TABLE customers"
ODD_COLUMN = ODD.replace("`", "")
"""SQLAlchemy does not read columns of MariaDB whose name holds a backtick."""

_POSTGRESQL = [
    "CREATE ROLE reader LOGIN PASSWORD '{password}'",
    "CREATE SCHEMA crm",
    "CREATE SCHEMA hidden",
    "CREATE TYPE crm.mood AS ENUM ('glad', 'sad')",
    "CREATE TABLE crm.customers (phone varchar(20), age smallint, points bigint, rent numeric(10, 2), code numeric(9),"
    " score double precision, born date, seen timestamptz, active boolean, mood crm.mood)",
    "INSERT INTO crm.customers VALUES ('0123', 41, 9007199254740993, 12.50, 7, 0.5, '1983-02-28',"
    " '2026-11-28 12:00:00.25+02', true, 'glad'), ('0456', -3, -5, -0.01, 8, NULL, '0001-01-01',"
    " '1999-12-31 23:59:59+00', false, 'sad'), ('Zoë \U0001f98a', {nulls})",
    "CREATE TABLE crm.blobs (id int, photo bytea, place point)",
    "CREATE TABLE crm.faulty (id int, born date)",
    "INSERT INTO crm.faulty VALUES (1, 'infinity')",
    "CREATE MATERIALIZED VIEW crm.kept AS SELECT phone AS id, age FROM crm.customers",
    "GRANT USAGE ON SCHEMA crm, hidden TO reader",
]
_MARIADB = [
    "CREATE USER reader IDENTIFIED BY '{password}'",
    "CREATE DATABASE crm CHARACTER SET utf8mb4",
    "CREATE DATABASE hidden",
    "CREATE TABLE crm.customers (phone varchar(20), age smallint, points bigint unsigned, rent decimal(10, 2),"
    " code decimal(9), score double, born date, seen datetime(2), active boolean, mood enum('glad', 'sad'))",
    "INSERT INTO crm.customers VALUES ('0123', 41, 9007199254740993, 12.50, 7, 0.5, '1983-02-28',"
    " '2026-11-28 10:00:00.25', true, 'glad'), ('0456', -3, 5, -0.01, 8, NULL, '0001-01-01',"
    " '1999-12-31 23:59:59', false, 'sad'), ('Zoë \U0001f98a', {nulls})",
    "CREATE TABLE crm.blobs (id int, photo blob, place point)",
]
_BOTH = [
    "CREATE TABLE crm.{odd} (id int, {column} text)",
    "INSERT INTO crm.{odd} VALUES (1, 'here')",
    "CREATE TABLE crm.empty (id int, income real)",
    "CREATE TABLE crm.accounts (id numeric(20, 0), total numeric(24, 2))",
    "INSERT INTO crm.accounts VALUES (12345678901234567890, 0.1), (12345678901234567891, 12345678901234567890)",
    "CREATE TABLE crm.locked (id int)",
    "CREATE TABLE hidden.salaries (id int)",
    "CREATE VIEW crm.adults AS SELECT phone AS id, age FROM crm.customers WHERE age > 18",
]


@dataclass(frozen=True)
class Server:
    """A server with the tables, and as whom a node reads them."""

    engine: sql.Engine
    """An administrator's."""
    url: str
    kind: str

    def config(self, *schemas: str) -> SourceConfig:
        return SourceConfig(url=self.url, schemas=schemas or ("crm",))

    def opened(self, *schemas: str, password: str = PASSWORD, bounds: Bounds | None = None) -> Database:
        return Database("crm", self.config(*schemas), password, None, Clock(), bounds or Bounds())


def _filled(admin: str, url: str, kind: str) -> Iterator[Server]:
    engine = sql.create_engine(admin, isolation_level="AUTOCOMMIT")
    mark = '"' if kind == "postgresql" else "`"
    odd = mark + ODD.replace(mark, 2 * mark) + mark
    column = mark + ODD_COLUMN.replace(mark, 2 * mark) + mark
    readable = [f"crm.{name}" for name in ("customers", "blobs", "empty", "adults", "accounts", odd)]
    readable += ["crm.kept", "crm.faulty"] if kind == "postgresql" else []
    own = _POSTGRESQL if kind == "postgresql" else _MARIADB
    with engine.connect() as connection:
        for text in [*own, *_BOTH, *(f"GRANT SELECT ON {name} TO reader" for name in readable)]:
            said = (
                text.replace("{odd}", odd)
                .replace("{column}", column)
                .replace("{password}", PASSWORD)
                .replace("{nulls}", ", ".join(["NULL"] * 9))
            )
            connection.exec_driver_sql(said.replace("%", "%%"))
        if kind == "mysql":
            connection.exec_driver_sql("GRANT SHOW VIEW ON crm.adults TO reader")
            connection.exec_driver_sql("GRANT SELECT ON hidden.salaries TO reader")
    yield Server(engine, url, kind)
    engine.dispose()


@pytest.fixture(scope="session")
def postgres_source(postgres: str) -> Iterator[Server]:
    admin = sql.create_engine(postgres.replace("://", "+psycopg://"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE source")
    admin.dispose()
    url = f"{postgres.rpartition('/')[0]}/source"
    reader = url.replace("unseen@", "reader@")
    yield from _filled(url.replace("://", "+psycopg://"), reader, "postgresql")


@pytest.fixture(scope="session")
def mariadb_source(mariadb: str) -> Iterator[Server]:
    yield from _filled(mariadb.replace("://", "+pymysql://"), mariadb.replace("root@", "reader@"), "mysql")


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue("postgres_source" if request.param == "postgresql" else "mariadb_source")
    return found
