"""/dashboard/routes: what goes where, upstreams and routes, and trying one through the gateway.

A form has fields for what most need, and a text of YAML for all the rest a spec knows, so that nothing that can be
declared is out of reach here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import yaml

from admin.api.call import Denied, not_found
from admin.api.resources import etag, validated
from admin.declare import DeclarationError
from admin.declare.source import read
from admin.nouns import Stored, fields_of
from admin.permissions import Permission
from admin.routes import rows
from admin.upstreams import rows as upstreams
from admin.web.page import Answer, Html, Page, Redirect, View, Wrong, by_field
from admin.web.paging import shown
from ledger.specs import RouteSpec, UpstreamSpec

AUTHS: Final = (
    ("key", "API key"),
    ("key-or-jwt", "API key or token (JWT)"),
    ("jwt", "Token (JWT)"),
    ("none", "Nobody is asked"),
)
_ROUTE_FIELDS: Final = frozenset(
    ("name", "path", "host", "methods", "upstream", "auth", "requests_per_minute", "strip_prefix")
)
_UPSTREAM_FIELDS: Final = frozenset(("name", "targets"))


async def list_(view: View) -> Answer:
    page = await shown(view, partial(rows.page, view.connection, view.scope))
    ups = await upstreams.page(view.connection, view.scope, None, 200)
    return Html("routes.html", {"page": page, "upstreams": ups})


async def new(view: View) -> Answer:
    names = sorted(await upstreams.by_name(view.connection, view.scope))
    if not names:
        return Redirect("/dashboard/upstreams/new", "First an upstream: where requests shall go.")
    return Html(
        "route_form.html",
        {"route": None, "etag": None, "more": "", "upstreams": [(n, n) for n in names], "auths": AUTHS},
    )


async def create(view: View) -> Answer:
    spec = _checked(view, RouteSpec, {"name": view.text("name"), **_route_fields(view)})
    changes = await rows.create(view.connection, view.scope, spec, actor=view.actor)
    return Redirect(f"/dashboard/routes/{changes[-1].object_id}", f"Route {spec.name} is made. Try it below.")


async def _route(view: View) -> Stored[RouteSpec]:
    found = await rows.get(view.connection, view.scope, view.params["id"])
    if found is None:
        raise not_found("route", view.params["id"])
    return found


async def edit(view: View) -> Answer:
    route = await _route(view)
    names = sorted(await upstreams.by_name(view.connection, view.scope))
    more = _more(route.spec, _ROUTE_FIELDS)
    return Html(
        "route_form.html",
        {
            "route": route,
            "etag": etag(fields_of(route.spec)),
            "more": more,
            "upstreams": [(name, name) for name in names],
            "auths": AUTHS,
        },
    )


async def update(view: View) -> Answer:
    route = await _route(view)
    view.check_unchanged(fields_of(route.spec))
    spec = _checked(view, RouteSpec, {"name": route.spec.name, **_route_fields(view)})
    await rows.update(view.connection, view.scope, route, spec, actor=view.actor)
    return Redirect("/dashboard/routes", f"Route {spec.name} is changed. Gateways follow within a second.")


async def delete_page(view: View) -> Answer:
    return Html("route_delete.html", {"route": await _route(view), "upstream": None})


async def delete(view: View) -> Answer:
    route = await _route(view)
    await rows.delete(view.connection, view.scope, route, actor=view.actor)
    return Redirect("/dashboard/routes", f"Route {route.spec.name} is deleted.")


def _route_fields(view: View) -> dict[str, Any]:
    return {
        "path": view.text("path"),
        "host": view.text("host") or None,
        "methods": [method.upper() for method in view.lines("methods")],
        "upstream": view.text("upstream"),
        "auth": view.text("auth", "key"),
        "requests_per_minute": view.text("requests_per_minute").replace(",", "") or None,
        "strip_prefix": "strip_prefix" in view.form,
        **_written(view, _ROUTE_FIELDS),
    }


async def new_upstream(view: View) -> Answer:
    return Html("upstream_form.html", {"upstream": None, "etag": None, "more": "", "targets": ""})


async def create_upstream(view: View) -> Answer:
    spec = _checked(view, UpstreamSpec, {"name": view.text("name"), **_upstream_fields(view)})
    await upstreams.create(view.connection, view.scope, spec, actor=view.actor)
    return Redirect("/dashboard/routes/new", f"Upstream {spec.name} is made. Now a route to it.")


async def _upstream(view: View) -> Stored[UpstreamSpec]:
    found = await upstreams.get(view.connection, view.scope, view.params["id"])
    if found is None:
        raise not_found("upstream", view.params["id"])
    return found


async def edit_upstream(view: View) -> Answer:
    upstream = await _upstream(view)
    fields = upstream.spec.model_dump(mode="json", exclude_defaults=True)
    lines = [_target(target) for target in fields["targets"]]
    more = _more(upstream.spec, _UPSTREAM_FIELDS)
    tag = etag(fields_of(upstream.spec))
    return Html("upstream_form.html", {"upstream": upstream, "etag": tag, "more": more, "targets": "\n".join(lines)})


async def update_upstream(view: View) -> Answer:
    upstream = await _upstream(view)
    view.check_unchanged(fields_of(upstream.spec))
    spec = _checked(view, UpstreamSpec, {"name": upstream.spec.name, **_upstream_fields(view)})
    await upstreams.update(view.connection, view.scope, upstream, spec, actor=view.actor)
    return Redirect("/dashboard/routes", f"Upstream {spec.name} is changed. Gateways follow within a second.")


async def delete_upstream_page(view: View) -> Answer:
    return Html("route_delete.html", {"route": None, "upstream": await _upstream(view)})


async def delete_upstream(view: View) -> Answer:
    upstream = await _upstream(view)
    await upstreams.delete(view.connection, view.scope, upstream, actor=view.actor)
    return Redirect("/dashboard/routes", f"Upstream {upstream.spec.name} is deleted.")


def _upstream_fields(view: View) -> dict[str, Any]:
    lines = [line.split() for line in view.text("targets").splitlines() if line.strip()]
    targets = [{"url": words[0], "weight": words[1]} if len(words) == 2 else " ".join(words) for words in lines]
    return {"targets": targets, **_written(view, _UPSTREAM_FIELDS)}


def _target(target: dict[str, Any]) -> str:
    """A target as a line: its URL, and its weight if it is not 1."""
    weight = target.get("weight", 1)
    return str(target["url"]) if weight == 1 else f"{target['url']} {weight}"


def _checked(view: View, model: type[Any], body: dict[str, Any]) -> Any:
    """The spec of a body; what is wrong with what only the YAML says stands beside the YAML. Raises Denied, Wrong."""
    try:
        return validated(model, body)
    except Denied as denied:
        own = _ROUTE_FIELDS if model is RouteSpec else _UPSTREAM_FIELDS
        errors = by_field(denied.errors)
        found = {name: message for name, message in errors.items() if name in own}
        if rest := [f"{name}: {message}" if name else message for name, message in errors.items() if name not in own]:
            found["more"] = "; ".join(rest)
        raise Wrong(**found) from None


def _written(view: View, own: frozenset[str]) -> dict[str, Any]:
    """What the YAML says. Raises Wrong."""
    text = view.text("more")
    if not text or all(line.lstrip().startswith("#") for line in text.splitlines() if line.strip()):
        return {}
    try:
        value = read(text, "text").value
    except DeclarationError as error:
        raise Wrong(more="; ".join(str(fault) for fault in error.faults[:3])) from None
    if not isinstance(value, dict):
        raise Wrong(more="expected lines such as read_timeout_ms: 30000")
    if twice := sorted(own & value.keys()):
        raise Wrong(more=f"{twice[0]} has a field of its own above")
    return value


def _more(spec: RouteSpec | UpstreamSpec, own: frozenset[str]) -> str:
    """What a spec says beyond the fields of the form, as YAML."""
    rest: Mapping[str, Any] = spec.model_dump(mode="json", exclude_defaults=True, exclude=set(own))
    return yaml.safe_dump(json.loads(json.dumps(rest)), sort_keys=False, allow_unicode=True).strip() if rest else ""


PAGES: Final = (
    Page("/dashboard/routes", list_, Permission.ROUTES_READ),
    Page("/dashboard/routes/new", new, Permission.ROUTES_WRITE, create, once=True),
    Page("/dashboard/routes/{id}", edit, Permission.ROUTES_READ, update, Permission.ROUTES_WRITE),
    Page("/dashboard/routes/{id}/delete", delete_page, Permission.ROUTES_WRITE, delete),
    Page("/dashboard/upstreams/new", new_upstream, Permission.ROUTES_WRITE, create_upstream, once=True),
    Page("/dashboard/upstreams/{id}", edit_upstream, Permission.ROUTES_READ, update_upstream, Permission.ROUTES_WRITE),
    Page("/dashboard/upstreams/{id}/delete", delete_upstream_page, Permission.ROUTES_WRITE, delete_upstream),
)
