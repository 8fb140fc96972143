"""Which fields pass, in both directions. Pure.

Hop-by-hop fields end here (RFC 9110 §7.6.1), as do those named by `Connection`, except that a peer cannot name away what
frames the message. The client's key, and whatever it claims about forwarding or identity, never reaches the upstream; the
gateway puts its own in their place, after the filter, so that nothing a client sends can remove or precede it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger import header_names

if TYPE_CHECKING:
    from gateway.http1.fields import Fields
    from gateway.http1.request import RequestLine

HOP_BY_HOP: Final = frozenset(name.encode() for name in header_names.HOP_BY_HOP)
_REQUEST_ID: Final = header_names.REQUEST_ID.encode()
_OURS_TO_UPSTREAM: Final = frozenset(
    (b"host", b"expect", _REQUEST_ID, *(name.encode() for name in header_names.ABOUT_THE_CLIENT - {"via"}))
)
_OURS_TO_CLIENT: Final = frozenset((_REQUEST_ID, *(name.encode() for name in header_names.ABOUT_LIMITS)))

_NEVER_TO_UPSTREAM: Final = HOP_BY_HOP | _OURS_TO_UPSTREAM
_NEVER_TO_CLIENT: Final = HOP_BY_HOP | _OURS_TO_CLIENT
_FRAMING: Final = frozenset((b"content-length",))


def asks_for_websocket(line: RequestLine, fields: Fields) -> bool:
    """True for a WebSocket handshake (RFC 6455 §4.2.1); no other upgrade is ever passed on."""
    return (
        b"upgrade" in fields.connection
        and line.method == b"GET"
        and line.minor == 1
        and fields.index.get(b"upgrade", b"").lower() == b"websocket"
        and not fields.content_length
        and not fields.chunked
    )


def to_upstream(fields: Fields, credential_field: bytes, replaced: frozenset[bytes] = frozenset()) -> bytes:
    """The request's fields that pass, as lines.

    `credential_field` is the one that carried the key (b"" for none), `replaced` those that are not the client's to send.
    """
    dropped = _NEVER_TO_UPSTREAM | replaced
    if fields.connection:
        dropped = dropped | (fields.connection - _FRAMING)
    return b"".join(
        [
            line
            for name, _, line in fields.items
            if name not in dropped
            and name != credential_field
            and not (b"_" in name and _poses(name, credential_field, replaced))
        ]
    )


def _poses(name: bytes, credential_field: bytes, replaced: frozenset[bytes]) -> bool:
    """True for X_User_Id and the like: CGI and WSGI upstreams cannot tell them from the dashed names."""
    dashed = name.replace(b"_", b"-")
    return dashed in _NEVER_TO_UPSTREAM or dashed == credential_field or dashed in replaced or dashed in _FRAMING


def trailers_to_upstream(trailers: bytes, replaced: frozenset[bytes]) -> bytes:
    """The request's trailer lines that pass: none under a name that is not the client's to send, in any spelling."""
    dropped = _NEVER_TO_UPSTREAM | replaced
    return b"".join(
        [
            line
            for line in trailers.splitlines(True)
            if line.partition(b":")[0].lower().replace(b"_", b"-") not in dropped
        ]
    )


def to_client(fields: Fields, *, drop_length: bool, also: frozenset[bytes] = frozenset()) -> bytes:
    """The response's fields that pass, as lines; without Content-Length where the status forbids one, and `also`."""
    dropped = _NEVER_TO_CLIENT | also
    if fields.connection:
        dropped = dropped | (fields.connection - _FRAMING)
    if drop_length:
        dropped = dropped | _FRAMING
    return b"".join([line for name, _, line in fields.items if name not in dropped])


def without(lines: bytes, names: frozenset[bytes]) -> bytes:
    """Field lines without those of some names (in lower case)."""
    return b"".join([line for line in lines.splitlines(True) if line.partition(b":")[0].lower() not in names])


def safe_value(text: str) -> bytes:
    """A value for a field of ours; what cannot stand in a field is replaced, so no identity can split a head."""
    if text.isascii() and text.isprintable() and " " not in text:
        return text.encode()
    return "".join(c if " " < c <= "~" else "?" for c in text).encode()
