"""Routes of the organisation's own databases and buckets, from which tables are imported by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from unseen.node.http.guard import PREFIX, Places, services_of
from unseen.node.http.problems import NotFound, TooMany
from unseen.node.http.tables import How, Imported, Owner
from unseen.node.sources.config import SourceKind
from unseen.privacy.facts import TableId

router = APIRouter(prefix=PREFIX, tags=["sources"])
Name = Annotated[str, Field(max_length=1024)]


class SourceShown(BaseModel):
    """A source, as data owners see it: not where it is."""

    name: str
    kind: SourceKind


class SourceTable(BaseModel):
    """A table of a source."""

    table: str


class FromSource(How):
    """Which table of a source becomes a table here, and how."""

    source: Name
    table: Name
    """``SCHEMA.TABLE`` of a database; the key of an object, without the source's prefix."""
    columns: Annotated[tuple[Name, ...], Field(max_length=20_000)] = ()
    """Those that are taken; all of them, if nothing is said."""


@router.get("/sources")
def sources(request: Request, person: Owner) -> list[SourceShown]:
    """Return the sources that whoever runs the node has configured."""
    del person
    return [SourceShown(name=name, kind=one.kind) for name, one in services_of(request).sources.all().items()]


@router.get("/sources/{source}/tables")
async def source_tables(request: Request, source: str, person: Owner) -> list[SourceTable]:
    """Return the tables of a source that may be imported."""
    del person
    found = services_of(request).sources
    if source not in found.all():
        raise NotFound(f"there is no source called {source[:64]!r} here")
    with _place(request):
        return [SourceTable(table=name) for name in await run_in_threadpool(found.tables, source)]


@router.post("/tables/{name}/versions/from-source", status_code=201)
async def import_from_source(request: Request, name: str, person: Owner, wanted: FromSource) -> Imported:
    """Import a table of a source as the next version of a table here."""
    how = wanted.as_import(wanted.source, wanted.columns)
    add, table_name = services_of(request).sources.add, TableId(name)
    with _place(request):
        table, report = await run_in_threadpool(add, table_name, wanted.source, wanted.table, how, person)
    return Imported.of(table, report)


@contextmanager
def _place(request: Request) -> Iterator[None]:
    """Take one of the places for files that come in; a source may be slow, and takes a thread meanwhile."""
    places: Places = request.app.state.uploads
    if places.full:
        raise TooMany("other tables come in at this moment: try again when they are there")
    with places.place():
        yield
