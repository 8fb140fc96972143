"""The life of a request: who is it, may they, what do they want, do it once, answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import orjson
from aiohttp import web
from pydantic import ValidationError

from admin.accounts import sessions
from admin.api import answers, idempotency
from admin.api.authenticate import check_csrf, has_key, identify, key_of, of_session, permit, refuse
from admin.api.call import Body, Call, Caller, Denied, Endpoint, invalid, is_storable
from admin.declare import load
from admin.declare.explain import explain
from admin.site import UNSAFE, Site
from admin.store import Store
from ledger import problems
from ledger.specs import Declaration

CALLER: Final = web.RequestKey("caller", Caller)
"""Who made a request, once that is known; for the log."""

IS_BROWSER_SAFE: Final = web.RequestKey("is_browser_safe", bool)
"""Whether pages of any origin may read the answer."""
ANY_ORIGIN: Final = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "X-Request-Id"}
"""The headers that let them."""

_BODY_TIMEOUT_S: Final = 30.0
_JSON: Final = "application/json"
_YAML: Final = frozenset(("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"))
_PREFLIGHT: Final = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "Authorization, X-API-Key, X-Request-Id",
    "Access-Control-Max-Age": "600",
}


def handler(endpoint: Endpoint, store: Store, site: Site) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The endpoint as aiohttp wants it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        request[IS_BROWSER_SAFE] = endpoint.is_browser_safe
        return await serve(endpoint, store, site, request)

    return handle


async def serve(endpoint: Endpoint, store: Store, site: Site, request: web.Request) -> web.Response:
    """Answer one request. Raises Denied, Refused, DeclarationError, StoreUnavailable, HTTPException (see answers)."""
    caller = request[CALLER] = await _caller(endpoint, store, site, request)

    query = _query(endpoint, request)
    once = idempotency.checked(request.headers.get(idempotency.HEADER)) if endpoint.creates else None
    body = await _body(endpoint, request)  # no connection is held while a client sends

    async with store.writing() if endpoint.writes else store.reading() as connection:
        if_match = request.headers.get("If-Match")
        call = Call(connection, caller, request.match_info, query, body, if_match, store.vault)
        reply = await idempotency.answer_once(call, once, f"{request.method} {request.path_qs}", endpoint.run)
    return answers.of_reply(reply)


async def _caller(endpoint: Endpoint, store: Store, site: Site, request: web.Request) -> Caller:
    cookie = request.cookies.get(site.session_cookie)
    if cookie is None or has_key(request.headers):
        key = key_of(request.headers)
        async with store.reading() as connection:
            credential = await identify(connection, key)
        return permit(credential, endpoint, request.headers.get("Origin"), site.address_of(request))
    if request.method in UNSAFE:
        check_csrf(cookie, request.headers, is_own_page=site.is_own_page(request))
    async with store.reading() as connection:
        session = await sessions.find(connection, cookie, site.address_of(request))
        if session is None:
            raise refuse(problems.NOT_SIGNED_IN)
        return await of_session(connection, session, request.headers, endpoint)


def preflight(endpoint: Endpoint) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """What a browser asks before a page of another origin may call the endpoint."""

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=204, headers={**_PREFLIGHT, "Access-Control-Allow-Methods": endpoint.method})

    return answer


def _query(endpoint: Endpoint, request: web.Request) -> dict[str, str]:
    for name in request.query:
        if name not in endpoint.query:
            known = ", ".join(sorted(endpoint.query)) or "none"
            raise invalid(name, f"unknown query parameter (known: {known})")
        if len(request.query.getall(name)) > 1:
            raise invalid(name, "is given twice")
        if not is_storable(request.query[name]):
            raise invalid(name, "holds a character that nothing here can")
    return dict(request.query)


async def _body(endpoint: Endpoint, request: web.Request) -> Any:
    if endpoint.body is Body.NONE:
        return None
    try:
        async with asyncio.timeout(_BODY_TIMEOUT_S):
            raw = await request.read()
    except TimeoutError:
        raise Denied(problems.REQUEST_TIMEOUT) from None
    if endpoint.body is Body.OPTIONAL_JSON and not raw:
        return {}
    if endpoint.body is Body.DECLARATION and request.content_type in _YAML:
        return await asyncio.to_thread(load, raw, "request")  # 0.6 s of CPU for a file of 1 MiB
    if request.content_type != _JSON:
        wanted = f"{_JSON} or application/yaml" if endpoint.body is Body.DECLARATION else _JSON
        raise Denied(problems.UNSUPPORTED_MEDIA_TYPE, f"Send the body as {wanted}.")
    try:
        parsed = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Denied(problems.BAD_REQUEST, f"The body is not JSON: {error}.") from None
    if not isinstance(parsed, dict):
        raise Denied(problems.INVALID, "The body must be a JSON object.")
    return _declaration(parsed) if endpoint.body is Body.DECLARATION else parsed


def _declaration(parsed: dict[str, Any]) -> Declaration:
    try:
        return Declaration.model_validate(parsed)
    except ValidationError as error:
        faults = explain(error, Declaration, parsed)
        raise Denied(problems.INVALID, str(faults[0]), errors=faults) from None
