"""One pooled connection to an upstream: sends a request, reads the answer strictly, passes its bytes on as they come.

The head is parsed once and remembered: as long as an upstream repeats a head byte for byte (which most do within a second)
reading it again costs a comparison. Bodies are not kept: each piece goes to the client in the call that brought it, and a
client that cannot take more pauses the reading here.

Failure: whatever goes wrong is thrown into the exchange as `UpstreamBroken`, with how far it had come, and the connection
is never used again. Bytes that belong to no answer make it unusable too.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from gateway.http1.chunked import LAST_CHUNK, ChunkedDecoder, encode_chunk
from gateway.http1.errors import Malformed
from gateway.http1.fields import Fields, parse_fields
from gateway.http1.head import find_head, split_head
from gateway.http1.request import keeps_alive
from gateway.http1.response import (
    CHUNKED,
    LENGTH,
    NONE,
    TUNNEL,
    UNTIL_CLOSE,
    body_framing,
    forbids_framing,
    parse_status_line,
)
from gateway.proxy.headers import to_client, trailers_to_upstream
from ledger import problems

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.proxy.pool import Pool
    from ledger.problems import Problem

MAX_HEAD_BYTES: Final = 65_536
MAX_FIELDS: Final = 256
MAX_INTERIMS: Final = 32
WRITE_HIGH: Final = 65_536

END: Final = object()
"""What the exchange is resumed with when the answer is complete."""

_IDLE, _HEAD, _BODY, _CLOSED = range(4)


class UpstreamBroken(Exception):
    """The upstream could not be reached, broke off or sent what is not HTTP.

    `retry_after_s` is when trying again may help, for a 503.
    """

    def __init__(
        self, problem: Problem, detail: str, *, was_connected: bool, was_reused: bool = False, retry_after_s: int = 1
    ) -> None:
        super().__init__(detail)
        self.problem = problem
        self.was_connected = was_connected
        self.was_reused = was_reused
        self.retry_after_s = retry_after_s


class Response:
    """A parsed head. `lead` is the status line and the fields that pass, ready to be sent on."""

    __slots__ = ("fields", "framing", "keeps_alive", "lead", "method", "status")

    def __init__(self, head: bytes) -> None:
        line, block = split_head(head, 0, len(head))
        minor, self.status, reason = parse_status_line(line)
        self.fields: Fields = parse_fields(block, MAX_FIELDS)
        self.keeps_alive = keeps_alive(minor, self.fields)
        self.method, self.framing = b"", NONE  # the framing depends on what was asked
        fields = to_client(self.fields, drop_length=forbids_framing(self.status))
        self.lead = b"HTTP/1.1 %d %b\r\n%b" % (self.status, reason, fields)


class UpstreamConnection(asyncio.Protocol):
    """See the module. Between exchanges it belongs to its pool."""

    __slots__ = (
        "_buffer",
        "_clock",
        "_decoder",
        "_ex",
        "_has_ended",
        "_health",
        "_interims",
        "_is_choked",
        "_last_head",
        "_last_response",
        "_left",
        "_method",
        "_paused",
        "_pool",
        "_request_chunked",
        "_request_done",
        "_response",
        "_state",
        "_transport",
        "idle_since",
        "served",
    )

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._clock = pool.clock
        self._health = pool.health
        self._transport: asyncio.Transport | None = None
        self._ex: Exchange | None = None
        self._state = _IDLE
        self._buffer = b""
        self._interims = 0
        self._last_head: bytes | None = None
        self._last_response: Response | None = None
        self._response: Response | None = None
        self._decoder: ChunkedDecoder | None = None
        self._left = 0
        self._method = b""
        self._request_chunked = False
        self._request_done = True
        self._paused = False
        self._is_choked = False
        self._has_ended = False
        self.idle_since = 0.0
        self.served = 0

    # -- what the pool and the pipeline do

    def is_usable(self) -> bool:
        """True while connected and between exchanges."""
        return self._state == _IDLE and self._transport is not None and not self._transport.is_closing()

    def send(self, ex: Exchange, head: bytes) -> None:
        """Send the request's head and what has arrived of its body; the exchange is resumed with a `Response`."""
        ex.sent_ns = time.monotonic_ns()
        self._ex = ex
        self._state = _HEAD
        self._interims = 0
        self._method = ex.line.method
        self._request_chunked = ex.fields.chunked
        self._request_done = ex.body_done
        ex.upstream = self
        transport = self._transport
        assert transport is not None
        if ex.body_chunks:
            ex.client.resume_reading()
            pieces, ex.body_chunks = ex.body_chunks, []
            if self._request_chunked:
                pieces = [encode_chunk(piece) for piece in pieces]
            head = b"".join((head, *pieces))
        if self._request_chunked and ex.body_done:
            head += _last_chunk(_passing(ex, ex.body_trailers))
        transport.write(head)
        if ex.body_done:  # until then it is the client that must go on
            ex.deadline = self._clock.now + ex.read_timeout

    def write_body(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(encode_chunk(data) if self._request_chunked else data)

    def end_body(self, trailers: bytes) -> None:
        self._request_done = True
        if self._request_chunked and self._transport is not None and self._ex is not None:
            self._transport.write(_last_chunk(_passing(self._ex, trailers)))

    def pause_reading(self) -> None:
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection and, with it, whatever it was answering. The exchange is not told."""
        self._ex = None
        self._state = _CLOSED
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close an idle connection."""
        self._state = _CLOSED
        if self._transport is not None:
            self._transport.close()

    # -- what the network does

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        transport.set_write_buffer_limits(high=WRITE_HIGH)

    def eof_received(self) -> None:
        """It has said that nothing more will come; by TLS that is a closing alert, which nobody else can send."""
        self._has_ended = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        ex, state = self._ex, self._state
        self._state = _CLOSED
        self._pool.lost(self)
        if ex is None:
            return
        self._ex = None
        framing = self._response.framing if state == _BODY and self._response is not None else NONE
        if framing == TUNNEL or (framing == UNTIL_CLOSE and self._has_ended and exc is None):
            self.served += 1
            if self._health is not None and self._response is not None:
                self._health.completed(self._response.status, self._clock.now)
            ex.upstream = None
            ex.resume(END)
            return
        # One that had answered before and now not with a byte was closed while nobody used it.
        is_stale = state == _HEAD and self.served > 0 and not self._buffer and not self._interims
        if self._health is not None and not is_stale:
            self._health.failed(self._clock.now)
        detail = "connection closed before the answer was complete"
        ex.throw(UpstreamBroken(problems.UPSTREAM_FAILED, detail, was_connected=True, was_reused=is_stale))

    @property
    def is_choked(self) -> bool:
        """True while it does not take what it is sent, and whoever sends is paused."""
        return self._is_choked

    def pause_writing(self) -> None:
        self._is_choked = True
        if self._ex is not None:
            self._ex.client.pause_reading()

    def resume_writing(self) -> None:
        self._is_choked = False
        if self._ex is not None:
            self._ex.client.resume_reading()

    def data_received(self, data: bytes) -> None:
        ex = self._ex
        if ex is None:
            self.abort()  # nobody asked: whatever this is, it must not become the next answer
            return
        ex.deadline = self._clock.now + ex.read_timeout
        try:
            if self._state == _BODY:
                self._read_body(ex, data)
                return
            head = self._last_head
            if not self._buffer and head is not None and data.startswith(head):
                response = self._last_response  # the same head as before, to the byte
                assert response is not None
                self._answer(ex, response, data[len(head) :])
            else:
                self._read_head(ex, data)
        except Malformed as error:
            self._fail(problems.UPSTREAM_INVALID, error.detail)

    def _read_head(self, ex: Exchange, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        start = 0
        while True:
            end = find_head(data, start, MAX_HEAD_BYTES)
            if end < 0:
                self._buffer = data[start:]
                return
            head = data[start:end]
            response = Response(head)
            if response.status >= 200:
                self._last_head, self._last_response = head, response
                break
            if response.status == 101 and ex.tunnel is not None:
                response.method, response.framing = self._method, TUNNEL
                break
            self._pass_over(ex, response)
            start = end
        self._answer(ex, response, data[end:])

    def _answer(self, ex: Exchange, response: Response, rest: bytes) -> None:
        """Hand over a head and what came of the body with it."""
        if self._health is not None:
            self._health.answered(response.status, self._clock.now)
        if response.method != self._method:
            response.method = self._method
            response.framing = body_framing(self._method, response.status, response.fields)
        framing = response.framing
        self._response = response
        if framing == LENGTH:
            self._left = length = response.fields.content_length or 0
            if ex.takes_whole and len(rest) == length and self._request_done and response.keeps_alive:
                ex.whole = rest
                self._be_idle(ex, response)
                ex.resume(response)
                return
        elif framing == CHUNKED:
            self._decoder = ChunkedDecoder()
        self._state = _BODY
        ex.resume(response)
        if self._ex is ex:
            self._read_body(ex, rest)
            if self._ex is ex:
                ex.client.flush_head()

    def _pass_over(self, ex: Exchange, response: Response) -> None:
        """A 1xx: 100 was asked of us and answered by us, 101 was never asked for; 103 and others are passed on."""
        self._interims += 1
        if response.status == 101:
            raise Malformed("Switched protocols without being asked.")
        if self._interims > MAX_INTERIMS:
            raise Malformed(f"More than {MAX_INTERIMS} interim answers.")
        if response.status != 100 and ex.line.minor:
            ex.client.write_interim(response.lead)

    def _read_body(self, ex: Exchange, data: bytes) -> None:
        response = self._response
        assert response is not None
        framing = response.framing
        if framing == LENGTH:
            size = len(data)
            if size < self._left:
                if size:
                    self._left -= size
                    ex.response_data(data)
                return
            if size > self._left:
                data, response = data[: self._left], None
            if data:
                ex.response_data(data)
            self._complete(ex, is_clean=response is not None)
        elif framing == CHUNKED:
            decoder = self._decoder
            assert decoder is not None
            pieces = decoder.feed(data)
            if pieces:
                ex.response_data(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            if decoder.done:
                self._decoder = None
                if decoder.trailers is not None:
                    ex.response_trailers = b"".join([line for _, _, line in decoder.trailers.items])
                self._complete(ex, is_clean=not decoder.leftover)
        elif framing == NONE:
            self._complete(ex, is_clean=not data)
        elif framing == TUNNEL:
            if data:
                ex.tunnel_out(data)
        elif data:
            ex.response_data(data)

    def _complete(self, ex: Exchange, *, is_clean: bool) -> None:
        """The answer is whole: back to the pool if the connection can be used again, then tell the exchange."""
        if self._ex is not ex:
            return  # the client went away while it was given the last piece
        response = self._response
        if is_clean and self._request_done and response is not None and response.keeps_alive:
            self._be_idle(ex, response)
        else:
            if self._health is not None and response is not None:
                self._health.completed(response.status, self._clock.now)
            self._ex = self._response = ex.upstream = None
            self.served += 1
            if self._request_done:
                self.close()
            else:
                self.abort()  # what is left of the request may never be read: nothing to wait for
        ex.resume(END)

    def _be_idle(self, ex: Exchange, response: Response) -> None:
        """The answer has been received: from here on this connection may serve somebody else."""
        if self._health is not None:
            self._health.completed(response.status, self._clock.now)
        self._ex = self._response = ex.upstream = None
        self.served += 1
        self._state = _IDLE
        if self._paused:
            self.resume_reading()
        self._pool.release(self)

    def _fail(self, problem: Problem, detail: str) -> None:
        ex = self._ex
        self.abort()
        if self._health is not None:
            self._health.failed(self._clock.now)
        if ex is not None:
            ex.throw(UpstreamBroken(problem, detail, was_connected=True))

    def time_out(self) -> None:
        """The upstream was silent for too long."""
        self._fail(problems.UPSTREAM_TIMEOUT, "no answer in time")


def _passing(ex: Exchange, trailers: bytes) -> bytes:
    """The request's trailers that this route lets pass."""
    if not trailers:
        return trailers
    route = ex.plan.route if ex.plan is not None else None
    return trailers_to_upstream(trailers, route.replaced if route is not None else frozenset())


def _last_chunk(trailers: bytes) -> bytes:
    return b"0\r\n%b\r\n" % trailers if trailers else LAST_CHUNK


__all__: list[Any] = ["END", "Response", "UpstreamBroken", "UpstreamConnection"]
