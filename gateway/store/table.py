"""Which route a request belongs to: literal segments before parameters, parameters before a prefix, exact host before any.

The table is a tree of path segments per host. A look-up walks the path's segments and takes the most specific branch that
ends in a route for the method, so its cost follows the depth of the path, not the number of routes. It is rebuilt as a
whole when a route changes and swapped in between two requests.

    /v1/users/me        exact            before
    /v1/users/{id}      exact, any id    before
    /v1/users/*         prefix           before
    /v1/*               shorter prefix
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.store.nouns import Route


class _Node:
    """One place in a path: what may follow, the routes that end here, and those that take whatever follows."""

    __slots__ = ("exact", "literals", "parameter", "prefix")

    def __init__(self) -> None:
        self.literals: dict[bytes, _Node] = {}
        self.parameter: _Node | None = None
        self.exact: tuple[Route, ...] = ()
        self.prefix: tuple[Route, ...] = ()

    def add(self, route: Route) -> None:
        """Put a route where its path leads."""
        node = self
        for segment in route.segments:
            if segment.startswith(b"{"):
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        if route.is_exact:
            node.exact = _in_order((*node.exact, route))
        else:
            node.prefix = _in_order((*node.prefix, route))


def _in_order(routes: Iterable[Route]) -> tuple[Route, ...]:
    """Routes that name their methods come before one that takes any."""
    return tuple(sorted(routes, key=lambda r: (not r.methods, r.name)))


class RouteTable:
    """An immutable set of routes, ready to be asked."""

    __slots__ = ("_any_host", "_hosts", "_wildcards", "by_id")

    def __init__(self, routes: Iterable[Route]) -> None:
        self.by_id: dict[str, Route] = {}
        self._any_host = _Node()
        self._hosts: dict[bytes, _Node] = {}
        self._wildcards: list[tuple[bytes, _Node]] = []
        for route in routes:
            self.by_id[route.id] = route
            root = self._any_host
            if route.spec.host is not None:
                root = self._hosts.setdefault(route.spec.host.lower().encode(), _Node())
            root.add(route)
        for host in [h for h in self._hosts if h.startswith(b"*.")]:
            self._wildcards.append((host[1:], self._hosts.pop(host)))
        self._wildcards.sort(key=lambda pair: -len(pair[0]))

    def match(self, host: bytes | None, path: bytes, method: bytes) -> Route | frozenset[bytes] | None:
        """The route; or the methods that are allowed at this path where only the method does not fit; or None."""
        if path[:1] != b"/":
            return None
        segments = path[1:].split(b"/")
        allowed: set[bytes] = set()
        if host is not None and (self._hosts or self._wildcards):
            for root in self._of_host(host.lower()):
                found = _match(root, segments, 0, method, allowed)
                if found is not None:
                    return found
        found = _match(self._any_host, segments, 0, method, allowed)
        if found is not None:
            return found
        return frozenset(allowed) or None

    def _of_host(self, host: bytes) -> Iterable[_Node]:
        name = host.rpartition(b":")[0] if host[-1:].isdigit() and b":" in host else host
        for candidate in (host, name) if name != host else (host,):
            if candidate in self._hosts:
                yield self._hosts[candidate]
        for suffix, root in self._wildcards:
            if name.endswith(suffix) or host.endswith(suffix):
                yield root


def _match(node: _Node, segments: list[bytes], at: int, method: bytes, allowed: set[bytes]) -> Route | None:
    """The most specific route below `node` for the segments from `at` on; else None, with the methods that would fit."""
    if at == len(segments):
        return _of_method(node.exact, method, allowed)
    segment = segments[at]
    follower = node.literals.get(segment)
    if follower is not None:
        found = _match(follower, segments, at + 1, method, allowed)
        if found is not None:
            return found
    if node.parameter is not None and segment:
        found = _match(node.parameter, segments, at + 1, method, allowed)
        if found is not None:
            return found
    return _of_method(node.prefix, method, allowed)


def _of_method(routes: tuple[Route, ...], method: bytes, allowed: set[bytes]) -> Route | None:
    for route in routes:
        if not route.methods or method in route.methods:
            return route
        allowed |= route.methods
    return None
