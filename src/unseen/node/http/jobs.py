"""Routes of jobs: asked for, approved, watched, ended; and what they left at this node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, Field, JsonValue
from starlette.concurrency import run_in_threadpool

from unseen.codec import read_json
from unseen.errors import PermissionDenied, UsageError
from unseen.flow.spec import FlowSpec, parse_flow
from unseen.ids import JobId, PartyId
from unseen.node.domain import Job, JobState, Pause, Person, Right
from unseen.node.http.guard import PREFIX, Me, Needs, Places, check_project, services_of
from unseen.node.http.people import Body
from unseen.node.http.problems import NotFound, TooMany
from unseen.report.html import render
from unseen.trust.agreement import ProjectId
from unseen.trust.grant import MAX_VALIDITY, Rows

router = APIRouter(prefix=PREFIX, tags=["jobs"])
Reader = Annotated[Person, Depends(Needs(Right.SEE_JOBS))]
Proposer = Annotated[Person, Depends(Needs(Right.PROPOSE_JOBS))]
Approver = Annotated[Person, Depends(Needs(Right.APPROVE_JOBS))]
Canceller = Annotated[Person, Depends(Needs(Right.CANCEL_JOBS))]
Receiver = Annotated[Person, Depends(Needs(Right.SEE_RESULTS))]
PATH = "/projects/{project}/jobs"
_LOOK_SECONDS = 0.5
_BEAT_LOOKS = 30
_MOST_NUMBER = 10**15
"""Of what the store numbers."""
_LONGEST_NUMBER = 16
_MOST_SHOWN = 100
_MOST_HOURS = MAX_VALIDITY / timedelta(hours=1)


class Proposal(Body):
    """A job to be asked for."""

    flow: dict[str, JsonValue]
    tables: dict[str, Annotated[int, Field(ge=1, le=_MOST_NUMBER)]] = Field(default_factory=dict)
    """Own tables whose version is not to be the newest one → their version."""
    points: Rows | None = None
    """Ids that each owner evaluates for a partner, at most; as many as the tables have, if it is left out."""
    epsilon: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    delta: Annotated[float, Field(ge=0, lt=1)] = 0.0
    hours: Annotated[float, Field(gt=0, le=_MOST_HOURS)] = 12.0
    """After so many hours the job is over, finished or not."""


class Why(Body):
    """A reason, which all parties read."""

    reason: Annotated[str, Field(min_length=1, max_length=400)]


class JobShown(BaseModel):
    """A job."""

    job: JobId
    project: ProjectId
    state: JobState
    reason: str
    initiator: PartyId
    by: str
    points: int
    epsilon: float
    delta: float
    created: datetime
    changed: datetime | None
    valid_until: datetime
    order: int
    paused: tuple[Pause, ...]
    """Who holds it now, and why: nobody works on it meanwhile."""

    @classmethod
    def of(cls, job: Job) -> JobShown:
        """Return what is shown of a job."""
        return cls(**{name: getattr(job, name) for name in cls.model_fields})


_EVENTS: dict[str, Any] = {
    "description": "Events, each with a number where it can be gone on from, and with JSON as its data.",
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "properties": {"id": {"type": "string"}, "data": {"type": "string"}},
                "required": ["data"],
            }
        }
    },
}


class Events(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"


class ResultFile(FileResponse):
    """A file to be saved."""

    media_type = "application/octet-stream"


class JobWhole(JobShown):
    """A job with its flow and the tables that it names."""

    flow: dict[str, JsonValue]
    tables: tuple[dict[str, JsonValue], ...]


class ResultShown(BaseModel):
    """Something that a job left behind at this node."""

    name: str
    """STEP.PORT."""
    kind: str
    digest: str
    file: str
    """A name under which to save it."""


class ModelShown(BaseModel):
    """This node's part of a trained model."""

    job: JobId
    name: str
    """STEP.PORT, under which it is fetched as a result of the job."""
    component: str
    """What trained it."""
    kind: str
    digest: str
    trained: datetime | None


