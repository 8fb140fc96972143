"""The server: the life of a request, from its key to its answer, and what goes wrong on the way on purpose."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from stripefake import checkout, meters, objects, subscriptions
from stripefake.call import Call, Operation
from stripefake.control import Control
from stripefake.errors import Refusal
from stripefake.faults import BEFORE, Fault
from stripefake.form import nested
from stripefake.schema import check, params_type
from stripefake.webhooks import Delivery
from stripefake.world import PLATFORM, Answered, Half, Request, World

OPERATIONS: Final = (*objects.OPERATIONS, *meters.OPERATIONS, *subscriptions.OPERATIONS, *checkout.OPERATIONS)
KEPT_S: Final = 86_400
"""How long an idempotency key is remembered."""

_KEY: Final = re.compile(r"(?:sk|rk)_(test|live)_[0-9A-Za-z_]+")


@dataclass(frozen=True, slots=True)
class Running:
    """Where it listens, and its world."""

    url: str
    world: World
    delivery: Delivery


@asynccontextmanager
async def running(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Running]:
    """A fake that listens until the context is left. Raises OSError if the port cannot be had."""
    world = World()
    delivery = Delivery(world)
    app = web.Application()
    app.add_routes(Control(world, delivery).routes())
    app.router.add_route("*", "/{path:v[12]/.*}", Server(world).handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    delivering = asyncio.create_task(delivery.run(), name="webhook delivery")
    try:
        await web.TCPSite(runner, host, port).start()
        bound_host, bound_port = runner.addresses[0][:2]
        shown = f"[{bound_host}]" if ":" in bound_host else bound_host
        yield Running(f"http://{shown}:{bound_port}", world, delivery)
    finally:
        delivering.cancel()
        await asyncio.gather(delivering, return_exceptions=True)
        await runner.cleanup()


class Server:
    """Answers what comes under /v1 and /v2."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._operations = [
            (operation, re.compile(re.escape(operation.path).replace(r"\{id\}", "([^/]+)"))) for operation in OPERATIONS
        ]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request, from its key to its answer."""
        key = request.headers.get("Idempotency-Key")
        half: Half | None = None
        fault: Fault | None = None
        status, headers = 500, dict[str, str]()
        body: Any = None
        try:
            half = self._half(request)
            self._throttle()
            raw = await request.read()
            fault = self._world.faults.of(request.method, request.path)
            if fault is not None and fault.kind in BEFORE:
                return await self._fail(request, fault)
            status, body, headers = await self._answer(request, half, key, raw, fault)
        except Refusal as refusal:
            status, body, headers = refusal.status, refusal.body, refusal.headers
        finally:
            account, livemode = (half.account, half.livemode) if half else ("", False)
            kind = fault.kind if fault else None
            self._world.log.append(Request(request.method, request.path, account, livemode, key, status, kind))
        if fault is not None:
            if fault.kind in ("drop_after", "hang_after", "truncate"):
                return await self._fail(request, fault, body)
            if fault.kind == "delay":
                await asyncio.sleep(fault.delay_ms / 1000)
        return _response(status, body, {"Request-Id": self._world.new_id("req"), **headers})

    def _half(self, request: web.Request) -> Half:
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                text = base64.b64decode(text).decode().partition(":")[0]
            except ValueError:
                text = ""
        if not text:
            raise Refusal("You did not provide an API key.", status=401)
        match = _KEY.fullmatch(text.strip())
        if match is None:
            shown = f"{text[:8]}***"
            raise Refusal(f"Invalid API Key provided: {shown}", status=401, code="api_key_invalid")
        account = request.headers.get("Stripe-Account") or request.headers.get("Stripe-Context") or PLATFORM
        return self._world.half(account, livemode=match[1] == "live")

    def _throttle(self) -> None:
        most = self._world.options.requests_per_second
        if most is None:
            return
        now = asyncio.get_running_loop().time()
        recent = self._world.recent
        while recent and recent[0] <= now - 1:
            recent.popleft()
        if len(recent) >= most:
            raise _too_many()
        recent.append(now)

    async def _answer(
        self, request: web.Request, half: Half, key: str | None, raw: bytes, fault: Fault | None
    ) -> tuple[int, Any, dict[str, str]]:
        operation, ids = self._operation(request)
        tree = _tree(request, raw)
        if request.method != "POST" or key is None:
            return await self._run(operation, half, ids, tree, fault)
        fingerprint = sha256(orjson.dumps([request.method, request.path, tree], option=orjson.OPT_SORT_KEYS)).digest()
        known = half.answered.get(key)
        if known is not None and self._world.clock.now - known.at < KEPT_S:
            if known.fingerprint != fingerprint:
                raise Refusal(
                    "Keys for idempotent requests can only be used with the same parameters they were first used with.",
                    kind="idempotency_error",
                )
            if known.body is None:
                raise Refusal(
                    "There is currently another in-progress request using this Idempotent Key.",
                    status=409,
                    kind="idempotency_error",
                    code="idempotency_key_in_use",
                )
            return known.status, known.body, {"Idempotent-Replayed": "true"}
        mine = half.answered[key] = Answered(fingerprint, self._world.clock.now)
        try:
            params = self._checked(operation, tree)
        except Refusal:
            del half.answered[key]  # what was not begun is not remembered
            raise
        try:
            status, body, headers = await self._carry_out(operation, half, ids, params, fault)
        except Refusal as refusal:
            status, body, headers = refusal.status, refusal.body, refusal.headers
        except BaseException:
            half.answered.pop(key, None)
            raise
        if status == 429:
            half.answered.pop(key, None)
        else:
            mine.status, mine.body = status, orjson.loads(orjson.dumps(body))
        return status, body, headers

    async def _run(
        self, operation: Operation, half: Half, ids: tuple[str, ...], tree: Any, fault: Fault | None
    ) -> tuple[int, Any, dict[str, str]]:
        return await self._carry_out(operation, half, ids, self._checked(operation, tree), fault)

    async def _carry_out(
        self, operation: Operation, half: Half, ids: tuple[str, ...], params: Any, fault: Fault | None
    ) -> tuple[int, Any, dict[str, str]]:
        if fault is not None and fault.kind == "500":
            raise _broken()
        body = await operation.run(Call(self._world, half, ids, params))
        if fault is not None and fault.kind == "500_after":
            raise _broken()
        return 200, body, {}

    def _operation(self, request: web.Request) -> tuple[Operation, tuple[str, ...]]:
        for operation, pattern in self._operations:
            if operation.method == request.method and (match := pattern.fullmatch(request.path)):
                return operation, match.groups()
        raise Refusal(f"Unrecognized request URL ({request.method}: {request.path}).", status=404, code="url_invalid")

    def _checked(self, operation: Operation, tree: Any) -> Any:
        if operation.params is None:
            return tree
        further = {name: tree[name] for name in operation.further & tree.keys() if str(tree[name]).isdigit()}
        return check(params_type(operation.params), {k: v for k, v in tree.items() if k not in further}) | further

    async def _fail(self, request: web.Request, fault: Fault, body: Any = None) -> web.StreamResponse:
        if fault.kind == "429":
            return _response(429, _too_many().body, {})
        if fault.kind == "503_html":
            return web.Response(status=503, text="<html><body>503 upstream</body></html>", content_type="text/html")
        if fault.kind in ("hang", "hang_after"):
            await asyncio.sleep(fault.delay_ms / 1000)
        if fault.kind == "truncate":
            whole = orjson.dumps(body)
            response = web.StreamResponse(
                headers={"Content-Type": "application/json", "Content-Length": str(len(whole))}
            )
            await response.prepare(request)
            await response.write(whole[: len(whole) // 2])
        if request.transport is not None:
            request.transport.abort()
        return web.Response()


def _tree(request: web.Request, raw: bytes) -> dict[str, Any]:
    pairs = parse_qsl(request.query_string, keep_blank_values=True)
    if request.content_type == "application/json" and raw:
        try:
            given = orjson.loads(raw)
        except orjson.JSONDecodeError:
            raise Refusal("Invalid request body.") from None
        return given if isinstance(given, dict) else {}
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise Refusal("Invalid request body: not UTF-8.") from None
    return nested([*pairs, *parse_qsl(text, keep_blank_values=True)])


def _too_many() -> Refusal:
    return Refusal("Too many requests.", status=429, kind="rate_limit_error", code="rate_limit")


def _broken() -> Refusal:
    return Refusal("An unknown error occurred.", status=500, kind="api_error")


def _response(status: int, body: Any, headers: dict[str, str]) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers=headers, content_type="application/json")
