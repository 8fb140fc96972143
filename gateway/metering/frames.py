"""Counts the messages in a WebSocket byte stream as it passes (RFC 6455 §5.2). Pure.

Only frame headers are looked at; the bytes go on untouched, so close codes, fragmentation and extensions survive. A
message counts when the header of its final frame arrives. Control frames are not messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

_CONTROL: Final = 0x8
_LENGTH_BYTES: Final = {126: 2, 127: 8}


class MessageCounter:
    """One direction of one connection. Keeps at most 13 bytes between calls."""

    __slots__ = ("_partial", "_skip", "messages")

    def __init__(self) -> None:
        self._partial = b""
        self._skip = 0
        self.messages = 0

    @property
    def is_between_frames(self) -> bool:
        """True where a frame has ended and none has begun."""
        return not self._partial and not self._skip

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the stream."""
        if self._partial:
            data = self._partial + data
            self._partial = b""
        at, end = 0, len(data)
        if self._skip:
            at = min(self._skip, end)
            self._skip -= at
        while at < end:
            if end - at < 2:
                self._partial = data[at:]
                return
            first, second = data[at], data[at + 1]
            size = second & 0x7F
            extended = _LENGTH_BYTES.get(size, 0)
            header = 2 + extended + (4 if second & 0x80 else 0)
            if end - at < header:
                self._partial = data[at:]
                return
            if extended:
                size = int.from_bytes(data[at + 2 : at + 2 + extended])
            if first & 0x80 and first & 0x0F < _CONTROL:
                self.messages += 1
            at += header
            step = min(size, end - at)
            self._skip = size - step
            at += step


class MessageGate:
    """One direction of a connection whose messages need a permit each: says how far its bytes may pass.

    A message counts when its first frame begins. Between frames, and before a message that has no permit, is where the
    stream can be stopped. Keeps at most 13 bytes between calls; what may not pass is the caller's to keep.
    """

    __slots__ = ("_partial", "_skip", "messages", "permit")

    def __init__(self, permit: Callable[[], bool]) -> None:
        self.permit = permit
        self._partial = b""
        self._skip = 0
        self.messages = 0

    @property
    def is_between_frames(self) -> bool:
        """True where a frame has ended and none has begun."""
        return not self._partial and not self._skip

    def admit(self, data: bytes) -> int:
        """How many of these bytes may pass, counting the messages in them. The others are to be shown again."""
        before = len(self._partial)
        if before:
            data = self._partial + data
            self._partial = b""
        at, end = 0, len(data)
        is_begun = before > 0
        if self._skip:
            at = min(self._skip, end)
            self._skip -= at
        while at < end:
            if not is_begun and 0 < data[at] & 0x0F < _CONTROL:
                if not self.permit():
                    return at - before
                self.messages += 1
            is_begun = False
            size = data[at + 1] & 0x7F if end - at > 1 else 0
            extended = _LENGTH_BYTES.get(size, 0)
            header = 2 + extended + (4 if end - at > 1 and data[at + 1] & 0x80 else 0)
            if end - at < header:
                self._partial = data[at:]
                break
            if extended:
                size = int.from_bytes(data[at + 2 : at + 2 + extended])
            at += header
            step = min(size, end - at)
            self._skip = size - step
            at += step
        return end - before

    def feed(self, data: bytes) -> None:
        """Look at bytes that pass in any case."""
        self.admit(data)

    def to_boundary(self, data: bytes) -> int:
        """How many of these bytes belong to the frame that is under way; afterwards, and without one, it is between frames
        unless they were too few."""
        permit, self.permit = self.permit, _never
        try:
            return self._admit_one_frame(data)
        finally:
            self.permit = permit

    def _admit_one_frame(self, data: bytes) -> int:
        passed = 0
        while passed < len(data) and not self.is_between_frames:
            step = self._skip or 1
            passed += self.admit(data[passed : passed + step])
        return passed


def _never() -> bool:
    return False


def close_frame(code: int, reason: bytes, *, mask: bytes = b"") -> bytes:
    """A close frame (RFC 6455 §5.5.1) with a reason of at most 123 bytes. `mask`: four bytes where a client sends it."""
    payload = code.to_bytes(2) + reason[:123]
    if not mask:
        return b"%c%c%b" % (0x88, len(payload), payload)
    masked = bytes([byte ^ mask[at % 4] for at, byte in enumerate(payload)])
    return b"%c%c%b%b" % (0x88, 0x80 | len(payload), mask, masked)
