"""All pages, and how they, their static files and their live parts become routes of the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from admin.api import auth
from admin.site import Site
from admin.store import Store
from admin.web import (
    audit,
    customers,
    entry,
    home,
    keys,
    operator,
    projects,
    routes,
    team,
    tiers,
    trial,
    usage,
    webhooks,
    what_if,
)
from admin.web.live import Live
from admin.web.nav import nav
from admin.web.page import Page
from admin.web.render import FOREVER, Assets, Renderer
from admin.web.serve import Web, handler

PAGES: Final[tuple[Page, ...]] = (
    *entry.PAGES,
    *home.PAGES,
    *projects.PAGES,
    *keys.PAGES,
    *tiers.PAGES,
    *routes.PAGES,
    *trial.PAGES,
    *customers.PAGES,
    *usage.PAGES,
    *what_if.PAGES,
    *team.PAGES,
    *audit.PAGES,
    *webhooks.PAGES,
    *operator.PAGES,
)
ID_PATTERN: Final = "{id:[a-z]{1,8}_[0-9a-z]{1,64}}"
_SHORT: Final = (
    *("keys", "tiers", "routes", "customers", "usage", "team", "audit", "settings", "webhooks", "alerts"),
    *("billing", "licences", "store"),
)
"""What is also found without /dashboard before it, as soon as there is such a page."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def add_pages(app: web.Application, store: Store, site: Site) -> Web:
    """Serve all pages. The paths that programs use too answer them with JSON and people with HTML."""
    renderer = Renderer(Assets())
    renderer.add_global("nav", nav)
    pages = Web(store, site, renderer)
    for_programs = {(e.method, e.path): auth.handler(e, store, site) for e in auth.ENDPOINTS}
    for page in PAGES:
        path = page.path.replace("{id}", ID_PATTERN)
        shows = handler(page, pages)
        app.router.add_get(path, _for_either(for_programs.pop(("GET", page.path), None), shows))
        if page.act is not None:
            app.router.add_post(path, _for_either(for_programs.pop(("POST", page.path), None), shows))
    for (method, path), handle in for_programs.items():
        app.router.add_route(method, path.replace("{id}", ID_PATTERN), handle)
    live = Live(pages)
    app.router.add_get("/dashboard/live/{part:[a-z]{1,20}}", live.stream)
    app.on_shutdown.append(live.stop)
    app.router.add_get("/static/{name:[a-z.0-9]{1,80}}", _static(renderer.assets))
    app.router.add_get("/", _leads_to("/dashboard"))
    known = {page.path for page in PAGES}
    for name in _SHORT:
        if f"/dashboard/{name}" in known:
            app.router.add_get(f"/{name}", _leads_to(f"/dashboard/{name}"))
    return pages


def _for_either(program: Handler | None, person: Handler) -> Handler:
    if program is None:
        return person

    async def handle(request: web.Request) -> web.StreamResponse:
        return await (person if wants_page(request) else program)(request)

    return handle


def wants_page(request: web.Request) -> bool:
    """True if a person is waiting: a form was sent, or HTML is asked for; only who asks for JSON alone gets that.

    A link in a mail that is opened by a program without an Accept of its own must not sign it in, so */* is a person, and
    so is whoever only looks (HEAD).
    """
    if request.method == "HEAD":
        return True
    if request.content_type in ("application/x-www-form-urlencoded", "multipart/form-data"):
        return True
    accept = request.headers.get("Accept", "*/*")
    if request.method == "GET":
        return "application/json" not in accept or "text/html" in accept
    return request.content_type != "application/json" and "text/html" in accept


def _static(assets: Assets) -> Handler:
    async def serve(request: web.Request) -> web.StreamResponse:
        asset = assets.get(request.match_info["name"])
        if asset is None:
            raise web.HTTPNotFound
        headers = {"Cache-Control": FOREVER, "Content-Type": f"{asset.content_type}; charset=utf-8"}
        response = web.Response(body=asset.body, headers=headers)
        response.enable_compression()
        return response

    return serve


def _leads_to(path: str) -> Handler:
    async def redirect(_: web.Request) -> web.StreamResponse:
        return web.Response(status=303, headers={"Location": path})

    return redirect
