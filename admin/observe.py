"""Around every request: its id, its answer when something goes wrong, its line in the log, its metrics.

The only middleware. A request id that the client (or a gateway) sends is kept if it is one, so that one id finds the
request in the logs of every plane.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from admin.api import answers
from admin.api.authenticate import has_key
from admin.api.serve import ANY_ORIGIN, CALLER, IS_BROWSER_SAFE
from admin.metrics import AdminMetrics
from admin.site import Site
from ledger.ids import uuid7_hex

ErrorPage = Callable[[web.Request, Exception], web.StreamResponse]
ID: Final = web.RequestKey("id", str)
"""The id of a request, for what is said about it."""
REQUEST_ID: Final = "X-Request-Id"
_HSTS_S: Final = 365 * 86_400
UNMATCHED: Final = "unmatched"
_QUIET: Final = frozenset(("/health", "/ready"))

_FORM = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)

log = logging.getLogger(__name__)


def middleware(metrics: AdminMetrics, site: Site, page_of: ErrorPage) -> Middleware:
    """The middleware that does all this. `page_of` makes the page of an error for whoever reads pages."""

    @web.middleware
    async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.perf_counter()
        given = request.headers.get(REQUEST_ID, "")
        request_id = given if _FORM.fullmatch(given) else uuid7_hex(time.time_ns() // 1_000_000)
        request[ID] = request_id
        metrics.in_flight.inc()
        try:
            response = await handler(request)
        except Exception as error:  # noqa: BLE001 - every failure becomes an answer, and what nobody foresaw is logged there
            is_read = "text/html" in request.headers.get("Accept", "") and not has_key(request.headers)
            response = page_of(request, error) if is_read else answers.of_error(error, request_id)
        finally:
            metrics.in_flight.dec()
        if not response.prepared:
            _protect(response, request_id, site)
        if request.get(IS_BROWSER_SAFE) and not response.prepared:
            response.headers.update(ANY_ORIGIN)
        _note(request, response, request_id, time.perf_counter() - began)
        return response

    def _note(request: web.Request, response: web.StreamResponse, request_id: str, seconds: float) -> None:
        route = _pattern(request)
        metrics.requests.labels(route, _method(request), f"{response.status // 100}xx").inc()
        metrics.seconds.labels(route).observe(seconds)
        caller = request.get(CALLER)
        log.log(
            logging.DEBUG if route in _QUIET else logging.INFO,
            "request",
            extra={
                "request_id": request_id,
                "method": request.method,
                "route": route,
                "status": response.status,
                "duration_ms": round(seconds * 1000, 1),
                "project_id": caller and caller.project_id,
                "key_id": caller and caller.key_id,
            },
        )

    return observe


def _protect(response: web.StreamResponse, request_id: str, site: Site) -> None:
    """What every answer says to browsers; pages have said more already."""
    headers = response.headers
    headers[REQUEST_ID] = request_id
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    headers.setdefault("X-Frame-Options", "DENY")
    headers.setdefault("Referrer-Policy", "same-origin")
    headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    if site.is_secure:
        headers.setdefault("Strict-Transport-Security", f"max-age={_HSTS_S}")


def _pattern(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return UNMATCHED if resource is None else resource.canonical


def _method(request: web.Request) -> str:
    return request.method if request.method in ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS") else "other"
