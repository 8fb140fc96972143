"""/dashboard/keys: made with all options and shown once, rotated with a grace period, revoked after a question."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from admin.api.call import Denied, not_found
from admin.api.keys import TOO_MUCH, Rotation
from admin.api.resources import validated
from admin.keys import Key, create_key, get_key, list_keys, revoke_key, rotate_key
from admin.permissions import Permission, needed_for
from admin.web.page import Answer, Html, Page, Redirect, View, Wrong
from admin.web.paging import shown
from admin.web.quickstart import examples
from ledger import problems
from ledger.keys import KeyKind
from ledger.specs import KeySpec

LIVES: Final = (("", "Never"), ("7", "In 7 days"), ("30", "In 30 days"), ("90", "In 90 days"), ("365", "In a year"))
GRACES: Final = (
    ("0", "End now"),
    ("3600", "1 hour"),
    ("86400", "24 hours"),
    ("604800", "7 days"),
    ("2592000", "30 days"),
)


async def list_(view: View) -> Answer:
    page = await shown(view, partial(list_keys, view.connection, view.scope))
    return Html("keys.html", {"page": page, "needed_for": needed_for})


async def new(view: View) -> Answer:
    return Html("key_new.html", {"lives": LIVES, "customer": view.request.query.get("customer", "")[:200]})


async def create(view: View) -> Answer:
    spec = validated(KeySpec, _fields(view))
    if not view.may(needed_for(spec.kind, spec.scopes)):
        raise Wrong(scopes=TOO_MUCH)
    made = await create_key(view.connection, view.here.id, spec, actor=view.actor)
    return Html("key_made.html", {**_shown_once(view, made.key.text, spec.kind), "name": spec.name, "old": None})


def _fields(view: View) -> dict[str, Any]:
    """The form as the API would take it."""
    body: dict[str, Any] = {
        "name": view.text("name"),
        "kind": view.text("kind", "sk"),
        "mode": view.scope.mode,
        "scopes": view.lines("scopes"),
        "allowed_origins": view.lines("allowed_origins"),
        "allowed_ips": view.lines("allowed_ips"),
    }
    if body["kind"] == KeyKind.CUSTOMER:
        body["customer"] = view.text("customer")
        if not body["customer"]:
            raise Wrong(customer="which customer is it for?")
    if limit := view.text("requests_per_minute"):
        body["requests_per_minute"] = limit
    if days := view.text("expires_in"):
        if days not in dict(LIVES):
            raise Wrong(expires_in="choose one of these")
        body["expires_at"] = (datetime.now(UTC) + timedelta(days=int(days))).isoformat()
    return body


def _shown_once(view: View, text: str, kind: KeyKind) -> dict[str, Any]:
    return {
        "text": text,
        "examples": [] if kind is KeyKind.PUBLISHABLE else examples(view.site.origin, text),
        "is_publishable": kind is KeyKind.PUBLISHABLE,
    }


async def _found(view: View) -> Key:
    key = await get_key(view.connection, view.params["id"], view.scope)
    if key is None:
        raise not_found("key", view.params["id"])
    return key


async def rotate_page(view: View) -> Answer:
    return Html("key_rotate.html", {"key": await _found(view), "graces": GRACES})


async def rotate(view: View) -> Answer:
    key = await _found(view)
    if not view.may(needed_for(key.kind, key.scopes)):
        raise Denied(problems.FORBIDDEN, "This key may do more than your role: an admin or owner rotates it.")
    rotation = validated(Rotation, {"graceSeconds": view.text("graceSeconds", "0")})
    made = await rotate_key(view.connection, key, rotation.graceSeconds, actor=view.actor)
    old = await _found(view)
    return Html("key_made.html", {**_shown_once(view, made.key.text, key.kind), "name": key.name, "old": old})


async def revoke_page(view: View) -> Answer:
    return Html("key_revoke.html", {"key": await _found(view)})


async def revoke(view: View) -> Answer:
    key = await revoke_key(view.connection, await _found(view), actor=view.actor)
    return Redirect("/dashboard/keys", f"{key.name} is revoked: it stops working everywhere within a second.")


PAGES: Final = (
    Page("/dashboard/keys", list_, Permission.KEYS_READ),
    Page("/dashboard/keys/new", new, Permission.KEYS_WRITE, create, once=True),
    Page("/dashboard/keys/{id}/rotate", rotate_page, Permission.KEYS_WRITE, rotate, once=True),
    Page("/dashboard/keys/{id}/revoke", revoke_page, Permission.KEYS_WRITE, revoke),
)
