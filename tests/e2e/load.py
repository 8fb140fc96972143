"""Many clients at once, cheaply: keep-alive connections on a bare asyncio protocol, one request in flight on each.

Counts answers by status. Reads only answers that have a Content-Length, which is all that the load tests ask for.
A connection that breaks or an answer that is not HTTP is an error of the test, never a miscount.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: status and when its request was sent and answered (monotonic seconds)."""

    status: int
    sent_s: float
    answered_s: float


WantsMore = Callable[[int, Answer | None], bool]
"""Asked by connection `number` with its last answer (None at first): another request?"""


class _Client(asyncio.Protocol):
    """Sends the same request until `wants_more` says no; `done` then resolves."""

    transport: asyncio.Transport

    def __init__(self, number: int, request: bytes, wants_more: WantsMore) -> None:
        self.number = number
        self.request = request
        self.wants_more = wants_more
        self.buffer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._next(None)

    def _next(self, answer: Answer | None) -> None:
        if self.wants_more(self.number, answer):
            self.sent_s = time.monotonic()
            self.transport.write(self.request)
        else:
            self.done.set_result(None)
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, rest = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        at = lower.find(b"\r\ncontent-length:")
        if not head.startswith(b"HTTP/1.1 ") or at < 0:
            self._fail(f"an answer without a length: {head[:300]!r}")
            return
        length = int(lower[at + 17 :].split(b"\r\n", 1)[0])
        if len(rest) > length:
            self._fail(f"{len(rest) - length} bytes after the answer: {rest[length:][:100]!r}")
        elif len(rest) == length:
            self.buffer = b""
            self._next(Answer(int(head[9:12]), self.sent_s, time.monotonic()))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._fail(f"the connection was lost ({error!r}) with {self.buffer[:100]!r} received")

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(why))
        self.transport.abort()


async def _run(url: str, headers: dict[str, str], clients: int, wants_more: WantsMore) -> None:
    parts = urlsplit(url)
    lines = [f"GET {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request = "\r\n".join(lines).encode() + b"\r\n\r\n"
    loop = asyncio.get_running_loop()
    protocols: list[_Client] = []
    try:
        for number in range(clients):
            _, protocol = await loop.create_connection(
                partial(_Client, number, request, wants_more), parts.hostname or "", parts.port or 80
            )
            protocols.append(protocol)
        await asyncio.gather(*(protocol.done for protocol in protocols))
    finally:
        for protocol in protocols:
            protocol.transport.abort()
            if protocol.done.done() and not protocol.done.cancelled():
                protocol.done.exception()


async def count(url: str, headers: dict[str, str], *, total: int, clients: int) -> Counter[int]:
    """Exactly `total` requests by `clients` connections at once; returns how many answers had which status."""
    statuses: Counter[int] = Counter()
    left = total

    def wants_more(number: int, answer: Answer | None) -> bool:
        nonlocal left
        if answer is not None:
            statuses[answer.status] += 1
        if left == 0:
            return False
        left -= 1
        return True

    await _run(url, headers, clients, wants_more)
    return statuses


async def until(
    url: str, headers: dict[str, str], status: int, *, clients: int, deadline_s: float, warm: Callable[[], None]
) -> list[Answer]:
    """Requests on every connection until each has had an answer with `status`; returns all answers in order.

    `warm` is called once, when every connection has had its first answer. TimeoutError past the deadline.
    """
    answers: list[Answer] = []
    cold = set(range(clients))

    def wants_more(number: int, answer: Answer | None) -> bool:
        if answer is None:
            return True
        answers.append(answer)
        if number in cold:
            cold.remove(number)
            if not cold:
                warm()
        return answer.status != status

    async with asyncio.timeout(deadline_s):
        await _run(url, headers, clients, wants_more)
    return answers
