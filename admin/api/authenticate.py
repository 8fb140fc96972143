"""Who calls: the one place where credentials and permissions are checked. `key_of` and `permit` are pure.

A request without a key may come with the cookie of a session instead: then what the account is in the project decides
(admin.permissions), and whatever changes something must show that a page of ours sent it (X-CSRF-Token).

Order: exactly one well-formed key (no I/O yet), known, not revoked, not expired: else 401. Then what the key is for:
its kind, its scopes (`admin`, if it has any), its origins and addresses: else 403.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final

import asyncpg
from multidict import CIMultiDictProxy

from admin import permissions
from admin.accounts import members, sessions
from admin.accounts.sessions import Session
from admin.api.call import Caller, Denied, Endpoint, invalid
from admin.nouns import Scope
from ledger import problems, sql
from ledger.keys import KeyKind, Mode, hash_key, is_well_formed
from ledger.problems import Problem
from ledger.restrictions import is_address_allowed, is_origin_allowed

PROJECT_HEADER: Final = "Tollgate-Project"
MODE_HEADER: Final = "Tollgate-Mode"
CSRF_HEADER: Final = "X-CSRF-Token"
_SQL = sql.load("admin.api", "authenticate.sql")
_GRANTS: Final = {
    KeyKind.SECRET: permissions.SECRET_KEY,
    KeyKind.PUBLISHABLE: permissions.PUBLISHABLE_KEY,
    KeyKind.CUSTOMER: frozenset[permissions.Permission](),
}
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


def has_key(headers: CIMultiDictProxy[str]) -> bool:
    """True if a request tries to show a key."""
    return "X-API-Key" in headers or "Authorization" in headers


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
    kind = KeyKind(row["kind"])
    scope = Scope(row["project_id"], Mode(row["mode"]))
    return Credential(
        Caller(f"key:{row['id']}", scope, _GRANTS[kind], kind, row["id"]),
        frozenset(row["scopes"]),
        tuple(row["allowed_origins"]),
        tuple(row["allowed_ips"]),
    )


def permit(credential: Credential, endpoint: Endpoint, origin: str | None, address: str | None) -> Caller:
    """The caller, if its key may use the endpoint from there. Raises Denied."""
    caller = credential.caller
    if caller.kind not in endpoint.kinds:
        raise Denied(problems.FORBIDDEN, "This takes a secret key (sk_…).")
    if endpoint.needs not in caller.grants:
        raise Denied(problems.FORBIDDEN, f"No key may do this ({endpoint.needs}): sign in.")
    if credential.scopes and permissions.ADMIN_SCOPE not in credential.scopes:
        raise Denied(problems.SCOPE_MISSING, f"This key has scopes, and {permissions.ADMIN_SCOPE!r} is not among them.")
    if endpoint.platform_only and not caller.is_platform:
        raise Denied(problems.FORBIDDEN, "This takes a secret key of the platform's own project.")
    if credential.allowed_origins and not is_origin_allowed(origin, credential.allowed_origins):
        raise Denied(problems.ORIGIN_NOT_ALLOWED)
    if credential.allowed_ips and not (address is not None and is_address_allowed(address, credential.allowed_ips)):
        raise Denied(problems.IP_NOT_ALLOWED)
    return caller


async def of_session(
    connection: asyncpg.Connection, session: Session, headers: CIMultiDictProxy[str], endpoint: Endpoint
) -> Caller:
    """The caller behind a session, in the project and mode that the headers name, else those its pages show.

    Raises Denied: 404 for a project that the account is no member of, 403 for what its role does not include.
    """
    project_id = headers.get(PROJECT_HEADER, session.project_id)
    if project_id is None:
        raise invalid(PROJECT_HEADER, "is missing: which project? (GET /projects lists yours)")
    mode = headers.get(MODE_HEADER, session.mode)
    if mode not in (Mode.TEST, Mode.LIVE):
        raise invalid(MODE_HEADER, f"expected test or live, got {mode!r:.40}")
    role = await members.role_of(connection, session.account_id, project_id) if is_text(project_id) else None
    if role is None:
        raise Denied(problems.NOT_FOUND, f"There is no project {project_id!r:.80} here.")
    caller = Caller(session.actor, Scope(project_id, Mode(mode)), permissions.TABLE[role], session=session)
    if endpoint.needs not in caller.grants:
        raise Denied(problems.FORBIDDEN, f"Your role here, {role}, does not include this ({endpoint.needs}).")
    if endpoint.platform_only and not caller.is_platform:
        raise Denied(problems.FORBIDDEN, "This takes the platform's own project.")
    return caller


def is_text(value: str) -> bool:
    """True if PostgreSQL can be asked about it."""
    return value.isprintable() and value.isascii()


def check_csrf(token: str, headers: CIMultiDictProxy[str], *, is_own_page: bool) -> None:
    """Raises Denied if a request that changes something does not come from a page of ours."""
    if not is_own_page or not sessions.is_csrf(token, headers.get(CSRF_HEADER, "")):
        raise Denied(problems.CSRF, f"Send {CSRF_HEADER} with the csrfToken of GET /auth/me.")
