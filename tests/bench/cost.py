"""Whether a request costs the same whatever the number of keys and routes: `make bench ARGS=--cost`.

Tollgate alone, GET 1 KiB, all keys in turn: 10 and 100,000 keys with one route, then 10 keys with 1 and 1,000 routes.
The two of a pair take turns, each with a stack of its own. Every key is used once before anything is measured; with
100,000 that takes half a minute.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

from tests.bench import honesty
from tests.bench.cases import CASES, Case, request
from tests.bench.ground import Ground
from tests.bench.load import Generators
from tests.bench.measure import Sample, closed_sample
from tests.bench.peers.tollgate import Tollgate
from tests.bench.population import make_population

TOLERANCE: Final = 0.10


def cost(pace: Path, connections: int, rounds: int, seconds: int) -> str:
    """Measure both pairs; returns the text to show."""
    lines = ["CPU µs per request of Tollgate (Redis apart), medians; the aim is a ratio of 1.00 ± 0.10"]
    for title, small, large in (
        ("keys", (10, 1), (100_000, 1)),
        ("routes", (10, 1), (10, 1_000)),
    ):
        pair = _pair(small, large, pace, connections, rounds, seconds)
        ratio = median(b.cpu_us / a.cpu_us for a, b in zip(*pair, strict=True))
        redis = median(b.redis_cpu_us / a.redis_cpu_us for a, b in zip(*pair, strict=True))
        index = 0 if title == "keys" else 1
        for size, samples in ((small, pair[0]), (large, pair[1])):
            lines.append(
                f"  {size[index]:>7,} {title:<7} {median(s.cpu_us for s in samples):6.1f}  "
                f"Redis {median(s.redis_cpu_us for s in samples):5.1f}  {median(s.rps for s in samples):8,.0f}/s  "
                f"RSS {median(s.rss_mb for s in samples):5.0f} MB"
            )
        verdict = "flat" if abs(ratio - 1) <= TOLERANCE else "NOT flat"
        lines.append(f"  ratio {ratio:.2f} ({verdict}), Redis {redis:.2f}")
    return "\n".join(lines)


def _pair(
    small: tuple[int, int], large: tuple[int, int], pace: Path, connections: int, rounds: int, seconds: int
) -> tuple[list[Sample], list[Sample]]:
    samples: tuple[list[Sample], list[Sample]] = ([], [])
    with Ground(make_population(small[0])) as a, Ground(make_population(large[0])) as b:
        sides = []
        for ground, (size, routes) in ((a, small), (b, large)):
            peer = Tollgate()
            peer.routes = routes
            peer.start(ground)
            case, own = _all_keys(size), Generators(pace, ground.directory, connections)
            own.take_up(case, ground.population)
            honesty.check_answer(peer, case, ground.population)
            honesty.check_exactly(peer, case, own)
            sides.append((peer, case, own, ground.upstream_pid))
        for turn in range(rounds):
            for side in (0, 1) if turn % 2 == 0 else (1, 0):
                samples[side].append(closed_sample(*sides[side], seconds))
    return samples


def _all_keys(size: int) -> Case:
    send = lambda people: [request(key.text) for key in people.roomy]  # noqa: E731
    return replace(CASES["keys_10k"], title=f"GET 1 KiB, {size:,} keys in turn", send=send, customers=size)
