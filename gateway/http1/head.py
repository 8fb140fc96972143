"""Where a message's head ends in a buffer that is still filling up.

`find_head` is called after each arrival with the same start, `split_head` once it has found the end. A head that can no
longer become valid is refused at once, so that a peer which sends garbage slowly does not hold a connection until some
timeout; whether a whole head is valid is for `request`, `response` and `fields` to say.

One empty line before the start line is tolerated (RFC 9112 §2.2), in the same way by both functions.

How it fails: `Malformed`, with 400, 414 or 431.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.http1.errors import Malformed
from gateway.http1.fields import TCHAR
from ledger.problems import HEADERS_TOO_LARGE, URI_TOO_LONG

# A method or a protocol name, or less. The usual stranger is 0x16, a TLS hello on a plain port.
_begins_well: Final = re.compile(rb"(?:\r\n)?(?:[%b]|\Z)|\r\Z" % TCHAR).match


def find_head(buffer: bytes | bytearray, start: int, max_bytes: int) -> int:
    """Index just past the empty line that ends the head which begins at `start`, or -1 while it is incomplete.

    Raises `Malformed`: 414 or 431 (by where the excess is) when the head is, or must become, longer than `max_bytes`;
    400 when what is there can be the beginning of no head.
    """
    end = buffer.find(b"\r\n\r\n", start)
    if end >= 0:
        if end == start:
            raise Malformed("More than one empty line before the start line.")
        if end + 4 - start > max_bytes:
            raise _too_large(buffer, start, max_bytes)
        return end + 4
    _refuse_hopeless(buffer, start)
    if len(buffer) - start >= max_bytes:
        raise _too_large(buffer, start, max_bytes)
    return -1


def split_head(buffer: bytes | bytearray, start: int, end: int) -> tuple[bytes, bytes]:
    """The start line (without CRLF) and the field section (with its empty line) of the head at `start` to `end`."""
    stop = buffer.find(b"\r\n", start)
    if stop == start:
        start += 2
        stop = buffer.find(b"\r\n", start)
    if isinstance(buffer, bytes):
        return buffer[start:stop], buffer[stop + 2 : end]
    return bytes(buffer[start:stop]), bytes(buffer[stop + 2 : end])


def refuse_bare_line_ends(buffer: bytes | bytearray, start: int) -> None:
    """Raise `Malformed` if from `start` on there is a CR or LF outside a CRLF; a CR at the very end may become one."""
    pairs = buffer.count(b"\r\n", start)
    if buffer.count(b"\n", start) != pairs:
        raise Malformed("A line ends with a bare LF.")
    if buffer.count(b"\r", start) != pairs + buffer.endswith(b"\r", start):
        raise Malformed("A bare CR in a line.")


def _refuse_hopeless(buffer: bytes | bytearray, start: int) -> None:
    """Raise `Malformed` if no continuation makes this a head."""
    refuse_bare_line_ends(buffer, start)
    if buffer.find(b"\0", start) >= 0:
        raise Malformed("A NUL byte in the head.")
    if not _begins_well(buffer, start):
        raise Malformed("The start line begins with a character that none can begin with.")
    stop = buffer.find(b"\r\n", start + 1)
    if stop >= 0:
        if buffer.find(b"HTTP/", start, stop) < 0:
            raise Malformed("The start line names no HTTP version.")
        if buffer.find(b"\r\n ", stop) >= 0 or buffer.find(b"\r\n\t", stop) >= 0:
            raise Malformed("A folded header field (a line that begins with a blank).")


def _too_large(buffer: bytes | bytearray, start: int, max_bytes: int) -> Malformed:
    stop = buffer.find(b"\r\n", start + 1)
    if stop < 0 or stop - start > max_bytes:
        return Malformed(f"The start line is longer than {max_bytes} bytes.", URI_TOO_LONG)
    return Malformed(f"The head is larger than {max_bytes} bytes.", HEADERS_TOO_LARGE)
