"""Requests at a steady rate over kept connections, and what became of each as its client saw it.

Every customer of a round has a connection of its own. A request whose answer does not come is *broken*: its client does not
know whether it was served, and sends the next one on a new connection, as clients do.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

_ANSWER_S = 12.0


@dataclass(slots=True)
class Seen:
    """What the clients of a round saw: ids of answered requests (200), the number of each other status, and broken ones."""

    answered: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    sent: int = 0

    @property
    def requests(self) -> int:
        return self.sent


async def drive(
    port: int, key: str, customers: dict[str, tuple[str, str]], seconds: float, rate: float, seed: int
) -> Seen:
    """Send for so long, `rate` requests a second for each customer. `customers` maps external id to (path, plan)."""
    seen = Seen()
    async with asyncio.TaskGroup() as tasks:
        for number, (customer, (path, plan)) in enumerate(customers.items()):
            request = (
                f"GET {path} HTTP/1.1\r\nHost: chaos\r\nX-API-Key: {key}\r\n"
                f"X-User-Id: {customer}\r\nX-User-Plan: {plan}\r\n\r\n"
            ).encode()
            tasks.create_task(_one(port, request, seconds, rate, random.Random(seed * 1000 + number), seen))
    return seen


async def _one(port: int, request: bytes, seconds: float, rate: float, chance: random.Random, seen: Seen) -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while loop.time() < end:
        began = loop.time()
        try:
            if connection is None:
                connection = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            seen.statuses[0] += 1  # never sent
            connection = None
        else:
            seen.sent += 1
            try:
                async with asyncio.timeout(_ANSWER_S):
                    status, request_id, closes = await _ask(*connection, request)
                if status == 200:
                    seen.answered.append(request_id)
                else:
                    seen.statuses[status] += 1
            except (OSError, EOFError, TimeoutError, ValueError):
                seen.broken += 1
                closes = True
            if closes:
                await hang_up(connection[1])
                connection = None
        await asyncio.sleep(max(0.0, began + chance.uniform(0.5, 1.5) / rate - loop.time()))
    if connection is not None:
        await hang_up(connection[1])


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection, whatever state it is in."""
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        pass


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> tuple[int, str, bool]:
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = head.split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    await reader.readexactly(int(fields.get("content-length", 0)))
    return int(lines[0].split(" ")[1]), fields.get("x-request-id", ""), fields.get("connection") == "close"
