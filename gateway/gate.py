"""A WebSocket whose messages need permits: lets through what its part of the connection has permits for.

Permits come with a part (gateway.parts); when a message has none, the gate asks for the next part and the message waits.
At most what was read in one go waits on each side, and both are paused. A quota that is used up closes both sides with
1008, the client's once the frame that it is getting is whole.

Failure: while Redis is away nothing new is granted; messages wait, or, where the route's policy lets requests through
without Redis, get permits of the gate's own, which are settled like all others when Redis is back.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from gateway.exchange import LimitReached
from gateway.metering.frames import MessageGate, close_frame
from ledger.specs import StoreFailure

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.metering.metering import Metering

POLICY_VIOLATION: Final = 1008
_AGAIN_S: Final = 0.25
_NO_LIMIT: Final = 2**62
_COUNTED_IN: Final = frozenset(("messages_in", "messages"))
_COUNTED_OUT: Final = frozenset(("messages_out", "messages"))


class Cuts(Protocol):
    """Whoever can end a part and begin the next (gateway.parts.Parts)."""

    def cut(self, wanted: frozenset[str]) -> bool: ...


class WebSocketGate:
    """Both directions of a WebSocket, and the permits for messages that its part has left."""

    __slots__ = (
        "_both",
        "_code",
        "_ex",
        "_in",
        "_is_closing",
        "_is_ended",
        "_lease",
        "_metering",
        "_out",
        "_parts",
        "_reason",
        "_suspended",
        "_timer",
    )

    def __init__(self, ex: Exchange, parts: Cuts, metering: Metering) -> None:
        assert ex.tunnel is not None
        self._ex = ex
        self._parts = parts
        self._metering = metering
        self._lease = 1
        self._both = self._suspended = 0
        self._in = _Direction(self)
        self._out = _Direction(self)
        self._reason, self._code = b"", POLICY_VIOLATION
        self._is_closing = False
        self._is_ended = False
        self._timer: asyncio.TimerHandle | None = None
        ex.tunnel.incoming, ex.tunnel.outgoing, ex.tunnel.gate = self._in.messages, self._out.messages, self

    def ends_later(self) -> bool:
        """The upstream has ended. True if bytes wait: the exchange is resumed when they have gone."""
        self._is_ended = bool(self._out.waiting)
        return self._is_ended

    def take(self, direction: _Direction) -> bool:
        """A permit for a message in this direction."""
        if not direction.left or not self._both:
            return False
        direction.left -= 1
        self._both -= 1
        return True

    def granted(self, quantities: Sequence[int] | None, metering: Metering) -> None:
        """A new part, and what it holds of each meter; None: whatever it needs.

        Where messages are limited no more, parts stay as long as they were: with each the caller is looked at again.
        """
        self._metering = metering
        self._lease = metering.settle_every_messages or self._lease
        left = {"messages_in": _NO_LIMIT, "messages_out": _NO_LIMIT, "messages": self._lease}
        for meter, quantity in zip(self._metering.measured, quantities or (), strict=quantities is not None):
            if meter.source.name in left:
                left[meter.source.name] = min(left[meter.source.name], quantity)
        self._in.left, self._out.left, self._both = left["messages_in"], left["messages_out"], left["messages"]

    def suspend(self) -> None:
        """No permits until there are new ones, or until it goes on with what it had."""
        self._suspended, self._both = self._both, 0

    def go_on(self) -> None:
        """The permits are again what they were."""
        self._both = self._suspended

    def release(self) -> None:
        """Let through what waits, as far as there are permits now."""
        ex = self._ex
        if self._is_closing:
            return
        for direction, pass_on in ((self._in, self.pass_in), (self._out, self.pass_out)):
            if direction.waiting:
                waiting, direction.waiting = direction.waiting, b""
                pass_on(waiting)
        if ex.upstream is not None and not self._in.waiting and not ex.upstream.is_choked:
            ex.client.resume_reading()
        if ex.upstream is not None and not self._out.waiting and not ex.client.is_choked:
            ex.upstream.resume_reading()
        if self._is_ended and not self._out.waiting:
            ex.resume(None)

    def pass_in(self, data: bytes) -> None:
        """Bytes from the client to the upstream."""
        ex = self._ex
        if self._is_closing or ex.upstream is None:
            return
        passing = self._in.admit(data)
        if passing:
            ex.bytes_in += len(passing)
            ex.upstream.write_body(passing)
        if self._in.waiting:
            ex.client.pause_reading()
            self._want()

    def pass_out(self, data: bytes) -> None:
        """Bytes from the upstream to the client."""
        ex = self._ex
        passing = data[: self._out.messages.to_boundary(data)] if self._is_closing else self._out.admit(data)
        if passing:
            ex.bytes_out += len(passing)
            ex.client.write_body(passing)
        if self._is_closing:
            self._close_if_between_frames()
        elif self._out.waiting:
            if ex.upstream is not None:
                ex.upstream.pause_reading()
            self._want()

    def close(self, reason: str, code: int = POLICY_VIOLATION) -> None:
        """Close both sides, the client's once the frame that it is getting is whole."""
        self._is_closing = True
        self._reason, self._code = reason.encode(), code
        self._close_if_between_frames()

    def _close_if_between_frames(self) -> None:
        ex = self._ex
        if not self._out.messages.is_between_frames:
            return
        ex.client.write_body(close_frame(self._code, self._reason))
        if ex.upstream is not None and self._in.messages.is_between_frames:
            ex.upstream.write_body(close_frame(self._code, self._reason, mask=os.urandom(4)))
        ex.throw(LimitReached())

    def _want(self) -> None:
        """Ask for permits for what waits; without Redis, do what the route's policy says, or ask again later."""
        wanted = (_COUNTED_IN if self._in.waiting else frozenset()) | (
            _COUNTED_OUT if self._out.waiting else frozenset()
        )
        if not wanted or self._timer is not None or self._parts.cut(wanted):
            return
        is_open = self._ex.plan.policy is not StoreFailure.CLOSED
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(0 if is_open else _AGAIN_S, self._want_again, is_open)

    def _want_again(self, is_open: bool) -> None:
        self._timer = None
        if self._ex.is_over:
            return
        if is_open:
            self.granted(None, self._metering)
            self.release()
        else:
            self._want()


class _Direction:
    """One direction: its messages, the permits that it has left, and the bytes that wait for more."""

    __slots__ = ("left", "messages", "waiting")

    def __init__(self, gate: WebSocketGate) -> None:
        self.messages = MessageGate(lambda: gate.take(self))
        self.left = 0
        self.waiting = b""

    def admit(self, data: bytes) -> bytes:
        """What may pass now; the rest waits. What comes while something waits, waits behind it."""
        if self.waiting:
            self.waiting += data
            return b""
        size = self.messages.admit(data)
        self.waiting = data[size:]
        return data[:size] if self.waiting else data
