"""A kept answer's body on its way to a client: it stands where an upstream connection would.

The body goes in pieces, each only when the client can take more, so that a slow client holds no more than a piece beside
what is kept anyway.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from gateway.exchange import ClientGone
from gateway.proxy.upstream import END

if TYPE_CHECKING:
    from gateway.exchange import Exchange

_PIECE: Final = 65_536


class KeptBody:
    """Gives a body to an exchange, from the loop's next turn on; then resumes it with END."""

    def __init__(self, ex: Exchange, body: bytes) -> None:
        self._ex: Exchange | None = ex
        self._body = memoryview(body)
        self._at = 0
        self._paused = False
        ex.upstream = self
        self._soon()

    def _soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._go)

    def _go(self) -> None:
        while self._ex is not None and not self._paused:
            ex = self._ex
            if self._at >= len(self._body):
                self._ex = None
                ex.upstream = None
                ex.resume(END)
                return
            piece = bytes(self._body[self._at : self._at + _PIECE])
            self._at += len(piece)
            ex.response_data(piece)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._soon()

    @property
    def is_choked(self) -> bool:
        return False

    def write_body(self, data: bytes) -> None: ...
    def end_body(self, trailers: bytes) -> None: ...

    def time_out(self) -> None:
        ex = self._ex
        self.abort()
        if ex is not None:
            ex.throw(ClientGone())

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._ex = None
