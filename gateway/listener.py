"""The client's side of a connection: reads requests strictly, one exchange at a time, and writes answers.

This is the only lane: proxied requests and the gateway's own endpoints are read (gateway.reading), framed and answered
(gateway.answers) here. This module is what the network, an exchange and the clock do to a connection.

Failure: deadlines (head, body, idle, upstream, total) are checked by `sweep` once a tick. Bounds: connections
(`max_connections`); answers wait in the socket's buffer up to 64 KiB, then the upstream pauses.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Final

from gateway.exchange import ClientGone, Exchange
from gateway.memory import Caller, KnownHead, TurnedAway
from gateway.proxy.sender import Sender, sender_of
from gateway.reading import CLOSED, HEAD, LINGER, NO_BODY, TUNNEL, WAITING_HIGH, RequestReader
from ledger import problems
from ledger.ids import uuid7_digits

if TYPE_CHECKING:
    from gateway.http1.fields import Fields

_MOST_TURNED_BACK: Final = 256
"""Connections beyond `max_connections` that get an answer, for which they are kept a moment longer."""
_TURNED_BACK: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 1\r\n"
    b"Content-Length: %d\r\n%bX-Request-Id: %b\r\nConnection: close\r\n\r\n"
)


class ClientConnection(RequestReader):
    """See the module."""

    __slots__ = ()

    # -- what the network does

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = transport.get_extra_info("peername")
        self.peer_ip = peer[0] if isinstance(peer, tuple) else "127.0.0.1"
        self._peer = self.peer_ip.encode()
        if transport.get_extra_info("ssl_object"):
            self._scheme = b"https"
        transport.set_write_buffer_limits(high=WAITING_HIGH)
        beyond = len(self._door.connections) - self._limits.max_connections
        if beyond >= 0:
            self._turn_back(transport, beyond)
            return
        self._door.connections.add(self)
        self._door.gateway.metrics.counts["connections_total"] += 1
        self.deadline = self._now() + self._limits.head_timeout_ms / 1000

    def _turn_back(self, transport: asyncio.Transport, beyond: int) -> None:
        """There are enough connections: say so and close, or, if even those that are told so are many, just close."""
        self._door.gateway.metrics.counts["connections_refused_total"] += 1
        if beyond >= _MOST_TURNED_BACK:
            self.abort()
            return
        self._door.connections.add(self)
        request_id = uuid7_digits(time.time_ns() // 1_000_000)
        body = problems.OVERLOADED.body(request_id.decode())
        transport.write(_TURNED_BACK % (len(body), self._clock.date_line, request_id) + body)
        self._linger()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._state = CLOSED
        self._door.connections.discard(self)
        ex = self._ex
        if ex is not None:
            ex.throw(ClientGone())

    def eof_received(self) -> bool:
        return False  # a client that half-closes has gone, as far as can be told

    def pause_writing(self) -> None:
        self._write_paused = True
        if self._ex is not None and self._ex.upstream is not None:
            self._ex.upstream.pause_reading()

    def resume_writing(self) -> None:
        self._write_paused = False
        ex = self._ex
        if ex is not None and ex.upstream is not None:
            ex.deadline = self._now() + ex.read_timeout
            ex.upstream.resume_reading()
        elif ex is None and self._state == HEAD and self._buffer:
            self._read_on()
            self._soon()

    @property
    def exchange(self) -> Exchange | None:
        """The request that is under way."""
        return self._ex

    @property
    def is_busy(self) -> bool:
        """True while an exchange is open."""
        return self._ex is not None

    # -- what the exchange asks for

    @property
    def is_choked(self) -> bool:
        """True while the client does not take what it is sent, and the upstream is paused."""
        return self._write_paused

    def remember(self, caller: Caller) -> None:
        """Keep in mind who sent the head that was read last."""
        self.caller = caller
        if caller.is_shareable:
            self._door.memory.share(self._block_key, caller)
        else:
            self._keep_head(caller, None)

    def remember_stranger(self, turned_away: TurnedAway) -> None:
        """Keep in mind that the head that was read last was answered with 401."""
        self.turned_away = turned_away
        self._keep_head(None, turned_away)

    def _keep_head(self, caller: Caller | None, turned_away: TurnedAway | None) -> None:
        if self._head is not None:
            known = KnownHead(
                self._start_line, self._last_line, self._last_fields, self._keeps_alive, caller, turned_away
            )
            self._door.memory.keep(self._head, known)

    def sender(self, fields: Fields) -> Sender:
        """Who sent a request with these fields."""
        return sender_of(fields, self.peer_ip, self._scheme, self._door.trust)

    def start_tunnel(self, ex: Exchange, lead: bytes, extra: bytes) -> None:
        """Agree to a WebSocket: from here on bytes pass both ways, and the connection ends with it."""
        if self._transport is None:
            return
        ex.response_started = True
        self._close_after = True
        self._chunked_out = False
        self._state = TUNNEL
        ex.deadline = self._now() + ex.read_timeout
        self._transport.write(
            b"%b%bConnection: Upgrade\r\nUpgrade: websocket\r\nX-Request-Id: %b\r\n\r\n" % (lead, extra, ex.id)
        )
        kept, self._buffer = bytes(self._buffer), b""
        if kept:
            ex.tunnel_in(kept)

    def exchange_done(self, ex: Exchange) -> None:
        """The exchange is over; the next request may be read."""
        if self._ex is not ex:
            return
        self._ex = None
        if self._transport is None or self._state == CLOSED:
            return
        if self._close_after or self._body != NO_BODY:
            if self._body == NO_BODY and ex.body_done and not self._buffer:
                self._close()
            else:
                self._linger()
            return
        self._state = HEAD
        self.deadline = self._clock.now + self._idle_timeout
        if self._door.gateway.is_draining:
            self.drain()  # its answer had begun before, and did not say that it is the last
        if self._reading_paused:
            self._read_on()
        if self._buffer and not self._write_paused:
            self.deadline = self._now() + self._limits.head_timeout_ms / 1000
            self._soon()

    # -- time

    def sweep(self, now: float) -> None:
        """Act on a deadline that has passed."""
        ex = self._ex
        if ex is not None:
            if 0 < ex.total_deadline < now:
                _time_out(ex)
            elif 0 < ex.deadline < now:
                if self._write_paused:
                    self.abort()  # the client does not take its answer
                elif not ex.body_done and not self._reading_paused:
                    self._refuse(problems.REQUEST_TIMEOUT, "The request body did not arrive in time.")
                else:
                    _time_out(ex)
            return
        if now < self.deadline or self._transport is None:
            return
        if self._state == HEAD and self._buffer:
            self._refuse(problems.REQUEST_TIMEOUT, "The request head did not arrive in time.")
        elif self._state == HEAD or (self._state == LINGER and self._transport.get_write_buffer_size()):
            self._close()
        else:
            self.abort()

    def drain(self) -> None:
        """The gateway stops: the connection's next answer says that it is the last, and who asks for none is closed.

        Closing at once would cross with a request that is on its way.
        """
        if self._ex is None:
            if self._state == HEAD:
                self.deadline = min(self.deadline, self._now() + self._limits.drain_idle_ms / 1000)
        elif not self._ex.response_started:
            self._close_after = True


def _time_out(ex: Exchange) -> None:
    """The upstream took too long; while there is none yet, the deadline stands and connecting has one of its own."""
    if ex.upstream is not None:
        ex.deadline = ex.total_deadline = 0.0
        ex.upstream.time_out()
