"""One request and its answer, and how its life is driven.

The life of a request is one coroutine (`gateway.pipeline.serve`). It needs no Task: it waits with `await suspend()`, and
whoever has what it waits for (Redis reply, upstream response, end of a body) calls `resume(value)` or `throw(error)` on
the exchange, from a protocol callback. A step costs a generator send, not a trip through the event loop. Ordinary asyncio
futures can be awaited too (connecting, first look-ups); the driver then waits for their callback.

An exchange is driven by one event loop and is never re-entered: `resume` and `throw` are only called from the loop's
callbacks, never from inside the life itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from gateway.http1.fields import Fields
    from gateway.http1.request import RequestLine

_log = logging.getLogger("gateway.exchange")


class ClientGone(Exception):
    """The client disconnected before its answer was complete."""


class LimitReached(Exception):
    """A quota was used up while the request was under way."""


class BodyTooLarge(Exception):
    """More request body arrived than the route takes."""


@coroutine
def suspend() -> Generator[None, Any, Any]:
    """Wait until somebody resumes this exchange; the value given to `resume` is the result."""
    return (yield)


class Client(Protocol):
    """What an exchange asks of the connection it came in on (gateway.listener)."""

    peer_ip: str
    caller: Any
    """What the pipeline remembers about who uses this connection."""
    turned_away: Any
    """What it remembers about who tried to in vain."""

    shared: Any
    """What is known of the field section but for its key, or None; `fields` then lack the key, which is `key_text`."""
    key_text: bytes
    """What looks like an API key in the field section, b"" if nothing does."""

    def read_fully(self, ex: Exchange) -> None: ...
    def remember(self, caller: Any) -> None: ...
    def remember_stranger(self, turned_away: Any) -> None: ...
    def sender(self, fields: Fields) -> Any: ...
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
    @property
    def is_choked(self) -> bool: ...
    def abort(self) -> None: ...
    def exchange_done(self, ex: Exchange) -> None: ...


class Upstream(Protocol):
    """What an exchange asks of the connection it was forwarded on (gateway.proxy.upstream)."""

    def write_body(self, data: bytes) -> None: ...
    def end_body(self, trailers: bytes) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    @property
    def is_choked(self) -> bool: ...
    def time_out(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


class Counter(Protocol):
    """Counts the messages of one direction of a tunnel (gateway.metering.frames)."""

    messages: int

    @property
    def is_between_frames(self) -> bool: ...
    def feed(self, data: bytes) -> None: ...


class Reader(Protocol):
    """Passes the response body on and looks at it (gateway.metering.reader)."""

    def pass_on(self, ex: Exchange, data: bytes) -> None: ...
    def pass_rest(self, ex: Exchange) -> None: ...


class Gate(Protocol):
    """Decides how far the bytes of a tunnel may pass (gateway.gate)."""

    def pass_in(self, data: bytes) -> None: ...
    def pass_out(self, data: bytes) -> None: ...


class Tunnel:
    """A WebSocket connection after its handshake: bytes pass both ways, messages are counted, or let through by a gate."""

    __slots__ = ("gate", "incoming", "outgoing")

    def __init__(self, incoming: Counter, outgoing: Counter) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.gate: Gate | None = None


class Exchange:
    """State of one request. Byte counts are payload bytes; times are `time.monotonic_ns`.

    With `takes_whole`, an answer's body that came with its head is not passed on but left in `whole`: its exchange is
    resumed once, with the connection free again.
    """

    __slots__ = (
        "_future",
        "_life",
        "admitting",
        "at_ms",
        "body_chunks",
        "body_done",
        "body_trailers",
        "bytes_in",
        "bytes_out",
        "client",
        "deadline",
        "fields",
        "held",
        "id",
        "is_kept",
        "is_local",
        "limiter",
        "line",
        "max_body",
        "parts",
        "plan",
        "read_timeout",
        "reader",
        "response_started",
        "response_trailers",
        "sent_ns",
        "started_ns",
        "status",
        "takes_whole",
        "total_deadline",
        "tunnel",
        "upstream",
        "whole",
    )

    def __init__(
        self, client: Client, line: RequestLine, fields: Fields, event_id: bytes, at_ms: int, started_ns: int
    ) -> None:
        self.client = client
        self.line = line
        self.fields = fields
        self.id = event_id
        self.at_ms = at_ms
        self.started_ns = started_ns
        self.sent_ns = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.status = 0
        self.body_chunks: list[bytes] = []
        self.body_done = True
        self.body_trailers = b""
        self.max_body = -1
        self.upstream: Upstream | None = None
        self.response_started = False
        self.takes_whole = False
        self.whole: bytes | None = None
        self.admitting = False
        self.is_local = False
        self.held: Any = None
        self.is_kept = False
        self.plan: Any = None
        self.limiter: Any = None
        self.deadline = 0.0
        self.total_deadline = 0.0
        self.read_timeout = 60.0
        self.response_trailers = b""
        self.tunnel: Tunnel | None = None
        self.reader: Reader | None = None
        self.parts: Any = None
        self._life: Coroutine[Any, Any, None] | None = None
        self._future: asyncio.Future[Any] | None = None

    @property
    def is_over(self) -> bool:
        """True once the life has ended."""
        return self._life is None

    # -- the driver

    def run(self, life: Coroutine[Any, Any, None]) -> None:
        """Start the exchange's life; it runs until it first waits."""
        self._life = life
        self.resume(None)

    def resume(self, value: Any) -> None:
        """Hand over what the life waits for. Without effect once the life is over."""
        life = self._life
        if life is None:
            return
        try:
            future = life.send(value)
        except (StopIteration, ClientGone):
            self._end()
        except Exception:  # noqa: BLE001 - whatever it is, it must not escape into a callback
            self._failed()
        else:
            if future is not None:
                self._wait_for(future)

    def throw(self, error: Exception) -> None:
        """Raise `error` where the life waits. Without effect once the life is over."""
        self.admitting = False
        if self._life is None:
            return
        self._future = None
        try:
            future = self._life.throw(error)
        except (StopIteration, ClientGone):
            self._end()
        except Exception:  # noqa: BLE001 - see above
            self._failed()
        else:
            if future is not None:
                self._wait_for(future)

    def _failed(self) -> None:
        _log.exception("a request failed inside the gateway", extra={"request_id": self.id.decode()})
        if self.upstream is not None:
            self.upstream.abort()
        self.client.abort()
        self._end()

    def _end(self) -> None:
        self._life = None
        if self.held is not None:
            for hold in self.held:
                hold.cap.used -= 1
        self.client.exchange_done(self)

    def _wait_for(self, future: Any) -> None:
        """The life awaits an ordinary future: go on when it is done."""
        future._asyncio_future_blocking = False
        self._future = future
        future.add_done_callback(self._future_done)

    def _future_done(self, future: asyncio.Future[Any]) -> None:
        if self._future is future:
            self._future = None
            self.resume(None)
        elif not future.cancelled():
            future.exception()  # nobody waits any more; mark it as seen

    # -- the verdict of the admission, for which the exchange itself waits on the Redis connection

    def on_reply(self, reply: Any) -> None:
        """The reply to the admission, an error, or LOST."""
        if type(reply) is not list:
            self.limiter.refused(self, reply)
        elif self.admitting:
            self.admitting = False
            self.resume(reply)
        else:
            self.limiter.came_late(self, reply)

    def on_timeout(self) -> None:
        """No verdict in time; it may still come."""
        if self.admitting:
            self.admitting = False
            self.resume(None)

    # -- the request body, on its way from the client to the upstream

    def body_data(self, data: bytes) -> None:
        """A piece of the request body arrived. What is too much is counted and goes no further."""
        self.bytes_in += len(data)
        if self.upstream is None:
            self.body_chunks.append(data)
        elif not 0 <= self.max_body < self.bytes_in:
            self.upstream.write_body(data)

    def body_end(self, trailers: bytes = b"") -> None:
        """The request body is complete."""
        self.body_done = True
        self.body_trailers = trailers
        if self.upstream is not None and not 0 <= self.max_body < self.bytes_in:
            self.upstream.end_body(trailers)

    # -- the response body, on its way from the upstream to the client

    def response_data(self, data: bytes) -> None:
        """A piece of the response body arrived."""
        if self.reader is None:
            self.bytes_out += len(data)
            self.client.write_body(data)
        else:
            self.reader.pass_on(self, data)

    # -- a WebSocket, once both sides have agreed on it

    def tunnel_in(self, data: bytes) -> None:
        """Bytes from the client to the upstream."""
        tunnel = self.tunnel
        if tunnel is not None and self.upstream is not None:
            if tunnel.gate is not None:
                return tunnel.gate.pass_in(data)
            self.bytes_in += len(data)
            tunnel.incoming.feed(data)
            self.upstream.write_body(data)

    def tunnel_out(self, data: bytes) -> None:
        """Bytes from the upstream to the client."""
        tunnel = self.tunnel
        if tunnel is not None:
            if tunnel.gate is not None:
                return tunnel.gate.pass_out(data)
            self.bytes_out += len(data)
            tunnel.outgoing.feed(data)
            self.client.write_body(data)
