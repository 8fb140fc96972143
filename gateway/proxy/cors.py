"""Calls from pages of other origins: answers to preflights, and the fields that let a page read an answer. Pure.

An origin that is not allowed gets no permission, and the browser keeps the answer from the page; the request itself is
treated like any other. `Vary` says what an answer depends on, so that no cache gives one origin's answer to another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.cors import ANY
from ledger.restrictions import is_origin_allowed

if TYPE_CHECKING:
    from gateway.http1.fields import Fields
    from gateway.http1.request import RequestLine
    from ledger.cors import CorsSpec
    from ledger.specs import RouteSpec

ANSWER_FIELDS: Final = frozenset(
    (
        b"access-control-allow-origin",
        b"access-control-allow-credentials",
        b"access-control-allow-headers",
        b"access-control-allow-methods",
        b"access-control-expose-headers",
        b"access-control-max-age",
    )
)
"""What an upstream says about it does not pass where the route says it."""

_WANTED_METHOD: Final = b"access-control-request-method"
_WANTED_HEADERS: Final = b"access-control-request-headers"
_VARY: Final = b"Vary: Origin\r\n"
_VARY_OF_PREFLIGHT: Final = b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"


def wanted_method(line: RequestLine, fields: Fields) -> bytes | None:
    """The method that a preflight asks about; None if the request is no preflight."""
    if line.method != b"OPTIONS" or b"origin" not in fields.index:
        return None
    return fields.index.get(_WANTED_METHOD)


def permission(cors: CorsSpec, fields: Fields) -> bytes:
    """The lines of an answer that let the page that asked read it, or only say that it depends on the origin."""
    origin = fields.index.get(b"origin")
    allowed = _allowed(cors, origin)
    if allowed is None:
        return _VARY
    lines = b"Access-Control-Allow-Origin: %b\r\n" % allowed
    if cors.allow_credentials:
        lines += b"Access-Control-Allow-Credentials: true\r\n"
    if cors.exposed_headers:
        lines += b"Access-Control-Expose-Headers: %b\r\n" % ", ".join(cors.exposed_headers).encode()
    return lines if allowed == b"*" else lines + _VARY


def preflight(spec: RouteSpec, cors: CorsSpec, method: bytes, fields: Fields) -> bytes:
    """The lines that answer a preflight about a method; without permission where the origin has none."""
    allowed = _allowed(cors, fields.index.get(b"origin"))
    if allowed is None:
        return _VARY_OF_PREFLIGHT
    methods = ", ".join(cors.allowed_methods or spec.methods).encode() or method
    headers = ", ".join(cors.allowed_headers).encode()
    if ANY in cors.allowed_headers:  # by name: a lone * excludes Authorization, and with credentials means itself
        headers = fields.index.get(_WANTED_HEADERS, b"")
    lines = b"Access-Control-Allow-Origin: %b\r\nAccess-Control-Allow-Methods: %b\r\n" % (allowed, methods)
    if headers:
        lines += b"Access-Control-Allow-Headers: %b\r\n" % headers
    if cors.allow_credentials:
        lines += b"Access-Control-Allow-Credentials: true\r\n"
    return lines + b"Access-Control-Max-Age: %d\r\n" % cors.max_age_s + _VARY_OF_PREFLIGHT


def _allowed(cors: CorsSpec, origin: bytes | None) -> bytes | None:
    if origin is None:
        return b"*" if ANY in cors.allowed_origins else None
    if ANY in cors.allowed_origins:
        return b"*"
    return origin if is_origin_allowed(origin.decode("latin-1"), cors.allowed_origins) else None
