"""Reading requests from a client's connection, strictly and one at a time: where each begins and ends, and who sent it.

The header section is parsed once and remembered, so a client that repeats it (keep-alive, same key, same kind of request)
costs a comparison, and one that repeats it but for its key costs little more (gateway.memory). What follows a request on the
connection (pipelining) waits until its answer is written.

Failure: what cannot be read unambiguously gets a problem document and the connection is closed, after lingering for a
moment so that the answer arrives although the client is still sending. Bounds: one head (`max_head_bytes`), 64 KiB of body
or pipelined bytes waiting, then reading pauses.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from gateway.answers import AnswerWriter
from gateway.exchange import BodyTooLarge, ClientGone, Exchange
from gateway.http1.chunked import ChunkedDecoder
from gateway.http1.errors import Malformed
from gateway.http1.fields import parse_fields
from gateway.http1.head import find_head, split_head
from gateway.http1.request import RequestLine, check_request, keeps_alive, read_line
from gateway.memory import key_in
from gateway.metrics import Admission
from gateway.routes import life_of
from ledger import problems
from ledger.ids import uuid7_digits
from ledger.keys import KEY_LENGTH

if TYPE_CHECKING:
    from gateway.door import Door
    from gateway.memory import Caller, KnownHead, SharedBlock, TurnedAway
    from ledger.problems import Problem

WAITING_HIGH: Final = 65_536
_LINGER_S: Final = 2.0
_NO_FIELDS: Final = parse_fields(b"\r\n", 1)
_NO_LINE: Final = RequestLine(b"GET", b"/", b"/", None, 1)

# What a connection is doing
HEAD, EXCHANGE, TUNNEL, LINGER, CLOSED = range(5)
# What is left of the request body
NO_BODY, LENGTH, CHUNKED = range(3)


class RequestReader(AnswerWriter):
    """See the module."""

    __slots__ = (
        "_block",
        "_block_key",
        "_body",
        "_body_timeout",
        "_buffer",
        "_decoder",
        "_door",
        "_ex",
        "_head",
        "_idle_timeout",
        "_keeps_alive",
        "_last_fields",
        "_last_line",
        "_left",
        "_limits",
        "_peer",
        "_reading_paused",
        "_scheme",
        "_start_line",
        "_state",
        "_write_paused",
        "caller",
        "deadline",
        "key_text",
        "peer_ip",
        "shared",
        "turned_away",
    )

    def __init__(self, door: Door) -> None:
        super().__init__(door.gateway.clock)
        self._door = door
        self._limits = door.settings
        self._idle_timeout = door.settings.idle_timeout_ms / 1000
        self._body_timeout = door.settings.body_timeout_ms / 1000
        self._state = HEAD
        self._buffer: bytes | bytearray = b""
        self._head: bytes | None = None
        self._start_line = b""
        self._block = b""
        self._block_key = b""
        self._last_line = _NO_LINE
        self._last_fields = _NO_FIELDS
        self._keeps_alive = True
        self._ex: Exchange | None = None
        self._body = NO_BODY
        self._left = 0
        self._decoder: ChunkedDecoder | None = None
        self._reading_paused = False
        self._write_paused = False
        self._scheme = b"http"
        self.caller: Caller | None = None
        self.turned_away: TurnedAway | None = None
        self.shared: SharedBlock | None = None
        self.key_text = b""
        self.peer_ip = ""
        self._peer = b""
        self.deadline = 0.0

    # -- what arrives

    def data_received(self, data: bytes) -> None:
        if self._state == HEAD:
            head = self._head
            if self._write_paused:
                self._keep(data)
            elif self._buffer:
                self._buffer += data
                self._read_request(self._buffer)
            elif head is not None and data.startswith(head):
                self._begin(data[len(head) :])  # the same head as before, to the byte
            else:
                self._read_request(data)
        elif self._state == TUNNEL:
            if self._ex is not None:
                self._ex.deadline = self._now() + self._ex.read_timeout
                self._ex.tunnel_in(data)
        elif self._state == EXCHANGE:
            if self._body != NO_BODY:
                self._read_body(data)
            else:
                self._keep(data)

    def _read_request(self, data: bytes | bytearray) -> None:
        """Read one head from what has arrived; begin its exchange."""
        limits = self._limits
        try:
            end = find_head(data, 0, limits.max_head_bytes)
            if end < 0:
                if not self._buffer:
                    self._buffer = bytearray(data)
                    self.deadline = self._now() + limits.head_timeout_ms / 1000
                self.resume_reading()
                return
            head = bytes(data[:end])
            known = self._door.memory.known(head)
            if known is not None:
                self._begin_known(head, known, bytes(data[end:]))
                return
            start_line, block = split_head(data, 0, end)
            if start_line != self._start_line:
                self._last_line = read_line(start_line, limits.max_target_bytes)
                self._start_line = start_line
            if block != self._block:
                self._read_block(block)
            check_request(self._last_line, self._last_fields)
        except Malformed as error:
            self._refuse(error.problem, error.detail)
            return
        self._head = head
        self._keeps_alive = keeps_alive(self._last_line.minor, self._last_fields)
        self._buffer = b""
        self._begin(bytes(data[end:]))

    def _read_block(self, block: bytes) -> None:
        """Read a field section, or find that it is known but for its key. Raises Malformed."""
        self.caller = self.shared = None
        self.key_text = b""
        at = key_in(block)
        if at >= 0:
            end = at + KEY_LENGTH
            self.key_text = block[at:end]
            self._block_key = b"%b %b%b" % (self._peer, block[:at], block[end:])
            self.shared = self._door.memory.blocks.get(self._block_key)
        if self.shared is not None:
            self._last_fields = self.shared.fields
        else:
            self._last_fields = parse_fields(block, self._limits.max_headers)
        self._block = block

    def read_fully(self, ex: Exchange) -> None:
        """The shared block does not do: read the fields with the key that is in them."""
        if self.shared is not None:
            self.shared = None
            ex.fields = self._last_fields = parse_fields(self._block, self._limits.max_headers)

    def _begin_known(self, head: bytes, known: KnownHead, rest: bytes) -> None:
        """Begin the exchange of a head that was read before, here or on another connection."""
        self._head = head
        self._start_line, self._last_line, self._last_fields = known.start_line, known.line, known.fields
        self._block, self.shared, self.key_text = known.fields.raw, None, b""
        self._keeps_alive = known.keeps_alive
        self._buffer = b""
        caller = known.caller
        if caller is None:
            self.turned_away = known.turned_away
        elif caller.peer_ip == self.peer_ip:
            self.caller = caller
        self._begin(rest)

    def _begin(self, rest: bytes) -> None:
        """Begin the exchange of the head read last; `rest` is what came after it."""
        line, fields = self._last_line, self._last_fields
        now_ms = time.time_ns() // 1_000_000
        # whose reading this is, is a client (gateway.listener)
        ex = Exchange(self, line, fields, uuid7_digits(now_ms), now_ms, time.monotonic_ns())  # type: ignore[arg-type]
        self._ex = ex
        self._state = EXCHANGE
        gateway = self._door.gateway
        self._close_after = not self._keeps_alive or gateway.is_draining
        if fields.content_length:
            self._body, self._left = LENGTH, fields.content_length
            ex.body_done = False
        elif fields.chunked:
            self._body, self._decoder = CHUNKED, ChunkedDecoder()
            ex.body_done = False
        if self._body != NO_BODY:
            ex.deadline = self._now() + self._body_timeout
        if rest:
            if self._body == NO_BODY:
                self._keep(rest)
            else:
                self._read_body(rest)
                if self._ex is not ex:
                    return
        ex.run(life_of(gateway, ex))

    def _read_body(self, data: bytes) -> None:
        ex = self._ex
        assert ex is not None
        ex.deadline = self._now() + self._body_timeout
        if self._body == LENGTH:
            size = len(data)
            if size < self._left:
                self._left -= size
                ex.body_data(data)
            else:
                self._body = NO_BODY
                if size > self._left:
                    self._keep(data[self._left :])
                    data = data[: self._left]
                self._left = 0
                ex.body_data(data)
                ex.body_end()
        else:
            decoder = self._decoder
            assert decoder is not None
            try:
                pieces = decoder.feed(data)
            except Malformed as error:
                self._refuse(error.problem, error.detail)
                return
            if pieces:
                ex.body_data(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            if decoder.done:
                self._body, self._decoder = NO_BODY, None
                if decoder.leftover:
                    self._keep(decoder.leftover)
                trailers = decoder.trailers
                ex.body_end(b"".join([item[2] for item in trailers.items]) if trailers is not None else b"")
        if ex.body_done:
            ex.deadline = self._now() + ex.read_timeout
        if 0 <= ex.max_body < ex.bytes_in:
            ex.throw(BodyTooLarge())
        elif ex.upstream is None and ex.bytes_in > WAITING_HIGH and not ex.body_done:
            self.pause_reading()

    def _keep(self, data: bytes) -> None:
        """Bytes of a later request: they wait, and so does who sends too many of them."""
        self._buffer = bytearray(self._buffer + data)
        if len(self._buffer) > WAITING_HIGH:
            self.pause_reading()

    def _read_on(self) -> None:
        """Read further, unless there is enough to do for now."""
        if len(self._buffer) <= WAITING_HIGH:
            self.resume_reading()

    def _refuse(self, problem: Problem, detail: str) -> None:
        """Answer what cannot be read any further, and close; a request that has begun is broken off."""
        self._door.gateway.metrics.admissions[Admission.MALFORMED] += 1
        ex = self._ex
        if ex is not None and ex.response_started:
            self.abort()
            return
        self._ex = None
        self._close_after = True
        self._body = NO_BODY
        now_ms = time.time_ns() // 1_000_000
        unread = (_NO_LINE, _NO_FIELDS, uuid7_digits(now_ms), now_ms, time.monotonic_ns())
        answered = ex or Exchange(self, *unread)  # type: ignore[arg-type]
        body = problem.body(answered.id.decode(), detail)
        headers = b"Content-Type: application/problem+json\r\n"
        if problem is problems.METHOD_NOT_ALLOWED:
            headers += b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
        self.respond(answered, problem.status, headers, body)
        self._linger()
        if ex is not None:
            ex.throw(ClientGone())

    def _soon(self) -> None:
        asyncio.get_running_loop().call_soon(self._read_kept)

    def _read_kept(self) -> None:
        if self._state == HEAD and self._buffer and self._ex is None:
            self._read_request(self._buffer)

    # -- when to read, and when no more

    def pause_reading(self) -> None:
        if self._transport is not None and not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()
            if self._body != NO_BODY and self._ex is not None:  # it is the upstream's turn
                self._ex.deadline = self._now() + self._ex.read_timeout

    def resume_reading(self) -> None:
        if self._transport is not None and self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
            if self._body != NO_BODY and self._ex is not None:
                self._ex.deadline = self._now() + self._body_timeout

    def abort(self) -> None:
        """Break off: an answer that has begun must not look complete."""
        self._state = CLOSED
        if self._transport is not None:
            self._transport.abort()

    def _close(self) -> None:
        """Close once the answer is sent; whoever does not take it is cut off."""
        self._state = CLOSED
        self.deadline = self._now() + self._idle_timeout
        if self._transport is not None:
            self._transport.close()

    def _linger(self) -> None:
        """Close once the client has had time to read the answer: closing on unread bytes would reset the connection."""
        self._state = LINGER
        self._body = NO_BODY
        self._buffer = b""
        self.deadline = self._now() + _LINGER_S
        if self._transport is not None:
            self.resume_reading()
            if self._transport.can_write_eof():
                self._transport.write_eof()

    def _now(self) -> float:
        return self._clock.now
