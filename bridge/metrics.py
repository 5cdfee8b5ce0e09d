"""Metrics, each named and explained in docs/metrics.md."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from bridge.status import Snapshot, StatusSource


class Metrics:
    """One registry per program, so that tests and several programs in one process do not meet."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make = self.registry
        self.connections = Gauge("walcast_connections", "Open WebSocket connections.", registry=make)
        self._streams = Gauge("walcast_event_streams", "Open event streams (SSE) on /api/events.", registry=make)
        self._polls = Gauge("walcast_long_polls", "Requests for /api/events that wait for an event.", registry=make)
        self.delivered = Counter("walcast_deliveries", "Events put into the outbox of a connection.", registry=make)
        self.polled = Counter("walcast_polled", "Events given in JSON answers of /api/events.", registry=make)
        self._loads = Counter("walcast_loads", "Pages read for the initial load.", ["what"], registry=make)
        self.replayed = Counter("walcast_replayed", "Events replayed to resuming clients.", registry=make)
        self._events = Counter("walcast_events", "Events put into the log.", ["type"], registry=make)
        self._closed = Counter("walcast_closed", "Connections closed by the server.", ["code"], registry=make)
        self._refused = Counter("walcast_refused", "Requests refused.", ["reason"], registry=make)
        self._resumes = Counter("walcast_resumes", "Clients that gave a cursor.", ["outcome"], registry=make)

    def connected(self, kind: str, change: int) -> None:
        """Count a client that came (1) or went (-1): `websocket`, `sse` or `poll`."""
        {"sse": self._streams, "poll": self._polls}.get(kind, self.connections).inc(change)

    def event(self, kind: str) -> None:
        """Count an event of the log."""
        self._events.labels(kind).inc()

    def closed(self, code: int) -> None:
        """Count a connection that we closed."""
        self._closed.labels(str(code)).inc()

    def refused(self, reason: str) -> None:
        """Count a request that was refused."""
        self._refused.labels(reason).inc()

    def loaded(self, what: str) -> None:
        """Count a page of the initial load: `conversations`, `messages`, `tasks` or `task`."""
        self._loads.labels(what).inc()

    def resumed(self, outcome: str) -> None:
        """Count a resume: `recovered` or the reason why not."""
        self._resumes.labels(outcome).inc()

    def watch(self, source: StatusSource) -> None:
        """Export the capture's own figures at each scrape."""
        self.registry.register(_CaptureCollector(source))

    def exposition(self) -> bytes:
        """The Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)


class _CaptureCollector(Collector):
    def __init__(self, source: StatusSource) -> None:
        self._source = source

    def collect(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
        """Read once, so that the figures belong together."""
        now: Snapshot = self._source.snapshot()
        ready = GaugeMetricFamily("walcast_ready", "1 when the bridge is fresh.", value=float(now.is_ready))
        behind = GaugeMetricFamily(
            "walcast_behind_seconds", "Seconds since when commits wait to be looked for.", value=now.behind_seconds
        )
        beat = GaugeMetricFamily(
            "walcast_watcher_beat_seconds", "Seconds since the watcher's last sign of life.", value=now.beat_seconds
        )
        failed = GaugeMetricFamily(
            "walcast_failed_rows", "Rows that cannot be read or rendered now.", value=now.failed_rows
        )
        waiting = GaugeMetricFamily(
            "walcast_waiting_rows", "Rows that nobody gets: no owner yet, or not renderable.", value=now.waiting_rows
        )
        mode = GaugeMetricFamily("walcast_capture_mode", "1 for the capture engine that runs.", labels=["mode"])
        mode.add_metric([now.mode], 1.0)
        baseline = GaugeMetricFamily(
            "walcast_baseline_ratio", "Part of the existing rows that is taken as baseline.", value=now.baseline
        )
        looks = CounterMetricFamily(
            "walcast_looks", "Snapshots in which something had been committed.", value=now.looks
        )
        passes = CounterMetricFamily("walcast_passes", "Passes over a whole table.", value=now.passes)
        fallbacks = CounterMetricFamily(
            "walcast_fallbacks", "Looks for which no hint said where to look.", labels=["reason"]
        )
        for reason, count in now.fallbacks.items():
            fallbacks.add_metric([reason], count)
        epochs = CounterMetricFamily(
            "walcast_epochs", "Epochs of the event log that began, by what voided the cursors.", labels=["reason"]
        )
        for reason, count in now.epochs.items():
            epochs.add_metric([reason], count)
        rows = CounterMetricFamily("walcast_rows_read", "Rows read from the legacy database.", value=now.rows_read)
        return [ready, behind, beat, failed, waiting, baseline, mode, looks, passes, fallbacks, epochs, rows]
