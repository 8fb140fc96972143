"""Results as a table for people and as JSON for machines; ratios are taken inside a round, then their median."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, Final

from tests.bench.cases import CASES
from tests.bench.measure import SHARES, Figures, Paced, Results, Sample
from tests.bench.peers import PEERS

_DISTURBED: Final = 0.1
_OVERLOADED_P50_MS: Final = 20.0
_COLUMNS: Final = (
    "requests/s",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "CPU µs",
    "Redis µs",
    "both µs",
    "RSS MB",
    "unexpected",
)

RATIOS: Final[tuple[tuple[str, str, str, Callable[[Sample], float]], ...]] = (
    ("gateway CPU, Tollgate / nginx+Lua+Redis", "tollgate", "nginx_lua_redis", lambda s: s.cpu_us),
    (
        "gateway + Redis CPU, Tollgate / nginx+Lua+Redis",
        "tollgate",
        "nginx_lua_redis",
        lambda s: s.cpu_us + s.redis_cpu_us,
    ),
    ("gateway CPU, Tollgate / nginx", "tollgate", "nginx", lambda s: s.cpu_us),
    ("gateway CPU, aiohttp+redis-py / Tollgate", "aiohttp_redis", "tollgate", lambda s: s.cpu_us),
    ("requests/s, Tollgate / nginx+Lua+Redis", "tollgate", "nginx_lua_redis", lambda s: s.rps),
    ("p99, Tollgate / nginx+Lua+Redis", "tollgate", "nginx_lua_redis", lambda s: s.load.p99_ms),
)
"""Title, numerator, denominator, what of."""


def ratios(upper: Figures, lower: Figures, of: Callable[[Sample], float]) -> list[float]:
    """One ratio per round."""
    return [of(a) / of(b) for a, b in zip(upper.samples, lower.samples, strict=True) if of(b)]


def unexpected(sample: Sample, status: int) -> int:
    """Answers that the case does not expect, and broken exchanges. In a flood, those that were let through are expected."""
    return sample.load.errors + (sample.load.refused if status < 400 else 0)


def table(results: Results, connections: int) -> str:
    """Everything that was measured, as text."""
    lines: list[str] = []
    for name, peers in results.items():
        case = CASES[name]
        lines += ["", f"{name}: {case.title}, {connections} connections", _row("", _COLUMNS)]
        for peer, figures in peers.items():
            lines.append(_row(PEERS[peer].title, _cells(figures, case.status) if figures else ("not available",)))
        lines += _ratio_lines(peers) + _open_loop_lines(peers) + _disturbance(peers)
    return "\n".join(lines)


def _cells(figures: Figures, status: int) -> tuple[str, ...]:
    m = figures.median
    return (
        f"{m(lambda s: s.rps):,.0f}",
        f"{m(lambda s: s.load.p50_ms):.2f}",
        f"{m(lambda s: s.load.p99_ms):.2f}",
        f"{m(lambda s: s.load.p999_ms):.2f}",
        f"{m(lambda s: s.cpu_us):.1f}",
        f"{m(lambda s: s.redis_cpu_us):.1f}",
        f"{m(lambda s: s.cpu_us + s.redis_cpu_us):.1f}",
        f"{m(lambda s: s.rss_mb):.0f}",
        f"{sum(unexpected(s, status) for s in figures.samples)}",
    )


def _row(title: str, cells: tuple[str, ...]) -> str:
    return f"  {title:<22}" + "".join(f"{cell:>13}" for cell in cells)


def _ratio_lines(peers: dict[str, Figures | None]) -> list[str]:
    lines = []
    for title, upper_name, lower_name, of in RATIOS:
        upper, lower = peers.get(upper_name), peers.get(lower_name)
        if upper and lower and (found := ratios(upper, lower, of)):
            spread = f"({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else ""
            lines.append(f"    {title:<50} {median(found):.2f} {spread}")
    return lines


def _open_loop_lines(peers: dict[str, Figures | None]) -> list[str]:
    lines: list[str] = []
    for share in SHARES:
        asked = {name: f.paced[share] for name, f in peers.items() if f is not None and share in f.paced}
        if asked:
            lines.append(
                f"    latency added at {share:.0%} of own capacity, ms (open loop, from the intended departure)"
            )
        for peer, paced in asked.items():
            fell_behind = ", OVERLOADED" if _is_overloaded(paced) else ""
            lines.append(
                f"      {PEERS[peer].title:<22} p50 {median(p.added_p50_ms for p in paced):6.3f}   "
                f"p99 {median(p.added_p99_ms for p in paced):7.3f}   at {median(p.rate for p in paced):7,.0f}/s, "
                f"generator late by p99 {median(p.late_p99_ms for p in paced):.3f}, "
                f"{sum(p.errors for p in paced)} errors{fell_behind}"
            )
        if {"tollgate", "nginx_lua_redis"} <= asked.keys():
            ours, theirs = (median(p.added_p99_ms for p in asked[n]) for n in ("tollgate", "nginx_lua_redis"))
            is_fair = not any(_is_overloaded(asked[n]) for n in ("tollgate", "nginx_lua_redis"))
            if is_fair and theirs > 0:
                lines.append(f"      p99 added, Tollgate / nginx+Lua+Redis {ours / theirs:.2f}")
    return lines


def _is_overloaded(paced: list[Paced]) -> bool:
    """True if half of the rounds could not keep the rate: the machine was freer when the capacity was measured."""
    return median(p.added_p50_ms for p in paced) > _OVERLOADED_P50_MS


def _disturbance(peers: dict[str, Figures | None]) -> list[str]:
    shares = [sample.others for figures in peers.values() if figures is not None for sample in figures.samples]
    if not shares or max(shares) < _DISTURBED:
        return []
    return [
        f"    disturbed: other programs took {median(shares):.0%} of the machine's CPU (at most {max(shares):.0%} in a"
        " sample); trust the ratios rather than the figures"
    ]


def as_json(results: Results) -> dict[str, dict[str, dict[str, Any]]]:
    """case → peer → figures; a peer that cannot do a case is left out."""
    return {
        case: {peer: _figures(figures) for peer, figures in peers.items() if figures is not None}
        for case, peers in results.items()
    }


def _figures(figures: Figures) -> dict[str, Any]:
    m = figures.median
    found: dict[str, Any] = {
        "rps": round(m(lambda s: s.rps), 1),
        "p50_ms": round(m(lambda s: s.load.p50_ms), 3),
        "p99_ms": round(m(lambda s: s.load.p99_ms), 3),
        "p999_ms": round(m(lambda s: s.load.p999_ms), 3),
        "cpu_us": round(m(lambda s: s.cpu_us), 2),
        "redis_cpu_us": round(m(lambda s: s.redis_cpu_us), 2),
        "rss_mb": round(m(lambda s: s.rss_mb), 1),
    }
    for share, paced in figures.paced.items():
        found[f"open_loop_{share * 100:.0f}"] = {
            "rate": round(median(p.rate for p in paced), 1),
            "added_p50_ms": round(median(p.added_p50_ms for p in paced), 3),
            "added_p99_ms": round(median(p.added_p99_ms for p in paced), 3),
        }
    return found


def write_json(results: Results, path: Path) -> None:
    """Write the JSON, as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".new")
    partial.write_text(json.dumps(as_json(results), indent=2) + "\n")
    partial.replace(path)
