"""Figures of a node for Prometheus, about work and never about people or rows.

What is kept is counted when somebody asks; what happens is counted as it happens, from the start of the process on.
Labels have few values: routes, methods, components and states are known to the program, partners are those in the list.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from unseen.clock import Clock
from unseen.ids import PartyId, StepId
from unseen.node.books import Turn
from unseen.node.domain import JobState
from unseen.node.folder import Node
from unseen.node.http.journal import Answered
from unseen.node.store import Store
from unseen.node.watching import Cost, Result, Run

Traffic = Callable[[], Mapping[PartyId, tuple[int, int]]]
"""Returns how many bytes were sent to partners, and received from them."""
_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
_STEP_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)


class Figures:
    """What happens at a node: a ``Watcher`` of its supervisor, and a ``Note`` of its HTTP."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "unseen_http_requests_total",
            "Requests that were answered",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "unseen_http_request_seconds",
            "Time until a request was answered as a whole; the events of a job are one request",
            ["method", "route"],
            buckets=_REQUEST_SECONDS,
            registry=self.registry,
        )
        self._ended = Counter("unseen_jobs_ended_total", "Jobs that ended", ["result"], registry=self.registry)
        self._runs = Counter("unseen_workers_ended_total", "Workers that ended", ["result"], registry=self.registry)
        self._step_seconds = Histogram(
            "unseen_step_seconds",
            "Time that steps took, without those whose results were there already",
            ["component"],
            buckets=_STEP_SECONDS,
            registry=self.registry,
        )
        # From the beginning, so that the first failure is an increase.
        for state in JobState:
            if state.is_over:
                self._ended.labels(state.value)
        for result in Result:
            self._runs.labels(result.value)

    def answered(self, answered: Answered) -> None:
        """Count a request."""
        self._requests.labels(answered.method, answered.route, str(answered.status)).inc()
        self._request_seconds.labels(answered.method, answered.route).observe(answered.seconds)

    def turned(self, turn: Turn) -> None:
        """Count the jobs that a turn has ended."""
        for _, state in turn.ended:
            self._ended.labels(state.value).inc()

    def run_began(self, run: Run) -> None:
        """Do nothing: runs are counted when they end."""

    def step_began(self, run: Run, step: StepId) -> None:
        """Do nothing: steps are counted when they end."""

    def step_ended(self, run: Run, step: StepId, cost: Cost) -> None:
        """Count a step."""
        if not cost.reused:
            self._step_seconds.labels(run.components[step]).observe(cost.seconds)

    def run_ended(self, run: Run, result: Result) -> None:
        """Count a run."""
        self._runs.labels(result.value).inc()


class NodeCollector(Collector):
    """What there is at a node: jobs, partners, letters, bytes, room, and the time that its certificate has left."""

    def __init__(self, node: Node, store: Store, clock: Clock, traffic: Traffic) -> None:
        self._node, self._store, self._clock, self._traffic = node, store, clock, traffic

    def collect(self) -> Iterator[Metric]:
        """Yield the figures."""
        jobs = GaugeMetricFamily("unseen_jobs", "Jobs that this node knows", labels=["state"])
        with self._store.read() as kept:
            for state in JobState:
                jobs.add_metric([state], kept.jobs.count((state,)))
            waiting = kept.mail.lengths()
        yield jobs
        status = self._node.status()
        trusted = [peer for peer, partner in status.partners.items() if partner.struck is None]
        yield GaugeMetricFamily("unseen_partners", "Partners that are trusted", value=len(trusted))
        letters = GaugeMetricFamily("unseen_letters_waiting", "Letters that partners have not got", labels=["partner"])
        for peer in sorted({*trusted, *waiting}):
            letters.add_metric([peer], waiting.get(peer, 0))
        yield letters
        yield self._bytes()
        yield GaugeMetricFamily("unseen_store_bytes", "Size of the database", value=self._store.size())
        free = shutil.disk_usage(self._node.folder).free
        yield GaugeMetricFamily("unseen_disk_free_bytes", "Room where the node's folder is", value=free)
        left = (status.until - self._clock.now()).total_seconds()
        yield GaugeMetricFamily("unseen_certificate_seconds", "Time until the certificate runs out", value=left)

    def _bytes(self) -> Metric:
        moved = CounterMetricFamily(
            "unseen_partner_bytes_total", "Bytes of jobs and letters", labels=["partner", "direction"]
        )
        for peer, (sent, received) in sorted(self._traffic().items()):
            moved.add_metric([peer, "sent"], sent)
            moved.add_metric([peer, "received"], received)
        return moved
