"""/dashboard: what is going on, live; and /dashboard/start: from nothing to a call that was counted, in three steps."""

from __future__ import annotations

from typing import Any, Final

from admin.keys import create_key, list_keys
from admin.permissions import Permission
from admin.web import figures
from admin.web.page import Answer, Html, Page, Redirect, View
from admin.web.quickstart import examples
from ledger.keys import KeyKind
from ledger.specs import KeySpec

_KEYS_SHOWN: Final = 5


async def home(view: View) -> Answer:
    if not await figures.has_any(view.connection, view.scope):
        keys = await list_keys(view.connection, view.scope, None, 1)
        if not keys and view.may(Permission.KEYS_WRITE):
            return Redirect("/dashboard/start")
    keys = [key for key in await list_keys(view.connection, view.scope, None, 20) if key.revoked_at is None]
    points = await view.figure("months", figures.months, figures.REQUESTS)
    prefix = next((key.prefix for key in keys if key.kind is KeyKind.SECRET), None)
    return Html(
        "home.html",
        {
            **await tiles(view),
            "points": points,
            "most": figures.most(points),
            "keys": keys[:_KEYS_SHOWN],
            "recent": await figures.recent(view.connection, view.scope, None, 6),
            "examples": examples(view.site.origin, f"{prefix}…" if prefix else "YOUR_KEY"),
        },
    )


async def tiles(view: View) -> dict[str, Any]:
    """What the live part of the page shows."""
    return {"tiles": await view.figure("tiles", figures.tiles)}


async def live(view: View) -> dict[str, Any]:
    """What the live part of the start shows."""
    found = await view.figure("tiles", figures.tiles)
    return {"counted": next(tile.month for tile in found if tile.meter == figures.REQUESTS)}


async def start(view: View) -> Answer:
    return await _start(view, None)


async def first_key(view: View) -> Answer:
    """Step one: a key, shown on the page that comes back, and nowhere else ever again."""
    scopes = () if view.may(Permission.ADMIN_KEYS_WRITE) else ("calls",)  # a member's key administers nothing
    spec = KeySpec(name="First key", kind=KeyKind.SECRET, mode=view.scope.mode, scopes=scopes)
    made = await create_key(view.connection, view.here.id, spec, actor=view.actor)
    return await _start(view, made.key.text)


async def _start(view: View, text: str | None) -> Answer:
    keys = [key for key in await list_keys(view.connection, view.scope, None, 20) if key.revoked_at is None]
    secrets = [key for key in keys if key.kind is KeyKind.SECRET]
    known = text or (f"{secrets[0].prefix}…" if secrets else "YOUR_KEY")
    return Html(
        "start.html",
        {
            "text": text,
            "keys": secrets,
            "examples": examples(view.site.origin, known, user="first-user"),
            **await live(view),
        },
    )


PAGES: Final = (
    Page("/dashboard", home, Permission.PROJECT_READ),
    Page("/dashboard/start", start, Permission.KEYS_READ, first_key, Permission.KEYS_WRITE, once=True),
)
