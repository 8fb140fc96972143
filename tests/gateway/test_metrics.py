"""Counters: added up over workers, and said in a form that Prometheus reads."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from gateway.metrics import BOUNDS_US, Admission, Metrics, families, merge
from tests.gateway.nouns import route

examples = settings(max_examples=25, deadline=None, database=None, derandomize=True)


def counted(*answers: tuple[str, int, int, int], connections: int = 0) -> dict[str, Any]:
    """A worker's snapshot as its parent gets it. Answers are (route, status, µs in the gateway, µs with the upstream)."""
    metrics = Metrics()
    for name, status, gateway_us, upstream_us in answers:
        metrics.of_route(route(name=name)).answered(status, gateway_us, upstream_us)
        metrics.admissions[Admission.ADMITTED] += 1
    metrics.counts["connections_total"] += connections
    metrics.gauges = {"connections": connections}
    snapshot: dict[str, Any] = orjson.loads(orjson.dumps(metrics.snapshot()))
    return snapshot


def exposed(total: dict[str, Any], workers: int = 1) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What Prometheus reads: value by name and labels."""

    class One(Collector):
        def collect(self) -> list[Any]:
            return families(total, workers)

    registry = CollectorRegistry()
    registry.register(One())
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        assert family.type in ("counter", "gauge", "histogram")
        assert family.documentation
        for sample in family.samples:
            where = (sample.name, tuple(sorted(sample.labels.items())))
            assert where not in found, "the same sample twice"
            found[where] = sample.value
    return found


def test_answers_are_counted_by_route_and_class() -> None:
    total = counted(("a", 200, 80, 900), ("a", 204, 80, 900), ("a", 502, 80, 900), ("b", 404, 80, 900), connections=3)
    found = exposed(total)
    assert found["tollgate_requests_total", (("route", "a"), ("status", "2xx"))] == 2
    assert found["tollgate_requests_total", (("route", "a"), ("status", "5xx"))] == 1
    assert found["tollgate_requests_total", (("route", "b"), ("status", "4xx"))] == 1
    assert found["tollgate_admissions_total", (("outcome", "admitted"),)] == 4
    assert found["tollgate_admissions_total", (("outcome", "rate_limited"),)] == 0
    assert found["tollgate_connections_total", ()] == 3
    assert found["tollgate_connections", ()] == 3
    assert found["tollgate_gateway_workers", ()] == 1


def test_times_fall_into_the_bucket_whose_bound_they_do_not_exceed() -> None:
    found = exposed(counted(("a", 200, 100, 101), ("a", 200, 0, 10_000_001)))

    def bucket(which: str, bound: str) -> float:
        return found[f"tollgate_{which}_seconds_bucket", (("le", bound), ("route", "a"))]

    assert (bucket("gateway", "0.0001"), bucket("gateway", "+Inf")) == (2, 2)
    assert (bucket("upstream", "0.0001"), bucket("upstream", "0.00025")) == (0, 1)
    assert (bucket("upstream", "10.0"), bucket("upstream", "+Inf")) == (1, 2)
    assert found["tollgate_upstream_seconds_count", (("route", "a"),)] == 2
    assert abs(found["tollgate_upstream_seconds_sum", (("route", "a"),)] - 10.000102) < 1e-9


def test_the_targets_of_watched_upstreams_are_added_up_over_workers() -> None:
    parts = []
    for states in ({"api": [2, 0, 0]}, {"api": [1, 0, 1], "other": [0, 1, 0]}):
        metrics = Metrics()
        metrics.targets = states
        parts.append(metrics.snapshot())
    found = exposed(merge(parts))
    shown = {labels: count for (name, labels), count in found.items() if name == "tollgate_upstream_targets" and count}
    assert shown == {
        (("state", "up"), ("upstream", "api")): 3,
        (("state", "down"), ("upstream", "api")): 1,
        (("state", "ejected"), ("upstream", "other")): 1,
    }


def test_nothing_counted_yet_is_valid_too() -> None:
    found = exposed(merge(()), workers=0)
    assert found["tollgate_gateway_workers", ()] == 0
    assert found["tollgate_admissions_total", (("outcome", "admitted"),)] == 0
    assert exposed(counted())["tollgate_connections_total", ()] == 0


answers = st.tuples(
    st.sampled_from(("a", "b", "c")),
    st.sampled_from((200, 304, 404, 499, 599)),
    st.integers(0, 2 * 10**7),
    st.integers(0, 9),
)


@given(st.lists(st.lists(answers, max_size=6), max_size=4))
@examples
def test_the_sum_over_workers_is_what_one_worker_would_have_counted(workers: list[list[Any]]) -> None:
    together = exposed(merge(counted(*worker) for worker in workers))
    alone = exposed(merge((counted(*(answer for worker in workers for answer in worker)),)))
    same = set(together) | set(alone)
    assert {where: together.get(where, 0) for where in same} == {where: alone.get(where, 0) for where in same}


@given(st.lists(st.lists(answers, max_size=4), min_size=2, max_size=4))
@examples
def test_it_does_not_matter_who_is_added_first_nor_are_the_parts_changed(workers: list[list[Any]]) -> None:
    parts = [counted(*worker) for worker in workers]
    before = orjson.dumps(parts)
    assert merge(parts) == merge(reversed(parts))
    merge((merge(parts), *parts))
    assert orjson.dumps(parts) == before


def test_a_route_keeps_its_counters_when_it_is_loaded_anew() -> None:
    metrics = Metrics()
    metrics.of_route(route(name="a")).answered(200, 1, 1)
    metrics.of_route(route(name="a")).answered(200, 1, 1)
    assert metrics.routes["a"].classes[2] == 2
    assert len(metrics.routes["a"].gateway.buckets) == len(BOUNDS_US) + 1
