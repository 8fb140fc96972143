"""An upstream that remembers every request it served, by the id the gateway gave it. In the harness's own event loop.

`served` maps X-Request-Id to how often it came; a request counts once its answer is about to be written, since from then on
the work was done. Nothing here is slow or fails: the faults are elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType
from typing import cast

UNITS = 7
"""What each answer says that it cost."""
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\nX-Units: %d\r\n\r\nserved" % UNITS


class _Connection(asyncio.Protocol):
    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._origin.connections.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._transport is not None:
            self._origin.connections.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            for line in head.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"x-request-id":
                    self._origin.served[value.strip().decode()] += 1
            if self._transport is not None:
                self._transport.write(_ANSWER)


class Origin:
    """A listening origin; an async context manager."""

    def __init__(self) -> None:
        self.served: Counter[str] = Counter()
        self.connections: set[asyncio.Transport] = set()

    async def __aenter__(self) -> Origin:
        self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.close()
        for transport in tuple(self.connections):
            transport.abort()
        await asyncio.sleep(0)
