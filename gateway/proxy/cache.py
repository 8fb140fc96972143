"""Kept answers: one cache per route and gateway process, bounded in bytes, least recently used out first.

A *key* is what the upstream was asked for: scheme and host as the client named them, path and query, without the client's
key. Under it lie *entries*, one for each way in which the answer varies. `gateway.proxy.freshness` decides what may be kept
and told; here it is kept. All caches of a process together hold at most `cache_max_bytes` of the settings: a route that
finds no room makes some among its own entries, never among another's.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from gateway.http1.fields import Fields, parse_fields
from gateway.http1.response import LENGTH, NONE
from gateway.proxy.flights import Flights
from gateway.proxy.freshness import (
    Directives,
    Lifetime,
    directives,
    is_unchanged,
    lifetime,
    may_be_told,
    nominated,
    varying,
)
from gateway.proxy.headers import to_client
from gateway.proxy.upstream import Response

if TYPE_CHECKING:
    from gateway.exchange import Exchange
    from gateway.proxy.flights import Flight
    from ledger.caching import CacheSpec

Key = tuple[bytes, bytes | None, bytes, bytes | None]
_MOST_VARIANTS: Final = 32
_MOST_CHANGED: Final = 4_096
_OVERHEAD: Final = 1_024
_COPIED: Final = 4
_MOST_FIELDS: Final = 1_000
_NOT_KEPT: Final = frozenset((b"age", b"cache-status", b"content-length"))
_IN_304: Final = frozenset(
    (b"cache-control", b"content-location", b"date", b"etag", b"expires", b"last-modified", b"vary")
)


class Entry:
    """One kept answer. `lines` are its fields but for those that are made anew each time it is told."""

    __slots__ = ("body", "born_at", "fields", "lifetime", "lines", "names", "size", "status_line", "values")

    def __init__(
        self,
        response: Response,
        body: bytes,
        names: tuple[bytes, ...],
        values: tuple[bytes, ...],
        lifetime: Lifetime,
        now: float,
    ) -> None:
        self.status_line = response.lead[: response.lead.index(b"\r\n") + 2]
        self.fields = response.fields
        self.lines = to_client(response.fields, drop_length=False, also=_NOT_KEPT)
        self.body = body
        self.names = names
        self.values = values
        self.lifetime = lifetime
        self.born_at = now - lifetime.age_s
        self.size = len(body) + 2 * len(response.fields.raw) + _OVERHEAD

    def age_s(self, now: float) -> int:
        return max(0, int(now - self.born_at))

    def told(self, now: float, how: bytes = b"hit") -> Response:
        """The answer as a client gets it; `how` it came to it is for Cache-Status (RFC 9211)."""
        lines = b"%bContent-Length: %d\r\n%b" % (self.lines, len(self.body), self._status_lines(now, how))
        return _response(self.status_line, lines, LENGTH)

    def unchanged(self, now: float, how: bytes = b"hit") -> Response:
        """What a client gets who has it already."""
        lines = b"".join([line for name, _, line in self.fields.items if name in _IN_304])
        return _response(b"HTTP/1.1 304 Not Modified\r\n", lines + self._status_lines(now, how), NONE)

    def _status_lines(self, now: float, how: bytes) -> bytes:
        age_s = self.age_s(now)
        left = self.lifetime.fresh_s - age_s
        hit, _, detail = how.partition(b"; ")
        how = b"%b; ttl=%d%b" % (hit, left, b"; " + detail if detail else b"")
        return b"Age: %d\r\nCache-Status: tollgate; %b\r\n" % (age_s, how)

    @property
    def conditions(self) -> bytes:
        """The lines that ask an upstream whether it is still so; b"" if that cannot be asked."""
        index = self.fields.index
        lines = b""
        if b"etag" in index:
            lines = b"If-None-Match: %b\r\n" % index[b"etag"]
        if b"last-modified" in index:
            lines += b"If-Modified-Since: %b\r\n" % index[b"last-modified"]
        return lines


class RouteCache:
    """What is kept for one route."""

    def __init__(self, spec: CacheSpec, caches: Caches) -> None:
        self._spec = spec
        self.caches = caches
        self._entries: OrderedDict[Key, list[Entry]] = OrderedDict()
        self.used = 0
        self.flights = Flights()
        self.changes = 0
        """How often something was changed under some key."""
        self._changed: dict[Key, int] = {}
        self._changed_before = 0
        self.wait_s = spec.wait_ms / 1000

    def find(self, key: Key, fields: Fields) -> Entry | None:
        """The entry for a request, fresh or not."""
        entries = self._entries.get(key)
        if entries is None:
            return None
        self._entries.move_to_end(key)
        return next((e for e in entries if nominated(fields, e.names) == e.values), None)

    def variant(self, key: Key, fields: Fields) -> tuple[bytes, ...]:
        """What a request says in the fields by which the answers vary, as far as is known."""
        entries = self._entries.get(key)
        return nominated(fields, entries[-1].names) if entries else ()

    def has_room_for(self, size: int) -> bool:
        """True if an answer of this size may be kept, and there is room to copy it meanwhile."""
        return size <= min(self._spec.max_entry_bytes, self._spec.max_bytes - _OVERHEAD) and self.caches.may_copy

    def keep(self, key: Key, entry: Entry) -> None:
        """Keep an entry in place of the one that it replaces, and make room."""
        entries = [e for e in self._entries.pop(key, ()) if self._stays(e, entry)]
        while len(entries) >= _MOST_VARIANTS:
            self.used -= entries.pop(0).size
        entries.append(entry)
        self._entries[key] = entries
        self.used += entry.size
        while self.used > self._spec.max_bytes or (self.caches.is_full and self.used):
            self.forget(next(iter(self._entries)))

    def invalidate(self, key: Key) -> None:
        """Something has changed under this key: neither what is kept nor what is on its way is so any more."""
        self.changes += 1
        if len(self._changed) >= _MOST_CHANGED:
            self._changed.clear()
            self._changed_before = self.changes
        self._changed[key] = self.changes
        self.forget(key)
        self.flights.give_up(key)

    def is_as_asked(self, key: Key, asked_at: int) -> bool:
        """True if nothing has changed under this key since it was asked for, when there had been so many changes."""
        return asked_at >= self._changed.get(key, self._changed_before)

    def forget(self, key: Key) -> None:
        """Drop whatever is kept of this."""
        for entry in self._entries.pop(key, ()):
            self.used -= entry.size

    def _stays(self, old: Entry, new: Entry) -> bool:
        is_replaced = old.names != new.names or old.values == new.values
        if is_replaced:
            self.used -= old.size
        return not is_replaced


class Caches:
    """All caches of a process; they go with their routes.

    `most` is the bound of all together, in bytes; a quarter of that again may be under way to being kept.
    """

    def __init__(self, most: int = 2**28) -> None:
        self._most = most
        self._all: WeakSet[RouteCache] = WeakSet()
        self.copied = 0
        """Bytes of answers that are passing and may be kept."""

    def of(self, spec: CacheSpec) -> RouteCache:
        cache = RouteCache(spec, self)
        self._all.add(cache)
        return cache

    @property
    def used(self) -> int:
        return sum(cache.used for cache in self._all)

    @property
    def is_full(self) -> bool:
        return self.used > self._most

    @property
    def may_copy(self) -> bool:
        return self.copied <= self._most // _COPIED


class Recording:
    """Stands as the editor of an answer's reader: takes a copy of the body as it passes, and keeps it when it is whole.

    Trailers are not kept (RFC 9111 §3.1). What is being copied has a bound over all caches; one that is given
    up (the client left, the upstream broke off) gives its share back when it is dropped.
    """

    def __init__(
        self,
        cache: RouteCache,
        key: Key,
        fields: Fields,
        response: Response,
        lifetime: Lifetime,
        asked_at: int,
        flight: Flight | None = None,
    ) -> None:
        self._asked_at = asked_at
        self._flight = flight
        self._cache = cache
        self._key = key
        self._fields = fields
        self._response = _copy(response)
        self._lifetime = lifetime
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_given_up = False

    def __del__(self) -> None:
        self._let_go()
        if self._flight is not None:
            self._flight.over()

    def feed(self, data: bytes) -> bytes:
        if not self._is_given_up:
            self._pieces.append(data)
            self._size += len(data)
            self._cache.caches.copied += len(data)
            if not self._cache.has_room_for(self._size):
                self._is_given_up = True
                self._let_go()
                if self._flight is not None:
                    self._flight.not_shared()
        return data

    def finish(self) -> bytes:
        if not self._is_given_up:
            names = varying(self._response.fields)
            assert names is not None
            values = nominated(self._fields, names)
            entry = Entry(self._response, b"".join(self._pieces), names, values, self._lifetime, time.time())
            self._let_go()
            if self._cache.is_as_asked(self._key, self._asked_at):
                self._cache.keep(self._key, entry)
            if self._flight is not None:
                self._flight.over()
        return b""

    def _let_go(self) -> None:
        self._pieces.clear()
        self._cache.caches.copied -= self._size
        self._size = 0


def recording_of(
    cache: RouteCache,
    key: Key,
    ex: Exchange,
    response: Response,
    asked_at: int,
    flight: Flight | None,
    *,
    is_identified: bool,
) -> Recording | None:
    """What keeps the answer to a GET while it passes; None if it may not be kept, or is known to be too large.

    `asked_at` is how many changes there had been when it was asked for. From here on the flight is the recording's, if
    there is one: it is over when that ends.
    """
    delay_s = (time.monotonic_ns() - ex.sent_ns) / 1e9
    found = lifetime(
        response.status,
        response.framing,
        response.fields,
        is_identified=is_identified,
        now=time.time(),
        delay_s=delay_s,
    )
    if found is None or not cache.has_room_for(response.fields.content_length or 0):
        return None
    is_ever_fresh = found.fresh_s > found.age_s
    if not is_ever_fresh and not found.while_s + found.if_error_s and b"etag" not in response.fields.index:
        return None  # never fresh, and nothing to ask again by
    if b"no-store" in directives(ex.fields):
        return None
    if flight is not None and not is_ever_fresh:
        flight.not_shared()
    return Recording(cache, key, ex.fields, response, found, asked_at, flight)


def refreshed(entry: Entry, response: Response, now: float, delay_s: float, *, is_identified: bool) -> Entry | None:
    """The entry after its upstream said 304; None if it says at the same time that it may not be kept any more."""
    replaced = {name for name, _, _ in response.fields.items} & _IN_304
    lines = [line for name, _, line in entry.fields.items if name not in replaced and name != b"age"]
    lines += [line for name, _, line in response.fields.items if name in replaced]
    kept = _response(entry.status_line, b"".join(lines), LENGTH)
    status = int(entry.status_line[9:12])
    found = lifetime(status, LENGTH, kept.fields, is_identified=is_identified, now=now, delay_s=delay_s)
    return None if found is None else Entry(kept, entry.body, entry.names, entry.values, found, now)


def is_fresh(entry: Entry, wanted: Directives, now: float) -> bool:
    """True if a request may be told what is kept, without asking the upstream."""
    return may_be_told(wanted, entry.lifetime, entry.age_s(now))


def answer_of(entry: Entry, fields: Fields, now: float, how: bytes = b"hit") -> tuple[Response, bytes]:
    """What a request is told of an entry, and the body."""
    if is_unchanged(fields, entry.fields):
        return entry.unchanged(now, how), b""
    return entry.told(now, how), entry.body


def forwarded(response: Response, why: bytes) -> Response:
    """An upstream's answer as a client gets it, who is told why it is not what was kept."""
    line = b"Cache-Status: tollgate; %b\r\n" % why
    told = _copy(response)
    told.lead = response.lead + line
    told.fields = Fields()
    for name in Fields.__slots__:
        setattr(told.fields, name, getattr(response.fields, name))
    told.fields.items = [*response.fields.items, (b"cache-status", line[14:-2], line)]
    return told


def _response(status_line: bytes, lines: bytes, framing: int) -> Response:
    response = Response.__new__(Response)
    response.fields = parse_fields(lines + b"\r\n", _MOST_FIELDS)
    response.status = int(status_line[9:12])
    response.lead = status_line + lines
    response.keeps_alive = True
    response.method, response.framing = b"GET", framing
    return response


def _copy(response: Response) -> Response:
    """The head as it is now: an upstream connection uses its own again."""
    copied = Response.__new__(Response)
    copied.fields, copied.status, copied.lead = response.fields, response.status, response.lead
    copied.keeps_alive, copied.method, copied.framing = response.keeps_alive, response.method, response.framing
    return copied
