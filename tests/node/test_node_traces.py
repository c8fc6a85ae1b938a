"""Traces: what spans say, and that they arrive at a collector that speaks OTLP over HTTP."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from unseen.errors import UsageError
from unseen.ids import JobId, PartyId, StepId
from unseen.node.folder import Node
from unseen.node.http.journal import Answered
from unseen.node.start import open_node, serving_people
from unseen.node.traces import ENDPOINTS, Traces, open_traces
from unseen.node.watching import Cost, Result, Run, tell
from unseen.trust.agreement import ProjectId

BANK, ALIGN, TRAIN = PartyId("bank"), StepId("align"), StepId("train")
RUN = Run(JobId("job-1"), ProjectId("credit"), 2, {ALIGN: "psi_join", TRAIN: "logistic_regression"})
LEAVE = {"step": "align", "what": "leave", "seconds": 1.5, "bytes_sent": 10, "bytes_received": 20, "note": ""}


@pytest.fixture
def kept() -> tuple[Traces, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Traces(provider), exporter


def test_a_run_has_a_span_with_its_steps_in_it(kept, caplog) -> None:
    caplog.set_level(logging.INFO)
    traces, exporter = kept
    traces.run_began(RUN)
    tell((traces,), RUN, {"step": "align", "what": "enter"})
    tell((traces,), RUN, {"step": "align", "what": "progress", "note": "row 7"})
    tell((traces,), RUN, LEAVE)
    traces.step_began(RUN, TRAIN)
    traces.run_ended(RUN, Result.LOST)
    (line,) = caplog.records
    assert (line.getMessage(), line.step, line.component, line.milliseconds) == (
        "step align is over",
        "align",
        "psi_join",
        1500,
    )
    align, train, job = exporter.get_finished_spans()
    assert [span.name for span in (align, train, job)] == ["step psi_join", "step logistic_regression", "job"]
    assert {align.parent.span_id, train.parent.span_id} == {job.context.span_id}
    assert job.parent is None
    assert dict(job.attributes) == {
        "unseen.job": "job-1",
        "unseen.project": "credit",
        "unseen.attempt": 2,
        "unseen.result": "lost",
    }
    assert dict(align.attributes) == {
        "unseen.job": "job-1",
        "unseen.project": "credit",
        "unseen.step": "align",
        "unseen.component": "psi_join",
        "unseen.bytes_sent": 10,
        "unseen.bytes_received": 20,
        "unseen.reused": False,
    }
    assert [span.status.status_code for span in (align, train, job)] == [StatusCode.UNSET, *[StatusCode.ERROR] * 2]


def test_a_request_has_a_span_of_its_own_whatever_else_is_traced_in_the_process(kept) -> None:
    traces, exporter = kept
    with trace.use_span(trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True))):
        traces.answered(Answered("r1", "GET", "/api/v1/people/{name}", 500, "ann", 1000.0, 0.25))
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.parent, span.status.status_code) == ("GET /api/v1/people/{name}", None, StatusCode.ERROR)
    assert (span.start_time, span.end_time) == (1_000_000_000_000, 1_000_250_000_000)
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "http.route": "/api/v1/people/{name}",
        "http.response.status_code": 500,
        "unseen.request": "r1",
    }


@pytest.mark.parametrize(
    "event",
    [
        {"step": "align", "what": "leave"},
        {"step": "elsewhere", "what": "enter"},
        {"step": ["align"], "what": "enter"},
        {"what": "leave"},
        {**LEAVE, "seconds": float("nan"), "bytes_sent": -1, "bytes_received": "9"},
        {**LEAVE, "seconds": 10**400, "bytes_sent": 2**63, "bytes_received": None},
    ],
)
def test_what_a_worker_says_is_not_believed(kept, event) -> None:
    traces, exporter = kept
    costs = []
    traces.run_began(RUN)
    traces.step_began(RUN, ALIGN)

    class Keeper(Traces):
        def __init__(self) -> None:
            pass

        def step_ended(self, run: Run, step: StepId, cost: Cost) -> None:
            costs.append(cost)

    tell((traces, Keeper()), RUN, event)
    traces.run_ended(RUN, Result.DONE)
    assert {span.name for span in exporter.get_finished_spans()} == {"step psi_join", "job"}
    assert all(cost == Cost(0.0, 0, 0, reused=False) for cost in costs)


class _Collector(BaseHTTPRequestHandler):
    def do_POST(self) -> None:  # the library's name
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.got.append((self.path, self.headers["x-tenant"], ExportTraceServiceRequest.FromString(body)))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Collector) as server:
        server.got = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_spans_arrive_at_the_collector_that_the_environment_names(collector, monkeypatch) -> None:
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=bank",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    traces = open_traces(BANK, environment)
    assert traces is not None
    traces.run_began(RUN)
    tell((traces,), RUN, {"step": "align", "what": "enter"})
    tell((traces,), RUN, LEAVE)
    traces.run_ended(RUN, Result.DONE)
    traces.close()
    ((path, tenant, request),) = collector.got
    (resources,) = request.resource_spans
    said = {entry.key: entry.value.string_value for entry in resources.resource.attributes}
    assert (path, tenant) == ("/v1/traces", "bank")
    assert (said["service.name"], said["service.instance.id"]) == ("unseen-node", "bank")
    assert said["deployment.environment.name"] == "test"
    spans = [span for scope in resources.scope_spans for span in scope.spans]
    assert [span.name for span in spans] == ["step psi_join", "job"]
    assert spans[0].parent_span_id == spans[1].span_id


def test_a_node_that_runs_sends_traces_and_shows_figures_to_whoever_its_environment_says(
    collector, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("UNSEEN_NODE_HTTP", "127.0.0.1:0")
    monkeypatch.setenv("UNSEEN_NODE_METRICS_TOKEN", "a token of sixteen")
    Node.create(tmp_path / "node", BANK, None, datetime.now(UTC))
    with open_node(tmp_path / "node") as running, serving_people(running) as url:
        ready = httpx2.get(f"{url}/readyz", headers={"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})
        figures = httpx2.get(f"{url}/metrics", headers={"authorization": "Bearer a token of sixteen"})
    assert ready.json() == {"status": "ready", "store": "ok", "disk": "ok", "certificate": "ok"}
    assert "unseen_disk_free_bytes" in figures.text
    assert 'unseen_http_requests_total{method="GET",route="/readyz",status="200"} 1.0' in figures.text
    (resources,) = collector.got[0][2].resource_spans
    spans = [span for scope in resources.scope_spans for span in scope.spans]
    assert [span.name for span in spans] == ["GET /readyz", "GET /metrics"]
    assert {span.parent_span_id for span in spans} == {b""}
    assert bytes.fromhex("1" * 32) not in {span.trace_id for span in spans}, "what a request brings is not taken over"


def test_a_node_ends_although_its_collector_is_not_there(monkeypatch) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    traces = open_traces(BANK, environment)
    assert traces is not None
    traces.answered(Answered("r1", "GET", "/healthz", 200, None, 1000.0, 0.25))
    closing = threading.Thread(target=traces.close)
    closing.start()
    closing.join(20)
    assert not closing.is_alive()


def test_without_a_collector_there_are_no_traces_and_without_the_package_an_error_says_what_to_do(monkeypatch) -> None:
    assert open_traces(BANK, {}) is None
    assert open_traces(BANK, {ENDPOINTS[1]: ""}) is None
    for module in [name for name in sys.modules if name.startswith("opentelemetry.sdk")]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT asks .*: pip install 'unseen\[otel\]'"):
        open_traces(BANK, {ENDPOINTS[1]: "http://collector:4318"})
    with pytest.raises(UsageError, match="OTEL_EXPORTER_OTLP_PROTOCOL is grpc: traces go by http/protobuf only"):
        open_traces(BANK, {ENDPOINTS[1]: "http://collector:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
