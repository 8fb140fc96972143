"""The command line of the soak: load, change, watch, then compare the books."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import psutil
import uvloop

from tests.e2e.books import open_books
from tests.e2e.stack import Stack
from tests.soak.clients import Clients, Upstream

_RESULT: Final = Path(__file__).resolve().parents[2] / ".tollgate" / "bench" / "soak.json"
_DECLARATION: Final = """\
version: 1
projects:
  - name: e2e
    tiers:
      - {{name: roomy, default: true, requests_per_minute: {per_minute}, quotas: {{requests: 100000000}}}}
    customers:
{customers}
    upstreams:
      - {{name: up, targets: ["http://127.0.0.1:{port}"]}}
    routes:
      - {{name: soak, path: /soak/*, upstream: up, read_timeout_ms: {timeout_ms}}}
"""
_GROWTH_ALLOWED: Final = 1.05


@dataclass(slots=True)
class Watch:
    """Memory by process name, and how often what was changed. Sizes in MiB."""

    rss: dict[str, list[float]] = field(default_factory=dict)
    changes: int = 0
    rolls: int = 0

    def look(self, stack: Stack) -> None:
        """Note the memory of every process; names are told apart by what they run."""
        sizes: dict[str, float] = {}
        for plane in ("gateway", "admin", "worker"):
            process = psutil.Process(stack.leader(plane))
            children = process.children(recursive=True)
            if plane == "gateway":
                sizes["gateway_workers"] = sum(child.memory_info().rss for child in children) / 2**20
            sizes[plane] = process.memory_info().rss / 2**20
        for name, size in sizes.items():
            self.rss.setdefault(name, []).append(size)

    def growth(self) -> dict[str, float]:
        """Median of the last quarter over that of the second: the first quarter is for warming up."""
        found = {}
        for name, sizes in self.rss.items():
            quarter = len(sizes) // 4
            if quarter:
                second, last = sizes[quarter : 2 * quarter], sizes[-quarter:]
                found[name] = round(statistics.median(last) / statistics.median(second), 3)
        return found


def declaration(port: int, customers: int, turn: int = 0) -> str:
    """The soak's project; `turn` changes a tier and a route in it."""
    people = "\n".join(f"      - {{external_id: c{number}}}" for number in range(customers))
    return _DECLARATION.format(per_minute=900_000 + turn, port=port, customers=people, timeout_ms=30_000 + turn % 1_000)


async def soak(seconds: float, connections: int, workers: int) -> dict[str, Any]:
    """Run it; returns the figures."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    stack = await asyncio.to_thread(Stack.start, declaration(port, 20), workers=workers)
    try:
        keys = [(await asyncio.to_thread(stack.create_key, name=f"k{n}", customer=f"c{n}"))["key"] for n in range(20)]
        where = urlsplit(stack.gateway)
        clients = Clients(where.hostname or "", where.port or 80, "/soak/x", keys)
        watch = Watch()
        gateway = stack.leader("gateway")
        began = time.monotonic()
        clients.start(connections)
        spare: dict[str, str] | None = None
        while (passed := time.monotonic() - began) < seconds:
            turn_began = time.monotonic()
            watch.changes += 1
            await asyncio.to_thread(_apply, stack, declaration(port, 20, watch.changes))
            made = await asyncio.to_thread(stack.create_key, name="spare")
            if spare is not None:
                await asyncio.to_thread(stack.revoke_key, spare["id"])
            spare = made
            if passed < seconds * 0.8:
                if watch.changes % 3 == 0:
                    watch.look(stack)
            elif watch.changes % 5 == 0:  # at the end, for replaced workers begin with little memory
                os.kill(gateway, signal.SIGHUP)
                watch.rolls += 1
            await asyncio.sleep(max(0.0, 1 - (time.monotonic() - turn_began)))
        await clients.stop()
        took = time.monotonic() - began
        await asyncio.sleep(3)  # replaced workers give their last figures
        async with open_books(stack) as books:
            await books.balanced(60)
            events, quantity, hourly = await books.postgres.fetchrow(
                "SELECT (SELECT count(*) FROM usage_events e JOIN routes r ON r.id = e.route_id WHERE r.name = 'soak'),"
                " (SELECT sum((e.meters ->> 'requests')::bigint) FROM usage_events e JOIN routes r ON r.id = e.route_id"
                "  WHERE r.name = 'soak'),"
                " (SELECT sum(h.quantity) FROM usage_hourly h JOIN customers c ON c.id = h.customer_id"
                "  WHERE h.meter = 'requests')"
            )  # type: ignore[misc]
        answers = sum(clients.statuses.values())
        return {
            "seconds": round(took),
            "connections": connections,
            "workers": workers,
            "requests": answers,
            "requests_per_s": round(answers / took),
            "statuses": {str(status): count for status, count in sorted(clients.statuses.items())},
            "refusals": dict(clients.refusals),
            "failures": dict(clients.failures),
            "reconnected_when_told": clients.reconnected,
            "changes": watch.changes,
            "rolling_restarts": watch.rolls,
            "served_by_upstream": Upstream.served,
            "events": events,
            "quantity": int(quantity or 0),
            "hourly": int(hourly or 0),
            "rss_mb": {name: [round(min(s)), round(max(s))] for name, s in watch.rss.items()},
            "rss_growth": watch.growth(),
        }
    finally:
        await asyncio.to_thread(stack.stop)
        server.close()


def _apply(stack: Stack, text: str) -> None:
    request = urllib.request.Request(
        stack.admin + "/api/v1/apply",
        text.encode(),
        {"Authorization": f"Bearer {stack.secret_key}", "Content-Type": "application/yaml"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        changes = json.loads(answer.read())["changes"]
    assert changes, "nothing changed"


def faults(found: dict[str, Any]) -> list[str]:
    """What the figures say is wrong; empty is good."""
    wrong = []
    if set(found["statuses"]) - {"200"} or found["failures"]:
        wrong.append(f"answers other than 200: {found['refusals']}, {found['failures']}")
    counts = {name: found[name] for name in ("requests", "served_by_upstream", "events", "quantity", "hourly")}
    if len(set(counts.values())) != 1:
        wrong.append(f"the counts differ: {counts}")
    wrong += [f"memory of {name} grew to {by}×" for name, by in found["rss_growth"].items() if by > _GROWTH_ALLOWED]
    return wrong


def main(arguments: list[str]) -> int:
    """Returns the exit status: 0 when all is as it should be."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    found = uvloop.run(soak(options.seconds, options.connections, options.workers))
    _RESULT.parent.mkdir(parents=True, exist_ok=True)
    _RESULT.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    wrong = faults(found)
    for fault in wrong:
        print(f"soak: {fault}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
