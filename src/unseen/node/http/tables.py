"""Routes of the node's own tables."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from unseen.catalog.read_table import ImportSummary
from unseen.data.import_report import ImportReport
from unseen.data.schema import Kind, Role
from unseen.node.domain import CatalogueTable, Person, Right
from unseen.node.http.guard import PREFIX, Needs, Places, services_of
from unseen.node.http.people import Body
from unseen.node.http.problems import NotFound, TooMany
from unseen.node.usecases.catalogue import ColumnProfile, Import
from unseen.privacy.facts import TableId

Version = Annotated[int, Path(ge=1, le=2**31 - 1)]
"""A number that the store knows how to look for."""
router = APIRouter(prefix=f"{PREFIX}/tables", tags=["tables"])
Reader = Annotated[Person, Depends(Needs(Right.SEE_TABLES))]
Owner = Annotated[Person, Depends(Needs(Right.MANAGE_TABLES))]


_FILE = {
    "description": "A CSV or Parquet file.",
    "required": True,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


class How(Body):
    """How a file becomes a table; the readers say what is found where nothing is said."""

    id: str | None = None
    label: str | None = None
    weight: str | None = None
    text: tuple[str, ...] = ()
    """Columns that are text, whatever their cells look like: telephone numbers, postcodes."""
    leave_out: tuple[str, ...] = ()
    repeated_ids: bool = False
    lenient: bool = False

    def roles(self) -> Mapping[str, Role]:
        """Return the roles that are said."""
        said = ((self.id, Role.ID), (self.label, Role.LABEL), (self.weight, Role.WEIGHT))
        return {name: role for name, role in said if name is not None}

    def as_import(self, origin: str, only: tuple[str, ...] = ()) -> Import:
        """Return what the catalogue is told."""
        kinds = dict.fromkeys(self.text, Kind.TEXT)
        return Import(origin[:200], self.roles(), kinds, self.leave_out, self.repeated_ids, self.lenient, only)


class HowUploaded(How):
    """How an uploaded file becomes a table."""

    origin: str = "upload"


class ColumnShown(BaseModel):
    """A column of a table."""

    name: str
    kind: str
    role: Role | None


class TableShown(BaseModel):
    """A version of a table."""

    name: str
    version: int
    rows: int
    columns: tuple[ColumnShown, ...]
    digest: str
    schema_digest: str
    origin: str
    by: str
    created: datetime
    retired: bool

    @classmethod
    def of(cls, table: CatalogueTable) -> TableShown:
        """Return what is shown of a table."""
        columns = tuple(ColumnShown(name=one.name, kind=one.kind, role=one.role) for one in table.columns)
        return cls(
            name=table.name,
            version=table.version,
            rows=table.rows,
            columns=columns,
            digest=table.digest,
            schema_digest=table.schema_digest,
            origin=table.origin,
            by=table.by,
            created=table.created,
            retired=table.retired,
        )


class Imported(BaseModel):
    """A table that was imported, and what the import found."""

    table: TableShown
    report: ImportSummary
    """Counts and places, no cells."""

    @classmethod
    def of(cls, table: CatalogueTable, report: ImportReport) -> Imported:
        """Return what is told of an import."""
        return cls(table=TableShown.of(table), report=ImportSummary.of(report))


@router.get("")
def tables(request: Request, person: Reader) -> list[TableShown]:
    """Return all versions of all tables."""
    del person
    return [TableShown.of(table) for table in services_of(request).catalogue.all()]


@router.post("/{name}/versions", status_code=201, openapi_extra={"requestBody": _FILE})
async def upload(request: Request, name: str, person: Owner, how: Annotated[HowUploaded, Query()]) -> Imported:
    """Import the body, a CSV or Parquet file, as the next version of a table."""
    uploads: Places = request.app.state.uploads
    if uploads.full:
        raise TooMany("other files come in at this moment: try again when they are there")
    table_name, catalogue = TableId(name), services_of(request).catalogue
    with uploads.place(), catalogue.room() as folder:
        path = folder / "upload"
        with path.open("wb") as file:
            async for piece in request.stream():
                await run_in_threadpool(file.write, piece)
        table, report = await run_in_threadpool(catalogue.add, table_name, path, how.as_import(how.origin), person)
    return Imported.of(table, report)


@router.get("/{name}/versions/{version}")
def table(request: Request, name: str, version: Version, person: Reader) -> TableShown:
    """Return a version of a table."""
    del person
    return TableShown.of(_found(request, name, version))


@router.get("/{name}/versions/{version}/profile")
def profile(request: Request, name: str, version: Version, person: Owner) -> list[ColumnProfile]:
    """Return figures of the columns, for those who look after the data."""
    del person
    return list(services_of(request).catalogue.profile(_found(request, name, version)))


@router.delete("/{name}/versions/{version}")
def retire(request: Request, name: str, version: Version, person: Owner) -> TableShown:
    """Take a version out of use; no job starts with it any more."""
    del person
    _found(request, name, version)
    return TableShown.of(services_of(request).catalogue.retire(name, version))


def _found(request: Request, name: str, version: int) -> CatalogueTable:
    found = services_of(request).catalogue.version(name, version)
    if found is None:
        raise NotFound(f"there is no version {version} of a table called {name[:64]!r} here")
    return found
