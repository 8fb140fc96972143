"""Counts the messages in a WebSocket byte stream as it passes (RFC 6455 §5.2). Pure.

Only frame headers are looked at; the bytes go on untouched, so close codes, fragmentation and extensions survive. A
message counts when the header of its final frame arrives. Control frames are not messages.
"""

from __future__ import annotations

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
