"""What is noted of requests: a line, figures, an id; and no secret in logs, errors or values, whatever the route."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import threading
from collections.abc import Iterator

import pytest
from fastapi.routing import APIRoute
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.testclient import TestClient
from tests.node.http.conftest import NAMES, PASSWORD
from tests.node.organisations import BANK, INSURER, small_flow

from unseen.client import Client
from unseen.node.domain import Duty
from unseen.node.http import jobs as jobs_module
from unseen.node.http.app import PREFIX, make_app
from unseen.node.http.guard import HttpSettings
from unseen.node.http.journal import Answered
from unseen.node.http.serve import serving
from unseen.node.http.services import SetUpToken
from unseen.node.logs import FIELDS, JsonLines, Redactor

CREDIT = f"{PREFIX}/projects/credit"
FILL = {
    "project": "credit",
    "job": "job-1",
    "name": "customers",
    "version": "1",
    "result": "read.table",
    "source": "crm",
    "pairing": "1",
    "partner": "insurer",
}


class Lines(logging.Handler):
    """Keeps lines as a node writes them."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonLines(Redactor()))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith("httpx"):  # the other side
            self.lines.append(self.format(record))

    def accesses(self) -> list[dict[str, object]]:
        return [line for line in map(json.loads, self.lines) if line["logger"] == "unseen.node.http.access"]


@pytest.fixture
def log() -> Iterator[Lines]:
    lines, root = Lines(), logging.getLogger()
    before = root.level
    root.addHandler(lines)
    root.setLevel(logging.DEBUG)
    yield lines
    root.removeHandler(lines)
    root.setLevel(before)


def test_every_request_is_a_line_with_the_template_of_its_route_and_the_id_of_its_answer(allied, log) -> None:
    analyst = allied.of(Duty.ANALYST)
    answers = [
        analyst.get(CREDIT),
        analyst.get(f"{PREFIX}/people"),
        allied.client().get(f"{PREFIX}/tables?token=hunter2"),
        allied.client().get("/nowhere/hunter2"),
        allied.client().request("HUNT", "/healthz"),
        allied.client().get("/healthz", headers={"host": "hunter2.example"}),
    ]
    found = log.accesses()[-6:]
    assert [line["request"] for line in found] == [answer.headers["x-request-id"] for answer in answers]
    assert [(line["method"], line["route"], line["status"], line.get("person")) for line in found] == [
        ("GET", f"{PREFIX}/projects/{{project}}", 200, "analyst"),
        ("GET", f"{PREFIX}/people", 403, "analyst"),
        ("GET", f"{PREFIX}/tables", 401, None),
        ("GET", "none", 404, None),
        ("OTHER", "/healthz", 405, None),
        ("GET", "none", 403, None),
    ]
    assert all(isinstance(line["milliseconds"], float) and line["milliseconds"] >= 0 for line in found)
    assert "hunter2" not in "".join(log.lines)
    assert set(found[0]) <= {*FIELDS, "time", "level", "logger", "message"}


def test_lines_that_a_request_brings_about_have_its_id(staffed, log) -> None:
    body = {"name": "eve", "password": PASSWORD, "duties": ["analyst"]}
    name = staffed.of(Duty.ADMIN).post(f"{PREFIX}/people", json=body).headers["x-request-id"]
    about = [line for line in map(json.loads, log.lines) if line.get("request") == name]
    assert [line["logger"] for line in about] == ["unseen.node.http.people", "unseen.node.http.access"]


def test_an_id_that_a_request_brings_along_is_not_taken(bare, log) -> None:
    forged = 'forged"\r\n{"level":'
    answer = bare.client().get("/healthz", headers={"x-request-id": forged.encode("unicode_escape")})
    assert re.fullmatch(r"[0-9a-f]{16}", answer.headers["x-request-id"])
    assert "forged" not in "".join(log.lines)


def test_figures_of_requests_and_jobs_have_few_labels(allied, log) -> None:
    analyst = allied.of(Duty.ANALYST)
    job = analyst.post(f"{CREDIT}/jobs", json={"flow": small_flow(BANK, INSURER)}).json()["job"]
    analyst.post(f"{CREDIT}/jobs/{job}/cancellation", json={"reason": "over"})
    for number in range(5):
        allied.client().get(f"/nowhere/{number}")
        allied.client().request(f"HUNT{number}", "/")
    text = allied.client().get("/metrics", headers={"authorization": "Bearer scrape"}).text
    assert 'unseen_http_requests_total{method="GET",route="none",status="404"} 5.0' in text
    assert 'unseen_http_requests_total{method="OTHER",route="none",status="404"} 5.0' in text
    assert 'unseen_jobs_ended_total{result="cancelled"} 1.0' in text
    assert 'unseen_jobs_ended_total{result="failed"} 0.0' in text
    assert 'unseen_letters_waiting{partner="insurer"}' in text
    (ended,) = [line for line in map(json.loads, log.lines) if line["logger"] == "unseen.node.books"]
    assert (ended["message"], ended["job"], ended["project"]) == (f"job {job}: cancelled", job, "credit")
    assert 'unseen_partner_bytes_total{direction="received",partner="insurer"} 2.0' in text
    size = re.search(r"^unseen_store_bytes (\S+)", text, re.MULTILINE)
    assert size is not None
    assert float(size[1]) >= 4096
    assert job not in text
    assert "analyst" not in text


