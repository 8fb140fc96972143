"""Writing answers to a client: the half of a client connection that knows framing out, and nothing of reading.

A head that begins an upstream's answer waits for the first piece of the body, so that small answers leave in one write;
`flush_head` sends it alone. To HTTP/1.1 a body of unknown length is chunked, to HTTP/1.0 it ends with the connection.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from gateway.http1.chunked import LAST_CHUNK, encode_chunk
from gateway.http1.response import CHUNKED, UNTIL_CLOSE

if TYPE_CHECKING:
    from gateway.clock import Clock
    from gateway.exchange import Exchange

_STATUS_LINES: Final = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}


class AnswerWriter(asyncio.Protocol):
    """One answer after the other on one transport. `_close_after` says that the connection ends with this one."""

    __slots__ = ("_chunked_out", "_clock", "_close_after", "_head_out", "_transport")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._head_out = b""
        self._chunked_out = False
        self._close_after = False

    def respond(self, ex: Exchange, status: int, headers: bytes, body: bytes) -> None:
        """Write a whole answer of the gateway's own."""
        if self._transport is None:
            return
        if not ex.body_done:
            self._close_after = True
        ex.status, ex.response_started = status, True
        head = b"%b%bContent-Length: %d\r\n%bX-Request-Id: %b\r\n%b\r\n" % (
            _STATUS_LINES[status],
            headers,
            len(body),
            self._clock.date_line,
            ex.id,
            self._connection_line(ex),
        )
        self._transport.write(head if ex.line.method == b"HEAD" else head + body)

    def start_response(self, ex: Exchange, lead: bytes, extra: bytes, framing: int) -> None:
        """Begin an upstream's answer: `lead` is its head so far, `extra` further lines; the body follows by write_body."""
        if not ex.body_done:
            self._close_after = True
        coding = b""
        self._chunked_out = False
        if framing in (CHUNKED, UNTIL_CLOSE):
            if ex.line.minor:
                self._chunked_out = True
                coding = b"Transfer-Encoding: chunked\r\n"
            else:
                self._close_after = True
        ex.response_started = True
        self._head_out = b"%b%bX-Request-Id: %b\r\n%b%b\r\n" % (lead, extra, ex.id, coding, self._connection_line(ex))

    def _connection_line(self, ex: Exchange) -> bytes:
        if self._close_after:
            return b"Connection: close\r\n"
        return b"" if ex.line.minor else b"Connection: keep-alive\r\n"

    def write_body(self, data: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        if self._chunked_out:
            data = encode_chunk(data)
        if self._head_out:
            data = self._head_out + data
            self._head_out = b""
        transport.write(data)

    def end_body(self, trailers: bytes) -> None:
        transport = self._transport
        if transport is None:
            return
        rest = self._head_out
        self._head_out = b""
        if self._chunked_out:
            self._chunked_out = False
            rest += b"0\r\n%b\r\n" % trailers if trailers else LAST_CHUNK
        if rest:
            transport.write(rest)

    def flush_head(self) -> None:
        """Send a head that waits for its body's first piece."""
        if self._head_out and self._transport is not None:
            self._transport.write(self._head_out)
            self._head_out = b""

    def send_continue(self) -> None:
        if self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def write_interim(self, lead: bytes) -> None:
        """Pass an interim answer (103 Early Hints) on: its status line and fields."""
        if self._transport is not None:
            self._transport.write(lead + b"\r\n")
