"""The control plane's process: wires pool, API and metrics, serves until SIGTERM or SIGINT, closes in reverse order.

It starts while Postgres is down, says so at /ready, answers 503 meanwhile, and goes on when Postgres is back. Asked to
stop, it takes no new connections and gives requests in hand 10 s.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from admin import observe
from admin.accounts.sign_in import new_claim
from admin.api import (
    alerts,
    aliases,
    audit,
    auth,
    billing,
    customers,
    dead_letters,
    declarations,
    issuers,
    keys,
    members,
    projects,
    routes,
    stripe_notices,
    tiers,
    upstreams,
    usage,
    webhooks,
)
from admin.api.openapi import describe
from admin.api.serve import handler, preflight
from admin.metrics import AdminMetrics
from admin.site import Site, site_of
from admin.store import Store, StoreUnavailable
from admin.web.docs import serve_document, serve_page
from admin.web.pages import ID_PATTERN, add_pages
from admin.web.serve import error_page
from config.log import setup
from config.settings import Settings
from ledger.dependency import Dependency
from ledger.vault import VaultError, vault_of

DRAIN_S: Final = 10.0
_CLAIM_RETRY_S: Final = 2.0
ENDPOINTS: Final = (
    *projects.ENDPOINTS,
    *tiers.ENDPOINTS,
    *customers.ENDPOINTS,
    *issuers.ENDPOINTS,
    *upstreams.ENDPOINTS,
    *routes.ENDPOINTS,
    *keys.ENDPOINTS,
    *declarations.ENDPOINTS,
    *aliases.ENDPOINTS,
    *usage.ENDPOINTS,
    *dead_letters.ENDPOINTS,
    *billing.ENDPOINTS,
    *members.ENDPOINTS,
    *audit.ENDPOINTS,
    *webhooks.ENDPOINTS,
    *alerts.ENDPOINTS,
)

log = logging.getLogger(__name__)


class Unusable(Exception):
    """The settings do not let the control plane run. The message says which and why, without a secret."""


@dataclass(frozen=True, slots=True)
class Running:
    """Where it listens: base URLs without a trailing slash."""

    url: str
    metrics_url: str


def main(settings: Settings) -> None:
    """Run the control plane in this process until it is asked to stop. Raises SystemExit if it cannot run."""
    setup(settings, "admin")
    try:
        uvloop.run(_until_signalled(settings))
    except Unusable as error:
        raise SystemExit(f"tollgate admin: {error}") from None


async def _until_signalled(settings: Settings) -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with running(settings):
        await stop.wait()
        log.info("stopping; requests in hand are finished first")


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """The control plane, from listening to drained. Raises Unusable."""
    if settings.postgres_url is None:
        raise Unusable("postgres_url is not set (TOLLGATE_POSTGRES_URL)")
    try:
        vault = vault_of(settings)
    except VaultError as error:
        raise Unusable(str(error)) from None
    registry = CollectorRegistry()
    metrics = AdminMetrics(registry)
    store = Store(settings.postgres_url.get_secret_value(), Dependency("postgres", metrics.postgres_errors.inc), vault)
    admin = settings.admin
    async with AsyncExitStack() as closing:
        closing.push_async_callback(store.close)
        await store.open()
        metrics_url = await _listen(closing, _metrics_app(registry), admin.host, admin.metrics_port)
        url = await _listen(
            closing,
            _app(store, metrics, site_of(admin), admin.max_body_bytes, settings.stripe.signing_secrets),
            admin.host,
            admin.port,
        )
        log.info("listening on %s, metrics on %s", url, metrics_url)
        offering = asyncio.create_task(_offer_claim(store, site_of(admin).origin), name="offer of the operator's role")
        closing.push_async_callback(_end, offering)
        yield Running(url, metrics_url)


async def _offer_claim(store: Store, origin: str) -> None:
    """While nobody is the operator, print a token that makes its bearer it, as soon as Postgres answers."""
    while True:
        try:
            async with store.reading() as connection:
                token = await new_claim(connection)
        except StoreUnavailable:
            await asyncio.sleep(_CLAIM_RETRY_S)
            continue
        except Exception:
            log.exception("no token for the operator could be made")
            return
        if token is not None:  # for whoever reads the terminal; never in the log
            print(f"Nobody is the operator yet. Sign in at {origin}/login, then open {origin}/operator/claim", end=" ")
            print(f"and enter this token: {token}", flush=True)
        return


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))


def _app(
    store: Store, metrics: AdminMetrics, site: Site, max_body_bytes: int, stripe_secrets: tuple[str, ...] = ()
) -> web.Application:
    app = web.Application(client_max_size=max_body_bytes)
    for endpoint in ENDPOINTS:
        path = endpoint.path.replace("{id}", ID_PATTERN)
        if endpoint.method == "GET":
            app.router.add_get(path, handler(endpoint, store, site))  # answers HEAD too
        else:
            app.router.add_route(endpoint.method, path, handler(endpoint, store, site))
        if endpoint.is_browser_safe:
            app.router.add_route("OPTIONS", path, preflight(endpoint))

    receive = stripe_notices.receiver(stripe_secrets, store, metrics)
    for path in stripe_notices.PATHS:
        app.router.add_post(path, receive)
    pages = add_pages(app, store, site)
    app.middlewares.append(observe.middleware(metrics, site, partial(error_page, pages)))
    document = describe(ENDPOINTS, auth.ENDPOINTS, site.origin)
    app.router.add_get("/openapi.json", serve_document(document))
    app.router.add_get("/docs", serve_page(pages, document))

    async def ready(_: web.Request) -> web.Response:
        state = await store.state()
        body = {"status": "ready" if state == "up" else "not ready", "dependencies": {"postgres": state}}
        return web.json_response(body, status=200 if state == "up" else 503)

    app.router.add_get("/health", _health)
    app.router.add_get("/ready", ready)
    return app


def _metrics_app(registry: CollectorRegistry) -> web.Application:
    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/metrics", exposition)
    app.router.add_get("/health", _health)
    return app


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _listen(closing: AsyncExitStack, app: web.Application, host: str, port: int) -> str:
    """Serve an application until `closing` closes; returns its base URL. Raises Unusable."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_S)
    await runner.setup()
    closing.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise Unusable(f"cannot listen on {host}:{port}: {error.strerror}") from None
    bound_host, bound_port = runner.addresses[0][:2]
    return f"http://[{bound_host}]:{bound_port}" if ":" in bound_host else f"http://{bound_host}:{bound_port}"
