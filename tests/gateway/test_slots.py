"""One place and who serves there, where processes end at the wrong moment. The processes are make-believe."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway import slots
from gateway.slots import Slot, WorkerProcess, listen
from tests.support.gateway import until


class Actor(WorkerProcess):
    """A worker that does what the test says, and ends when it is asked to."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.pid = 1
        self.settings = settings
        self.ready, self.ended = asyncio.Event(), asyncio.Event()
        self.latest = self.exit_code = None

    def end(self, code: int) -> None:
        self.exit_code = code
        self.ended.set()

    def send(self, number: signal.Signals) -> None:
        self.end(-number)


class Place:
    """A slot that is kept, and every worker that was ever started in it."""

    def __init__(self, listener: socket.socket) -> None:
        self.stopping = asyncio.Event()
        self.started: list[Actor] = []
        self.settings = {"version": 1}
        self.slot = Slot(0, listener, lambda: dict(self.settings), lambda _: None, self.stopping)
        self.may_start = asyncio.Event()
        self.may_start.set()

    async def start(self, _: socket.socket, settings: dict[str, Any]) -> Actor:
        self.started.append(Actor(settings))
        found = self.started[-1]
        await self.may_start.wait()
        return found

    @property
    def alive(self) -> list[Actor]:
        return [one for one in self.started if not one.ended.is_set()]

    async def has_started(self, count: int) -> Actor:
        await until(lambda: len(self.started) == count)
        return self.started[-1]

    async def a_while(self) -> None:
        """Long enough for whoever is about to do something in this loop."""
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.fixture
async def place(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Place]:
    monkeypatch.setattr(slots, "_BACKOFF_S", (0.0, 0.0))
    with listen("127.0.0.1", 0) as listener:
        found = Place(listener)
        monkeypatch.setattr(WorkerProcess, "start", found.start)
        keeper = asyncio.create_task(found.slot.keep(), name="slot")
        yield found
        found.stopping.set()
        for one in found.started:
            one.end(0)
        await keeper


async def test_a_worker_that_dies_while_its_successor_gets_ready_has_no_other(place: Place) -> None:
    first = await place.has_started(1)
    first.ready.set()
    roll = asyncio.create_task(place.slot.replace(1.0), name="roll")
    second = await place.has_started(2)
    first.end(-9)
    await place.a_while()
    assert place.alive == [second]
    second.ready.set()
    assert await roll is True
    assert place.slot.current is second
    second.end(1)
    third = await place.has_started(3)
    assert place.alive == [third]


async def test_when_both_are_gone_another_one_comes(place: Place) -> None:
    first = await place.has_started(1)
    first.ready.set()
    roll = asyncio.create_task(place.slot.replace(1.0), name="roll")
    second = await place.has_started(2)
    first.end(-9)
    second.end(1)
    assert await roll is False
    third = await place.has_started(3)
    assert place.alive == [third]
    await until(lambda: place.slot.current is third)


async def test_one_that_is_being_started_with_the_settings_of_before_is_replaced_too(place: Place) -> None:
    first = await place.has_started(1)
    place.may_start.clear()
    first.end(1)
    await place.has_started(2)
    place.settings = {"version": 2}
    roll = asyncio.create_task(place.slot.replace(1.0), name="roll")
    await place.a_while()
    place.may_start.set()
    last = await place.has_started(3)
    last.ready.set()
    assert await roll is True
    assert [one.settings for one in place.alive] == [{"version": 2}]
