"""Tables of PostgreSQL and of MySQL or MariaDB, as they are at one moment.

Nobody's words reach the database as SQL. A table is one that the database's own catalogue lists in a schema which the
configuration names; its name and those of its columns are taken from there, and quoted by SQLAlchemy. All is read in
one transaction that reads only, with repeatable reads, by a cursor at the server. What the database says when it
refuses stays here, since it may quote rows; why no connection came about is in the log.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import polars as pl
import sqlalchemy as sql
from polars.datatypes import DataType
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.types import TypeEngine

from unseen.clock import Clock
from unseen.errors import DataError, UsageError
from unseen.node.sources.config import SourceConfig, SourceKind
from unseen.node.sources.port import Allowance, Bounds, Columns

_log = logging.getLogger(__name__)

_DRIVERS = {SourceKind.POSTGRESQL: "postgresql+psycopg", SourceKind.MYSQL: "mysql+pymysql"}
_EXTRAS = {SourceKind.POSTGRESQL: "postgres", SourceKind.MYSQL: "mysql"}
_BATCH_CELLS = 200_000
_BATCH_LETTERS = 32_000_000
"""Of text in a batch, more or less: rows may be long, and come into the node's own memory."""
_FIRST_ROWS = 100
_GROWTH = 4
_CONNECT_SECONDS = 10
_ANSWER_SECONDS = 60
_ROOTS = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
"""Where Debian and Red Hat have them."""
_EXACT_DIGITS = 18
"""Of a decimal number that always fits into 64 bits."""

_Cell = bool | int | float | str
_Way = tuple[type[DataType], Callable[[object], _Cell]]


