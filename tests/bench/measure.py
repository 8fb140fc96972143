"""Samples: what one peer did in one round, and the rounds in which peers take turns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final

from tests.bench import cpu, honesty
from tests.bench.cases import Case
from tests.bench.ground import BenchError, Ground
from tests.bench.load import Generators, Load
from tests.bench.peers import Peer

WARM_UP_S: Final = 0.4
SHARES: Final = (0.25, 0.5)
"""Parts of a peer's own capacity at which the open loop asks."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One closed loop. CPU in µs per answer, of the peer's processes and of its Redis; memory in MiB.

    `others` is the part of the machine's CPU that went to processes which have nothing to do with the sample.
    """

    load: Load
    cpu_us: float
    redis_cpu_us: float
    rss_mb: float
    others: float = 0.0

    @property
    def rps(self) -> float:
        return self.load.requests / self.load.seconds


@dataclass(frozen=True, slots=True)
class Paced:
    """One open loop: latency beyond that of the bare upstream at the same rate, in ms, and the generator's own lateness."""

    rate: float
    added_p50_ms: float
    added_p99_ms: float
    late_p99_ms: float
    errors: int


@dataclass(slots=True)
class Figures:
    """All samples of one peer in one case. Sample i of each peer belongs to round i."""

    samples: list[Sample] = field(default_factory=list)
    paced: dict[float, list[Paced]] = field(default_factory=dict)

    def median(self, of: Callable[[Sample], float]) -> float:
        return median(of(sample) for sample in self.samples)


Results = dict[str, dict[str, Figures | None]]
"""case → peer → figures; None where the peer cannot do the case."""


def closed_sample(peer: Peer, case: Case, generators: Generators, upstream_pid: int, seconds: int) -> Sample:
    """Warm up, empty the counters, measure, check that all was counted. Raises BenchError."""
    port = peer.tls_port if case.is_tls else peer.port
    warm = generators.warm_up(case, port, WARM_UP_S)
    peer.settled()
    peer.forget()
    if case.is_admitted and not case.is_websocket:
        peer.prime(case.customers, warm.requests / warm.seconds, seconds)
    began, used_before = time.monotonic(), _used_s(upstream_pid)
    cpu_before, redis_before = peer.cpu_s()
    load = generators.closed(case, port, seconds)
    cpu_after, redis_after = peer.cpu_s()
    used = [after - before for before, after in zip(used_before, _used_s(upstream_pid), strict=True)]
    others_s = used[0] - used[1] - (cpu_after - cpu_before) - (redis_after - redis_before)
    elapsed_s = (time.monotonic() - began) * (os.cpu_count() or 1)
    rss_mb = peer.rss_mb()
    honesty.check_load(peer, case, load, generators.connections)
    per_request = 1e6 / load.requests
    return Sample(
        load=load,
        cpu_us=(cpu_after - cpu_before) * per_request,
        redis_cpu_us=(redis_after - redis_before) * per_request,
        rss_mb=rss_mb,
        others=max(0.0, others_s / elapsed_s),
    )


def _used_s(upstream_pid: int) -> tuple[float, float]:
    """Seconds of CPU used so far by the whole machine, and by our upstream and load generators."""
    ended = os.times()
    return cpu.machine_s(), cpu.cpu_s(cpu.tree(upstream_pid)) + ended.children_user + ended.children_system


def paced_sample(
    peer: Peer, case: Case, generators: Generators, upstream_port: int, rate: float, seconds: float
) -> Paced:
    """Latency at a constant rate, through the peer and then without it."""
    peer.forget()
    peer.prime(case.customers, rate, seconds)
    through = generators.paced(case, peer.port, rate, seconds)
    bare = generators.paced(case, upstream_port, rate, seconds)
    return Paced(
        rate=rate,
        added_p50_ms=through.p50_ms - bare.p50_ms,
        added_p99_ms=through.p99_ms - bare.p99_ms,
        late_p99_ms=through.late_p99_ms,
        errors=through.errors + through.refused,
    )


def measure(
    case: Case,
    peers: Sequence[Peer],
    ground: Ground,
    generators: Generators,
    *,
    rounds: int,
    seconds: int,
    paced_s: float,
) -> dict[str, Figures | None]:
    """All rounds of one case: the peers in turn, each round beginning with another one. `paced_s` 0: no open loop."""
    figures: dict[str, Figures | None] = {peer.name: Figures() if case.needs <= peer.can else None for peer in peers}
    able = [peer for peer in peers if case.needs <= peer.can]
    if not able:
        return figures
    generators.take_up(case, ground.population)
    for peer in able:
        peer.prepare(case)
        honesty.check_answer(peer, case, ground.population)
        honesty.check_exactly(peer, case, generators)
    for peer, mine in _turns(able, figures, rounds):
        mine.samples.append(closed_sample(peer, case, generators, ground.upstream_pid, seconds))
    if case.has_open_loop and paced_s:
        for peer, mine in _turns(able, figures, rounds):
            for share in SHARES:
                rate = mine.median(lambda sample: sample.rps) * share
                sample = paced_sample(peer, case, generators, ground.upstream_port, rate, paced_s)
                mine.paced.setdefault(share, []).append(sample)
    for peer in able:
        peer.forget()
    return figures


def _turns(peers: Sequence[Peer], figures: dict[str, Figures | None], rounds: int) -> Sequence[tuple[Peer, Figures]]:
    order = [(*peers[r % len(peers) :], *peers[: r % len(peers)]) for r in range(rounds)]
    found = []
    for peer in (peer for turn in order for peer in turn):
        mine = figures[peer.name]
        if mine is None:
            raise BenchError(f"{peer.name} takes part in a case that it cannot do")
        found.append((peer, mine))
    return found
