"""Rounds of faults: `python -m tests.faults.chaos --rounds 100 --seed 1 [--only redis_killed] [--pause 5]`.

A round is: load for a few seconds, one fault at a random moment in it, then quiet, then the books. All that is random
follows from the seed, which is printed. The result is .tollgate/chaos.json:

    {"rounds", "requests", "lost", "doubled", "over_admitted", "by_fault": {fault: the same and more}, "seed", …}

Exit status 1 if any book does not agree.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import uvloop

from tests.faults import faults
from tests.faults.books import Tally, compare, quiet, since
from tests.faults.load import drive
from tests.faults.origin import Origin
from tests.faults.stack import Stack
from tests.faults.till import units_seen

RATE = 25.0
_RESULT = Path(".tollgate/chaos.json")


def customers_of(round_number: int) -> dict[str, tuple[str, str]]:
    """New customers for each round: external id → path and plan."""
    return {
        f"r{round_number}-{plan}-{policy}": (f"/{policy}/x", plan)
        for policy in ("closed", "share")
        for plan in ("free", "tight", "minute")
    }


async def round_of(stack: Stack, fault: str, number: int, seed: int, pause_s: float) -> Tally:
    """One round. AssertionError if the stack does not come to rest."""
    chance = random.Random(f"{seed}/{number}/{fault}")
    customers = customers_of(number)
    before = Counter(stack.origin.served)
    seconds = pause_s + 2.0
    load = asyncio.create_task(drive(stack.port, stack.key, customers, seconds, RATE, chance.randrange(1 << 30)))
    try:
        await asyncio.sleep(chance.uniform(0.3, 1.2))
        is_shifted = faults.ALL[fault] is faults.month_ends
        if is_shifted:  # the load would be over before it begins
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
            await quiet(stack)
            before, customers = Counter(stack.origin.served), customers_of(number + 1_000_000)
            doing = asyncio.create_task(faults.ALL[fault](stack, chance, pause_s))
            load = asyncio.create_task(drive(stack.port, stack.key, customers, pause_s + 6.0, RATE, 1))
            await doing
        else:
            await faults.ALL[fault](stack, chance, pause_s)
        seen = await load
    finally:
        load.cancel()
    await quiet(stack)
    tally = await compare(stack, seen, customers, since(stack.origin.served, before), is_shifted)
    await faults.clock_set_right(stack)
    await stack.ready()
    return tally


async def run(
    names: list[str], rounds: int, seed: int, pause_s: float, *, say: bool = True
) -> tuple[Tally, dict[str, Tally]]:
    """So many rounds, the faults in turn in an order that the seed decides; the sum, and that of each fault."""
    order = list(names)
    random.Random(seed).shuffle(order)
    total = Tally()
    by_fault: dict[str, Tally] = {}
    async with Origin() as origin:
        stack = Stack(origin)
        try:
            await stack.start()
            for number in range(rounds):
                fault = order[number % len(order)]
                began = time.monotonic()
                tally = await round_of(stack, fault, number, seed, pause_s)
                total.add(tally)
                by_fault.setdefault(fault, Tally()).add(tally)
                if say:
                    verdict = "right" if tally.is_right else "WRONG"
                    figures = " ".join(f"{k}={v}" for k, v in asdict(tally).items() if v and k != "rounds")
                    print(f"{number:4} {fault:<26} {verdict} {time.monotonic() - began:5.1f} s  {figures}", flush=True)
                    if not tally.is_right or os.environ.get("CHAOS_LOG"):
                        print(stack.log(), flush=True)
            billed, counted = await units_seen(stack.postgres.url)
            if billed != counted:
                total.faults.append(f"Stripe has {billed.total()} units, the ledger {counted.total()}")
            if say:
                print(f"Stripe has {billed.total()} units of {len(billed)} customers, the ledger {counted.total()}")
        finally:
            stack.close()
    return total, by_fault


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--pause", type=float, default=5.0, help="seconds that things stay paused or away")
    parser.add_argument("--only", action="append", choices=sorted(faults.ALL), help="this fault (may be repeated)")
    asked = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 31) if asked.seed is None else asked.seed
    print(f"seed {seed}", flush=True)
    total, by_fault = uvloop.run(run(asked.only or list(faults.ALL), asked.rounds, seed, asked.pause))
    result = {
        "seed": seed,
        **asdict(total),
        "by_fault": {name: asdict(tally) for name, tally in sorted(by_fault.items())},
    }
    _RESULT.parent.mkdir(exist_ok=True)
    _RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({k: v for k, v in result.items() if k != "by_fault"}))
    return 0 if total.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
