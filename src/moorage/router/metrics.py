"""Counters of the data plane in plain dictionaries, turned into Prometheus' text only when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from moorage.router.access_log import AccessRecord
from moorage.router.replicas import ReplicaPool

# Seconds. The default request timeout is 5 s; the low end resolves the router's own overhead.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_LABELS = ["endpoint", "deployment"]


class _Durations:
    """Counts by bucket, and sums, of each endpoint and deployment."""

    def __init__(self, name: str, documentation: str) -> None:
        self._name = name
        self._documentation = documentation
        self._counts: dict[tuple[str, str], list[int]] = {}
        self._sums: dict[tuple[str, str], float] = {}

    def count(self, key: tuple[str, str], seconds: float) -> None:
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = [0] * (len(BUCKETS) + 1)
            self._sums[key] = 0.0
        counts[bisect_left(BUCKETS, seconds)] += 1
        self._sums[key] += seconds

    def forget(self, kept: set[str]) -> None:
        self._counts = {key: value for key, value in self._counts.items() if key[0] in kept}
        self._sums = {key: value for key, value in self._sums.items() if key[0] in kept}

    def family(self) -> Metric:
        durations = HistogramMetricFamily(self._name, self._documentation, labels=_LABELS)
        for key, counts in self._counts.items():
            total, buckets = 0, []
            for bound, count in zip((*map(str, BUCKETS), "+Inf"), counts, strict=True):
                total += count
                buckets.append((bound, float(total)))
            durations.add_metric(list(key), buckets, self._sums[key])
        return durations


class RouterMetrics(Collector):
    """What `/metrics` shows. `pools` is asked at scrape time for what runs and waits now."""

    def __init__(self, pools: Mapping[tuple[str, str], ReplicaPool]) -> None:
        self._pools = pools
        self._requests: dict[tuple[str, str, int], int] = {}
        self._mirrored: dict[tuple[str, str, int], int] = {}
        self._dropped: dict[tuple[str, str, str], int] = {}
        self._durations = _Durations("moorage_router_request_seconds", "From first byte in to last byte out.")
        self._mirror_durations = _Durations("moorage_router_mirror_seconds", "From a copy's beginning to the end of the model's answer.")
        self.retries = 0
        self.lost_log_batches = 0
        self.tables = 0

    def count(self, record: AccessRecord) -> None:
        code = (record.endpoint, record.deployment, record.status)
        self._requests[code] = self._requests.get(code, 0) + 1
        self._durations.count((record.endpoint, record.deployment), record.total_seconds)
        self.retries += record.retries

    def count_copy(self, record: AccessRecord, dropped: str) -> None:
        """A copy has ended: dropped for the reason given, or, with none, answered by the model."""
        if dropped:
            reason = (record.endpoint, record.deployment, dropped)
            self._dropped[reason] = self._dropped.get(reason, 0) + 1
        else:
            code = (record.endpoint, record.deployment, record.model_status)
            self._mirrored[code] = self._mirrored.get(code, 0) + 1
            self._mirror_durations.count((record.endpoint, record.deployment), record.total_seconds)

    def forget(self, keep: Iterable[str]) -> None:
        """Drop the series of endpoints that are gone, so that names nobody serves do not pile up."""
        kept = set(keep) | {""}
        self._requests = {key: value for key, value in self._requests.items() if key[0] in kept}
        self._mirrored = {key: value for key, value in self._mirrored.items() if key[0] in kept}
        self._dropped = {label: value for label, value in self._dropped.items() if label[0] in kept}
        self._durations.forget(kept)
        self._mirror_durations.forget(kept)

    def collect(self) -> Iterator[Metric]:
        requests = CounterMetricFamily("moorage_router_requests", "Requests answered, by status code.", labels=[*_LABELS, "code"])
        for (endpoint, deployment, status), value in self._requests.items():
            requests.add_metric([endpoint, deployment, str(status)], value)
        yield requests
        yield self._durations.family()
        mirrored = CounterMetricFamily(
            "moorage_router_mirrored", "Copies that the mirrored deployment answered, by its status code.", labels=[*_LABELS, "code"]
        )
        for (endpoint, deployment, status), value in self._mirrored.items():
            mirrored.add_metric([endpoint, deployment, str(status)], value)
        dropped = CounterMetricFamily(
            "moorage_router_mirror_dropped", "Copies that came to nothing, by reason.", labels=[*_LABELS, "reason"]
        )
        for (endpoint, deployment, reason), value in self._dropped.items():
            dropped.add_metric([endpoint, deployment, reason], value)
        yield from (mirrored, dropped, self._mirror_durations.family())
        busy = GaugeMetricFamily("moorage_router_busy", "Requests and copies at replicas now.", labels=_LABELS)
        queued = GaugeMetricFamily("moorage_router_queued", "Requests and copies waiting for a replica now.", labels=_LABELS)
        replicas = GaugeMetricFamily("moorage_router_replicas", "Replicas in the routing table.", labels=_LABELS)
        for pool_key, pool in self._pools.items():
            busy.add_metric(list(pool_key), pool.busy)
            queued.add_metric(list(pool_key), pool.waiting)
            replicas.add_metric(list(pool_key), len(pool.replicas))
        yield from (busy, queued, replicas)
        yield CounterMetricFamily(
            "moorage_router_retries", "Requests sent to another replica after a connection failed.", value=self.retries
        )
        yield CounterMetricFamily("moorage_router_tables", "Routing tables put in force.", value=self.tables)
        yield CounterMetricFamily(
            "moorage_router_lost_log_batches", "Access log batches that could not be written.", value=self.lost_log_batches
        )


def exposition(metrics: RouterMetrics) -> bytes:
    """Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    return generate_latest(registry)