@router.get("/jobs")
def jobs(
    request: Request,
    person: Me,
    project: ProjectId | None = None,
    state: Annotated[list[JobState] | None, Query()] = None,
    before: Annotated[int | None, Query(le=_MOST_NUMBER, ge=0)] = None,
) -> list[JobShown]:
    """Return the newest jobs that one may see, those before the ``order`` given by ``before``."""
    found: list[JobShown] = []
    while page := services_of(request).jobs.all(project, state, before, _MOST_SHOWN):
        found += [JobShown.of(job) for job in page if person.may_in(Right.SEE_JOBS, job.project)]
        if len(found) >= _MOST_SHOWN:
            break
        before = page[-1].order
    return found[:_MOST_SHOWN]


@router.post(PATH, status_code=201)
def propose(request: Request, project: ProjectId, person: Proposer, body: Proposal) -> JobShown:
    """Ask all data owners for a job."""
    services = services_of(request)
    check_project(request, project)
    flow: FlowSpec = parse_flow(json.dumps(body.flow), name="flow")
    until = services.clock.now() + timedelta(hours=body.hours)
    name = services.jobs.propose(project, flow, body.tables, body.points, body.epsilon, body.delta, until, person)
    return JobShown.of(services.jobs.get(name))


@router.get(f"{PATH}/{{job}}")
def job(request: Request, project: ProjectId, job: JobId, person: Reader) -> JobWhole:
    """Return a job."""
    del person
    found = _found(request, project, job)
    tables = tuple(snapshot.model_dump(mode="json") for snapshot in found.snapshots)
    return JobWhole(**JobShown.of(found).model_dump(), flow=read_json(found.flow), tables=tables)


@router.post(f"{PATH}/{{job}}/approval")
def approve(request: Request, project: ProjectId, job: JobId, person: Approver) -> JobShown:
    """Let a job run that waits for an approval here; nobody approves what they proposed."""
    _found(request, project, job)
    return JobShown.of(services_of(request).jobs.approve(job, person))


@router.post(f"{PATH}/{{job}}/refusal")
def refuse(request: Request, project: ProjectId, job: JobId, person: Approver, body: Why) -> JobShown:
    """Refuse a job that waits for an approval here."""
    _found(request, project, job)
    services_of(request).jobs.refuse(job, body.reason, person)
    return JobShown.of(_found(request, project, job))


@router.post(f"{PATH}/{{job}}/cancellation")
def cancel(request: Request, project: ProjectId, job: JobId, person: Canceller, body: Why) -> JobShown:
    """End a job, at all parties."""
    _found(request, project, job)
    services_of(request).jobs.cancel(job, body.reason, person)
    return JobShown.of(_found(request, project, job))


@router.post(f"{PATH}/{{job}}/pause")
def pause(request: Request, project: ProjectId, job: JobId, person: Canceller, body: Why) -> JobShown:
    """Let nobody work on a job, at no party, until this node lets it go on."""
    _found(request, project, job)
    return JobShown.of(services_of(request).jobs.pause(job, body.reason, person))


@router.post(f"{PATH}/{{job}}/resumption")
def resume(request: Request, project: ProjectId, job: JobId, person: Canceller) -> JobShown:
    """Let a job go on that this node paused; others may hold it still."""
    _found(request, project, job)
    return JobShown.of(services_of(request).jobs.resume(job, person))


@router.get(f"{PATH}/{{job}}/events", response_class=Events, responses={200: _EVENTS})
def events(
    request: Request,
    project: ProjectId,
    job: JobId,
    person: Reader,
    after: Annotated[int, Query(ge=0, le=_MOST_NUMBER)] = 0,
) -> StreamingResponse:
    """Tell what happens to a job as it happens (server-sent events), until it is over or one may not see it any more.

    The stream ends as well when the node stops. A browser that was cut off says by ``Last-Event-ID`` where it goes on.
    """
    del person
    _found(request, project, job)
    if _watchers(request).full:
        raise TooMany("too many watch jobs at this moment: look at the job itself, or try again later")
    last = request.headers.get("last-event-id", "")
    start = int(last) if last.isascii() and last.isdigit() and len(last) < _LONGEST_NUMBER else after
    return Events(_told(request, project, job, start))


