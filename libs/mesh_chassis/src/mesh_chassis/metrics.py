"""Metrics of one process, declared in one table, cheap enough for the path of every call.

The cells are our own: prometheus-client takes two locks and a linear bucket search per
observation, and everything here happens on one event loop. prometheus-client keeps what it is
good at: the registry, process metrics and the text format. A label value that callers choose
(``method``) is bounded, because hostile ones invent names.
"""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

__all__ = ["CONTENT_TYPE", "DECLARED", "SECONDS", "Declared", "Metrics", "Shape"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
"""Content type of ``Metrics.text``."""

CHILDREN_MAX = 2_000
"""Label combinations of one metric; further ones count under ``other``."""

OTHER = "other"

_log = logging.getLogger(__name__)

SECONDS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0,
    300.0,
)  # fmt: skip
"""Upper bounds of duration buckets: half a millisecond (one hop) to the longest call."""


class Shape(StrEnum):
    """Kinds of metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table: name without ``_total``, help, labels."""

    name: str
    shape: Shape
    text: str
    labels: tuple[str, ...] = ()


DECLARED: tuple[Declared, ...] = (
    Declared(
        name="mesh_calls",
        shape=Shape.COUNTER,
        text="Calls answered, by outcome (ok, or the kind of error).",
        labels=("edge", "method", "outcome"),
    ),
    Declared(
        name="mesh_call_seconds",
        shape=Shape.HISTOGRAM,
        text="Time from the request to its last byte, in seconds.",
        labels=("edge", "method"),
    ),
    Declared(name="mesh_inflight", shape=Shape.GAUGE, text="Calls running now."),
    Declared(
        name="mesh_bus_connected",
        shape=Shape.GAUGE,
        text="1 while connected to the broker.",
    ),
    Declared(
        name="mesh_bus_reconnects",
        shape=Shape.COUNTER,
        text="Reconnects to the broker.",
    ),
    Declared(
        name="mesh_busy",
        shape=Shape.COUNTER,
        text="Calls refused because a limit was reached, by limit.",
        labels=("limit",),
    ),
    Declared(
        name="mesh_upstream_restarts",
        shape=Shape.COUNTER,
        text="Restarts of upstream servers.",
        labels=("server",),
    ),
    Declared(name="mesh_runner_servers", shape=Shape.GAUGE, text="Servers this runner serves now."),
    Declared(
        name="mesh_runner_parked_calls",
        shape=Shape.GAUGE,
        text="Calls that wait for input of their caller.",
    ),
    Declared(
        name="mesh_open_questions",
        shape=Shape.GAUGE,
        text="Requests to old HTTP clients that wait for an answer.",
    ),
    Declared(
        name="mesh_watched_resources",
        shape=Shape.GAUGE,
        text="Resources that clients of this gateway watch.",
    ),
    Declared(
        name="mesh_tasks_executing",
        shape=Shape.GAUGE,
        text="Durable tasks this runner executes now.",
    ),
    Declared(
        name="mesh_bridge_messages",
        shape=Shape.COUNTER,
        text="Messages of the Redis bridge, by direction (in, out) and outcome (ok, dropped).",
        labels=("direction", "outcome"),
    ),
    Declared(name="mesh_child_processes", shape=Shape.GAUGE, text="Child processes alive."),
    Declared(
        name="mesh_watch_age_seconds",
        shape=Shape.GAUGE,
        text="Time since a bucket's watch last proved that it hears, in seconds.",
        labels=("bucket",),
    ),
    Declared(
        name="mesh_event_loop_lag_seconds",
        shape=Shape.GAUGE,
        text="Delay of the last turn of the event loop, in seconds.",
    ),
    Declared(name="mesh_tasks", shape=Shape.GAUGE, text="Background tasks alive."),
    Declared(
        name="mesh_sessions",
        shape=Shape.GAUGE,
        text="Sessions of old clients held here (http), connections open (tcp).",
        labels=("edge",),
    ),
    Declared(name="mesh_swarms_owned", shape=Shape.GAUGE, text="Swarms this replica drives now."),
    Declared(
        name="mesh_swarm_agents",
        shape=Shape.GAUGE,
        text="Agents of owned swarms, by status.",
        labels=("status",),
    ),
    Declared(
        name="mesh_swarm_steps_running",
        shape=Shape.GAUGE,
        text="Steps of owned swarms that an agent has now.",
    ),
    Declared(
        name="mesh_swarm_steps",
        shape=Shape.COUNTER,
        text="What became of attempts (done, failed, retried, returned, late, duplicate, "
        "wrong_agent, wrong_host).",
        labels=("outcome",),
    ),
    Declared(
        name="mesh_swarm_tasks",
        shape=Shape.COUNTER,
        text="Tasks of swarms that ended, by status.",
        labels=("status",),
    ),
    Declared(name="mesh_swarm_agents_lost", shape=Shape.COUNTER, text="Agents that were lost."),
    Declared(
        name="mesh_swarm_events", shape=Shape.COUNTER, text="Events stored in logs of swarms."
    ),
    Declared(
        name="mesh_swarm_append_seconds",
        shape=Shape.HISTOGRAM,
        text="Time of one append to the log of a swarm, in seconds.",
    ),
    Declared(
        name="mesh_swarm_appends_refused",
        shape=Shape.COUNTER,
        text="Appends that a log refused because another replica has written: the fence.",
    ),
    Declared(name="mesh_swarm_snapshots", shape=Shape.COUNTER, text="Snapshots of swarms stored."),
    Declared(
        name="mesh_swarm_takeovers",
        shape=Shape.COUNTER,
        text="Swarms taken over from another owner, by cause (free, gone, own).",
        labels=("cause",),
    ),
    Declared(name="mesh_host_agents", shape=Shape.GAUGE, text="Agents that live on this host."),
    Declared(
        name="mesh_host_attempts",
        shape=Shape.GAUGE,
        text="Attempts that run or wait for a slot on this host.",
    ),
    Declared(
        name="mesh_host_results_waiting",
        shape=Shape.GAUGE,
        text="Results that owners of swarms have not taken yet.",
    ),
    Declared(
        name="mesh_host_attempts_ended",
        shape=Shape.COUNTER,
        text="Attempts that ended on this host, by status (ok, error, rejected, input_required).",
        labels=("status",),
    ),
    Declared(name="mesh_vms", shape=Shape.GAUGE, text="Machines of this host."),
    Declared(
        name="mesh_vm_spawned",
        shape=Shape.COUNTER,
        text="Machines that became ready, by driver.",
        labels=("driver",),
    ),
    Declared(
        name="mesh_vm_ended",
        shape=Shape.COUNTER,
        text="Machines that ended, by the word for why (asked, ttl, drained, exit, beats, "
        "boot_timeout, boot_failed).",
        labels=("code",),
    ),
    Declared(
        name="mesh_vm_leaks",
        shape=Shape.COUNTER,
        text="Steps of machines that could not be undone at once, by phase; the reconciler "
        "tries again.",
        labels=("phase",),
    ),
    Declared(
        name="mesh_vm_reaped",
        shape=Shape.COUNTER,
        text="Machines of which the reconciler removed remains, by driver.",
        labels=("driver",),
    ),
    Declared(
        name="mesh_vm_quota_drift",
        shape=Shape.COUNTER,
        text="Tenants whose shares the reconciler had to mend.",
    ),
    Declared(
        name="mesh_verifier_decisions",
        shape=Shape.COUNTER,
        text="Decisions about requests, by decision (allow, deny) and source (answer, cache, "
        "policy: the verifier is silent, wrong: it answered no decision).",
        labels=("decision", "source"),
    ),
    Declared(
        name="mesh_verifier_seconds",
        shape=Shape.HISTOGRAM,
        text="Time the external verifier took to answer or to fail, in seconds.",
    ),
)
"""Every metric of the mesh; docs/reference/metrics.md is generated from it."""


