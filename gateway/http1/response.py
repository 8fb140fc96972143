"""The status line (RFC 9112 §4) and how a response's body is framed (§6.3).

How it fails: `Malformed`; the caller answers 502 for it, whatever problem it carries.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from gateway.http1.errors import Malformed
from gateway.http1.fields import Fields

NONE: Final = 0
"""No body follows the head."""
LENGTH: Final = 1
"""The body is `fields.content_length` bytes long (possibly none)."""
CHUNKED: Final = 2
"""The body is chunked."""
UNTIL_CLOSE: Final = 3
"""The body ends where the connection does; whether it is complete cannot be told."""
TUNNEL: Final = 4
"""No message follows but another protocol (101), until the connection closes."""

_status_line: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*+))?").fullmatch
_KNOWN: Final[dict[bytes, tuple[int, int, bytes]]] = {
    b"HTTP/1.%d %d %b" % (minor, status.value, status.phrase.encode()): (minor, status.value, status.phrase.encode())
    for minor in (0, 1)
    for status in HTTPStatus
}


def parse_status_line(line: bytes) -> tuple[int, int, bytes]:
    """Minor version, status 100 to 999 and reason of a status line (without its CRLF). Raises `Malformed`.

    A missing reason is accepted, and so is a missing space before it, as servers do send that.
    """
    known = _KNOWN.get(line)
    if known is not None:
        return known
    matched = _status_line(line)
    if matched is None:
        raise Malformed("The status line is not `HTTP/1.x status reason`.")
    minor, status, reason = matched.groups()
    return int(minor), int(status), reason or b""


def forbids_framing(status: int) -> bool:
    """Whether this status must go without Content-Length and Transfer-Encoding (RFC 9110 §8.6, RFC 9112 §6.1)."""
    return status < 200 or status == 204


def body_framing(method: bytes, status: int, fields: Fields) -> int:
    """How the body of the answer to `method` is framed: `NONE`, `LENGTH`, `CHUNKED` or `UNTIL_CLOSE`."""
    if method == b"HEAD" or status < 200 or status == 204 or status == 304:
        return NONE
    if fields.content_length is not None:
        return LENGTH
    return CHUNKED if fields.chunked else UNTIL_CLOSE
