"""The request line (RFC 9112 §3) and what a request's fields must hold.

The *target* is what came; the *path* is its canonical spelling: what routes are matched on is exactly what is
forwarded, so no spelling of a path can pass a rule here and mean something else behind. Dot segments are refused, not
resolved: an honest client resolves them itself (RFC 3986 §5.2.4), so one that arrives is a mistake or an attempt.

How it fails: `Malformed`, with 400, 405, 414, 417, 501 or 505.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from gateway.http1.errors import Malformed
from gateway.http1.fields import TCHAR, Fields
from ledger.problems import (
    BAD_TARGET,
    EXPECTATION_FAILED,
    METHOD_NOT_ALLOWED,
    NOT_IMPLEMENTED,
    URI_TOO_LONG,
    VERSION_NOT_SUPPORTED,
)

_SEGMENT: Final = rb"A-Za-z0-9\-_~!$&'()*+,;=:@"
# A path that is canonical as it stands: no escape, no empty inner segment, no segment that begins with a dot.
_CANONICAL: Final = rb"/(?:[%b][%b.]*+/)*(?:[%b][%b.]*+)?" % (_SEGMENT, _SEGMENT, _SEGMENT, _SEGMENT)
_QUERY: Final = rb"[!$-;=?-~%]*+"
# The whole line when its path is canonical already.
_plain: Final = re.compile(
    rb"(?!TRACE |CONNECT )([%b]{1,32}) ((%b)(?:\?(%b))?) HTTP/1\.[01]" % (TCHAR, _CANONICAL, _QUERY)
).fullmatch
_is_canonical: Final = re.compile(_CANONICAL).fullmatch
_is_query: Final = re.compile(_QUERY).fullmatch
_is_method: Final = re.compile(rb"[%b]{1,32}" % TCHAR).fullmatch
_is_version: Final = re.compile(rb"HTTP/[0-9]\.[0-9]").fullmatch
_is_absolute: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*+:").match
# What may stand in a path: RFC 3986 characters, escapes, and those that browsers send raw; the latter leave escaped.
_is_path: Final = re.compile(rb"/(?:[A-Za-z0-9\-._~!$&'()*+,;=:@/\[\]^`{|}]|%[0-9A-Fa-f]{2})*").fullmatch
_escape: Final = re.compile(rb"%..|[\[\]^`{|}]").sub
_slashes: Final = re.compile(rb"//++").sub
# A dot segment under any separator that some server honours, and before a path parameter that some server cuts off.
_dot_segment: Final = re.compile(rb"(?:/|%2F|%5C)\.{1,2}(?:/|%2F|%5C|;|%3B|$)").search
_new: Final = tuple.__new__
_KNOWN_BYTES: Final = 512
_UNRESERVED: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"
_ESCAPES: Final = {
    **{b"%%%02X" % byte: b"%%%02X" % byte for byte in range(256)},
    **{b"%%%02X" % byte: bytes((byte,)) for byte in _UNRESERVED},
    **{bytes((byte,)): b"%%%02X" % byte for byte in b"[]^`{|}"},
}


class RequestLine(NamedTuple):
    """A request line: `path` is canonical, `query` as sent but for its `?` (None: there was none), `minor` 0 or 1."""

    method: bytes
    target: bytes
    path: bytes
    query: bytes | None
    minor: int


def parse_request_line(line: bytes, max_target: int) -> RequestLine:
    """Read a request line (without its CRLF); `max_target` bounds the target in bytes. Raises `Malformed`."""
    matched = _plain(line)
    if matched is None:
        return _parse_unusual(line, max_target)
    method, target, path, query = matched.groups()
    if len(target) > max_target:
        raise Malformed(f"The request target is longer than {max_target} bytes.", URI_TOO_LONG)
    # Past the generated __new__, which costs as much again; the last byte is ASCII 0 or 1.
    return _new(RequestLine, (method, target, path, query, line[-1] & 1))


_known_line = lru_cache(1_024)(parse_request_line)


def read_line(line: bytes, max_target: int) -> RequestLine:
    """`parse_request_line` with a memory: the same line is the same object, as long as it is among the last 1,024."""
    return _known_line(line, max_target) if len(line) <= _KNOWN_BYTES else parse_request_line(line, max_target)


def canonical_path(path: bytes) -> bytes:
    """The one spelling of a path: escapes of unreserved characters decoded, others in upper case, slashes merged.

    Raises `Malformed` (BAD_TARGET) for dot segments in any spelling, NUL, malformed escapes, and raw bytes that
    RFC 3986 does not allow, but for a few that browsers send, which are escaped. Idempotent.
    """
    if _is_canonical(path):
        return path
    if not _is_path(path):
        raise _bad_path(path)
    path = _slashes(b"/", _escape(lambda escape: _ESCAPES[escape[0].upper()], path))
    if b"%00" in path:
        raise Malformed("The path contains an escaped NUL.", BAD_TARGET)
    if _dot_segment(path):
        raise Malformed("The path contains a dot segment.", BAD_TARGET)
    return path


def check_request(line: RequestLine, fields: Fields) -> None:
    """The rules that tie a request line to its fields (RFC 9112 §3.2, §6.1, RFC 9110 §10.1.1). Raises `Malformed`."""
    if line.minor:
        if not fields.host:
            raise Malformed("The Host field is missing or empty.")
        if b"expect" in fields.index:
            _check_expect(fields)
    elif fields.chunked:
        raise Malformed("Transfer-Encoding in an HTTP/1.0 request.")


def keeps_alive(minor: int, fields: Fields) -> bool:
    """Whether the connection outlives this message (RFC 9112 §9.3)."""
    options = fields.connection
    if minor:
        return b"close" not in options
    # RFC 9112 §6.1: chunked from an HTTP/1.0 peer is readable, but its framing is not to be trusted any further.
    return b"keep-alive" in options and b"close" not in options and not fields.chunked


def _parse_unusual(line: bytes, max_target: int) -> RequestLine:
    """The long way: for paths that are not canonical yet, and to say what is wrong."""
    parts = line.split(b" ")
    if len(parts) != 3:
        raise Malformed("The request line is not `method target version` with single spaces.")
    method, target, version = parts
    if not _is_method(method):
        raise Malformed("The method is not a token of at most 32 characters.")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        if _is_version(version):
            raise Malformed("Only HTTP/1.1 and HTTP/1.0 are spoken here.", VERSION_NOT_SUPPORTED)
        raise Malformed("The request line does not end with an HTTP version.")
    if len(target) > max_target:
        raise Malformed(f"The request target is longer than {max_target} bytes.", URI_TOO_LONG)
    if method == b"TRACE":
        # An upstream would echo the credential that the gateway adds.
        raise Malformed("TRACE is not allowed.", METHOD_NOT_ALLOWED)
    if method == b"CONNECT":
        raise Malformed("CONNECT is not supported: this is not a forward proxy.", NOT_IMPLEMENTED)
    minor = 1 if version == b"HTTP/1.1" else 0
    if target == b"*":
        if method != b"OPTIONS":
            raise Malformed("The target `*` is for OPTIONS only.", BAD_TARGET)
        return RequestLine(method, target, target, None, minor)
    if target[:1] != b"/":
        if _is_absolute(target):
            raise Malformed("An absolute target: this is not a forward proxy. Send the path alone.", BAD_TARGET)
        raise Malformed("The request target does not begin with a slash.", BAD_TARGET)
    path, mark, query = target.partition(b"?")
    if not _is_query(query):
        raise Malformed("The query contains a character that must be escaped.", BAD_TARGET)
    return RequestLine(method, target, canonical_path(path), query if mark else None, minor)


def _bad_path(path: bytes) -> Malformed:
    if path[:1] != b"/":
        return Malformed("The path does not begin with a slash.", BAD_TARGET)
    if re.search(rb"%(?![0-9A-Fa-f]{2})", path):
        return Malformed("The path contains a malformed percent escape.", BAD_TARGET)
    return Malformed("The path contains a character that must be escaped.", BAD_TARGET)


def _check_expect(fields: Fields) -> None:
    if b"expect" in fields.repeated or fields.index[b"expect"].lower() != b"100-continue":
        raise Malformed("Only `Expect: 100-continue` can be met.", EXPECTATION_FAILED)