@router.get(f"{PATH}/{{job}}/results")
def results(request: Request, project: ProjectId, job: JobId, person: Receiver) -> list[ResultShown]:
    """Return what a finished job left behind at this node."""
    del person
    _found(request, project, job)
    return [
        ResultShown(name=name, kind=ref.kind, digest=ref.digest, file=f"{name}{path.suffix}")
        for name, (ref, path) in sorted(services_of(request).runs.result_files(job).items())
    ]


@router.get(f"{PATH}/{{job}}/results/{{result}}", response_class=ResultFile)
def result(request: Request, project: ProjectId, job: JobId, result: str, person: Receiver) -> FileResponse:
    """Return a result as a file: a table as Parquet, a document as JSON."""
    del person
    _found(request, project, job)
    runs = services_of(request).runs
    if result not in runs.results(job):
        raise NotFound(f"job {job} left no such result at this node")
    path = runs.result_file(job, result)
    return ResultFile(path, media_type=ResultFile.media_type, filename=f"{result}{path.suffix}")


@router.get(f"{PATH}/{{job}}/report")
def report(request: Request, project: ProjectId, job: JobId, person: Receiver) -> Response:
    """Return what a finished job left behind at this node as a page, to be saved."""
    del person
    _found(request, project, job)
    page = render(services_of(request).runs.report(job))
    return Response(page, media_type="text/html", headers={"content-disposition": f'attachment; filename="{job}.html"'})


@router.get("/projects/{project}/models")
def models(request: Request, project: ProjectId, person: Receiver) -> list[ModelShown]:
    """Return this node's parts of the models that finished jobs have trained, the newest first."""
    del person
    check_project(request, project)
    return [
        ModelShown(
            job=model.job.job,
            name=model.output,
            component=model.component,
            kind=model.ref.kind,
            digest=model.ref.digest,
            trained=model.job.changed,
        )
        for model in services_of(request).runs.models(project)
    ]


def _found(request: Request, project: ProjectId, job: JobId) -> Job:
    """Return a job, if it is one of this project; the caller's right was checked for this project alone."""
    try:
        found = services_of(request).jobs.get(job)
    except UsageError:
        found = None
    if found is None or found.project != project:
        raise NotFound(f"there is no job {job} in project {project}")
    return found


def _watchers(request: Request) -> Places:
    watchers: Places = request.app.state.watchers
    return watchers


async def _told(request: Request, project: ProjectId, job: JobId, after: int) -> AsyncIterator[str]:
    looks, shown = 0, None
    with _watchers(request).place():
        while not (request.app.state.stopping.is_set() or await request.is_disconnected()):
            seen = await run_in_threadpool(_look, request, project, job, after)
            if seen is None:
                return
            found, news = seen
            for number, event in news:
                after = number
                yield _event(event, number)
            standing = {"state": found.state, "reason": found.reason, "paused": [held.party for held in found.paused]}
            if standing != shown:
                shown = standing
                yield _event({"what": "state", **standing})
            if found.state.is_over:
                return
            looks += 1
            if looks % _BEAT_LOOKS == 0:
                yield ": still here\n\n"
            await asyncio.sleep(_LOOK_SECONDS)


def _look(request: Request, project: ProjectId, job: JobId, after: int) -> tuple[Job, _Numbered] | None:
    """Return a job and what is new of it; ``None`` if the caller may not see it any more."""
    try:
        _may_watch(request)
    except PermissionDenied:
        return None
    try:
        found, news = services_of(request).jobs.news(job, after)
    except UsageError:  # it was purged
        return None
    return (found, news) if found.project == project else None


_may_watch = Needs(Right.SEE_JOBS)
_Numbered: TypeAlias = tuple[tuple[int, Mapping[str, object]], ...]


def _event(facts: Mapping[str, object], number: int | None = None) -> str:
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}data: {json.dumps(facts)}\n\n"