class _Histogram:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.total = 0.0


class Metrics(Collector):
    """Metrics of one process; a registry of its own, so two in one test never meet.

    Args:
        service: constant label ``service`` of everything, via ``mesh_info``.
        version: likewise.
        instance: likewise.
    """

    def __init__(self, service: str, version: str, instance: str) -> None:
        self._info = (service, version, instance)
        self._declared = {one.name: one for one in DECLARED}
        self._values: dict[str, dict[tuple[str, ...], float]] = {
            one.name: {} for one in DECLARED if one.shape is not Shape.HISTOGRAM
        }
        self._histograms: dict[str, dict[tuple[str, ...], _Histogram]] = {
            one.name: {} for one in DECLARED if one.shape is Shape.HISTOGRAM
        }
        self._asked: dict[tuple[str, tuple[str, ...]], Callable[[], float]] = {}
        self._calls = self._values["mesh_calls"]
        self._seconds = self._histograms["mesh_call_seconds"]
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def call(self, edge: str, method: str, outcome: str, seconds: float) -> None:
        """Count one answered call and its duration.

        Args:
            edge: ``http``, ``tcp``, ``stdio``, ``bus``.
            method: MCP method.
            outcome: ``ok`` or the kind of error.
            seconds: how long it took.
        """
        calls = self._calls
        key = (edge, method, outcome)
        if key in calls:
            calls[key] += 1.0
        else:
            self.add("mesh_calls", edge, method, outcome)
        cell = self._seconds.get((edge, method))
        if cell is None:
            cell = self._cell("mesh_call_seconds", (edge, method))
        cell.counts[bisect_left(SECONDS, seconds)] += 1
        cell.total += seconds

    def observe(self, name: str, seconds: float, *labels: str) -> None:
        """Put a duration into a histogram.

        Raises:
            KeyError: no such histogram is declared.
        """
        cell = self._histograms[name].get(labels) or self._cell(name, labels)
        cell.counts[bisect_left(SECONDS, seconds)] += 1
        cell.total += seconds

    def add(self, name: str, *labels: str, by: float = 1.0) -> None:
        """Raise a counter, or move a gauge.

        Raises:
            KeyError: no such counter or gauge is declared.
            ValueError: wrong number of labels.
        """
        cells = self._values[name]
        if labels in cells:
            cells[labels] += by
            return
        labels = self._bounded(name, labels, len(cells))
        cells[labels] = cells.get(labels, 0.0) + by

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge.

        Raises:
            KeyError: no such gauge is declared.
            ValueError: wrong number of labels.
        """
        cells = self._values[name]
        if labels not in cells:
            labels = self._bounded(name, labels, len(cells))
        cells[labels] = value

    def ask(self, name: str, source: Callable[[], float], *labels: str) -> None:
        """Set a gauge from ``source`` whenever somebody scrapes."""
        self.set(name, 0.0, *labels)
        self._asked[name, labels] = source

    def value(self, name: str, *labels: str) -> float:
        """Value of a counter or gauge; 0 when it was never touched."""
        return self._values[name].get(labels, 0.0)

    def forget(self, name: str, *labels: str) -> None:
        """Drop one combination of labels, e.g. of a server that is gone."""
        self._asked.pop((name, labels), None)
        self._values[name].pop(labels, None)

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)

    def describe(self) -> Iterable[Metric]:
        """Nothing to check for collisions: the table is the only source of names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for when somebody scrapes."""
        info = GaugeMetricFamily(
            "mesh_info", "Who this process is.", labels=("service", "version", "instance")
        )
        info.add_metric(self._info, 1.0)
        yield info
        for (name, labels), source in self._asked.items():
            try:
                self._values[name][labels] = source()
            except Exception:  # noqa: BLE001 - one broken source must not hide all the others
                _log.warning("no value for %s", name, exc_info=True)
        for one in DECLARED:
            match one.shape:
                case Shape.COUNTER:
                    family = CounterMetricFamily(one.name, one.text, labels=one.labels)
                    for labels, value in self._values[one.name].items():
                        family.add_metric(labels, value)
                    yield family
                case Shape.GAUGE:
                    gauge = GaugeMetricFamily(one.name, one.text, labels=one.labels)
                    for labels, value in self._values[one.name].items():
                        gauge.add_metric(labels, value)
                    yield gauge
                case Shape.HISTOGRAM:
                    yield self._collect_histogram(one)

    def _collect_histogram(self, one: Declared) -> Metric:
        family = HistogramMetricFamily(one.name, one.text, labels=one.labels)
        for labels, cell in self._histograms[one.name].items():
            running = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*SECONDS, float("inf")), cell.counts, strict=True):
                running += count
                buckets.append(("+Inf" if bound == float("inf") else repr(bound), running))
            family.add_metric(labels, buckets=buckets, sum_value=cell.total)
        return family

    def _cell(self, name: str, labels: tuple[str, ...]) -> _Histogram:
        cells = self._histograms[name]
        labels = self._bounded(name, labels, len(cells))
        return cells.setdefault(labels, _Histogram())

    def _bounded(self, name: str, labels: tuple[str, ...], used: int) -> tuple[str, ...]:
        wanted = self._declared[name].labels
        if len(labels) != len(wanted):
            raise ValueError(f"{name} has the labels {wanted}, got {labels}")
        return labels if used < CHILDREN_MAX else (OTHER,) * len(wanted)
