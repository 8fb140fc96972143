"""What the ledger says of the runs, compared with what their clients saw and what the programs measured themselves."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg

from ledger.ids import customer_id_for
from tests.sandbox.chaos.load import Seen, customer
from tests.support.gateway import PROJECT

WITHIN: Final = 0.10
UNSEEN_MS: Final = 10.0
"""What a program cannot see of itself: PID 1 of its jail takes the job, forks and packs, the interpreter ends (3 to 9 ms of
CPU, measured). Programs burn 100 ms and more, so that this is no more than the tenth that is allowed anyway."""


@dataclass(slots=True)
class Tally:
    """The books of all runs. `is_right` if nothing is wrong; the fields below `off…` say what the figures are worth."""

    runs: int = 0
    accepted: int = 0
    events: int = 0
    lost: int = 0
    """Accepted runs without an event that counts one run."""
    doubled: int = 0
    """Events beyond one for a run, runs beyond one in an event, and runs counted for what was refused."""
    left_behind: int = 0
    off_by_more_than_10_percent: int = 0
    measured: int = 0
    worst_percent: float = 0.0
    """The largest deviation of CPU time of a run that burnt 100 ms or more."""
    estimated: int = 0
    """Accepted runs whose gateway was killed before it could settle: charged by estimate, as the ledger says."""
    refused: int = 0
    broken: int = 0
    never_sent: int = 0
    wrong: list[str] = field(default_factory=list)
    """Anything else, in words."""

    @property
    def is_right(self) -> bool:
        return not (
            self.lost or self.doubled or self.left_behind or self.off_by_more_than_10_percent or self.wrong
        ) and bool(self.accepted)


async def compare(url: str, seen: list[Seen]) -> Tally:
    """The books of these runs; what is left behind is for others to count."""
    tally = Tally(runs=len(seen))
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT e.id, e.customer_id, e.status, e.outcome, e.meters FROM usage_events e"
            " LEFT JOIN routes r ON r.id = e.route_id WHERE r.name IS NULL OR r.name LIKE 'run%' AND r.name <> 'run-result'"
        )
        rolled = await connection.fetchval(
            "SELECT coalesce(sum(quantity), 0)::bigint FROM usage_hourly WHERE meter = 'runs'"
        )
    finally:
        await connection.close(timeout=5)
    events: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        events[row["customer_id"]].append((row, json.loads(row["meters"])))
    counted = 0
    for one in seen:
        found = events.pop(customer_id_for(PROJECT, "live", customer(one.number)), [])
        counted += sum(meters.get("runs", 0) for _, meters in found)
        judge(tally, one, found)
    if events:
        tally.wrong.append(f"events of {len(events)} customers that nobody was")
    if rolled != counted:
        tally.wrong.append(f"the rollup has {rolled} runs, the events {counted}")
    return tally


def judge(tally: Tally, one: Seen, found: list[tuple[Any, dict[str, int]]]) -> None:
    """Compare one run with the events of its customer: (row, meters)."""
    name = f"run {one.number} ({one.program.name})"
    tally.events += len(found)
    runs = sum(meters.get("runs", 0) for _, meters in found)
    tally.doubled += max(0, len(found) - 1) + max(0, runs - len(found))
    if one.is_accepted:
        tally.accepted += 1
        if runs == 0:
            tally.lost += 1
            tally.wrong.append(f"{name} was accepted, and its events are {found}")
            return
        assert one.reply is not None
        row, meters = found[0]
        if row["outcome"] == "orphaned":
            tally.estimated += 1
            return
        _figures(tally, name, one, meters)
        wanted = one.program.reasons
        if one.reply["reason"] not in wanted:
            tally.wrong.append(f"{name} ended by {one.reply['reason']}, not {'/'.join(wanted)}: {str(one.reply)[:300]}")
    elif one.is_broken:
        tally.broken += 1
    elif one.status == 0:
        tally.never_sent += 1
        if found:
            tally.wrong.append(f"{name} was never sent, and has events")
    else:
        tally.refused += 1
        if runs:
            tally.doubled += runs
            tally.wrong.append(f"{name} was refused with {one.status} ({one.problem}), and counts {runs} runs")
        if one.status not in (one.program.status, 502, 503):
            tally.wrong.append(f"{name} was answered {one.status} ({one.problem})")


def _figures(tally: Tally, name: str, one: Seen, meters: dict[str, int]) -> None:
    """Hold the event's figures against measurements that are not the product's."""
    assert one.reply is not None
    usage, problems = one.reply["usage"], []
    if (meters["cpu_ms"], meters["mem_mb_s"]) != (usage["cpuMs"], usage["memMBs"]):
        problems.append(f"the event has {meters}, the reply {usage}")
    if usage["durationMs"] > one.wall_s * 1000 + 1:
        problems.append(f"{usage['durationMs']} ms, where its client waited {one.wall_s * 1000:.0f} ms")
    lines = [line for line in one.reply["stdout"].splitlines() if line.startswith("measured {") and line.endswith("}")]
    if one.program.is_measured and lines:
        own = json.loads(lines[-1].removeprefix("measured "))
        off = meters["cpu_ms"] - own["cpuMs"]
        tally.measured += 1
        if own["cpuMs"] >= UNSEEN_MS / WITHIN:
            tally.worst_percent = max(tally.worst_percent, round(100 * abs(off) / own["cpuMs"], 1))
        if abs(off) > max(own["cpuMs"] * WITHIN, UNSEEN_MS):
            problems.append(f"{meters['cpu_ms']} ms of CPU, by its own account {own['cpuMs']:.1f}")
        if "peakMiB" in own:
            if abs(usage["memMB"] - own["peakMiB"]) > own["peakMiB"] * WITHIN:
                problems.append(f"{usage['memMB']} MiB, by its page tables {own['peakMiB']:.1f}")
            least = own["peakMiB"] * own["keptMs"] / 1000 * (1 - WITHIN)
            most = own["peakMiB"] * one.wall_s * (1 + WITHIN) + 1
            if not least <= meters["mem_mb_s"] <= most:
                problems.append(f"{meters['mem_mb_s']} MiB s, not {least:.0f} to {most:.0f}")
    elif one.program.is_measured and one.program.reasons == ("exit",):
        problems.append(f"no measurement in {one.reply['stdout'][-200:]!r} {one.reply['stderr'][-200:]!r}")
    if (limit := one.program.killed_at_mib) is not None and abs(usage["memMB"] - limit) > limit * WITHIN:
        problems.append(f"{usage['memMB']} MiB, killed at {limit}")
    if problems:
        tally.off_by_more_than_10_percent += 1
        tally.wrong.append(f"{name}: {'; '.join(problems)}")


def by_program(seen: list[Seen]) -> dict[str, Counter[str]]:
    """What became of each kind of program."""
    found: dict[str, Counter[str]] = {}
    for one in seen:
        came_to = "accepted" if one.is_accepted else "broken" if one.is_broken else f"status {one.status}"
        found.setdefault(one.program.name, Counter())[came_to] += 1
    return found
