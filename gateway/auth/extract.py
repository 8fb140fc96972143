"""Which credential a request carries. Pure: looks at fields and query, knows nothing of who exists.

A key is read from `Authorization: Bearer`, `X-API-Key`, or a header or query parameter that the route names. Exactly one
credential is acceptable: two, even equal ones, are refused, since an upstream or a log may see the other one.
Another Authorization scheme (Basic, …) is not a credential here and is passed on.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from gateway.http1.fields import Fields


class Absent(Enum):
    """Why there is no credential to check."""

    NONE = "none"
    CONFLICT = "conflict"


class Credential(NamedTuple):
    """`text` is the key as sent; `field` the lower-case header that carried it, or b"" where the query did."""

    text: bytes
    field: bytes


_BEARER: Final = b"bearer"
_ALWAYS_READ: Final = (None, b"x-api-key", b"authorization")


def extract(
    fields: Fields, query: bytes | None, key_header: bytes | None = None, key_query: bytes | None = None
) -> Credential | Absent:
    """The one credential of a request, or why there is none."""
    index = fields.index
    found: Credential | None = None
    authorization = index.get(b"authorization")
    if authorization is not None:
        if b"authorization" in fields.repeated:
            return Absent.CONFLICT
        scheme, _, text = authorization.partition(b" ")
        if scheme.lower() == _BEARER:
            found = Credential(text.strip(), b"authorization")
    for name in (b"x-api-key",) if key_header in _ALWAYS_READ else (b"x-api-key", key_header):
        text_or_none = index.get(name)
        if text_or_none is not None:
            if found is not None or name in fields.repeated:
                return Absent.CONFLICT
            found = Credential(text_or_none, name)
    if key_query is not None and query:
        values = query_values(query, key_query)
        if values:
            if found is not None or len(values) > 1:
                return Absent.CONFLICT
            found = Credential(values[0], b"")
    return Absent.NONE if found is None else found


def query_values(query: bytes, name: bytes) -> list[bytes]:
    """The values of one query parameter, as sent (keys hold no character that needs an escape)."""
    return [value for part in query.split(b"&") for key, _, value in (part.partition(b"="),) if key == name]


def without_parameter(query: bytes, name: bytes) -> bytes | None:
    """The query without one parameter; None if nothing is left of it."""
    return b"&".join(part for part in query.split(b"&") if part.partition(b"=")[0] != name) or None