class Database:
    """Some schemas of a database.

    Args:
        name: How people call it here.
        config: Where it is, and which schemas.
        password: Of the user in the URL, if one is needed.
        authority: File with the certificate behind its TLS, if the system does not know it.
        clock: What time it is.
        bounds: What one import may take.

    Raises:
        UsageError: The driver is not installed, or the authority's file holds no certificate.
    """

    def __init__(
        self,
        name: str,
        config: SourceConfig,
        password: str | None,
        authority: Path | None,
        clock: Clock,
        bounds: Bounds,
    ) -> None:
        self.kind, self._name, self._schemas = config.kind, name, config.schemas
        self._password, self._clock, self._bounds = password, clock, bounds
        url = sql.make_url(config.url).set(drivername=_DRIVERS[self.kind], password=password)
        try:
            self._engine = sql.create_engine(
                url, poolclass=NullPool, hide_parameters=True, connect_args=_arguments(config, authority)
            )
        except ModuleNotFoundError as error:
            extra = _EXTRAS[self.kind]
            raise UsageError(f"source {name} needs a driver: pip install 'unseen[{extra}]'") from error
        except ssl.SSLError as error:
            raise UsageError(f"source {name}: {authority} holds no certificate in PEM") from error

    def __repr__(self) -> str:
        return f"Database({self._name!r})"

    def tables(self) -> tuple[str, ...]:
        """Return the names of tables and views, as ``SCHEMA.NAME``."""
        with self._reading("to list its tables") as connection:
            found = sql.inspect(connection)
            return tuple(f"{schema}.{name}" for schema in self._schemas for name in _names(found, schema))

    def fetch(self, table: str, wanted: Columns, folder: Path) -> tuple[Path, Columns]:
        """Write a table to a Parquet file."""
        allowed, parts = Allowance(self._name, self._bounds, self._clock), folder / "parts"
        parts.mkdir()
        with self._reading("to read the table") as connection:
            schema, name = self._place(sql.inspect(connection), table)
            ways = self._ways(sql.inspect(connection), schema, name, wanted)
            columns: list[sql.ColumnClause[object]] = [sql.column(column) for column in ways]
            query = sql.select(*columns).select_from(sql.table(name, *columns, schema=schema))
            size = max(1, _BATCH_CELLS // len(ways))
            written: list[Path] = []
            with closing(_batches(connection, query, size)) as batches:
                for rows in batches:
                    frame = self._frame(ways, rows)
                    allowed.take(int(frame.estimated_size()))
                    written.append(parts / f"{len(written)}.parquet")
                    frame.write_parquet(written[-1])
        whole = folder / "fetched.parquet"
        pl.scan_parquet(written, glob=False, hive_partitioning=False).sink_parquet(whole)
        return whole, Columns()

    def _place(self, found: sql.Inspector, table: str) -> tuple[str, str]:
        schema, _, name = table.partition(".")
        if schema not in self._schemas:
            raise UsageError(
                f"source {self._name}: expected SCHEMA.TABLE, of a schema that the node's configuration names: "
                f"{', '.join(self._schemas)}"
            )
        if name not in _names(found, schema):
            raise UsageError(
                f"source {self._name}: there is no table {table[:200]!r}: unseen source tables {self._name}"
            )
        return schema, name

    def _ways(self, found: sql.Inspector, schema: str, name: str, wanted: Columns) -> dict[str, _Way]:
        """Return how the cells of each wanted column are read, in the table's order."""
        types = {column["name"]: column["type"] for column in found.get_columns(name, schema)}
        if unknown := sorted({*wanted.only, *wanted.leave_out} - types.keys()):
            raise UsageError(f"there is no column {', '.join(unknown)[:200]}: the columns are {', '.join(types)}")
        kept = [one for one in types if one not in wanted.leave_out and (not wanted.only or one in wanted.only)]
        ways = {column: way for column in kept if (way := _way(types[column])) is not None}
        if refused := [f"{column} ({_shown(types[column])})" for column in kept if column not in ways]:
            raise DataError(
                f"{schema}.{name}: columns of a type that no table here can have: {', '.join(refused)}: leave them out"
            )
        if not ways:
            raise UsageError(f"{schema}.{name}: no column is left")
        return ways

    def _frame(self, ways: dict[str, _Way], rows: Sequence[Sequence[object]]) -> pl.DataFrame:
        made = []
        for number, (column, (dtype, convert)) in enumerate(ways.items()):
            try:
                cells = [None if row[number] is None else convert(row[number]) for row in rows]
                made.append(pl.Series(column, cells, dtype=dtype))
            except (ValueError, TypeError, OverflowError):
                # Not the error's own words: they quote the cell.
                raise DataError(f"source {self._name}, column {column}: a cell is not of the column's type") from None
        return pl.DataFrame(made)

    @contextmanager
    def _reading(self, what: str) -> Iterator[sql.Connection]:
        """Lend a connection in a transaction that reads one moment of the database."""
        try:
            connection = self._engine.connect()
        except SQLAlchemyError as error:
            words = str(getattr(error, "orig", None) or "no connection").splitlines()[0]
            _log.warning("source %s: %s", self._name, _without(words, self._password))
            raise self._refused("a connection", error) from None
        with connection:
            try:
                _begin(connection, self._bounds.seconds)
                yield connection
            except SQLAlchemyError as error:
                raise self._refused(what, error) from None
            except UnicodeDecodeError:
                raise DataError(f"source {self._name}: a cell is not UTF-8 text") from None

    def _refused(self, what: str, error: SQLAlchemyError) -> UsageError:
        driver = getattr(error, "orig", None)
        said = getattr(driver, "args", ())
        code = getattr(driver, "sqlstate", None) or (said[0] if said and isinstance(said[0], int) else "no code")
        return UsageError(
            f"source {self._name}: the database refused {what} ({type(driver or error).__name__}, {code}): ask whoever "
            f"runs the node"
        )


def _arguments(config: SourceConfig, authority: Path | None) -> dict[str, object]:
    """Return what drivers are told beside the URL: times, and that nobody may stand on the way."""
    checked = config.tls and not config.is_here
    made: dict[str, object] = {"connect_timeout": _CONNECT_SECONDS}
    if config.kind is SourceKind.POSTGRESQL:
        made |= {"keepalives_idle": 30, "tcp_user_timeout": 1000 * _ANSWER_SECONDS, "client_encoding": "utf8"}
        if checked:
            made |= {"sslmode": "verify-full", "sslrootcert": str(authority) if authority else _system_roots()}
    else:
        made |= {"read_timeout": _ANSWER_SECONDS, "write_timeout": _ANSWER_SECONDS, "local_infile": False}
        if checked:
            made["ssl"] = ssl.create_default_context(cafile=str(authority) if authority else None)
    return made


def _system_roots() -> str:
    """Return the file of certificates that this system trusts; psycopg's own OpenSSL does not know where it is."""
    return next(
        (place for place in (ssl.get_default_verify_paths().cafile, *_ROOTS) if place and Path(place).exists()),
        "system",
    )


def _begin(connection: sql.Connection, seconds: float) -> None:
    connection.execution_options(isolation_level="REPEATABLE READ")
    if connection.dialect.name == "postgresql":
        connection.execution_options(postgresql_readonly=True)
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {1000 * _ANSWER_SECONDS}")
        connection.exec_driver_sql("SET LOCAL timezone = 'UTC'")
        return
    connection.exec_driver_sql("SET SESSION TRANSACTION READ ONLY")
    connection.exec_driver_sql("SET SESSION time_zone = '+00:00'")
    # Whoever closes a cursor reads what is left: the server ends it.
    whole = int(seconds) + 1
    mariadb = getattr(connection.dialect, "is_mariadb", False)
    limit = f"max_statement_time = {whole}" if mariadb else f"max_execution_time = {1000 * whole}"
    connection.exec_driver_sql(f"SET SESSION {limit}")
    connection.commit()


def _batches(
    connection: sql.Connection, query: sql.Select[*tuple[object, ...]], most: int
) -> Generator[Sequence[Sequence[object]]]:
    """Yield rows of a query, fewer at a time where they are long, and nothing once if there are none."""
    some, size = False, min(most, _FIRST_ROWS)
    with connection.execution_options(yield_per=most).execute(query) as found:
        while rows := found.fetchmany(size):
            some = True
            letters = sum(len(cell) for row in rows for cell in row if isinstance(cell, str))
            size = max(1, min(most, _GROWTH * size, _BATCH_LETTERS * len(rows) // max(letters, 1)))
            yield rows
    if not some:
        yield ()


def _names(found: sql.Inspector, schema: str) -> list[str]:
    names = {*found.get_table_names(schema), *found.get_view_names(schema)}
    if found.dialect.name == "postgresql":
        names.update(found.get_materialized_view_names(schema))
    return sorted(names)


def _way(kind: TypeEngine[object]) -> _Way | None:
    """Return how a column of a type is read: as what, and by which function; ``None`` for what cannot be."""
    match kind:
        case sql.Boolean():
            return pl.Boolean, bool
        case sql.Integer():
            return (pl.UInt64 if getattr(kind, "unsigned", False) else pl.Int64), _whole
        case sql.Numeric() if kind.scale == 0 and not isinstance(kind, sql.Float):
            fits = (kind.precision or _EXACT_DIGITS + 1) <= _EXACT_DIGITS
            return (pl.Int64, _whole) if fits else (pl.String, _digits)
        case sql.Float() | sql.Numeric():
            return pl.Float64, _real
        case sql.String() | sql.Uuid() | sql.Date() | sql.DateTime():
            return pl.String, _text
        case _:
            return None


def _whole(cell: object) -> int:
    return int(cell)  # type: ignore[call-overload,no-any-return]  # what is none raises


def _digits(cell: object) -> str:
    """Return a whole number too long for an integer as text: rounded, two people's numbers would be one."""
    return str(_whole(cell))


def _real(cell: object) -> float:
    """Return the nearest number of 64 bits; not of a whole one that may name somebody."""
    value = float(cell)  # type: ignore[arg-type]  # the same
    if isinstance(cell, Decimal) and cell == cell.to_integral_value() and value != cell:
        raise ValueError
    return value


def _text(cell: object) -> str:
    match cell:
        case str():
            return cell
        case datetime():
            return cell.isoformat(" ")
        case date():
            return cell.isoformat()
        case UUID():
            return str(cell)
        case _:
            raise TypeError


def _shown(kind: TypeEngine[object]) -> str:
    return type(kind).__name__.lower()


def _without(text: str, secret: str | None) -> str:
    return text.replace(secret, "[hidden]") if secret else text
