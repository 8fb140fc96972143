"""Runs through the gateway, as its clients see them. Each is of a customer of its own, so that its events can be told apart.

A run is *accepted* when its client has the whole result (200, and for a stream the `end` event). It is *broken* when its
connection ends before that: the client does not know what became of it. A refusal is an answer with another status.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from tests.sandbox.chaos.programs import How, Program

_PATIENCE_S: Final = 90.0
_PAUSE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one run. `status` 0: it was never sent. `reply` is the result of an accepted one."""

    number: int
    program: Program
    status: int
    wall_s: float
    reply: dict[str, Any] | None = None
    is_broken: bool = False
    problem: str = ""

    @property
    def is_accepted(self) -> bool:
        return self.reply is not None


def customer(number: int) -> str:
    """The external id of the customer that run `number` is of."""
    return f"run-{number}"


class Client:
    """Asks the gateway with a secret key. `session` may be shared."""

    def __init__(self, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._session = session
        self._url = url
        self._key = key

    async def run(self, number: int, program: Program) -> Seen:
        """One run, to whatever end."""
        ask = self._stream if program.how in (How.STREAM, How.STOP) else self._plain
        began = time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                status, reply, problem = await ask(number, program)
        except aiohttp.ClientConnectorError:
            return Seen(number, program, 0, 0.0)
        except (aiohttp.ClientError, ConnectionError, json.JSONDecodeError) as error:
            return Seen(number, program, 0, time.monotonic() - began, is_broken=True, problem=repr(error))
        wall_s = time.monotonic() - began
        return Seen(number, program, status, wall_s, reply, status == 200 and reply is None, problem)

    def _headers(self, number: int) -> dict[str, str]:
        return {"X-API-Key": self._key, "X-User-Id": customer(number)}

    async def _plain(self, number: int, program: Program) -> tuple[int, dict[str, Any] | None, str]:
        asking = self._ask(number, program)
        if program.how is How.ABANDON:
            task = asyncio.create_task(asking)
            done, _ = await asyncio.wait((task,), timeout=program.pause_s)
            if not done:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                return 200, None, "left"
            return task.result()
        return await asking

    async def _ask(self, number: int, program: Program) -> tuple[int, dict[str, Any] | None, str]:
        async with self._session.post(
            f"{self._url}/api/run", json=program.body, headers=self._headers(number)
        ) as response:
            document = json.loads(await response.read())
            return response.status, document if response.status == 200 else None, str(document.get("code"))

    async def _stream(self, number: int, program: Program) -> tuple[int, dict[str, Any] | None, str]:
        async with self._session.post(
            f"{self._url}/api/run/stream", json=program.body, headers=self._headers(number)
        ) as response:
            if response.status != 200:
                return response.status, None, str(json.loads(await response.read()).get("code"))
            name, last, stopping = "", None, None
            try:
                async for line in response.content:
                    if line.startswith(b"event: "):
                        name = line[7:].decode().strip()
                    elif line.startswith(b"data: "):
                        data = json.loads(line[6:])
                        if name == "start" and program.how is How.STOP:
                            stopping = asyncio.create_task(self._stop(number, data["id"], program.pause_s))
                        if name == "end":
                            last = data
            finally:
                if stopping is not None:
                    await asyncio.gather(stopping, return_exceptions=True)
            return 200, last, "" if last is not None else f"ended after {name}"

    async def _stop(self, number: int, run: str, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        headers = self._headers(number)
        for _ in range(20):  # whoever was killed is back by then
            try:
                async with self._session.delete(f"{self._url}/api/run/{run}", headers=headers) as response:
                    if response.status in (202, 404, 409):
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


async def drive(
    client: Client,
    mix: Callable[[int], Program],
    runs: int,
    at_once: int,
    begun: Callable[[int], Awaitable[None]],
) -> list[Seen]:
    """`runs` of them, `at_once` at a time; each waits for `begun`, which is told its number."""
    seen: list[Seen] = []
    numbers = iter(range(runs))

    async def one_after_the_other() -> None:
        for number in numbers:
            await begun(number)
            seen.append(await client.run(number, mix(number)))
            if seen[-1].status in (0, 502, 503):
                await asyncio.sleep(_PAUSE_S)  # as Retry-After asks

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(one_after_the_other())
    return seen
