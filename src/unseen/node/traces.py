"""Traces of requests, jobs and steps for OpenTelemetry, if the environment names a collector (OTLP over HTTP).

A span says which route or component it was, how long it took, how it ended, and which job, project, step or request it
belongs to: no rows, people, paths, queries or words of errors. Every node makes traces of its own; nothing of them goes
to partners, nor is anything taken over from a request.

The package is loaded when traces are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from unseen.errors import UsageError
from unseen.ids import JobId, PartyId, StepId
from unseen.node.http.journal import Answered
from unseen.node.watching import Cost, Result, Run
from unseen.version import VERSION

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"
_BROKE = 500
_NANO = 1_000_000_000


def open_traces(name: PartyId, environment: Mapping[str, str]) -> Traces | None:
    """Return what keeps the traces of a node, ``None`` if no collector is named.

    Raises:
        UsageError: OpenTelemetry is not installed, or is to speak something else than OTLP over HTTP.
    """
    asked = next((variable for variable in ENDPOINTS if environment.get(variable)), None)
    if asked is None:
        return None
    for variable in _PROTOCOLS:
        if environment.get(variable, _SPOKEN) != _SPOKEN:
            raise UsageError(f"{variable} is {environment[variable]}: traces go by {_SPOKEN} only")
    trace, export = _loaded("opentelemetry.sdk.trace", asked), _loaded("opentelemetry.sdk.trace.export", asked)
    exporter = _loaded("opentelemetry.exporter.otlp.proto.http.trace_exporter", asked)
    provider = trace.TracerProvider(resource=_resource(name, environment), shutdown_on_exit=False)
    provider.add_span_processor(export.BatchSpanProcessor(exporter.OTLPSpanExporter()))
    return Traces(provider)


class Traces:
    """The spans of a node: a ``Watcher``, and a ``Note`` of its HTTP.

    Args:
        provider: A ``TracerProvider`` of OpenTelemetry's SDK.
    """

    def __init__(self, provider: Any) -> None:  # types of a package that need not be there
        self._provider, self._trace = provider, import_module("opentelemetry.trace")
        self._tracer: Any = provider.get_tracer("unseen", VERSION)
        self._runs: dict[JobId, tuple[Any, dict[StepId, Any]]] = {}

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()

    def answered(self, answered: Answered) -> None:
        """Make a span of a request."""
        span = self._tracer.start_span(
            f"{answered.method} {answered.route}",
            context=self._root(),
            kind=self._trace.SpanKind.SERVER,
            start_time=int(answered.began * _NANO),
            attributes={
                "http.request.method": answered.method,
                "http.route": answered.route,
                "http.response.status_code": answered.status,
                "unseen.request": answered.request,
            },
        )
        if answered.status >= _BROKE:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(end_time=int((answered.began + answered.seconds) * _NANO))

    def run_began(self, run: Run) -> None:
        """Begin the span of a run."""
        span = self._tracer.start_span(
            "job",
            context=self._root(),
            attributes={"unseen.job": run.job, "unseen.project": run.project, "unseen.attempt": run.attempt},
        )
        self._runs[run.job] = (span, {})

    def step_began(self, run: Run, step: StepId) -> None:
        """Begin the span of a step, within that of its run."""
        whole, steps = self._runs[run.job]
        if step in steps:
            steps.pop(step).end()
        component = run.components[step]
        steps[step] = self._tracer.start_span(
            f"step {component}",
            context=self._trace.set_span_in_context(whole, self._root()),
            attributes={
                "unseen.job": run.job,
                "unseen.project": run.project,
                "unseen.step": step,
                "unseen.component": component,
            },
        )

    def step_ended(self, run: Run, step: StepId, cost: Cost) -> None:
        """End the span of a step."""
        span = self._runs[run.job][1].pop(step, None)
        if span is not None:
            span.set_attributes(
                {
                    "unseen.bytes_sent": cost.bytes_sent,
                    "unseen.bytes_received": cost.bytes_received,
                    "unseen.reused": cost.reused,
                }
            )
            span.end()

    def run_ended(self, run: Run, result: Result) -> None:
        """End the span of a run, and of whatever it was at."""
        whole, steps = self._runs.pop(run.job)
        whole.set_attribute("unseen.result", result.value)
        for span in (*steps.values(), whole):
            if result in (Result.FAILED, Result.LOST):
                span.set_status(self._trace.StatusCode.ERROR)
            span.end()

    def _root(self) -> Any:
        """Return a context in which nothing is going on: spans of others have no part in these."""
        return self._trace.set_span_in_context(self._trace.INVALID_SPAN)


def _resource(name: PartyId, environment: Mapping[str, str]) -> Any:
    named = {} if environment.get("OTEL_SERVICE_NAME") else {"service.name": "unseen-node"}
    resources = import_module("opentelemetry.sdk.resources")
    return resources.Resource.create({**named, "service.instance.id": name, "service.version": VERSION})


def _loaded(module: str, asked: str) -> ModuleType:
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(f"{asked} asks for traces, which need OpenTelemetry: pip install 'unseen[otel]'") from error
