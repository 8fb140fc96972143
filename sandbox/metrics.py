"""What Prometheus reads of this plane. Labels are bounded: languages, reasons, kinds of refusal."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from sandbox.nouns import Ended, Language

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class SandboxMetrics:
    """Counters of one process."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.runs = Counter(
            "tollgate_sandbox_runs", "Runs that ended, by language and reason.", ["lang", "reason"], registry=registry
        )
        self.cpu_ms = Counter("tollgate_sandbox_cpu_ms", "CPU time of runs.", ["lang"], registry=registry)
        self.seconds = Histogram(
            "tollgate_sandbox_run_seconds", "How long runs took.", ["lang"], buckets=_SECONDS, registry=registry
        )
        self.refused = Counter("tollgate_sandbox_refused", "Runs that got no turn, by why.", ["why"], registry=registry)
        self.lost = Counter("tollgate_sandbox_lost", "Guests lost through no fault of their code.", registry=registry)
        self.running = Gauge("tollgate_sandbox_running", "Runs in progress.", registry=registry)
        self.waiting = Gauge("tollgate_sandbox_waiting", "Runs waiting for a turn.", registry=registry)
        self.backend_up = Gauge("tollgate_sandbox_backend_up", "1 if code can be run here.", registry=registry)
        self.results_dropped = Gauge(
            "tollgate_sandbox_results_dropped", "Results that were never written.", registry=registry
        )

    def ended(self, language: Language, ended: Ended) -> None:
        """Count a run."""
        self.runs.labels(language, ended.reason).inc()
        self.cpu_ms.labels(language).inc(ended.usage.cpu_ms)
        self.seconds.labels(language).observe(ended.usage.duration_ms / 1000)
