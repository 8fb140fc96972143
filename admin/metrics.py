"""What the control plane counts, as Prometheus metrics of one registry. Labels are route patterns, never paths."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class AdminMetrics:
    """One per process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "tollgate_admin_requests_total",
            "Requests answered, by route pattern, method and class of status",
            ["route", "method", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "tollgate_admin_request_seconds", "Time to answer", ["route"], buckets=_SECONDS, registry=registry
        )
        self.in_flight = Gauge("tollgate_admin_requests_in_flight", "Requests being answered", registry=registry)
        self.postgres_errors = Counter(
            "tollgate_postgres_errors_total", "Failed exchanges with PostgreSQL", registry=registry
        )
        self.notices = Counter(
            "tollgate_stripe_notices_total",
            "Deliveries to the Stripe webhook, by outcome",
            ["outcome"],
            registry=registry,
        )
