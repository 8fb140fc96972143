"""Both ends of a TCP connection for tests that must send, and see, exact bytes: a client, and an upstream on a script.

Every wait has a deadline: what does not come is a TimeoutError, never a stuck test. (For blocking code with parsed
responses there is tests/e2e/raw.py.)

    async def answer(peer: Peer) -> None:
        assert (await peer.read_until(b"\\r\\n\\r\\n")).startswith(b"GET /")
        await peer.send(b"HTTP/1.1 204 No Content\\r\\n\\r\\n")

    async with Upstream(answer) as upstream, await connect(*gateway_address) as client:
        await client.send(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        assert await client.read_until(b"\\r\\n\\r\\n") == …
        assert upstream.received == [b"GET / HTTP/1.1\\r\\n…"]
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from itertools import pairwise
from types import TracebackType

DEADLINE_S = 5.0
_READ_BYTES = 262_144


class Peer:
    """One end of a connection. `received` holds all bytes that were read from it, in order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._pending = b""
        self.received = bytearray()

    async def __aenter__(self) -> Peer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def send(self, data: bytes, pause_after: tuple[int, ...] = ()) -> None:
        """Send `data`; with `pause_after`, in pieces cut at these offsets, yielding to the loop between them."""
        edges = (0, *pause_after, len(data))
        async with asyncio.timeout(DEADLINE_S):
            for start, stop in pairwise(edges):
                self._writer.write(data[start:stop])
                await self._writer.drain()
                await asyncio.sleep(0)

    async def read_some(self) -> bytes:
        """Whatever comes next; empty at the end of the connection, also when it was reset."""
        if self._pending:
            data, self._pending = self._pending, b""
            return data
        try:
            async with asyncio.timeout(DEADLINE_S):
                data = await self._reader.read(_READ_BYTES)
        except ConnectionError:
            return b""
        self.received += data
        return data

    async def read_until(self, mark: bytes) -> bytes:
        """All bytes up to and with `mark`. EOFError if the connection ends before it."""
        data = b""
        while mark not in data:
            more = await self.read_some()
            if not more:
                raise EOFError(f"the connection ended after {data!r}")
            data += more
        end = data.index(mark) + len(mark)
        self._pending = data[end:]
        return data[:end]

    async def read_exactly(self, size: int) -> bytes:
        """The next `size` bytes. EOFError if the connection ends before them."""
        data = bytearray()
        while len(data) < size:
            more = await self.read_some()
            if not more:
                raise EOFError(f"the connection ended after {len(data)} of {size} bytes")
            data += more
        self._pending = bytes(data[size:])
        return bytes(data[:size])

    async def read_to_end(self) -> bytes:
        """All bytes up to the end of the connection."""
        data = bytearray()
        while more := await self.read_some():
            data += more
        return bytes(data)

    def half_close(self) -> None:
        """Say that nothing more will be sent (FIN)."""
        self._writer.write_eof()

    async def reset(self) -> None:
        """End the connection with a RST, as a crashed or impatient peer does."""
        raw: socket.socket = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self.close()

    async def close(self) -> None:
        """Close both directions. May be called again."""
        self._writer.close()
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self._writer.wait_closed()
        except ConnectionError:
            pass


async def connect(host: str, port: int) -> Peer:
    """A client's end of a new connection."""
    async with asyncio.timeout(DEADLINE_S):
        return Peer(*await asyncio.open_connection(host, port))


class Upstream:
    """A server on a free port of 127.0.0.1 that runs `script` for each connection and closes it when the script ends.

    An exception in a script (a failed assertion, say) is raised again when the context is left.
    """

    def __init__(self, script: Callable[[Peer], Awaitable[None]]) -> None:
        self._script = script
        self._running: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self.peers: list[Peer] = []
        self.host = "127.0.0.1"
        self.port = 0

    @property
    def received(self) -> list[bytes]:
        """What came, per connection, in the order they were opened."""
        return [bytes(peer.received) for peer in self.peers]

    async def __aenter__(self) -> Upstream:
        self._server = await asyncio.start_server(self._serve, self.host, 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._server.close()
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._server.wait_closed()
        if self._failure is not None and error is None:
            raise self._failure

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        peer = Peer(reader, writer)
        self.peers.append(peer)
        try:
            await self._script(peer)
        except asyncio.CancelledError:
            pass  # the context is being left; the connection ends below
        except Exception as failure:  # noqa: BLE001 - raised again in __aexit__
            self._failure = self._failure or failure
        finally:
            await peer.close()
            self._running.discard(task)
