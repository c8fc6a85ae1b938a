"""The rows of a database as lines of JSON, the same whichever database they come from or go to.

The first line of a table names its columns, each further one is a row. Bytes stand as ``{"b": Base64}``, moments as
``{"t": ISO 8601 in UTC}``, JSON columns as ``{"j": value}``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime

import sqlalchemy as sql
from alembic import command
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from unseen.codec import read_json
from unseen.errors import DataError, UsageError
from unseen.node.store.engine import configuration, shown, unopened
from unseen.node.store.schema import metadata

_ROWS = 500


def tables_of(connection: sql.Connection) -> tuple[str, dict[str, Iterator[bytes]]]:
    """Return the version of the schema, and the lines of each table: what a foreign key names comes first."""
    revision = MigrationContext.configure(connection).get_current_revision()
    if revision is None:
        raise DataError("the database has no schema")
    return revision, {table.name: _lines(connection, table) for table in metadata.sorted_tables}


def fill(
    url: str,
    revision: str,
    tables: Iterable[tuple[str, Iterable[bytes]]],
    then: Callable[[sql.Connection], None],
) -> None:
    """Make a database with these tables, bring its schema up to date, and do ``then``: all of it or nothing.

    Raises:
        UsageError: The database is not empty or cannot be reached, or the version is not known.
        DataError: A line is not what it has to be.
    """
    engine = unopened(url)
    known = {script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()}
    try:
        with engine.begin() as connection:
            if sql.inspect(connection).get_table_names():
                raise UsageError(f"the database {shown(url)} is not empty: give an empty one")
            if revision not in known:
                raise UsageError(f"the backup has version {revision} of the schema: use a newer version of Unseen")
            command.upgrade(configuration(connection), revision)
            found = sql.MetaData()
            found.reflect(connection)
            for name, lines in tables:
                _load(connection, found, name, lines)
            command.upgrade(configuration(connection), "head")
            then(connection)
    except sql.exc.OperationalError as error:
        raise UsageError(f"the database {shown(url)} cannot be filled: {error.orig}") from error
    except (sql.exc.SQLAlchemyError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"the backup's rows do not fit: {type(error).__name__}: {error}") from error
    finally:
        engine.dispose()


def _lines(connection: sql.Connection, table: sql.Table) -> Iterator[bytes]:
    yield _line([column.name for column in table.columns])
    selected = sql.select(table).order_by(*table.primary_key.columns)
    for row in connection.execution_options(yield_per=_ROWS).execute(selected):
        yield _line([_plain(value) for value in row])


def _line(values: list[object]) -> bytes:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _plain(value: object) -> object:
    if isinstance(value, bytes | memoryview):
        return {"b": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"t": value.astimezone(UTC).isoformat()}
    return {"j": value} if isinstance(value, list | dict) else value


def _load(connection: sql.Connection, found: sql.MetaData, name: str, lines: Iterable[bytes]) -> None:
    table, rows = found.tables[name], iter(lines)
    names = read_json(next(rows))
    if not set(names) <= set(table.columns.keys()):
        raise DataError(f"the backup's table {name} has columns that its version does not have")
    zoned = connection.dialect.name != "sqlite"
    batch: list[dict[str, object]] = []
    for line in rows:
        batch.append({key: _value(value, zoned) for key, value in zip(names, read_json(line), strict=True)})
        if len(batch) == _ROWS:
            connection.execute(sql.insert(table), batch)
            batch = []
    if batch:
        connection.execute(sql.insert(table), batch)
    if zoned:
        _count_on(connection, table)


def _value(value: object, zoned: bool) -> object:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "b":
        return base64.b64decode(inner, validate=True)
    if kind == "t":
        moment = datetime.fromisoformat(inner)
        return moment if zoned else moment.replace(tzinfo=None)
    if kind == "j":
        return inner
    raise ValueError(kind)


def _count_on(connection: sql.Connection, table: sql.Table) -> None:
    """Let PostgreSQL number new rows after those that are there."""
    for column in table.primary_key.columns:
        sequence = sql.func.pg_get_serial_sequence(table.name, column.name)
        if connection.execute(sql.select(sequence)).scalar_one() is not None:
            last = sql.select(sql.func.coalesce(sql.func.max(column), 0) + 1).scalar_subquery()
            connection.execute(sql.select(sql.func.setval(sequence, last, False)))
