"""The menu: what leads where, and for whom. A new page gets its line here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from admin.permissions import Permission
from admin.web.page import View


@dataclass(frozen=True, slots=True)
class Item:
    """One line. `needs` is what one must be allowed to see it."""

    title: str
    path: str
    icon: str
    needs: Permission

    def is_current(self, path: str) -> bool:
        """True for the page itself and those below it."""
        return path == self.path or (self.path != "/dashboard" and path.startswith(f"{self.path}/"))


@dataclass(frozen=True, slots=True)
class Group:
    """Lines under a heading ("" for none)."""

    title: str
    items: tuple[Item, ...]


_GROUPS: Final = (
    Group(
        "",
        (
            Item("Home", "/dashboard", "home", Permission.PROJECT_READ),
            Item("Usage", "/dashboard/usage", "chart", Permission.USAGE_READ),
            Item("API keys", "/dashboard/keys", "key", Permission.KEYS_READ),
            Item("Customers", "/dashboard/customers", "people", Permission.CUSTOMERS_READ),
            Item("Tiers", "/dashboard/tiers", "layers", Permission.TIERS_READ),
            Item("Routes", "/dashboard/routes", "route", Permission.ROUTES_READ),
        ),
    ),
    Group(
        "Project",
        (
            Item("Team", "/dashboard/team", "team", Permission.MEMBERS_READ),
            Item("Webhooks", "/dashboard/webhooks", "hook", Permission.WEBHOOKS_READ),
            Item("Alerts", "/dashboard/alerts", "bell", Permission.USAGE_READ),
            Item("Audit log", "/dashboard/audit", "list", Permission.AUDIT_READ),
            Item("Settings", "/dashboard/settings", "gear", Permission.PROJECT_READ),
        ),
    ),
)
_OPERATOR: Final = Group("Installation", (Item("Operator", "/operator", "server", Permission.PLATFORM),))


def nav(view: View) -> list[Group]:
    """The menu of one request."""
    groups = [
        Group(group.title, tuple(item for item in group.items if view.may(item.needs)))
        for group in _GROUPS
        if view.project is not None
    ]
    if view.is_operator:
        groups.append(_OPERATOR)
    return [group for group in groups if group.items]
