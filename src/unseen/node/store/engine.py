"""Opens a node's database: SQLite by default, PostgreSQL by URL; brings its schema up to date.

SQLite: write-ahead log, ``synchronous=FULL`` (a commit has reached the disk when it returns), foreign keys, and
``BEGIN IMMEDIATE``. PostgreSQL: a lock that each transaction takes when it begins. So there is one transaction at a
time on both, whatever processes there are, and none fails in the middle because another one came first.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy as sql
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from unseen.errors import DataError, UsageError

_BUSY_MS = 30_000
_LOCK = 0x756E7365656E
"""Names the lock among those of the same database; "unseen"."""
_SQLITE, _POSTGRES = "sqlite", "postgresql"
_READING = "unseen_reading"


def open_engine(url: str) -> sql.Engine:
    """Return the engine of a database whose schema is up to date.

    Raises:
        UsageError: The URL is none, or of a database that is not supported, or its driver is not installed.
        DataError: The database is damaged, or was written by a newer version.
    """
    engine = unopened(url)
    try:
        with engine.begin() as connection:
            if engine.dialect.name == _SQLITE:
                _check_sound(connection, url)
            _migrate(connection)
    except OperationalError as error:
        engine.dispose()
        raise UsageError(f"the database {shown(url)} cannot be reached: {error.orig}") from error
    except DatabaseError as error:
        engine.dispose()
        raise DataError(f"the database {shown(url)} is damaged ({error.orig}): restore it from a backup") from error
    except DataError:
        engine.dispose()
        raise
    return engine


def unopened(url: str) -> sql.Engine:
    """Return the engine of a database that has not been looked at.

    Raises:
        UsageError: The URL is none, or of a database that is not supported, or its driver is not installed.
    """
    try:
        parsed = sql.make_url(url)
    except ArgumentError as error:
        raise UsageError(f"{url.partition(':')[0]}: is no URL of a database") from error
    if parsed.get_backend_name() == _SQLITE:
        if not parsed.database or parsed.database.startswith((":", "file:")) or parsed.query:
            # What SQLite keeps in memory would forget budgets and jobs with the process.
            raise UsageError("a node's database is a file: sqlite:///PATH")
        _make_private(Path(parsed.database))
        engine = sql.create_engine(parsed, connect_args={"timeout": _BUSY_MS / 1000}, hide_parameters=True)
        sql.event.listen(engine, "connect", _settle)
        sql.event.listen(engine, "begin", _begin)
        return engine
    if parsed.get_backend_name() == _POSTGRES:
        try:
            engine = sql.create_engine(
                parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, hide_parameters=True
            )
        except ModuleNotFoundError as error:
            raise UsageError("PostgreSQL needs its driver: pip install 'unseen[postgres]'") from error
        sql.event.listen(engine, "connect", _limit)
        sql.event.listen(engine, "begin", _lock)
        return engine
    raise UsageError(f"a node keeps its books in SQLite or PostgreSQL, not in {parsed.get_backend_name()}")


def _settle(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    del record
    # Transactions are begun by `_begin`, not by the driver at the first write.
    connection.isolation_level = None
    with closing(connection.cursor()) as cursor:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_MS}"):
            cursor.execute(f"PRAGMA {pragma}")


def _limit(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    """Let nobody wait for the lock for ever, nor a machine that is gone keep it."""
    del record
    with closing(connection.cursor()) as cursor:
        cursor.execute(f"SET lock_timeout = {_BUSY_MS}")
        cursor.execute(f"SET idle_in_transaction_session_timeout = {2 * _BUSY_MS}")
    connection.commit()


def _begin(connection: sql.Connection) -> None:
    reads = _reads(connection)
    connection.exec_driver_sql(f"PRAGMA query_only={'ON' if reads else 'OFF'}")
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _lock(connection: sql.Connection) -> None:
    if _reads(connection):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _reads(connection: sql.Connection) -> bool:
    return bool(connection.get_execution_options().get(_READING))


@contextmanager
def reading(engine: sql.Engine) -> Iterator[sql.Connection]:
    """Yield a connection that sees one moment of the database, while others write."""
    with engine.connect().execution_options(**{_READING: True}) as connection, connection.begin():
        yield connection


def _make_private(path: Path) -> None:
    """Make an empty file that only its owner can read; what SQLite puts beside it is as private."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise UsageError(f"the database {path} cannot be opened: {error.strerror}") from error


def _check_sound(connection: sql.Connection, url: str) -> None:
    found = connection.exec_driver_sql("PRAGMA quick_check").scalar_one()
    if found != "ok":
        raise DataError(f"the database {shown(url)} is damaged ({found}): restore it from a backup")


def configuration(connection: sql.Connection | None = None) -> Config:
    """Return where alembic finds the migrations, and what it runs them on."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    return config


def _migrate(connection: sql.Connection) -> None:
    """Bring the schema up to date, in the transaction of ``connection``; a SQLite file is copied first."""
    scripts = ScriptDirectory.from_config(configuration())
    current = MigrationContext.configure(connection).get_current_revision()
    if current == scripts.get_current_head():
        return
    if current is not None:
        if current not in {script.revision for script in scripts.walk_revisions()}:
            raise DataError(f"the database was written by a newer version of Unseen ({current}): upgrade this one")
        if connection.dialect.name == _SQLITE:
            _copy(Path(str(connection.engine.url.database)), current)
    command.upgrade(configuration(connection), "head")


def _copy(path: Path, version: str) -> None:
    """Copy a file of an older version to ``NAME.VERSION`` beside it."""
    copy = path.with_name(f"{path.name}.{version}")
    _make_private(copy)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)


def shown(url: str | sql.URL) -> str:
    """Return a URL without its password."""
    return sql.make_url(url).render_as_string(hide_password=True)
