"""Which route a request belongs to: exact path before prefix, longer prefix before shorter, exact host before any.

The table is a dictionary per host; a look-up walks the path's segments from the end, so its cost follows the depth of
the path, not the number of routes. It is rebuilt as a whole when a route changes and swapped in between two requests.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.store.nouns import Route


class RouteTable:
    """An immutable set of routes, ready to be asked."""

    __slots__ = ("_any_host", "_hosts", "_wildcards", "by_id")

    def __init__(self, routes: Iterable[Route]) -> None:
        self.by_id: dict[str, Route] = {}
        self._any_host: dict[bytes, tuple[Route, ...]] = {}
        self._hosts: dict[bytes, dict[bytes, tuple[Route, ...]]] = {}
        self._wildcards: list[tuple[bytes, dict[bytes, tuple[Route, ...]]]] = []
        for route in routes:
            self.by_id[route.id] = route
            paths = self._any_host
            if route.spec.host is not None:
                paths = self._hosts.setdefault(route.spec.host.lower().encode(), {})
            # a prefix route is found under "/prefix/", an exact one under its path with a NUL, which no path contains
            key = route.prefix.encode() + (b"\0" if route.is_exact else b"")
            # routes that name their methods come before one that takes any
            paths[key] = tuple(sorted((*paths.get(key, ()), route), key=lambda r: (not r.methods, r.name)))
        for host in [h for h in self._hosts if h.startswith(b"*.")]:
            self._wildcards.append((host[1:], self._hosts.pop(host)))
        self._wildcards.sort(key=lambda pair: -len(pair[0]))

    def match(self, host: bytes | None, path: bytes, method: bytes) -> Route | frozenset[bytes] | None:
        """The route; or the methods that are allowed at this path where only the method does not fit; or None."""
        allowed: frozenset[bytes] = frozenset()
        if host is not None and (self._hosts or self._wildcards):
            for paths in self._of_host(host.lower()):
                found = _match(paths, path, method)
                if isinstance(found, Route):
                    return found
                allowed |= found
        found = _match(self._any_host, path, method)
        if isinstance(found, Route):
            return found
        return (allowed | found) or None

    def _of_host(self, host: bytes) -> Iterable[dict[bytes, tuple[Route, ...]]]:
        name = host.rpartition(b":")[0] if host[-1:].isdigit() and b":" in host else host
        for candidate in (host, name) if name != host else (host,):
            if candidate in self._hosts:
                yield self._hosts[candidate]
        for suffix, paths in self._wildcards:
            if name.endswith(suffix) or host.endswith(suffix):
                yield paths


def _match(paths: dict[bytes, tuple[Route, ...]], path: bytes, method: bytes) -> Route | frozenset[bytes]:
    allowed: frozenset[bytes] = frozenset()
    routes = paths.get(path + b"\0")
    end = len(path)
    while True:
        if routes is not None:
            for route in routes:
                if not route.methods or method in route.methods:
                    return route
                allowed |= route.methods
        end = path.rfind(b"/", 0, end)
        if end < 0:
            return allowed
        routes = paths.get(path[: end + 1])
