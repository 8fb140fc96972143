"""A TCP relay before a real server that loses what the test wants lost: above all replies to what was carried out."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from tests.support.raw import Peer, Upstream, connect


class Relay:
    """Relays to the server behind `url`. `url` of its own is the same with another port.

    While `swallows_replies` is set, replies are read from the server and thrown away; while `is_away` is set, whoever
    connects is hung up on; `cut()` ends all connections.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._behind = (parts.hostname, parts.port)
        self._parts = parts
        self._upstream = Upstream(self._relay)
        self.swallows_replies = False
        self.replies_swallowed = 0
        self.delay_s = 0.0
        """By how much every reply comes later."""
        self.is_away = False

    async def __aenter__(self) -> Relay:
        await self._upstream.__aenter__()
        credentials, at, _ = self._parts.netloc.rpartition("@")
        self.url = self._parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self._upstream.port}").geturl()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._upstream.__aexit__(None, None, None)

    @property
    def connections(self) -> int:
        """How many were made so far."""
        return len(self._upstream.peers)

    async def cut(self) -> None:
        """End all connections; new ones are relayed."""
        for peer in self._upstream.peers:
            await peer.close()

    async def _relay(self, client: Peer) -> None:
        if self.is_away:
            return
        async with await connect(*self._behind) as server:
            directions = [
                asyncio.create_task(self._copy(client, server)),
                asyncio.create_task(self._copy(server, client)),
            ]
            try:
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in directions:
                    direction.cancel()
                await asyncio.gather(*directions, return_exceptions=True)

    async def _copy(self, source: Peer, sink: Peer) -> None:
        while True:
            try:
                data = await source.read_some()
            except TimeoutError:
                continue
            if not data:
                return
            if self.swallows_replies and sink in self._upstream.peers:
                self.replies_swallowed += 1
            else:
                if self.delay_s and sink in self._upstream.peers:
                    await asyncio.sleep(self.delay_s)
                await sink.send(data)
