"""An event stream (server-sent events, WHATWG HTML §9.2) taken apart into its events, byte for byte, as it passes. Pure.

Kept between calls: the event that is under way, at most MAX_EVENT bytes. A larger one leaves in parts that are marked as
such; its bytes are never lost and never wait.
"""

from __future__ import annotations

import re
from typing import Final

MAX_EVENT: Final = 1_048_576
_BOM: Final = b"\xef\xbb\xbf"
_empty_line: Final = re.compile(rb"\n(?:\n|\r\n?)|\r(?:\n(?:\n|\r\n?)|\r\n?)").search


class EventSplitter:
    """Cuts a stream after each empty line; put together, what leaves is what came."""

    __slots__ = ("_held", "_is_passing")

    def __init__(self) -> None:
        self._held = bytearray()
        self._is_passing = False  # the parts of an event that is too large

    @property
    def is_between_events(self) -> bool:
        """True if nothing is held."""
        return not self._held and not self._is_passing

    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        """The next bytes; what is complete by now, in order, and of each whether it is a whole event."""
        held = self._held
        pos = max(0, len(held) - 3)  # the longest end of an event that is not complete without a further byte
        held += data
        start, found = 0, []
        while (matched := _empty_line(held, pos)) is not None:
            stop = matched.end()
            if stop == len(held) and held[-1] == 0x0D:
                break  # a line feed may belong to it
            found.append((bytes(held[start:stop]), not self._is_passing))
            self._is_passing = False
            start = pos = stop
        if self._is_passing or len(held) - start > MAX_EVENT:
            self._is_passing = True
            stop = max(start, len(held) - 3)
            if stop > start:
                found.append((bytes(held[start:stop]), False))
            start = stop
        del held[:start]
        return found

    def finish(self) -> tuple[bytes, bool]:
        """What is held at the end of the stream, and whether it may be a whole event."""
        rest, is_whole = bytes(self._held), not self._is_passing
        self._held.clear()
        self._is_passing = False
        return rest, is_whole


def data_of(event: bytes) -> bytes:
    """The data of an event: the values of its `data` fields, joined by line feeds."""
    lines = []
    for line in event.removeprefix(_BOM).splitlines():
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return lines[0] if len(lines) == 1 else b"\n".join(lines)
