"""A metering proxy as a competent developer would write it in a day, run as a program of its own.

aiohttp's server in front, its client behind, redis-py for the limit script (EVALSHA) and the usage event (XADD, once the
answer is known); keys are cached in a dictionary for a minute; tokens are verified by PyJWT. Bodies are streamed, small
answers read whole.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
import uuid
from pathlib import Path

import aiohttp
import jwt
import redis.asyncio
import uvloop
from aiohttp import web

LIMIT_SCRIPT = (Path(__file__).parent.parent / "conf" / "limit.lua").read_text()
TIERS = json.loads(os.environ["GATE_TIERS"])
HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
ISSUER = os.environ["GATE_ISSUER"]
SIGNER = jwt.PyJWK(json.loads(os.environ["GATE_JWK"]))
SMALL = 64 * 1024
KEY_TTL_S = 60.0


class Gate:
    """The handler and what it needs."""

    def __init__(self, upstream: str, store: redis.asyncio.Redis, session: aiohttp.ClientSession) -> None:
        self.upstream = upstream
        self.store = store
        self.session = session
        self.limit = store.register_script(LIMIT_SCRIPT)
        self.keys: dict[str, tuple[float, str, str]] = {}

    async def customer_of(self, key: str) -> tuple[str, str] | None:
        """(tier, customer) of a key; None if nobody issued it."""
        known = self.keys.get(key)
        if known is not None and known[0] > time.monotonic():
            return known[1:] if known[1] else None
        found = await self.store.hget("keys", key)
        tier, customer = found.decode().split(" ", 1) if found else ("", "")
        self.keys[key] = (time.monotonic() + KEY_TTL_S, tier, customer)
        return (tier, customer) if found else None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        authorization = request.headers.get("Authorization", "")
        path, who = request.path_qs, None
        if path.startswith("/jwt/"):
            path, who = path[4:], bearer_of(authorization[7:])
        elif authorization.startswith("Bearer "):
            who = await self.customer_of(authorization[7:])
        if who is None:
            return web.json_response({"error": "unauthorized"}, status=401, headers={"WWW-Authenticate": "Bearer"})
        tier, customer = who
        now = int(time.time())
        counters = [f"m:{customer}:{now // 60}", f"q:{customer}:{time.strftime('%Y-%m', time.gmtime(now))}"]
        if await self.limit(keys=counters, args=TIERS[tier]):
            return web.json_response({"error": "limit"}, status=429, headers={"Retry-After": str(60 - now % 60)})
        is_websocket = request.headers.get("Upgrade", "").lower() == "websocket"
        status = 499
        try:
            response = await (self.bridge(request) if is_websocket else self.forward(request, path))
            status = response.status
            return response
        finally:
            await self.store.xadd("usage", {"e": json.dumps(self.event(request, customer, now, status))})

    def event(self, request: web.Request, customer: str, now: int, status: int) -> dict[str, object]:
        """What happened, for the books."""
        return {
            "id": uuid.uuid4().hex,
            "at": now * 1000,
            "project": "prj_bench",
            "mode": "test",
            "customer": customer,
            "route": "bench",
            "method": request.method,
            "status": status,
            "meters": {"requests": 1},
        }

    async def forward(self, request: web.Request, path: str) -> web.StreamResponse:
        """Pass the request on and stream the answer back."""
        headers = {
            k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP and k.lower() != "authorization"
        }
        headers["X-Forwarded-For"] = request.remote or ""
        body = request.content if request.can_read_body else None
        async with self.session.request(
            request.method, self.upstream + path, headers=headers, data=body, allow_redirects=False
        ) as answer:
            kept = [(k, v) for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP]
            if answer.content_length is not None and answer.content_length <= SMALL:
                kept = [(k, v) for k, v in kept if k.lower() != "content-length"]
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    async def bridge(self, request: web.Request) -> web.WebSocketResponse:
        """Pass WebSocket messages both ways until either side closes."""
        client = web.WebSocketResponse()
        await client.prepare(request)
        async with self.session.ws_connect(self.upstream + request.path_qs) as origin:

            async def backward() -> None:
                async for message in origin:
                    await client.send_str(message.data)
                await client.close()

            back = asyncio.create_task(backward(), name="backward")
            async for message in client:
                await origin.send_str(message.data)
            back.cancel()
        return client


def bearer_of(token: str) -> tuple[str, str] | None:
    """(tier, customer) of a token; None if it is not good."""
    try:
        claims = jwt.decode(token, SIGNER, algorithms=["RS256"], issuer=ISSUER, options={"require": ["exp", "sub"]})
    except jwt.InvalidTokenError:
        return None
    return "1", claims["sub"]


async def main() -> None:
    """Serve until killed."""
    store = redis.asyncio.Redis.from_url(os.environ["GATE_REDIS"])
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        gate = Gate(os.environ["GATE_UPSTREAM"], store, session)
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", gate.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(os.environ["GATE_CERTIFICATE"])
        await web.TCPSite(runner, "127.0.0.1", int(os.environ["GATE_TLS_PORT"]), ssl_context=context).start()
        await web.TCPSite(runner, "127.0.0.1", int(os.environ["GATE_PORT"])).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
