"""/api/stripe/webhook and its older names: events of Stripe's, verified, stored once, acknowledged; handled by the worker.

Without a secret in the settings nothing is taken (404). Stripe delivers for three days what was not answered 2xx.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from admin.api.call import Denied
from admin.metrics import AdminMetrics
from admin.store import Store
from ledger import problems
from ledger.billing import notices

PATHS: Final = ("/api/stripe/webhook", "/webhook/stripe", "/api/webhooks/stripe")
_BODY_TIMEOUT_S: Final = 10.0

log = logging.getLogger(__name__)


def receiver(
    secrets: tuple[str, ...], store: Store, metrics: AdminMetrics
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The handler. Answers `{"received": true}`; raises Denied and StoreUnavailable."""

    async def receive(request: web.Request) -> web.StreamResponse:
        if not secrets:
            raise Denied(problems.NOT_FOUND, "No secret of a Stripe webhook is set here.")
        body = await _body(request)
        try:
            notices.verified(body, request.headers.get("Stripe-Signature"), secrets, time.time())
            notice = notices.read(body)
        except notices.Forged as error:
            metrics.notices.labels("forged").inc()
            raise Denied(problems.FORGED, str(error)) from None
        except notices.Unreadable as error:
            metrics.notices.labels("unreadable").inc()
            raise Denied(problems.BAD_REQUEST, str(error)) from None
        async with store.writing() as connection:
            is_new = await notices.store(connection, notice)
        is_handled = notice.kind in notices.ERROR_REPORTS
        metrics.notices.labels(("received" if is_handled else "ignored") if is_new else "duplicate").inc()
        if is_new and not is_handled:
            log.info("a notice of Stripe's is stored, and ignored: %s %s", notice.id, notice.kind)
        return web.json_response({"received": True})

    return receive


async def _body(request: web.Request) -> bytes:
    if (request.content_length or 0) > notices.MOST_BYTES:
        raise Denied(problems.BODY_TOO_LARGE)
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            body = await request.read()
    except TimeoutError:
        raise Denied(problems.REQUEST_TIMEOUT) from None
    if len(body) > notices.MOST_BYTES:
        raise Denied(problems.BODY_TOO_LARGE)
    return body
