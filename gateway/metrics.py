"""The gateway's counters: plain integers on the hot path, made into Prometheus families when somebody asks.

A worker counts into `Metrics`; `snapshot()` is a JSON-able copy. The parent process adds up the snapshots of its workers
(`merge`), living and dead, and serves them with prometheus-client (`families`). Cardinality is bounded by the number of
routes; everything else has a fixed set of labels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

BOUNDS_US: Final = (
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    10_000_000,
)


class Admission(IntEnum):
    """What became of requests before they were forwarded."""

    ADMITTED = 0
    UNAUTHENTICATED = 1
    FORBIDDEN = 2
    RATE_LIMITED = 3
    QUOTA_EXCEEDED = 4
    UNAVAILABLE = 5
    NO_ROUTE = 6
    MALFORMED = 7
    OVERLOADED = 8


class Histogram:
    """Counts per bucket of BOUNDS_US (and one beyond), and the sum in µs."""

    __slots__ = ("buckets", "sum_us")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_US) + 1)
        self.sum_us = 0


class RouteMetrics:
    """Answers of one route by status class (index 1 to 5), time in the gateway and time with the upstream.

    `estimates` says by meter how often an answer did not tell its quantity.
    """

    __slots__ = ("classes", "estimates", "gateway", "upstream")

    def __init__(self) -> None:
        self.classes = [0] * 10
        self.gateway = Histogram()
        self.upstream = Histogram()
        self.estimates: dict[str, int] = {}

    def estimated(self, meters: Iterable[str]) -> None:
        """Count an answer that did not tell what these meters should count."""
        for meter in meters:
            self.estimates[meter] = self.estimates.get(meter, 0) + 1

    def answered(self, status: int, gateway_us: int, upstream_us: int) -> None:
        """Count one answer."""
        self.classes[status // 100] += 1
        histogram = self.gateway
        histogram.buckets[bisect_left(BOUNDS_US, gateway_us)] += 1
        histogram.sum_us += gateway_us
        histogram = self.upstream
        histogram.buckets[bisect_left(BOUNDS_US, upstream_us)] += 1
        histogram.sum_us += upstream_us


class Metrics:
    """All counters of one worker."""

    def __init__(self) -> None:
        self.routes: dict[str, RouteMetrics] = {}
        self.admissions = [0] * len(Admission)
        self.counts = {
            "connections_total": 0,
            "would_have_refused_total": 0,
            "connections_refused_total": 0,
            "preflights_total": 0,
            "cut_off_total": 0,
            "retries_total": 0,
            "retries_refused_total": 0,
            "cache_hits_total": 0,
            "cache_misses_total": 0,
            "cache_revalidations_total": 0,
            "cache_collapsed_total": 0,
            "cache_stale_total": 0,
        }
        self.gauges: dict[str, float] = {}
        self.targets: dict[str, list[int]] = {}
        """Of each watched upstream: how many targets are up, ejected, down."""

    def of_route(self, route: Any) -> RouteMetrics:
        """The counters of a route; they outlive its reloads, as they go by its name."""
        counters: RouteMetrics | None = route.metrics
        if counters is None:
            counters = route.metrics = self.routes.setdefault(route.name, RouteMetrics())
        return counters

    def snapshot(self) -> dict[str, Any]:
        """Everything as plain JSON-able values."""
        return {
            "routes": {
                name: {
                    "classes": r.classes,
                    "gateway": [r.gateway.buckets, r.gateway.sum_us],
                    "upstream": [r.upstream.buckets, r.upstream.sum_us],
                    "estimates": r.estimates,
                }
                for name, r in self.routes.items()
            },
            "admissions": self.admissions,
            "counts": self.counts,
            "gauges": self.gauges,
            "targets": self.targets,
        }


def merge(snapshots: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The sum of several snapshots."""
    total: dict[str, Any] = {}
    for snapshot in snapshots:
        total = _added(total, snapshot)
    return total


def _added(left: Any, right: Any) -> Any:
    if isinstance(right, dict):
        left = left or {}
        return {key: _added(left.get(key), right.get(key)) for key in {**left, **right}}
    if isinstance(right, list):
        return [_added(a, b) for a, b in zip(left, right, strict=True)] if left else right
    return left if right is None else right if left is None else left + right


def families(total: dict[str, Any], workers: int) -> list[Metric]:
    """A merged snapshot as Prometheus metric families."""
    requests = CounterMetricFamily("tollgate_requests", "Answers by route and status class", labels=["route", "status"])
    gateway = HistogramMetricFamily(
        "tollgate_gateway_seconds", "Time spent in the gateway, without waiting for the upstream", labels=["route"]
    )
    upstream = HistogramMetricFamily(
        "tollgate_upstream_seconds", "Time until the upstream's answer was whole", labels=["route"]
    )
    estimates = CounterMetricFamily(
        "tollgate_meter_estimates", "Quantities that no answer told: the estimate counted", labels=["route", "meter"]
    )
    for name, route in total.get("routes", {}).items():
        for meter, count in route["estimates"].items():
            estimates.add_metric([name, meter], count)
        for status_class, count in enumerate(route["classes"]):
            if count:
                requests.add_metric([name, f"{status_class}xx"], count)
        for family, (buckets, sum_us) in ((gateway, route["gateway"]), (upstream, route["upstream"])):
            running, rows = 0, []
            for bound, count in zip((*BOUNDS_US, None), buckets, strict=True):
                running += count
                rows.append(("+Inf" if bound is None else str(bound / 1e6), running))
            family.add_metric([name], rows, sum_us / 1e6)
    admissions = CounterMetricFamily("tollgate_admissions", "Requests by outcome of admission", labels=["outcome"])
    for outcome in Admission:
        admissions.add_metric([outcome.name.lower()], total.get("admissions", [0] * len(Admission))[outcome])
    found: list[Metric] = [requests, gateway, upstream, admissions, estimates]
    for name, value in total.get("counts", {}).items():
        found.append(
            CounterMetricFamily(f"tollgate_{name.removesuffix('_total')}", name.replace("_", " "), value=value)
        )
    targets = GaugeMetricFamily(
        "tollgate_upstream_targets", "Targets by state, over all workers", labels=["upstream", "state"]
    )
    for name, states in total.get("targets", {}).items():
        for state, count in zip(("up", "ejected", "down"), states, strict=True):
            targets.add_metric([name, state], count)
    found.append(targets)
    for name, value in total.get("gauges", {}).items():
        found.append(GaugeMetricFamily(f"tollgate_{name}", name.replace("_", " "), value=value))
    found.append(GaugeMetricFamily("tollgate_gateway_workers", "Gateway worker processes alive", value=workers))
    return found
