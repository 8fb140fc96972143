"""Load from honest HTTP/1.1 clients, and the upstream that they reach, both counting.

A client keeps its connection, sends one request at a time, and connects anew when an answer said that it was the last.
Whatever else happens to it is a failure, noted in words. Client and upstream are bare protocols, to leave the cores to
what is looked at.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Final, cast

_BODY: Final = b"x" * 1_024
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(_BODY), _BODY)


class Upstream(asyncio.Protocol):
    """Answers each request (none has a body) with 1 KiB. `served` counts for all connections."""

    served = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            _, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            Upstream.served += 1
            self._transport.write(_ANSWER)


class Clients:
    """So many clients in a loop until `stop`.

    `statuses` counts answers, `refusals` those other than 200 by problem code, `failures` what went wrong, in words.
    """

    def __init__(self, host: str, port: int, path: str, keys: list[str]) -> None:
        self.host, self.port = host, port
        self.requests = [
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nX-API-Key: {key}\r\n\r\n".encode() for key in keys
        ]
        self.statuses: Counter[int] = Counter()
        self.failures: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self.reconnected = 0
        self.is_stopping = False
        self._clients: list[asyncio.Task[None]] = []

    def start(self, count: int) -> None:
        """Begin with `count` connections."""
        self._clients = [asyncio.create_task(self._client(number), name=f"client-{number}") for number in range(count)]

    async def stop(self) -> None:
        """Let each client finish the request it is at."""
        self.is_stopping = True
        await asyncio.gather(*self._clients)

    async def _client(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        while not self.is_stopping:
            try:
                _, one = await loop.create_connection(lambda: _Client(self, number), self.host, self.port)
            except OSError as error:
                self.failures[f"connect: {error}"] += 1
                await asyncio.sleep(0.1)
                continue
            await one.over


class _Client(asyncio.Protocol):
    """One connection; `over` when it has ended, for whatever reason."""

    def __init__(self, all_: Clients, number: int) -> None:
        self._all = all_
        self._number = number
        self._buffer = b""
        self._is_asking = False
        self._is_last = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def _ask(self) -> None:
        if self._all.is_stopping or self._is_last:
            self._all.reconnected += self._is_last
            self._is_asking = False
            self._transport.close()
            return
        self._number += 1
        self._is_asking = True
        self._transport.write(self._all.requests[self._number % len(self._all.requests)])

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = buffer[:end]
        at = head.find(b"Content-Length: ")
        if not head.startswith(b"HTTP/1.1 ") or at < 0:
            self._all.failures[f"odd answer: {head[:60]!r}"] += 1
            self._transport.abort()
            return
        line = head.find(b"\r\n", at)
        length = int(head[at + 16 : line if line > 0 else end])
        if len(buffer) < end + 4 + length:
            return
        self._buffer = b""
        self._is_last = b"\r\nConnection: close" in head
        status = int(head[9:12])
        self._all.statuses[status] += 1
        if status != 200:
            code = buffer.partition(b'"code":"')[2].partition(b'"')[0].decode("latin-1")
            self._all.refusals[f"{status} {code}"] += 1
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_asking and not (self._is_last and not self._buffer):
            self._all.failures[f"lost with {len(self._buffer)} bytes: {exc!r}"] += 1
        if not self.over.done():
            self.over.set_result(None)
