"""Fixtures for the gateway: a seeded project, a running gateway, its books. All on uvloop, as in production."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import asyncpg
import pytest
import redis.asyncio
import uvloop

from tests.support.gateway import Books, Catalogue, InProcessGateway
from tests.support.raw import Peer, Upstream, connect


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop that the gateway has in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def catalogue(pg: asyncpg.Connection) -> Catalogue:
    """The rows of a project that has nothing yet."""
    rows = Catalogue(pg)
    await rows.project()
    return rows


@pytest.fixture
async def redis_client(redis_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A connection to Redis of the test's own."""
    client = redis.asyncio.Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def books(redis_client: redis.asyncio.Redis) -> Books:
    return Books(redis_client)


@dataclass(frozen=True)
class Stage:
    """A gateway with the route /api/* to one scripted upstream, and a key of the customer `ada`."""

    inside: InProcessGateway
    upstream: Upstream
    key: str
    route_id: str
    catalogue: Catalogue
    _stack: AsyncExitStack

    async def client(self) -> Peer:
        """A new connection to the gateway; closed with the stage at the latest."""
        return await self._stack.enter_async_context(await connect(*self.inside.address))


Script = Callable[[Peer], Awaitable[None]]
MakeStage = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def stage(catalogue: Catalogue, postgres_url: str, redis_url: str) -> AsyncIterator[MakeStage]:
    """`await stage(script, tier={…}, route={…}, **gateway_settings)` sets one up; its parts are closed afterwards."""
    async with AsyncExitStack() as stack:

        async def make(
            script: Script, *, tier: dict[str, Any] | None = None, route: dict[str, Any] | None = None, **settings: Any
        ) -> Stage:
            upstream = await stack.enter_async_context(Upstream(script))
            plan = await catalogue.tier("free", default=True, **(tier or {}))
            customer = await catalogue.customer("ada", tier=plan)
            key = await catalogue.key("ck", customer=customer)
            wanted = {"path": "/api/*", "origins": [(upstream.host, upstream.port)], **(route or {})}
            route_id = await catalogue.route("api", wanted.pop("path"), wanted.pop("origins"), **wanted)
            inside = await stack.enter_async_context(InProcessGateway(postgres_url, redis_url, **settings))
            await inside.ready()
            return Stage(inside, upstream, key, route_id, catalogue, stack)

        yield make
