"""`python -m tests.sandbox.chaos --runs 10000 --seed 1 [--at-once 6] [--every 40] [--jails zygote]`: see the package.

All that is random follows from the seed, which is printed; so is every run that came out wrong. The result is
.tollgate/chaos-sandbox.json:

    {"runs", "accepted", "events", "lost", "doubled", "left_behind", "off_by_more_than_10_percent", …, "kills", "seed"}

Exit status 1 if any book does not agree or anything is left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp
import uvloop

from tests.faults.books import quiet
from tests.sandbox.chaos.books import Tally, by_program, compare
from tests.sandbox.chaos.kills import Killer, schedule
from tests.sandbox.chaos.load import Client, Seen, drive
from tests.sandbox.chaos.programs import program
from tests.sandbox.chaos.stack import RunnerStack
from tests.sandbox.traces import Traces

_RESULT: Final = Path(".tollgate/chaos-sandbox.json")
_REST_S: Final = 60.0
JAILS: Final[dict[str, dict[str, bool]]] = {
    "cloned": {},
    "bubblewrap": {"bubblewrap_only": True},
    "zygote": {"zygote": True},
}


async def run(
    runs: int, seed: int, *, at_once: int = 6, every: int = 40, jails: str = "cloned", say: bool = False
) -> tuple[Tally, dict[str, Any]]:
    """So many runs, a kill about every so many; the books, and what was done."""
    before = Traces.take()
    stack = RunnerStack(**JAILS[jails])
    left: list[str] = []
    try:
        await stack.start()
        killer = Killer(stack, schedule(seed, runs, every, has_zygote=jails != "bubblewrap"))
        seen = await _drive(stack, killer, runs, seed, at_once, say=say)
        await _rested(stack, left)
        await quiet(stack)
        tally = await compare(stack.postgres.url, seen)
        await stack.stop("sandbox")
        left += await _gone(before)
    finally:
        stack.close()
    tally.left_behind = len(left)
    tally.wrong += left
    if not killer.saw_work:
        tally.wrong.append("no kill met a run: nothing was proved")
    return tally, {"kills": dict(killer.done), "programs": {k: dict(v) for k, v in sorted(by_program(seen).items())}}


async def _drive(stack: RunnerStack, killer: Killer, runs: int, seed: int, at_once: int, *, say: bool) -> list[Seen]:
    """The load, with the kills in it."""
    began = time.monotonic()

    async def begun(number: int) -> None:
        await killer.begun(number)
        if say and number and number % 200 == 0:
            print(f"{number:6} runs, {time.monotonic() - began:5.0f} s, kills {dict(killer.done)}", flush=True)

    killing = asyncio.create_task(killer.work(), name="kills")
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            client = Client(session, f"http://127.0.0.1:{stack.port}", stack.key)
            seen = await drive(client, partial(program, seed), runs, at_once, begun)
        await killing
    finally:
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
    return seen


async def _rested(stack: RunnerStack, left: list[str]) -> None:
    """While the last service still stands: nothing but its warm guests, and no descriptor more than when it began."""
    await _settled(stack, left)
    at_rest = stack.descriptors()
    await stack.kill("sandbox")
    stack.start_sandbox()
    await stack.sandbox_ready()
    await _settled(stack, left)
    fresh = stack.descriptors()
    left += [f"{count} descriptors more: {kind}" for kind, count in (at_rest - fresh).items()]


async def _settled(stack: RunnerStack, left: list[str]) -> None:
    deadline = time.monotonic() + _REST_S
    while beyond := stack.more_than_warm():
        if time.monotonic() > deadline:
            left += beyond
            return
        await asyncio.sleep(0.05)


async def _gone(before: Traces) -> list[str]:
    """What is still there when the sandbox has ended."""
    deadline = time.monotonic() + _REST_S
    while (left := Traces.take().beyond(before)) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return left


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos-sandbox", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--at-once", type=int, default=6, help="clients")
    parser.add_argument("--every", type=int, default=40, help="runs between kills, about")
    parser.add_argument("--jails", choices=sorted(JAILS), default="cloned", help="how jails are made")
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 31) if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    began = time.monotonic()
    tally, done = uvloop.run(
        run(asked.runs, seed, at_once=asked.at_once, every=asked.every, jails=asked.jails, say=True)
    )
    result = {**asdict(tally), **done, "jails": asked.jails, "seed": seed, "seconds": round(time.monotonic() - began)}
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps(result, indent=1) + "\n")
    for wrong in tally.wrong:
        print(f"WRONG {wrong}")
    print(json.dumps({k: v for k, v in result.items() if k not in ("wrong", "programs")}))
    return 0 if tally.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
