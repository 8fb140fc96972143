"""What the rows of snapshot.sql mean: nouns, made of what Postgres said. No I/O.

What this release cannot read of routes and issuers is left out and logged, never fatal; what did not change keeps its
object.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pydantic import ValidationError

from gateway.store.compile import make_route
from gateway.store.issuers import IssuerTable
from gateway.store.nouns import Customer, Issuer, Overage, Principal, Route, Tier
from gateway.store.table import RouteTable
from ledger.specs import IssuerSpec, RouteSpec, UpstreamSpec

if TYPE_CHECKING:
    from asyncpg import Record as Row

    from gateway.store.remembered import Tiers
    from ledger.vault import Vault

_log = logging.getLogger("gateway.snapshot")


def principal_of(row: Row, key_hash: bytes, customer: Customer | None) -> Principal:
    """A row of `key_by_hash`."""
    return Principal(
        key_id=row["id"],
        project_id=row["project_id"],
        mode=row["mode"],
        kind=row["kind"],
        customer=customer,
        scopes=frozenset(row["scopes"]),
        requests_per_minute=row["requests_per_minute"],
        allowed_origins=tuple(row["allowed_origins"]),
        allowed_ips=tuple(row["allowed_ips"]),
        expires_at=row["expires_at"],
        is_revoked=row["is_revoked"],
        key_hash=key_hash,
    )


def customer_of(row: Row, tiers: Tiers) -> Customer:
    """A row of `customer_by_id` or `customer_by_external`."""
    by_name, default = tiers
    tier = next((t for t in by_name.values() if t.id == row["tier_id"]), default)
    return Customer(row["id"], row["external_id"], tier, row["anchor_at"], is_known=True)


def tiers_of(rows: Iterable[Row]) -> Tiers:
    """The rows of `tiers`."""
    tiers: dict[str, Tier] = {}
    default: Tier | None = None
    for row in rows:
        tiers[row["name"]] = tier = Tier(
            row["id"],
            row["name"],
            row["requests_per_minute"],
            dict(zip(row["meters"], row["quotas"], strict=True)),
            row["concurrent_requests"],
            row["burst"],
            row["is_shadow"],
            row["spend_cap_minor"],
            _overage(row),
            row["upgrade_url"],
        )
        if row["is_default"]:
            default = tier
    return tiers, default


def _overage(row: Row) -> tuple[Overage, ...]:
    """The meters of a tier that cost money beyond what is included."""
    meters = zip(row["meters"], row["included"], row["prices"], strict=True)
    return tuple(Overage(meter, included, price) for meter, included, price in meters if included is not None and price)


def routes_of(rows: Iterable[Row], before: Mapping[str, Route], vault: Vault | None) -> RouteTable:
    """The rows of `routes`; `before` are those that there were, by id."""
    routes = []
    for row in rows:
        try:
            spec = RouteSpec.model_validate_json(row["spec"])
            upstream = UpstreamSpec.model_validate_json(row["upstream_spec"])
        except ValidationError as error:
            _left_out("route", row, error)
            continue
        kept, sealed = before.get(row["id"]), (row["secret"], row["upstream_secret"])
        if kept is None or kept.spec != spec or kept.upstream != upstream or kept.sealed != sealed:
            kept = make_route(row["id"], row["project_id"], row["upstream_id"], spec, upstream, sealed, vault)
        routes.append(kept)
    return RouteTable(routes)


def issuers_of(rows: Iterable[Row], before: Mapping[str, Issuer]) -> IssuerTable:
    """The rows of `issuers`; `before` are those that there were, by id."""
    issuers = []
    for row in rows:
        try:
            spec = IssuerSpec.model_validate_json(row["spec"])
        except ValidationError as error:
            _left_out("issuer", row, error)
            continue
        kept = before.get(row["id"])
        is_same = kept is not None and kept.spec == spec
        issuers.append(kept if kept and is_same else Issuer(row["id"], row["project_id"], spec))
    return IssuerTable(issuers)


def _left_out(noun: str, row: Row, error: ValidationError) -> None:
    _log.error("%s %s is left out: %s", noun, row["name"], error.errors(include_url=False, include_input=False))
