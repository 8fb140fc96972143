"""What ingest counts, as Prometheus metrics of one registry. Plain increments; nothing here can fail or wait."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BATCH_SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class IngestMetrics:
    """One per process. An event whose commit was in doubt (connection lost meanwhile) ends up under duplicates."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.written = Counter("tollgate_events_written_total", "Usage events stored in the ledger", registry=registry)
        self.duplicates = Counter(
            "tollgate_duplicates_total", "Usage events that the ledger already had", registry=registry
        )
        self.dead_letters = Counter(
            "tollgate_dead_letters_total", "Stream entries put aside, by class of reason", ["reason"], registry=registry
        )
        self.reclaimed = Counter(
            "tollgate_reclaimed_total", "Stream entries taken over from silent consumers", registry=registry
        )
        self.orphaned = Counter(
            "tollgate_orphaned_total", "Reservations of dead gateways that were resolved", registry=registry
        )
        self.shards_healed = Counter(
            "tollgate_shards_healed_total", "Shards whose lost counters were rebuilt from the ledger", registry=registry
        )
        self.stream_entries = Gauge("tollgate_stream_entries", "Usage events not stored yet", registry=registry)
        self.stream_lag = Gauge(
            "tollgate_stream_lag_seconds", "Age of the oldest usage event not stored yet", registry=registry
        )
        self.batch_seconds = Histogram(
            "tollgate_batch_seconds", "Duration of one ledger transaction", buckets=_BATCH_SECONDS, registry=registry
        )
        self.redis_errors = Counter("tollgate_redis_errors_total", "Failed exchanges with Redis", registry=registry)
        self.postgres_errors = Counter(
            "tollgate_postgres_errors_total", "Failed exchanges with PostgreSQL", registry=registry
        )


class BillingMetrics:
    """What billing counts, one per process. Labels are from fixed sets."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sealed = Counter("tollgate_billing_sealed_total", "Billing slots sealed into entries", registry=registry)
        self.sent = Counter(
            "tollgate_billing_sent_total", "Billing entries that Stripe has, by how that is known", ["how"],
            registry=registry,
        )  # fmt: skip
        self.failures = Counter(
            "tollgate_billing_failures_total", "Tries to deliver a billing entry that failed, by reason", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.rejected = Counter(
            "tollgate_billing_rejected_total", "Meter events that Stripe accepted and then reported as wrong",
            registry=registry,
        )  # fmt: skip
        self.calls = Counter(
            "tollgate_stripe_calls_total",
            "Calls to Stripe, by kind and verdict",
            ["call", "verdict"],
            registry=registry,
        )
        self.due = Gauge("tollgate_billing_due_entries", "Billing entries not delivered yet", registry=registry)
        self.dead = Gauge("tollgate_billing_dead_entries", "Billing entries that were put aside", registry=registry)
        self.pending = Gauge("tollgate_billing_pending_slots", "Billing slots not sealed yet", registry=registry)
        self.oldest = Gauge(
            "tollgate_billing_lag_seconds",
            "Age of the oldest usage that is sealed and not delivered",
            registry=registry,
        )
        self.drift = Gauge(
            "tollgate_billing_drift_units", "Units by which two books differ, at the last reconciliation", ["books"],
            registry=registry,
        )  # fmt: skip
