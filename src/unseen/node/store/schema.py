"""The tables of a node's database; the migrations lead to exactly these."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sql

from unseen.errors import LocalProtocolError

metadata = sql.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Moment(sql.TypeDecorator[datetime]):
    """A moment in UTC; SQLite keeps no zone."""

    impl = sql.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: object) -> datetime | None:
        """Return what is written."""
        del dialect
        if value is not None and value.tzinfo is None:
            raise LocalProtocolError(f"{value} names no zone: it is no moment")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: object) -> datetime | None:
        """Return what was written."""
        del dialect
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


def _text(name: str, *more: object, **options: object) -> sql.Column[str]:
    return sql.Column(name, sql.Text, *more, nullable=False, **options)  # type: ignore[arg-type]


people = sql.Table(
    "people",
    metadata,
    _text("name", primary_key=True),
    _text("password"),
    sql.Column("duties", sql.JSON, nullable=False),
    sql.Column("projects", sql.JSON, nullable=False),
    sql.Column("created", Moment, nullable=False),
    sql.Column("active", sql.Boolean, nullable=False),
    sql.Column("changed", Moment),
)
sessions = sql.Table(
    "sessions",
    metadata,
    _text("token", primary_key=True),
    sql.Column("person", sql.Text, sql.ForeignKey("people.name"), nullable=False, index=True),
    sql.Column("until", Moment, nullable=False),
)
links = sql.Table(
    "links",
    metadata,
    sql.Column("person", sql.Text, sql.ForeignKey("people.name"), primary_key=True),
    _text("issuer"),
    _text("subject"),
    sql.UniqueConstraint("issuer", "subject"),
)
devices = sql.Table(
    "devices",
    metadata,
    _text("token", primary_key=True),
    sql.Column("person", sql.Text, sql.ForeignKey("people.name"), nullable=False, index=True),
    sql.Column("until", Moment, nullable=False),
)
tables = sql.Table(
    "tables",
    metadata,
    _text("name", primary_key=True),
    sql.Column("version", sql.Integer, primary_key=True, autoincrement=False),
    _text("digest", index=True),
    _text("schema_digest"),
    sql.Column("rows", sql.BigInteger, nullable=False),
    sql.Column("columns", sql.JSON, nullable=False),
    _text("origin"),
    _text("person"),
    sql.Column("created", Moment, nullable=False),
    sql.Column("retired", sql.Boolean, nullable=False),
)
projects = sql.Table(
    "projects",
    metadata,
    _text("name", primary_key=True),
    sql.Column("pending", sql.LargeBinary),
    sql.Column("policy", sql.Text),
)
versions = sql.Table(
    "versions",
    metadata,
    sql.Column("project", sql.Text, sql.ForeignKey("projects.name"), primary_key=True),
    sql.Column("version", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("frame", sql.LargeBinary, nullable=False),
)
revocations = sql.Table(
    "revocations",
    metadata,
    sql.Column("number", sql.Integer, primary_key=True),
    sql.Column("project", sql.Text, sql.ForeignKey("projects.name"), nullable=False, index=True),
    sql.Column("frame", sql.LargeBinary, nullable=False),
)
jobs = sql.Table(
    "jobs",
    metadata,
    sql.Column("number", sql.Integer, primary_key=True),
    _text("job", unique=True),
    _text("project", index=True),
    _text("initiator"),
    _text("flow"),
    sql.Column("snapshots", sql.JSON, nullable=False),
    sql.Column("points", sql.BigInteger, nullable=False),
    sql.Column("epsilon", sql.Float, nullable=False),
    sql.Column("delta", sql.Float, nullable=False),
    sql.Column("valid_until", Moment, nullable=False),
    sql.Column("created", Moment, nullable=False),
    _text("person"),
    _text("state", index=True),
    _text("reason"),
    sql.Column("changed", Moment),
    sql.Column("worker", sql.Text),
    sql.Column("fence", sql.BigInteger, nullable=False),
    sql.Column("leased_until", Moment),
)
grants = sql.Table(
    "grants",
    metadata,
    sql.Column("job", sql.Text, sql.ForeignKey("jobs.job"), primary_key=True),
    _text("issuer", primary_key=True),
    sql.Column("frame", sql.LargeBinary, nullable=False),
)
pauses = sql.Table(
    "pauses",
    metadata,
    sql.Column("job", sql.Text, sql.ForeignKey("jobs.job"), primary_key=True),
    _text("party", primary_key=True),
    _text("reason"),
    sql.Column("since", Moment, nullable=False),
)
"""Of jobs that are not over."""
steps = sql.Table(
    "steps",
    metadata,
    sql.Column("job", sql.Text, sql.ForeignKey("jobs.job"), primary_key=True),
    _text("step", primary_key=True),
    _text("state"),
    _text("facts"),
)
outbox = sql.Table(
    "outbox",
    metadata,
    _text("peer", primary_key=True),
    sql.Column("number", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("body", sql.LargeBinary, nullable=False),
)
inbox = sql.Table(
    "inbox",
    metadata,
    _text("peer", primary_key=True),
    sql.Column("number", sql.BigInteger, primary_key=True, autoincrement=False),
    _text("digest"),
)
posted = sql.Table(
    "posted",
    metadata,
    _text("peer", primary_key=True),
    sql.Column("number", sql.BigInteger, nullable=False),
)
lines = sql.Table(
    "lines",
    metadata,
    _text("log", primary_key=True),
    sql.Column("number", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("line", sql.LargeBinary, nullable=False),
)
recovering = sql.Table(
    "recovering",
    metadata,
    _text("peer", primary_key=True),
    sql.Column("since", Moment, nullable=False),
    sql.Column("counted", sql.Boolean, nullable=False),
    sql.Column("compared", sql.Boolean, nullable=False),
)
