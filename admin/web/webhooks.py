"""/dashboard/webhooks: endpoints, their secrets shown once, what was delivered; /dashboard/alerts: who nears a quota."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any, Final

from admin.api.alerts import recent
from admin.api.call import not_found
from admin.api.resources import etag, validated
from admin.permissions import Permission
from admin.projects import rows as projects
from admin.web.page import Answer, Html, Page, Redirect, View, Wrong
from admin.web.paging import shown
from admin.webhooks import rows
from admin.webhooks.rows import Endpoint, EndpointSpec
from ledger.webhooks.emit import TYPES

_PATH: Final = "/dashboard/webhooks"
_THRESHOLDS: Final = (50, 80, 90, 100)
_TOLD: Final = 50
_EVENTS: Final = tuple(name for name in TYPES if name != "test.sent")


async def list_(view: View) -> Answer:
    return Html("webhooks.html", {"page": await shown(view, partial(rows.page, view.connection, view.scope))})


async def new(view: View) -> Answer:
    return Html(
        "webhook_form.html",
        {"endpoint": None, "etag": None, "types": _EVENTS, "chosen": view.form.getall("events", [])},
    )


async def create(view: View) -> Answer:
    endpoint_id, secret = await rows.create(view.connection, view.scope, _spec(view, True), actor=view.actor)
    return Html("webhook_secret.html", {"secret": secret, "id": endpoint_id, "is_rotated": False})


def _spec(view: View, enabled: bool) -> EndpointSpec:
    chosen = [str(event) for event in view.form.getall("events", [])]
    return validated(EndpointSpec, {"url": view.text("url"), "events": chosen, "enabled": enabled})


async def _found(view: View) -> Endpoint:
    endpoint = await rows.get(view.connection, view.scope, view.params["id"])
    if endpoint is None:
        raise not_found("endpoint", view.params["id"])
    return endpoint


async def show(view: View) -> Answer:
    endpoint = await _found(view)
    page = await shown(view, partial(rows.deliveries, view.connection, endpoint))
    return Html("webhook.html", {"endpoint": endpoint, "page": page})


async def act(view: View) -> Answer:
    """Send a test, send something again, turn off and on."""
    endpoint, do = await _found(view), view.text("do")
    here = f"{_PATH}/{endpoint.id}"
    if do == "test":
        await rows.send_test(view.connection, view.scope, endpoint)
        return Redirect(here, "A test event is on its way. Reload in a moment.")
    if do == "resend":
        if await rows.resend(view.connection, endpoint, view.text("delivery")) is None:
            raise Wrong(form="That delivery is not known any more.")
        return Redirect(here, "It is queued once more.")
    if do in ("on", "off"):
        spec = endpoint.spec.model_copy(update={"enabled": do == "on"})
        await rows.update(view.connection, view.scope, endpoint, spec, actor=view.actor)
        return Redirect(here, "Deliveries go on." if do == "on" else "Nothing is sent until you turn it on again.")
    raise Wrong(form="What shall be done?")


async def edit(view: View) -> Answer:
    endpoint = await _found(view)
    chosen = view.form.getall("events", []) if view.form else list(endpoint.events)
    tag = etag(endpoint.spec.model_dump())
    return Html("webhook_form.html", {"endpoint": endpoint, "etag": tag, "types": _EVENTS, "chosen": chosen})


async def update(view: View) -> Answer:
    endpoint = await _found(view)
    view.check_unchanged(endpoint.spec.model_dump())
    spec = _spec(view, endpoint.is_enabled)
    await rows.update(view.connection, view.scope, endpoint, spec, actor=view.actor)
    return Redirect(f"{_PATH}/{endpoint.id}", "The endpoint is changed.")


async def rotate_page(view: View) -> Answer:
    return Html("webhook_confirm.html", {"endpoint": await _found(view), "what": "rotate"})


async def rotate(view: View) -> Answer:
    endpoint = await _found(view)
    secret = await rows.rotate(view.connection, view.scope, endpoint, actor=view.actor)
    return Html("webhook_secret.html", {"secret": secret, "id": endpoint.id, "is_rotated": True})


async def delete_page(view: View) -> Answer:
    return Html("webhook_confirm.html", {"endpoint": await _found(view), "what": "delete"})


async def delete(view: View) -> Answer:
    await rows.delete(view.connection, view.scope, await _found(view), actor=view.actor)
    return Redirect(_PATH, "The endpoint is deleted.")


async def alerts(view: View) -> Answer:
    settings = await projects.alert_settings(view.connection, view.here.id)
    told = await recent(view.connection, view.here.id, view.scope.mode, None, _TOLD)
    tag = etag(asdict(settings))
    context: dict[str, Any] = {"settings": settings, "etag": tag, "thresholds": _THRESHOLDS, "told": told}
    return Html("alerts.html", context)


async def set_alerts(view: View) -> Answer:
    view.check_unchanged(asdict(await projects.alert_settings(view.connection, view.here.id)))
    chosen = sorted({int(p) for p in view.form.getall("percents", []) if str(p) in map(str, _THRESHOLDS)})
    by_mail = "by_mail" in view.form
    await projects.set_alerts(view.connection, view.here.id, chosen, by_mail=by_mail, actor=view.actor)
    return Redirect("/dashboard/alerts", "The alerts are set.")


_READ, _WRITE = Permission.WEBHOOKS_READ, Permission.WEBHOOKS_WRITE
PAGES: Final = (
    Page(_PATH, list_, _READ),
    Page(f"{_PATH}/new", new, _WRITE, create, once=True),
    Page(f"{_PATH}/{{id}}", show, _READ, act, _WRITE),
    Page(f"{_PATH}/{{id}}/edit", edit, _WRITE, update),
    Page(f"{_PATH}/{{id}}/rotate", rotate_page, _WRITE, rotate, once=True),
    Page(f"{_PATH}/{{id}}/delete", delete_page, _WRITE, delete),
    Page("/dashboard/alerts", alerts, Permission.USAGE_READ, set_alerts, Permission.PROJECT_UPDATE),
)
