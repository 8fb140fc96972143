"""The path that is sent on. Pure.

A route strips its own prefix, keeps the path, or rewrites it: `rewrite` is a path in the form of the route's own, whose
`{parameters}` and final `*` stand for what the route's matched. What they matched is canonical (gateway.http1.request) and
is put in as it is, so no rewriting can make a dot segment or an escape of another meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gateway.store.nouns import Route


def forwarded_path(route: Route, path: bytes) -> bytes:
    """The path for an upstream, to be put after its base path."""
    if route.rewrite is not None:
        segments = path.split(b"/", len(route.segments) + 1)
        return b"/" + b"/".join([part if isinstance(part, bytes) else segments[part] for part in route.rewrite])
    if route.spec.strip_prefix and not route.is_exact:
        return b"/" + path.split(b"/", len(route.segments) + 1)[-1]
    return path
