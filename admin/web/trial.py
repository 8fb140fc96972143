"""/dashboard/routes/{id}/try: one request through the gateway, and what happened to it step by step.

It goes to our own public origin and nowhere else, with a secret key that is made for it, has the route's scopes and no
say in the project, lives a minute and is revoked at once. Bounds: 10 s, 16 KiB of the answer shown, two trials at a time
in a process.
"""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import aiohttp
import asyncpg
import orjson
from yarl import URL

from admin.api.call import not_found
from admin.keys import create_key, get_key, revoke_key
from admin.nouns import Stored
from admin.permissions import Permission, needed_for
from admin.routes import rows
from admin.web.page import Answer, Html, Page, View, Wrong
from admin.web.steps import steps
from ledger import sql
from ledger.keys import KeyKind
from ledger.specs import AuthMode, KeySpec, RouteSpec

METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
_TIMEOUT_S: Final = 10.0
_MOST: Final = 16_384
_SEEN_WITHIN_S: Final = 3.0
_PATH = re.compile(r"/[\x21-\x7e]{0,2000}")
_AT_ONCE = asyncio.Semaphore(2)
_NO_SAY: Final = "calls"
"""The scope of a trial's key where the route asks for none: a key without scopes administers the project."""
_SHOWN: Final = ("ratelimit", "ratelimit-policy", "retry-after", "x-request-id", "content-type", "www-authenticate")

_SQL = sql.load("admin.web", "trial.sql")


async def show(view: View) -> Answer:
    route = await _route(view)
    return Html("trial.html", _context(route, None))


async def _route(view: View) -> Stored[RouteSpec]:
    found = await rows.get(view.connection, view.scope, view.params["id"])
    if found is None:
        raise not_found("route", view.params["id"])
    return found


def _context(route: Stored[RouteSpec], result: dict[str, Any] | None) -> dict[str, Any]:
    path = re.sub(r"\{[^{}]*\}", "1", route.spec.path.removesuffix("*"))
    methods = [(method, method) for method in METHODS if not route.spec.methods or method in route.spec.methods]
    return {"route": route, "sample": path, "methods": methods, "result": result}


async def run(view: View) -> Answer:
    """Send it."""
    route = await _route(view)
    method, path = view.text("method", "GET"), view.text("path")
    if method not in METHODS:
        raise Wrong(method="choose one of these")
    if not _PATH.fullmatch(path):
        raise Wrong(path="expected a path such as /weather/today")
    headers = {"User-Agent": "tollgate-try"}
    if route.spec.host is not None and not route.spec.host.startswith("*"):
        headers["Host"] = route.spec.host
    if user := view.text("user"):
        if not user.isascii() or not user.isprintable():
            raise Wrong(user="expected printable ASCII characters without spaces")
        headers["X-User-Id"] = user
    body = view.text("body").encode()
    if body:
        headers["Content-Type"] = "application/json" if body[:1] in (b"{", b"[") else "text/plain"
    key_id = None
    if route.spec.auth is not AuthMode.NONE:
        scopes = route.spec.scopes or (_NO_SAY,)
        if not view.may(needed_for(KeyKind.SECRET, scopes)):
            raise Wrong(form="This route asks for a scope that your role may not hand out.")
        spec = KeySpec(
            name="Trial (for a minute)",
            mode=view.scope.mode,
            scopes=scopes,
            expires_at=datetime.now(UTC) + timedelta(minutes=1),
        )
        made = await create_key(view.connection, view.here.id, spec, actor=view.actor)
        key_id = made.id
        headers["Authorization"] = f"Bearer {made.key.text}"
    try:
        async with _AT_ONCE:
            result = await _send(view.site.origin, method, path, headers, body)
    finally:
        if key_id is not None and (key := await get_key(view.connection, key_id)) is not None:
            await revoke_key(view.connection, key, actor=view.actor)
    result |= {"method": method, "path": path, "user": user, "has_key": key_id is not None}
    if not result["error"]:
        event = await _event(view.connection, view.here.id, result["request_id"])
        result["steps"] = steps(route.spec.name, result, event)
    return Html("trial.html", _context(route, result))


async def _send(origin: str, method: str, path: str, headers: dict[str, str], body: bytes) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S), auto_decompress=True) as session,
            session.request(
                method,
                URL(origin + path, encoded=True),
                headers=headers,
                data=body or None,
                allow_redirects=False,
            ) as response,
        ):
            text = await response.content.read(_MOST)
            return {
                "status": response.status,
                "took_ms": (time.perf_counter() - began) * 1000,
                "headers": {name: value for name, value in response.headers.items() if name.lower() in _SHOWN},
                "request_id": response.headers.get("X-Request-Id"),
                "body": _readable(text),
                "is_cut": len(text) == _MOST,
                "error": "",
            }
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        reason = "no answer within 10 s" if isinstance(error, TimeoutError) else f"no answer ({type(error).__name__})"
        return {"status": None, "took_ms": (time.perf_counter() - began) * 1000, "error": reason}


def _readable(body: bytes) -> str:
    """The body as text; JSON with its lines."""
    try:
        return orjson.dumps(orjson.loads(body), option=orjson.OPT_INDENT_2).decode()
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace").replace("\0", "�")


async def _event(connection: asyncpg.Connection, project_id: str, request_id: str | None) -> dict[str, Any] | None:
    """The usage event of a request, as soon as the ledger has it; None if it has none."""
    try:
        event_id = UUID(hex=request_id or "")
    except ValueError:
        return None
    deadline = time.monotonic() + _SEEN_WITHIN_S
    while True:
        row = await connection.fetchrow(_SQL["event"], project_id, event_id)
        if row is not None or time.monotonic() > deadline:
            return None if row is None else {**row, "meters": orjson.loads(row["meters"])}
        await asyncio.sleep(0.1)


PAGES: Final = (Page("/dashboard/routes/{id}/try", show, Permission.ROUTES_TRY, run, commits=True),)
