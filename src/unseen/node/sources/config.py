"""Settings of sources: where they are and what of them may be taken; no password is among them."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

SourceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]


class SourceKind(enum.StrEnum):
    """What a source is."""

    POSTGRESQL = "postgresql"
    MYSQL = "mysql"
    S3 = "s3"


_SCHEMES = {
    "postgresql": SourceKind.POSTGRESQL,
    "mysql": SourceKind.MYSQL,
    "mariadb": SourceKind.MYSQL,
    "s3": SourceKind.S3,
}
_SOCKET = {SourceKind.POSTGRESQL: "host", SourceKind.MYSQL: "unix_socket"}
_HERE = frozenset({"localhost", "127.0.0.1", "::1", None})


class SourceConfig(BaseModel):
    """A database, or a bucket's prefix, whose tables data owners may import."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str
    """``postgresql://USER@HOST/DATABASE``, ``mysql://USER@HOST/`` or ``s3://BUCKET/PREFIX/``."""
    schemas: tuple[str, ...] = ()
    """Of a database: those whose tables may be taken; all others are out of reach."""
    password_file: Path | None = None
    """Readable for its owner only; relative to the folder."""
    tls: bool = True
    """Whether a database on another machine is reached by TLS only, and its certificate checked."""
    authority: Path | None = None
    """PEM file with the certificate behind the database's TLS, if the system does not know it."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            parts = self._parts
            port_is_one = parts.port is None or parts.port > 0
        except ValueError:
            port_is_one = False
        if not port_is_one or parts.scheme not in _SCHEMES or parts.fragment:
            raise ValueError("url: expected postgresql://USER@HOST/DATABASE, mysql://USER@HOST/ or s3://BUCKET/PREFIX/")
        if parts.password is not None:
            raise ValueError("url: holds a password: put it into a file, and name that by password_file")
        if self.kind is SourceKind.S3:
            self._check_bucket()
        else:
            self._check_database()
        return self

    @property
    def kind(self) -> SourceKind:
        """What the URL says that the source is."""
        return _SCHEMES[self._parts.scheme]

    @property
    def is_here(self) -> bool:
        """Whether a database is on this machine, so that nobody is on the way to it."""
        return self._parts.hostname in _HERE

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self._parts.netloc

    @property
    def prefix(self) -> str:
        """What the key of each object of the source begins with; empty, or with a ``/`` at its end."""
        path = self._parts.path.strip("/")
        return f"{path}/" if path else ""

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)

    def _check_bucket(self) -> None:
        parts = self._parts
        if not parts.netloc or not set(parts.netloc) <= _OF_BUCKETS or parts.query:
            raise ValueError("url: expected s3://BUCKET/PREFIX/, without credentials, port or query")
        if self.schemas or self.password_file or self.authority or not self.tls:
            raise ValueError("schemas, password_file, tls and authority are of databases; S3 has AWS's own settings")

    def _check_database(self) -> None:
        socket = _SOCKET[self.kind]
        query = parse_qsl(self._parts.query, keep_blank_values=True)
        if any(key != socket or not value.startswith("/") for key, value in query) or (query and not self.is_here):
            raise ValueError(f"url: its query may name a socket of this machine, ?{socket}=/PATH, and nothing else")
        if not self.schemas:
            raise ValueError("schemas: name those whose tables may be taken")
        if any(not schema or "." in schema for schema in self.schemas):
            raise ValueError("schemas: expected names without a dot")


_OF_BUCKETS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")
