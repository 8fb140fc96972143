"""Instant endpoints over HTTP: saved functions with a URL of their own.

    POST   /api/endpoints              save one: what POST /api/run takes (without stdin), and name?, public?
    GET    /api/endpoints              newest first: limit, cursor
    GET    /api/endpoints/{id}         PUT: edit in place, the URL stays        DELETE: gone with its log
    GET    /api/endpoints/{id}/calls   the last 100
    ANY    /e/{id}[/…]                 call it with a key of its project
    ANY    /e/open/{id}[/…]            call a public one, without a key

A call is a run whose standard input is `{method, path, query, headers, body}` as JSON (`bodyBase64` where the body is not
UTF-8). What it prints is the answer: a JSON object with `status`, `headers` or `body`, else text. A run that fails is a 500
with the run's id; what went wrong is in its result, which only its owner can read.
"""

from __future__ import annotations

import base64
import re
from typing import Any, Final

import orjson
from aiohttp import web

from sandbox import problems
from sandbox.api import id_in, owner_of, page_of, usage_headers
from sandbox.problems import Refused
from sandbox.request import Ceilings, invalid, read_object, understand
from sandbox.runner import Runner
from sandbox.store.endpoints import Endpoint, Endpoints
from sandbox.store.runs import Owner, new_id

_MAX_BODY: Final = 1_048_576
_OURS: Final = ("x-tollgate-", "authorization", "cookie", "x-api-key", "connection", "transfer-encoding")
_FORBIDDEN: Final = frozenset(
    (
        *("connection", "content-length", "transfer-encoding", "upgrade", "keep-alive", "trailer", "te"),
        *("set-cookie", "server", "date"),
    )
)
_FIELD = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_VALUE = re.compile(r"[\x20-\x7e]{0,4096}")


class Functions:
    """The handlers."""

    def __init__(self, runner: Runner, endpoints: Endpoints, ceilings: Ceilings) -> None:
        self._runner = runner
        self._endpoints = endpoints
        self._ceilings = ceilings

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/api/endpoints", self.add)
        app.router.add_get("/api/endpoints", self.list)
        app.router.add_get("/api/endpoints/{id}", self.get)
        app.router.add_put("/api/endpoints/{id}", self.change)
        app.router.add_delete("/api/endpoints/{id}", self.remove)
        app.router.add_get("/api/endpoints/{id}/calls", self.calls)
        for path in ("/e/open/{id}", "/e/open/{id}/{rest:.*}"):
            app.router.add_route("*", path, self.call_public)
        for path in ("/e/{id}", "/e/{id}/{rest:.*}"):
            app.router.add_route("*", path, self.call)

    async def add(self, request: web.Request) -> web.Response:
        owner = owner_of(request)
        if not owner.sees_all and not owner.customer:
            raise Refused(problems.FORBIDDEN)
        made = await self._endpoints.add(owner, *self._wanted(await request.read()))
        if made is None:
            raise Refused(problems.TOO_MANY_ENDPOINTS)
        return _json(_shown(made, whole=True), 201)

    async def list(self, request: web.Request) -> web.Response:
        limit, cursor = page_of(request, r"fn_[0-9a-f]{32}")
        found = await self._endpoints.page(owner_of(request), limit + 1, cursor)
        more = found[limit - 1].id if len(found) > limit else None
        return _json({"endpoints": [_shown(each) for each in found[:limit]], "cursor": more})

    async def get(self, request: web.Request) -> web.Response:
        return _json(_shown(await self._own(request), whole=True))

    async def change(self, request: web.Request) -> web.Response:
        found = await self._own(request)
        wanted = self._wanted(await request.read())
        changed = await self._endpoints.change(found.id, owner_of(request), *wanted)
        if changed is None:
            raise Refused(problems.NOT_FOUND, "There is no such endpoint.")
        return _json(_shown(changed, whole=True))

    async def remove(self, request: web.Request) -> web.Response:
        found = await self._own(request)
        await self._endpoints.remove(found.id, owner_of(request))
        return web.Response(status=204)

    async def calls(self, request: web.Request) -> web.Response:
        found = await self._own(request)
        return _json({"calls": await self._endpoints.calls(found.id)})

    async def call(self, request: web.Request) -> web.Response:
        owner = owner_of(request)
        found = await self._endpoints.callable_by(id_in(request, "fn"), owner)
        if found is None:
            raise Refused(problems.NOT_FOUND, "There is no such endpoint.")
        return await self._called(request, found, owner)

    async def call_public(self, request: web.Request) -> web.Response:
        told = owner_of(request)
        found = await self._endpoints.public(id_in(request, "fn"), told.project)
        if found is None:
            raise Refused(problems.NOT_FOUND, "There is no such endpoint.")
        endpoint, mode = found
        return await self._called(request, endpoint, Owner(told.project, mode, endpoint.customer, sees_all=False))

    async def _called(self, request: web.Request, endpoint: Endpoint, owner: Owner) -> web.Response:
        body = await request.read()
        if len(body) > _MAX_BODY:
            raise Refused(problems.BODY_TOO_LARGE)
        path = "/" + request.match_info.get("rest", "")
        event: dict[str, Any] = {
            "method": request.method,
            "path": path,
            "query": dict(request.query),
            "headers": {k.lower(): v for k, v in request.headers.items() if not k.lower().startswith(_OURS)},
        }
        try:
            event["body"] = body.decode()
        except UnicodeDecodeError:
            event["bodyBase64"] = base64.b64encode(body).decode()
        wanted = understand({**endpoint.definition, "stdin": orjson.dumps(event).decode()}, self._ceilings)
        run = new_id()
        document = await self._runner.finish(self._runner.start(run, owner, wanted))
        answer = answered(document)
        answer.headers.update(usage_headers(document))
        answer.headers["X-Run-Id"] = run
        duration = document["usage"]["durationMs"]
        await self._endpoints.log(endpoint.id, run, request.method, path, answer.status, duration)
        return answer

    async def _own(self, request: web.Request) -> Endpoint:
        found = await self._endpoints.find(id_in(request, "fn"), owner_of(request))
        if found is None:
            raise Refused(problems.NOT_FOUND, "There is no such endpoint.")
        return found

    def _wanted(self, body: bytes) -> tuple[str, bool, dict[str, Any]]:
        """Name, whether anybody may call it, and what is run. Raises Refused."""
        document = read_object(body)
        name, is_public = document.pop("name", ""), document.pop("public", False)
        faults = []
        if not isinstance(name, str) or len(name) > 100 or not name.isprintable():
            faults.append(("name", "must be printable text of at most 100 characters"))
        if not isinstance(is_public, bool):
            faults.append(("public", "must be true or false"))
        faults += [(field, "is not saved with an endpoint") for field in ("stdin", "userContext") if field in document]
        if faults:
            raise invalid(*faults)
        understand(document, self._ceilings)
        return name, is_public, document


