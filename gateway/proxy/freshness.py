"""What may be kept of an answer, for how long, and whom it may be given to (RFC 9111, RFC 5861). Pure.

Stricter than the standard in what nobody misses: only answers with an explicit lifetime are kept, none that set a cookie,
and of those to requests whose sender was identified (a key, a token, Authorization, a cookie) only what says `public` or
`s-maxage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.http1.response import CHUNKED, LENGTH
from ledger import header_names

if TYPE_CHECKING:
    from gateway.http1.fields import Fields

_STATUSES: Final = frozenset((200, 203, 301, 308, 404, 410))
_LONGEST_S: Final = 2**31
_MOST_DIGITS: Final = 12
_VARIES_BY_US: Final = frozenset(
    (b"authorization", b"x-api-key", *(name.encode() for name in header_names.ABOUT_THE_CLIENT | {"x-request-id"}))
)
"""What an upstream sees of these is not what the client sent."""
_WANTS_FRESH: Final = frozenset((b"no-cache", b"no-store", b"min-fresh"))
_NEVER_STALE: Final = frozenset((b"must-revalidate", b"proxy-revalidate"))
CONDITIONS: Final = frozenset(
    (b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"range")
)

Directives = Mapping[bytes, bytes]


class Lifetime(NamedTuple):
    """For how many seconds an answer is fresh, and how old it was when it came.

    For so many more it may be told while it is being renewed, or because the upstream fails (RFC 5861).
    """

    fresh_s: int
    age_s: int
    while_s: int = 0
    if_error_s: int = 0


def directives(fields: Fields) -> Directives:
    """Those of Cache-Control, names in lower case; of one that is given twice, the smaller number or the first."""
    text = b",".join(fields.values(b"cache-control"))
    if b'"' in text:  # commas inside quotation marks do not separate
        pieces = text.split(b'"')
        pieces[1::2] = [piece.replace(b",", b" ") for piece in pieces[1::2]]
        text = b"".join(pieces)
    found: dict[bytes, bytes] = {}
    for part in text.split(b","):
        name, _, value = part.partition(b"=")
        name, value = name.strip().lower(), value.strip()
        if name not in found or (value.isdigit() and found[name].isdigit() and _seconds(value) < _seconds(found[name])):
            found[name] = value
    return found


def lifetime(
    status: int, framing: int, fields: Fields, *, is_identified: bool, now: float, delay_s: float
) -> Lifetime | None:
    """How long an answer may be used; None if it may not be kept. `now` is Unix seconds, `delay_s` what it took."""
    said = directives(fields)
    if (
        status not in _STATUSES
        or framing not in (LENGTH, CHUNKED)
        or b"no-store" in said
        or b"private" in said
        or b"no-cache" in said
        or b"set-cookie" in fields.index
        or b"content-range" in fields.index
        or (is_identified and b"public" not in said and b"s-maxage" not in said)
        or varying(fields) is None
    ):
        return None
    date = _moment(fields.index.get(b"date"))
    fresh_s = _explicit(said, fields, now if date is None else date)
    if fresh_s is None:
        return None
    apparent = 0.0 if date is None else now - date
    told = _number(fields.index.get(b"age", b"0")) or 0
    age_s = max(0, int(apparent), int(told + delay_s))
    if not _NEVER_STALE.isdisjoint(said):
        return Lifetime(fresh_s, age_s)
    while_s, if_error_s = _number(said.get(b"stale-while-revalidate")), _number(said.get(b"stale-if-error"))
    return Lifetime(fresh_s, age_s, while_s or 0, if_error_s or 0)


def varying(fields: Fields) -> tuple[bytes, ...] | None:
    """The request fields that an answer depends on, in lower case and order; None if that cannot be told."""
    names = sorted({part.strip().lower() for value in fields.values(b"vary") for part in value.split(b",")} - {b""})
    return None if b"*" in names or not _VARIES_BY_US.isdisjoint(names) else tuple(names)


def nominated(fields: Fields, names: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """What a request says in these fields."""
    return tuple(b",".join(fields.values(name)) for name in names)


def may_be_told(wanted: Directives, lifetime: Lifetime, age_s: int) -> bool:
    """True if a kept answer of this age satisfies a request with these directives."""
    if b"no-cache" in wanted or b"no-store" in wanted:
        return False
    most = _number(wanted.get(b"max-age"))
    least_left = _number(wanted.get(b"min-fresh")) or 0
    return age_s + least_left < lifetime.fresh_s and (most is None or age_s <= most)


def may_be_told_stale(wanted: Directives, lifetime: Lifetime, age_s: int, for_s: int) -> bool:
    """True if an answer that is stale for no longer than `for_s` satisfies a request with these directives."""
    if not for_s or not _WANTS_FRESH.isdisjoint(wanted):
        return False
    most = _number(wanted.get(b"max-age"))
    return age_s < lifetime.fresh_s + for_s and (most is None or age_s <= most)


def is_unchanged(wanted: Fields, kept: Fields) -> bool:
    """True if a request's conditions are about what is kept, so that 304 is the answer (RFC 9110 §13.2.2)."""
    none_match = wanted.index.get(b"if-none-match")
    if none_match is not None:
        tag = _weak(kept.index.get(b"etag", b""))
        tags = [_weak(part) for value in wanted.values(b"if-none-match") for part in value.split(b",")]
        return b"*" in tags or (tag != b"" and tag in tags)
    since = _moment(wanted.index.get(b"if-modified-since"))
    modified = _moment(kept.index.get(b"last-modified"))
    return since is not None and modified is not None and modified <= since


def _explicit(said: Directives, fields: Fields, date: float) -> int | None:
    for name in (b"s-maxage", b"max-age"):
        if name in said:
            return _number(said[name]) or 0  # what is no number has expired
    if b"expires" not in fields.index:
        return None
    expires = _moment(fields.index[b"expires"])
    return 0 if expires is None or b"expires" in fields.repeated else max(0, int(expires - date))


def _number(value: bytes | None) -> int | None:
    return _seconds(value) if value is not None and value.isdigit() else None


def _seconds(digits: bytes) -> int:
    return min(int(digits), _LONGEST_S) if len(digits) <= _MOST_DIGITS else _LONGEST_S


def _moment(value: bytes | None) -> float | None:
    """An HTTP date as Unix seconds; None if there is none or it is none."""
    if value is None:
        return None
    try:
        return parsedate_to_datetime(value.decode("latin-1")).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _weak(tag: bytes) -> bytes:
    return tag.strip().removeprefix(b"W/")
