"""Supervision: what ends comes back, and all of it stops in order."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.processes import runs
from tollgate.dev.child import Child, spawn
from tollgate.dev.supervisor import StartError, Supervisor, Unit, pause_s

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    await supervisor.stop()


def sleeper(name: str) -> Unit:
    async def start() -> Child:
        return spawn(["sleep", "600"], name=name)

    return Unit(name, start)


async def another(unit: Unit, than: int) -> int:
    """The process id of the unit's next child."""
    async with asyncio.timeout(10):
        while unit.child is None or unit.child.pid == than:
            await asyncio.sleep(0.01)
    return unit.child.pid


def test_pauses_double_up_to_ten_seconds() -> None:
    assert [pause_s(failures) for failures in (0, 1, 2, 5, 6, 1000)] == [0.25, 0.5, 1, 8, 10, 10]


async def test_a_killed_child_comes_back(supervisor: Supervisor) -> None:
    await supervisor.start(unit := sleeper("one"))
    assert unit.child is not None
    first = unit.child.pid
    os.kill(first, signal.SIGKILL)
    second = await another(unit, than=first)
    assert runs(second)
    assert not runs(first)


async def test_a_start_that_fails_is_tried_again(supervisor: Supervisor, caplog: pytest.LogCaptureFixture) -> None:
    failures = iter([False, True, False])

    async def start() -> Child:
        if next(failures):
            raise StartError("not today")
        return spawn(["sleep", "600"], name="moody")

    await supervisor.start(unit := Unit("moody", start))
    assert unit.child is not None
    first = unit.child.pid
    os.kill(first, signal.SIGKILL)
    await another(unit, than=first)
    assert "moody ended with status 137" in caplog.text
    assert "moody did not start: not today; starting it again in 0.5 s" in caplog.text


async def test_a_first_start_that_fails_is_an_error(supervisor: Supervisor) -> None:
    async def start() -> Child:
        raise StartError("no")

    with pytest.raises(StartError, match="no"):
        await supervisor.start(Unit("bad", start), sleeper("good"))


async def test_units_stop_in_reverse_order_each_after_the_one_before_has_ended(tmp_path: Path) -> None:
    supervisor = Supervisor()
    record = tmp_path / "record"

    def recorder(name: str) -> Unit:
        script = f"trap 'sleep 0.1; echo {name} >> {record}; exit' TERM; touch {tmp_path}/{name};"
        script += "while :; do sleep 0.01; done"

        async def start() -> Child:
            child = spawn(["sh", "-c", script], name=name)
            while not (tmp_path / name).exists():
                await asyncio.sleep(0.01)
            return child

        return Unit(name, start)

    await supervisor.start(recorder("database"))
    await supervisor.start(recorder("worker"), recorder("gateway"))
    await supervisor.stop()
    assert record.read_text().split() == ["gateway", "worker", "database"]


async def test_a_unit_that_is_between_two_starts_stops_too() -> None:
    supervisor = Supervisor()
    calls = 0

    async def start() -> Child:
        nonlocal calls
        calls += 1
        return spawn(["true"], name="short")

    await supervisor.start(unit := Unit("short", start))
    async with asyncio.timeout(10):
        while unit.child is not None:
            await asyncio.sleep(0.01)
        await supervisor.stop()
    assert calls == 1


async def test_a_hurried_stop_gives_only_the_short_grace() -> None:
    supervisor = Supervisor()

    async def start() -> Child:
        return spawn(["sh", "-c", "trap '' TERM; sleep 600"], name="deaf", grace_s=600, orphan_grace_s=0.1)

    await supervisor.start(Unit("deaf", start), Unit("deaf too", start))
    async with asyncio.timeout(10):
        stopping = asyncio.create_task(supervisor.stop())
        await asyncio.sleep(0)
        supervisor.hurry()
        await stopping
