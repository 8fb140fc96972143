"""Who may do what: one table, role by permission, asked by the API and the pages alike. Pure.

A *permission* is a noun and a verb; every endpoint and every page names the one it needs. A *role* is what an account is
in one project. A secret key has a row of its own: it does the project's business, and nothing to do with people.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Final

from ledger.keys import KeyKind

ADMIN_SCOPE: Final = "admin"
"""The scope a key must have to use the API, if it has scopes at all."""


class Role(StrEnum):
    """What an account is in a project, the most powerful first."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"
    VIEWER = "viewer"


class Permission(StrEnum):
    """One thing that may be allowed."""

    PROJECT_READ = "project.read"
    PROJECT_UPDATE = "project.update"
    PROJECT_PROMOTE = "project.promote"
    PROJECT_DELETE = "project.delete"
    KEYS_READ = "keys.read"
    KEYS_WRITE = "keys.write"
    """Make, rotate and revoke keys; ADMIN_KEYS_WRITE as well where the key administers the project."""
    ADMIN_KEYS_WRITE = "admin_keys.write"
    """Make and rotate keys that administer: whoever holds one may do what SECRET_KEY says."""
    CUSTOMERS_READ = "customers.read"
    CUSTOMERS_WRITE = "customers.write"
    TIERS_READ = "tiers.read"
    TIERS_WRITE = "tiers.write"
    ROUTES_READ = "routes.read"
    ROUTES_WRITE = "routes.write"
    ROUTES_TRY = "routes.try"
    USAGE_READ = "usage.read"
    USAGE_WRITE = "usage.write"
    """Correct what was stored."""
    BILLING_READ = "billing.read"
    BILLING_WRITE = "billing.write"
    WEBHOOKS_READ = "webhooks.read"
    WEBHOOKS_WRITE = "webhooks.write"
    AUDIT_READ = "audit.read"
    MEMBERS_READ = "members.read"
    MEMBERS_WRITE = "members.write"
    OWNERS_WRITE = "owners.write"
    """Make somebody an owner, or an owner something else."""
    PLATFORM = "platform.administer"
    """See and make all projects. Means something in the platform's own project alone."""


_VIEWER: Final = frozenset(permission for permission in Permission if permission.endswith(".read")) - {
    Permission.AUDIT_READ,
    Permission.WEBHOOKS_READ,
}
_MEMBER: Final = _VIEWER | {
    Permission.KEYS_WRITE,
    Permission.CUSTOMERS_WRITE,
    Permission.ROUTES_TRY,
    Permission.WEBHOOKS_READ,
    Permission.AUDIT_READ,
}
_OWNER: Final = frozenset(Permission)
_ADMIN: Final = _OWNER - {Permission.PROJECT_DELETE, Permission.OWNERS_WRITE}

TABLE: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.OWNER: _OWNER,
    Role.ADMIN: _ADMIN,
    Role.MEMBER: _MEMBER,
    Role.VIEWER: _VIEWER,
}
SECRET_KEY: Final = _ADMIN - {Permission.MEMBERS_READ, Permission.MEMBERS_WRITE}
"""What a project's secret key may do."""
PUBLISHABLE_KEY: Final = frozenset((Permission.TIERS_READ,))
"""What a key in a browser may do, where an endpoint takes one at all."""


def is_allowed(role: Role, permission: Permission) -> bool:
    """True if the role includes the permission."""
    return permission in TABLE[role]


def administers(kind: KeyKind, scopes: Collection[str]) -> bool:
    """True for a key that this API takes: a secret one without scopes, or with the scope `admin`."""
    return kind is KeyKind.SECRET and (not scopes or ADMIN_SCOPE in scopes)


def needed_for(kind: KeyKind, scopes: Collection[str]) -> Permission:
    """What making such a key, or its successor, takes: nobody hands out more than they have."""
    return Permission.ADMIN_KEYS_WRITE if administers(kind, scopes) else Permission.KEYS_WRITE


def may_grant(granting: Role, granted: Role) -> bool:
    """True if `granting` may make somebody `granted`, or take that away."""
    needed = Permission.OWNERS_WRITE if granted is Role.OWNER else Permission.MEMBERS_WRITE
    return needed in TABLE[granting]