def test_the_framework_makes_no_traces_of_its_own_whatever_the_environment_asks_for(bare, monkeypatch) -> None:
    """Its spans have paths, queries and the words of errors."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    with TestClient(make_app(bare.services), base_url="http://localhost") as client:
        assert client.get("/healthz?token=hunter2").status_code == 200
    assert exporter.get_finished_spans() == ()


# --- secrets


def test_secrets_appear_in_no_log_and_no_answer_whatever_the_route(allied, log, tmp_path) -> None:
    """Planted where people err: in headers, cookies, queries, bodies; and an answer shows only what it is for."""
    set_up, password = SetUpToken(tmp_path).write(), "hunter2hunter2hunter2"
    session = allied.of(Duty.ADMIN).headers["authorization"].partition(" ")[2]
    body = {"password": password, "token": set_up, "old": password, "reason": 7, "duties": password, "flow": password}
    seen = 0
    clients = [allied.client(), *(allied.of(duty) for duty in Duty)]
    for route in allied.app.routes:
        if not isinstance(route, APIRoute) or route.path == f"{PREFIX}/session":
            continue
        for client in clients:
            for method in route.methods or ():
                answer = client.request(
                    method,
                    route.path.format(**FILL),
                    json=body,
                    params={"token": set_up, "password": password},
                    headers={"cookie": f"unseen_session={session}", "x-secret": set_up},
                )
                seen += 1
                for secret in (set_up, password, session):
                    assert secret not in answer.text, (method, route.path)
    assert seen >= 200
    text = "\n".join(log.lines)
    for secret in (set_up, password, session, PASSWORD):
        assert secret not in text


def test_signing_in_and_setting_up_log_nothing_of_what_they_took_and_gave(bare, log) -> None:
    client = bare.client()
    first = {"token": bare.set_up, "name": "root", "password": PASSWORD}
    assert client.post(f"{PREFIX}/setup", json=first | {"token": "wrong"}).status_code == 403
    assert client.post(f"{PREFIX}/setup", json=first).status_code == 201
    refused = client.post(f"{PREFIX}/session", json={"name": "root", "password": "hunter2hunter2"})
    token = client.post(f"{PREFIX}/session", json={"name": "root", "password": PASSWORD}).json()["token"]
    assert "hunter2" not in refused.text
    text = "\n".join(log.lines)
    for secret in (bare.set_up, PASSWORD, "hunter2", token):
        assert secret not in text


def test_an_error_that_nobody_expected_is_logged_without_secrets_and_answered_without_words(staffed, log) -> None:
    def fails() -> None:
        raise RuntimeError("postgresql://unseen:hunter2@db is gone; Bearer hunter2")

    staffed.services.catalogue.all = fails  # type: ignore[method-assign]
    owner = staffed.of(Duty.DATA_OWNER)
    client = TestClient(staffed.app, base_url="http://localhost", raise_server_exceptions=False)
    answer = client.get(f"{PREFIX}/tables", headers={"authorization": owner.headers["authorization"]})
    assert (answer.status_code, "hunter2" in answer.text) == (500, False)
    (broken,) = [line for line in map(json.loads, log.lines) if line["message"] == "request broke down"]
    assert broken["request"] == answer.headers["x-request-id"]
    assert "RuntimeError" in broken["error"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert log.accesses()[-1]["status"] == 500
    assert "hunter2" not in "".join(log.lines)


def test_values_that_hold_secrets_do_not_show_them(staffed) -> None:
    session = staffed.services.people.sign_in(NAMES[Duty.ADMIN], PASSWORD)
    assert session.token not in repr(session)
    assert "scrape" not in repr(HttpSettings(metrics_token="scrape"))
    assert "scrape" not in repr(staffed.app.state.settings)
    assert staffed.set_up not in repr(staffed.services)


# --- ends


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(jobs_module, "_LOOK_SECONDS", 0.01)


def test_a_node_that_stops_ends_the_streams_of_those_who_watch(allied, quick, log) -> None:
    analyst = allied.of(Duty.ANALYST)
    job = analyst.post(f"{CREDIT}/jobs", json={"flow": small_flow(BANK, INSURER)}).json()["job"]
    token, seen, first = analyst.headers["authorization"].partition(" ")[2], [], threading.Event()

    def watch(url: str) -> None:
        with Client(url, token) as client:
            for event in client.events("credit", job):
                seen.append(event["state"])
                first.set()

    with serving(allied.app, "127.0.0.1:0") as (host, port):
        watching = threading.Thread(target=watch, args=(f"http://{host}:{port}",))
        watching.start()
        assert first.wait(20)
    watching.join(20)
    assert seen == ["proposed"]
    assert log.accesses()[-1]["route"].endswith("/events")
    assert [line for line in map(json.loads, log.lines) if "error" in line or line["level"] == "ERROR"] == []


def test_what_a_stopping_node_cuts_off_is_told_so(bare, log) -> None:
    noted: list[Answered] = []
    app = make_app(bare.services, HttpSettings(), (noted.append,))

    async def cut() -> list[dict[str, object]]:
        sent: list[dict[str, object]] = []

        async def receive() -> dict[str, object]:
            await asyncio.sleep(60)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, object]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": f"{PREFIX}/session",
            "raw_path": b"",
            "query_string": b"",
            "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        }
        task = asyncio.ensure_future(app(scope, receive, send))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        task.cancel()
        await task
        return sent

    start, _ = asyncio.run(cut())
    assert start["status"] == 503
    assert [one.status for one in noted] == [503]


def test_someone_who_hangs_up_is_no_error(bare, log) -> None:
    with serving(bare.app, "127.0.0.1:0") as (host, port), socket.create_connection((host, port), timeout=20) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert line.recv(12) == b"HTTP/1.1 200"
    assert [one for one in map(json.loads, log.lines) if one["level"] in {"ERROR", "CRITICAL"}] == []
