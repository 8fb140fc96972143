"""The command line of the benchmark: `make bench ARGS="--quick"`, or python -m tests.bench."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from tests.bench import chart, packages, report
from tests.bench.cases import CASES
from tests.bench.cost import cost
from tests.bench.ground import BenchError, Ground
from tests.bench.load import Generators
from tests.bench.measure import Results, measure
from tests.bench.peers import PEERS
from tests.bench.population import make_population
from tollgate.dev.child import ChildError
from tollgate.dev.embedded import EmbeddedError

_ROOT = Path(__file__).resolve().parents[2]
_STATE = _ROOT / ".tollgate" / "bench"
_CHART = _ROOT / "docs" / "bench.svg"
_QUICK_PEERS = ["nginx", "nginx_lua_redis", "tollgate"]


def main(arguments: list[str]) -> int:
    """Run what was asked for; returns the exit status."""
    options = _parse(arguments)
    results: Results = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # such that everything is stopped in order
    try:
        packages.install()
        pace = packages.compile_pace(_STATE)
        if options.cost:
            print(cost(pace, options.connections, options.rounds, options.seconds))
            return 0
        _compare(options, pace, results)
    except (BenchError, ChildError, EmbeddedError, packages.Missing) as error:
        if results:
            print(report.table(results, options.connections))
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(report.table(results, options.connections))
    report.write_json(results, _STATE / "latest.json")
    print(f"\n{(_STATE / 'latest.json').relative_to(_ROOT)} written")
    if not options.quick and set(results.get("get_1k", ())) == set(PEERS):
        chart.write(results["get_1k"], "GET 1 KiB through each proxy", options.connections, _CHART)
        print(f"{_CHART.relative_to(_ROOT)} written")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Tollgate beside other proxies, in one run.")
    parser.add_argument(
        "--case", action="append", choices=CASES, metavar="CASE", help=f"one of {', '.join(CASES)}; repeat for several"
    )
    parser.add_argument(
        "--peer", action="append", choices=PEERS, metavar="PEER", help=f"one of {', '.join(PEERS)}; repeat for several"
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each peer has its turn (default 3)")
    parser.add_argument("--seconds", type=int, default=3, help="length of a sample (default 3)")
    parser.add_argument("--connections", type=int, default=64, help="kept open at once (default 64)")
    parser.add_argument("--no-open-loop", action="store_true", help="leave out the latencies at 25 %% and 50 %% load")
    parser.add_argument("--quick", action="store_true", help="one short round of get_1k for three peers")
    parser.add_argument(
        "--cost", action="store_true", help="only: is the cost flat from 10 to 100,000 keys, 1 to 1,000 routes?"
    )
    options = parser.parse_args(arguments)
    if min(options.rounds, options.seconds, options.connections) < 1:
        parser.error("--rounds, --seconds and --connections are at least 1")
    options.case = options.case or (["get_1k"] if options.quick else list(CASES))
    options.peer = options.peer or (_QUICK_PEERS if options.quick else list(PEERS))
    if options.quick:
        options.rounds, options.seconds, options.no_open_loop = 1, 3, True
    return options


def _compare(options: argparse.Namespace, pace: Path, results: Results) -> None:
    """Measure every case asked for into `results`, which keeps what was measured when a later case fails."""
    with Ground(make_population(10_000)) as ground:
        generators = Generators(pace, ground.directory, options.connections)
        peers = [PEERS[name]() for name in PEERS if name in options.peer]
        for peer in peers:
            peer.start(ground)
        for name in CASES:
            if name not in options.case:
                continue
            began = time.monotonic()
            paced_s = 0.0 if options.no_open_loop else 2.0
            results[name] = measure(
                CASES[name], peers, ground, generators, rounds=options.rounds, seconds=options.seconds, paced_s=paced_s
            )
            print(f"measured {name} in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
