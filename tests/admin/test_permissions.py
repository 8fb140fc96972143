"""The table of roles and permissions, written out once more by hand: whoever changes one must change the other."""

from __future__ import annotations

import pytest

from admin.permissions import PUBLISHABLE_KEY, SECRET_KEY, TABLE, Permission, Role, is_allowed, may_grant

# o: owner, a: admin, m: member, v: viewer, k: secret key
EXPECTED = {
    "project.read": "oamvk",
    "project.update": "oa  k",
    "project.promote": "oa  k",
    "project.delete": "o    ",
    "keys.read": "oamvk",
    "keys.write": "oam k",
    "admin_keys.write": "oa  k",
    "customers.read": "oamvk",
    "customers.write": "oam k",
    "tiers.read": "oamvk",
    "tiers.write": "oa  k",
    "routes.read": "oamvk",
    "routes.write": "oa  k",
    "routes.try": "oam k",
    "usage.read": "oamvk",
    "usage.write": "oa  k",
    "billing.read": "oamvk",
    "billing.write": "oa  k",
    "webhooks.read": "oam k",
    "webhooks.write": "oa  k",
    "audit.read": "oam k",
    "members.read": "oamv ",
    "members.write": "oa   ",
    "owners.write": "o    ",
    "platform.administer": "oa  k",
}


def test_every_permission_is_in_the_table() -> None:
    assert set(EXPECTED) == {str(permission) for permission in Permission}


@pytest.mark.parametrize("permission", list(Permission))
def test_each_cell(permission: Permission) -> None:
    cells = "".join(
        letter if is_allowed(role, permission) else " "
        for letter, role in zip("oamv", (Role.OWNER, Role.ADMIN, Role.MEMBER, Role.VIEWER), strict=True)
    )
    assert cells + ("k" if permission in SECRET_KEY else " ") == EXPECTED[permission]


def test_each_role_includes_the_one_below() -> None:
    assert TABLE[Role.VIEWER] < TABLE[Role.MEMBER] < TABLE[Role.ADMIN] < TABLE[Role.OWNER]
    assert PUBLISHABLE_KEY < SECRET_KEY


@pytest.mark.parametrize("granting", list(Role))
@pytest.mark.parametrize("granted", list(Role))
def test_only_owners_make_owners(granting: Role, granted: Role) -> None:
    expected = granting is Role.OWNER or (granting is Role.ADMIN and granted is not Role.OWNER)
    assert may_grant(granting, granted) is expected