def answered(document: dict[str, Any]) -> web.Response:
    """A run's output as an HTTP answer."""
    if not document["ok"]:
        body = {"error": "The function failed.", "run": document["id"], "reason": document["reason"]}
        return _json(body, 504 if document["reason"] == "timeout" else 500)
    text = document["stdout"]
    try:
        told = orjson.loads(text)
    except orjson.JSONDecodeError:
        told = None
    if not isinstance(told, dict) or not told.keys() & {"status", "headers", "body"}:
        return web.Response(text=text, content_type="application/json" if told is not None else "text/plain")
    status, fields, body = told.get("status", 200), told.get("headers", {}), told.get("body", "")
    if (
        not isinstance(status, int)
        or isinstance(status, bool)
        or not 200 <= status <= 599
        or not isinstance(fields, dict)
    ):
        return _json({"error": "The function's answer has no valid status or headers.", "run": document["id"]}, 502)
    data = body.encode() if isinstance(body, str) else orjson.dumps(body)
    headers = {"Content-Type": "text/plain; charset=utf-8" if isinstance(body, str) else "application/json"}
    for name, value in fields.items():
        if _FIELD.fullmatch(name) and isinstance(value, str) and _VALUE.fullmatch(value) and not _is_ours(name):
            headers = {known: kept for known, kept in headers.items() if known.lower() != name.lower()}
            headers[name] = value
    return web.Response(body=data, status=status, headers=headers)


def _is_ours(name: str) -> bool:
    lower = name.lower()
    return lower in _FORBIDDEN or lower.startswith(("x-usage-", "x-tollgate-", "x-run-id"))


def _shown(endpoint: Endpoint, *, whole: bool = False) -> dict[str, Any]:
    document: dict[str, Any] = {
        "id": endpoint.id,
        "url": f"/e/open/{endpoint.id}" if endpoint.is_public else f"/e/{endpoint.id}",
        "name": endpoint.name,
        "public": endpoint.is_public,
        "lang": endpoint.definition["lang"],
        "revision": endpoint.revision,
        "createdAt": endpoint.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "updatedAt": endpoint.updated_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    return {**document, "definition": endpoint.definition} if whole else document


def _json(document: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")
