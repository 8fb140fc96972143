"""Routes as requests need them: everything that follows from a declaration is worked out once, when the snapshot is made."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from gateway.store.credentials import UNAVAILABLE, Injected, injected
from gateway.store.nouns import Route, Sealed
from ledger.vault import CannotOpen, Vault

if TYPE_CHECKING:
    from ledger.header_rules import HeaderRules
    from ledger.specs import RouteSpec, UpstreamSpec

_log = logging.getLogger("gateway.snapshot")


def make_route(
    route_id: str,
    project_id: str,
    upstream_id: str,
    spec: RouteSpec,
    upstream: UpstreamSpec,
    sealed: Sealed = (None, None),
    vault: Vault | None = None,
) -> Route:
    """Compile a route from its declaration; `sealed` are its secret and its upstream's."""
    credential = _credential(route_id, upstream_id, spec, upstream, sealed, vault)
    theirs = credential.name if credential is not None and credential.header else b""
    rules, answer_rules = spec.request_headers, spec.response_headers
    is_exact = not spec.path.endswith("*")
    return Route(
        id=route_id,
        project_id=project_id,
        name=spec.name,
        spec=spec,
        upstream_id=upstream_id,
        upstream=upstream,
        segments=tuple(spec.path.removesuffix("/*").encode().split(b"/")[1:]),
        is_exact=is_exact,
        methods=frozenset(m.encode() for m in spec.methods),
        key_header=spec.key_header.lower().encode() if spec.key_header else None,
        key_query=spec.key_query.encode() if spec.key_query else None,
        scopes=frozenset(spec.scopes),
        read_timeout=spec.read_timeout_ms / 1000,
        sealed=sealed,
        injected=credential,
        replaced=_names(rules) | ({theirs} if theirs else set()),
        added_lines=rules.lines(but=theirs.decode()) + (credential.header if credential is not None else b""),
        rewrite=_rewrite(spec.rewrite, spec.path),
        answer_dropped=_names(answer_rules),
        answer_lines=answer_rules.lines(),
    )


def _credential(
    route_id: str, upstream_id: str, spec: RouteSpec, upstream: UpstreamSpec, sealed: Sealed, vault: Vault | None
) -> Injected | None:
    """The credential of a route, else that of its upstream; UNAVAILABLE, and logged, where it cannot be opened."""
    declared, secret, about = spec.credential, sealed[0], route_id
    if declared is None:
        declared, secret, about = upstream.credential, sealed[1], upstream_id
    if declared is None:
        return None
    try:
        if secret is None or vault is None:
            raise CannotOpen("no encryption key is set" if vault is None else "it is not stored")
        return injected(declared, vault.open(secret, about))
    except CannotOpen as error:
        _log.error("route %s answers 503: the credential of %s cannot be used: %s", spec.name, about, error)
        return UNAVAILABLE


def _names(rules: HeaderRules) -> frozenset[bytes]:
    return frozenset(name.encode() for name in rules.replaced)


def _rewrite(rewrite: str | None, path: str) -> tuple[bytes | int, ...] | None:
    """A rewrite as segments: literal ones as bytes, others as the place of theirs in the path that comes (from 1)."""
    if rewrite is None:
        return None
    places = {segment: place for place, segment in enumerate(path.split("/"))}
    return tuple(
        places[segment] if segment == "*" or segment.startswith("{") else segment.encode()
        for segment in rewrite.split("/")[1:]
    )
