"""A request body as a whole, for the few requests that cannot be passed on before it is known.

Bound: the caller's `most`; what is larger is not kept but passed on, or refused, as the caller likes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.exchange import suspend
from gateway.proxy.upstream import UpstreamBroken
from ledger import problems

if TYPE_CHECKING:
    from gateway.exchange import Exchange


async def collect(ex: Exchange, most: int) -> bool:
    """Wait for the body; it is then in `ex.body_chunks`. False as soon as there are more than `most` bytes of it.

    After False the exchange is as it was before: what has come so far is kept, and the client waits.
    """
    if (ex.fields.content_length or 0) > most or ex.bytes_in > most:
        return False
    if not ex.body_done:
        ex.upstream = _Collector(ex, most)
        ex.client.resume_reading()  # it may have been told to wait
        try:
            await suspend()
        finally:
            ex.upstream = None
    return ex.bytes_in <= most


class _Collector:
    """Stands where an upstream would, and resumes the exchange when the body is complete, or too large."""

    def __init__(self, ex: Exchange, most: int) -> None:
        self._ex = ex
        self._most = most

    def write_body(self, data: bytes) -> None:
        ex = self._ex
        ex.body_chunks.append(data)
        if ex.bytes_in > self._most:
            ex.upstream = None  # further pieces wait as they do before there is an upstream
            ex.resume(None)

    def end_body(self, trailers: bytes) -> None:
        self._ex.resume(None)

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    @property
    def is_choked(self) -> bool:
        return False

    def close(self) -> None: ...
    def abort(self) -> None: ...

    def time_out(self) -> None:
        self._ex.throw(UpstreamBroken(problems.UPSTREAM_TIMEOUT, "the request took too long", was_connected=False))
