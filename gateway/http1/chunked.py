"""The chunked transfer coding (RFC 9112 §7.1): a strict decoder, and the encoder's two pieces.

The decoder keeps no payload: pieces leave in the call that brought them. Between calls it holds at most one unfinished
size line (256 bytes) or trailer section (8 KiB). Chunk extensions are checked and dropped.

How it fails: `Malformed`; nothing more can be read from that connection.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from gateway.http1.errors import Malformed
from gateway.http1.fields import TCHAR, Fields, parse_fields, parse_items
from gateway.http1.head import refuse_bare_line_ends
from ledger.problems import HEADERS_TOO_LARGE

LAST_CHUNK: Final = b"0\r\n\r\n"
MAX_LINE_BYTES: Final = 256
MAX_TRAILER_BYTES: Final = 8192
MAX_TRAILER_FIELDS: Final = 64

NOT_IN_TRAILERS: Final = frozenset(
    b"""
    transfer-encoding content-length content-encoding content-type content-range connection keep-alive te trailer
    upgrade proxy-connection host max-forwards expect range if-match if-none-match if-modified-since
    if-unmodified-since if-range cache-control expires date location retry-after vary age pragma warning
    authorization proxy-authorization proxy-authenticate www-authenticate authentication-info
    proxy-authentication-info cookie set-cookie forwarded x-forwarded-for x-forwarded-host x-forwarded-proto
    x-api-key x-user-id x-user-plan x-request-id
    """.split()
)
"""Fields that frame, route, authenticate or control a message: never taken from a trailer (RFC 9110 §6.5.1)."""

_QUOTED: Final = rb"\"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*\""
_EXTENSION: Final = rb"[ \t]*+;[ \t]*+[%b]++(?:[ \t]*+=[ \t]*+(?:[%b]++|%b))?" % (TCHAR, TCHAR, _QUOTED)
_size_line: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:%b)*" % _EXTENSION).fullmatch
_may_become_size_line: Final = re.compile(rb"[0-9A-Fa-f]{1,16}+(?:[ \t]*+;[\t -~\x80-\xff]*+|[ \t]*+)\r?").fullmatch

# What comes next
_SIZE, _DATA, _DATA_END, _TRAILERS = range(4)


class ChunkedDecoder:
    """Decodes one chunked body. Once `done`: `trailers` (None if there are none) and `leftover` (what came after)."""

    __slots__ = ("_held", "_left", "_next", "done", "leftover", "trailers")

    def __init__(self) -> None:
        self.done = False
        self.leftover = b""
        self.trailers: Fields | None = None
        self._next = _SIZE
        self._left = 0  # bytes of the current chunk still to come
        self._held = b""  # what came of an unfinished line or trailer section

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes as they came; return the payload in them, as pieces none of which is empty. Raises `Malformed`."""
        if self.done:
            self.leftover += data
            return []
        if self._held:
            data = self._held + data
            self._held = b""
        pieces: list[bytes] = []
        start = 0
        end = len(data)
        if self._next != _SIZE:
            start = self._resume(data, pieces)
        while start < end:
            stop = data.find(b"\r\n", start, start + MAX_LINE_BYTES + 2)
            if stop < 0:
                self._hold_line(data[start : start + MAX_LINE_BYTES + 2])
                break
            size = _chunk_size(data[start:stop])
            start = stop + 2
            stop = start + size
            if size == 0:
                self._next = _TRAILERS
                self._read_trailers(data, start)
                break
            if end < stop + 2:
                self._begin_chunk(data[start:], size, pieces)
                break
            if data[stop : stop + 2] != b"\r\n":
                raise Malformed("Chunk data is not followed by CRLF.")
            pieces.append(data[start:stop])
            start = stop + 2
        return pieces

    def _resume(self, data: bytes, pieces: list[bytes]) -> int:
        """Go on inside a chunk or the trailers. Returns where the next size line begins (len(data): not in here)."""
        if self._next == _TRAILERS:
            self._read_trailers(data, 0)
            return len(data)
        start = 0
        if self._next == _DATA:
            start = min(self._left, len(data))
            if start:
                pieces.append(data[:start])
            self._left -= start
            if self._left:
                return start
            self._next = _DATA_END
        ending = data[start : start + 2]
        if ending == b"\r\n":
            self._next = _SIZE
            return start + 2
        if ending not in (b"", b"\r"):
            raise Malformed("Chunk data is not followed by CRLF.")
        self._held = ending
        return len(data)

    def _begin_chunk(self, data: bytes, size: int, pieces: list[bytes]) -> None:
        """Take the beginning of a chunk whose end has not come."""
        self._next = _DATA
        self._left = size
        self._resume(data, pieces)

    def _hold_line(self, line: bytes) -> None:
        """Keep an unfinished size line, unless it can never become one."""
        if len(line) > MAX_LINE_BYTES + 1:
            raise Malformed("A chunk size line is too long.")
        if not _may_become_size_line(line):
            raise Malformed("A chunk does not begin with its size in hexadecimal, then CRLF.")
        self._held = line

    def _read_trailers(self, data: bytes, start: int) -> None:
        """Read the trailer section if it has come whole, else keep what has come."""
        if data.startswith(b"\r\n", start):
            self.done = True
            self.leftover = data[start + 2 :]
            return
        stop = data.find(b"\r\n\r\n", start, start + MAX_TRAILER_BYTES)
        if stop >= 0:
            self.trailers = _acceptable(data[start : stop + 4])
            self.done = True
            self.leftover = data[stop + 4 :]
        elif len(data) - start >= MAX_TRAILER_BYTES:
            raise Malformed(f"The trailer section is larger than {MAX_TRAILER_BYTES} bytes.", HEADERS_TOO_LARGE)
        else:
            refuse_bare_line_ends(data, start)
            self._held = data[start:]


def encode_chunk(data: bytes) -> bytes:
    """`data` as one chunk; nothing for no data, as an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


@lru_cache(1024)
def _chunk_size(line: bytes) -> int:
    """The size that a size line states. Streams repeat a few sizes, and the checks cost more than the look-up."""
    matched = _size_line(line)
    if matched is None:
        raise Malformed("A chunk does not begin with its size in hexadecimal, well-formed extensions and CRLF.")
    return int(matched[1], 16)


def _acceptable(section: bytes) -> Fields | None:
    """The fields of a trailer section that may be passed on. A malformed field spoils the message."""
    items = parse_items(section, MAX_TRAILER_FIELDS)
    lines = [line for name, _, line in items if name not in NOT_IN_TRAILERS]
    return parse_fields(b"".join(lines) + b"\r\n", MAX_TRAILER_FIELDS) if lines else None
