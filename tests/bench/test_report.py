"""The report: ratios inside a round, what is not available, what machines read."""

from __future__ import annotations

from tests.bench import chart, report
from tests.bench.load import Load
from tests.bench.measure import Figures, Paced, Sample


def _sample(cpu_us: float, redis_cpu_us: float = 0.0, refused: int = 0) -> Sample:
    load = Load(requests=1000, seconds=2.0, refused=refused, errors=0, p50_ms=1.0, p99_ms=2.0, p999_ms=3.0)
    return Sample(load, cpu_us, redis_cpu_us, 50.0)


def test_ratios_are_taken_inside_a_round() -> None:
    """The machine was twice as slow in the second round: the ratio does not notice."""
    ours, theirs = Figures([_sample(20), _sample(40)]), Figures([_sample(40), _sample(80)])
    assert report.ratios(ours, theirs, lambda s: s.cpu_us) == [0.5, 0.5]


def test_a_peer_that_cannot_do_a_case_is_named_in_the_table_and_left_out_of_the_json() -> None:
    results = {"keys_10k": {"nginx": None, "tollgate": Figures([_sample(20, 10)])}}
    lines = report.table(results, 64).splitlines()
    assert any("nginx, plain proxy" in line and "not available" in line for line in lines)
    assert report.as_json(results) == {
        "keys_10k": {
            "tollgate": {
                "rps": 500.0, "p50_ms": 1.0, "p99_ms": 2.0, "p999_ms": 3.0, "cpu_us": 20, "redis_cpu_us": 10, "rss_mb": 50.0,
            }
        }
    }  # fmt: skip


def test_latency_added_is_shown_with_the_ratio_of_the_two_that_matter() -> None:
    figures = {
        name: Figures([_sample(20)], {0.5: [Paced(500.0, 0.1, added, 0.02, 0)]})
        for name, added in (("nginx_lua_redis", 0.8), ("tollgate", 1.0))
    }
    text = report.table({"get_1k": figures}, 64)
    assert "p99 added, Tollgate / nginx+Lua+Redis 1.25" in text


def test_a_peer_that_could_not_keep_the_rate_is_marked_and_not_compared() -> None:
    figures = {
        name: Figures([_sample(20)], {0.5: [Paced(500.0, added, added, 0.02, 0)]})
        for name, added in (("nginx_lua_redis", 300.0), ("tollgate", 1.0))
    }
    text = report.table({"get_1k": figures}, 64)
    assert text.count("OVERLOADED") == 1
    assert "p99 added, Tollgate" not in text


def test_refusals_are_unexpected_unless_the_case_is_a_flood() -> None:
    assert report.unexpected(_sample(1, refused=7), 200) == 7
    assert report.unexpected(_sample(1, refused=7), 429) == 0


def test_the_chart_has_a_bar_for_each_peer_that_was_measured() -> None:
    svg = chart.draw(
        {"nginx": Figures([_sample(10)]), "haproxy": None, "tollgate": Figures([_sample(20, 5)])}, "GET", 64
    )
    assert svg.count("<rect") == 4
    assert "20.0 + 5.0" in svg
    assert "haproxy" not in svg
