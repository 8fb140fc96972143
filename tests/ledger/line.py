"""A TCP line to a server that a test can cut and mend: the server is away for whoever uses the line, and for nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit


class Line:
    """`url` leads through the line to `target`. Starts out connected."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0
        self._flows = asyncio.Event()
        self._flows.set()

    @property
    def url(self) -> str:
        user, at, _ = self._target.netloc.rpartition("@")
        return urlunsplit(self._target._replace(netloc=f"{user}{at}127.0.0.1:{self._port}"))

    async def mend(self) -> None:
        """Accept connections (again), on the same port."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Break every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._flows.set()
            for writer in self._writers:
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    def freeze(self) -> None:
        """From now on nothing passes and nothing breaks: the server hangs. `cut` ends it."""
        self._flows.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection(self._target.hostname, self._target.port)
        self._writers |= {writer, forth}
        try:
            await asyncio.gather(self._pump(reader, forth), self._pump(back, writer))
        finally:
            self._writers -= {writer, forth}

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                await self._flows.wait()
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()


@asynccontextmanager
async def line_to(target: str) -> AsyncIterator[Line]:
    """A line to the server of a URL; cut at the end."""
    line = Line(target)
    await line.mend()
    try:
        yield line
    finally:
        await line.cut()
