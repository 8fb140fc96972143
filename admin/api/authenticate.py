"""Who calls: the one place where keys are checked. `key_of` and `permit` are pure, `identify` reads one row.

Order: exactly one well-formed key (no I/O yet), known, not revoked, not expired: else 401. Then what the key is for:
its kind, its scopes (`admin`, if it has any), its origins and addresses: else 403.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final

import asyncpg
from multidict import CIMultiDictProxy

from admin.api.call import Caller, Denied, Endpoint
from admin.nouns import Scope
from ledger import problems, sql
from ledger.keys import KeyKind, Mode, hash_key, is_well_formed
from ledger.problems import Problem
from ledger.restrictions import is_address_allowed, is_origin_allowed

SCOPE: Final = "admin"
"""The scope a key must have to use this API, if it has scopes at all."""

_SQL = sql.load("admin.api", "authenticate.sql")
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="tollgate"'}


@dataclass(frozen=True, slots=True)
class Credential:
    """A known key, with what it is restricted to."""

    caller: Caller
    scopes: frozenset[str]
    allowed_origins: tuple[str, ...]
    allowed_ips: tuple[IPv4Network | IPv6Network, ...]


def refuse(problem: Problem) -> Denied:
    """A 401 with its challenge."""
    return Denied(problem, headers=_CHALLENGE)


def key_of(headers: CIMultiDictProxy[str]) -> bytes:
    """The text of the one key that a request carries. Raises Denied."""
    bearers = [
        value.partition(" ")[2].strip()
        for value in headers.getall("Authorization", [])
        if value.partition(" ")[0].lower() == "bearer"
    ]
    found = bearers + [value.strip() for value in headers.getall("X-API-Key", [])]
    if not found:
        raise refuse(problems.NO_CREDENTIAL)
    if len(found) > 1:
        raise refuse(problems.CONFLICTING_CREDENTIALS)
    text = found[0].encode("utf-8", "surrogateescape")
    if not is_well_formed(text):
        raise refuse(problems.BAD_CREDENTIAL)
    return text


async def identify(connection: asyncpg.Connection, key: bytes) -> Credential:
    """The key of this text. Raises Denied if it is unknown, revoked or expired."""
    row = await connection.fetchrow(_SQL["key_by_hash"], hash_key(key))
    if row is None:
        raise refuse(problems.BAD_CREDENTIAL)
    if row["is_revoked"]:
        raise refuse(problems.KEY_REVOKED)
    if row["is_expired"]:
        raise refuse(problems.KEY_EXPIRED)
    return Credential(
        Caller(row["id"], Scope(row["project_id"], Mode(row["mode"])), KeyKind(row["kind"])),
        frozenset(row["scopes"]),
        tuple(row["allowed_origins"]),
        tuple(row["allowed_ips"]),
    )


def permit(credential: Credential, endpoint: Endpoint, origin: str | None, address: str | None) -> Caller:
    """The caller, if its key may use the endpoint from there. Raises Denied."""
    caller = credential.caller
    if caller.kind not in endpoint.kinds:
        raise Denied(problems.FORBIDDEN, "This takes a secret key (sk_…).")
    if credential.scopes and SCOPE not in credential.scopes:
        raise Denied(problems.SCOPE_MISSING, f"This key has scopes, and {SCOPE!r} is not among them.")
    if endpoint.platform_only and not caller.is_platform:
        raise Denied(problems.FORBIDDEN, "This takes a secret key of the platform's own project.")
    if credential.allowed_origins and not is_origin_allowed(origin, credential.allowed_origins):
        raise Denied(problems.ORIGIN_NOT_ALLOWED)
    if credential.allowed_ips and not (address is not None and is_address_allowed(address, credential.allowed_ips)):
        raise Denied(problems.IP_NOT_ALLOWED)
    return caller
