"""Opens a node's database: SQLite by default, PostgreSQL by URL; brings its schema up to date.

SQLite: write-ahead log, ``synchronous=FULL`` (a commit has reached the disk when it returns), foreign keys, and
``BEGIN IMMEDIATE``. PostgreSQL: a lock that each transaction takes when it begins. So there is one transaction at a
time on both, whatever processes there are, and none fails in the middle because another one came first.
"""

from __future__ import annotations

from contextlib import closing
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


def open_engine(url: str) -> sql.Engine:
    """Return the engine of a database whose schema is up to date.

    Raises:
        UsageError: The URL is none, or of a database that is not supported, or its driver is not installed.
        DataError: The database is damaged, or was written by a newer version.
    """
    engine = _engine(url)
    try:
        with engine.begin() as connection:
            if engine.dialect.name == _SQLITE:
                _check_sound(connection, url)
            _migrate(connection)
    except OperationalError as error:
        engine.dispose()
        raise UsageError(f"the database {_shown(url)} cannot be reached: {error.orig}") from error
    except DatabaseError as error:
        engine.dispose()
        raise DataError(f"the database {_shown(url)} is damaged ({error.orig}): restore it from a backup") from error
    except DataError:
        engine.dispose()
        raise
    return engine


def _engine(url: str) -> sql.Engine:
    try:
        parsed = sql.make_url(url)
    except ArgumentError as error:
        raise UsageError(f"{url.partition(':')[0]}: is no URL of a database") from error
    if parsed.get_backend_name() == _SQLITE:
        if not parsed.database:
            raise UsageError("a node's database is a file: sqlite:///PATH")
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = sql.create_engine(parsed, connect_args={"timeout": _BUSY_MS / 1000})
        sql.event.listen(engine, "connect", _settle)
        sql.event.listen(engine, "begin", _begin)
        return engine
    if parsed.get_backend_name() == _POSTGRES:
        try:
            engine = sql.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
        except ModuleNotFoundError as error:
            raise UsageError("PostgreSQL needs its driver: pip install 'unseen[postgres]'") from error
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


def _begin(connection: sql.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _lock(connection: sql.Connection) -> None:
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _check_sound(connection: sql.Connection, url: str) -> None:
    found = connection.exec_driver_sql("PRAGMA quick_check").scalar_one()
    if found != "ok":
        raise DataError(f"the database {_shown(url)} is damaged ({found}): restore it from a backup")


def _migrate(connection: sql.Connection) -> None:
    """Bring the schema up to date, in the transaction of ``connection``."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in known:
        raise DataError(f"the database was written by a newer version of Unseen ({current}): upgrade this one")
    command.upgrade(config, "head")


def _shown(url: str) -> str:
    return sql.make_url(url).render_as_string(hide_password=True)
