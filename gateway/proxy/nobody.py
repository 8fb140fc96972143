"""The client of a request that nobody made: where a kept answer is renewed behind the back of whoever was told it.

It takes everything and says nothing. What is asked on its behalf has a deadline of its own, since no connection looks after
it; when that passes, the exchange is told that its client has gone.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gateway.exchange import ClientGone

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.http1.fields import Fields


class Nobody:
    """See the module; `sender` is whose request it was like."""

    peer_ip = ""
    caller: Any = None
    turned_away: Any = None
    shared: Any = None
    key_text = b""
    is_choked = False

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._deadline: asyncio.TimerHandle | None = None

    def waits(self, ex: Exchange, within_s: float) -> None:
        """Begin to wait for an exchange."""
        self._deadline = asyncio.get_running_loop().call_later(within_s, ex.throw, ClientGone())

    def exchange_done(self, ex: Exchange) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def sender(self, fields: Fields) -> Any:
        return self._sender

    def read_fully(self, ex: Exchange) -> None: ...
    def remember(self, caller: Any) -> None: ...
    def remember_stranger(self, turned_away: Any) -> None: ...
    def respond(self, ex: Exchange, status: int, headers: bytes, body: bytes) -> None: ...
    def start_response(self, ex: Exchange, lead: bytes, extra: bytes, framing: int) -> None: ...
    def start_tunnel(self, ex: Exchange, lead: bytes, extra: bytes) -> None: ...
    def write_body(self, data: bytes) -> None: ...
    def end_body(self, trailers: bytes) -> None: ...
    def flush_head(self) -> None: ...
    def send_continue(self) -> None: ...
    def write_interim(self, lead: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def abort(self) -> None: ...
