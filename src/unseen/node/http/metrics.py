"""Figures of a node for Prometheus: counted when they are asked for, about work and never about people or rows."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from unseen.clock import Clock
from unseen.node.domain import JobState
from unseen.node.folder import Node
from unseen.node.store import Store


class NodeCollector(Collector):
    """Jobs by state, partners, and the time that the node's certificate has left."""

    def __init__(self, node: Node, store: Store, clock: Clock) -> None:
        self._node, self._store, self._clock = node, store, clock

    def collect(self) -> Iterator[Metric]:
        """Yield the figures."""
        jobs = GaugeMetricFamily("unseen_jobs", "Jobs that this node knows", labels=["state"])
        with self._store.begin() as kept:
            for state in JobState:
                jobs.add_metric([state], kept.jobs.count((state,)))
        yield jobs
        status = self._node.status()
        trusted = sum(partner.struck is None for partner in status.partners.values())
        yield GaugeMetricFamily("unseen_partners", "Partners that are trusted", value=trusted)
        left = (status.until - self._clock.now()).total_seconds()
        yield GaugeMetricFamily("unseen_certificate_seconds", "Time until the certificate runs out", value=left)


def registry_of(node: Node, store: Store, clock: Clock) -> CollectorRegistry:
    """Return the figures of a node."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(node, store, clock))
    return registry
