"""A gateway inside the test: a worker's parts wired as in production, running in the test's own event loop.

What it serves is seeded by SQL (`Catalogue`: one project, live mode), what it has counted is read back from Redis
(`Books`). Its clock ticks every 5 ms, so deadlines of a few milliseconds can be tested without long waits.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import asyncpg
import orjson
import redis.asyncio
from pydantic import SecretStr

from admin.credentials import sealed
from config.encryption import decode_keys, new_key
from config.settings import GatewaySettings, Settings
from gateway.door import Door
from gateway.limits.census import Census
from gateway.limits.report import Reporter
from gateway.listener import ClientConnection
from gateway.standing import Standing
from gateway.worker import build_door
from ledger import ids, keys, names
from ledger.specs import RouteSpec, UpstreamSpec
from ledger.vault import Vault

SHARDS: Final = 2
PROJECT: Final = "prj_acme"
ENCRYPTION_KEY: Final = new_key()
"""Seals what a Catalogue writes."""
_TICK_S: Final = 0.005


async def until(check: Callable[[], Any] | Callable[[], Awaitable[Any]], *, within_s: float = 5.0) -> Any:
    """Ask `check` until its answer is true, and return that; AssertionError after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        answer = check()
        if asyncio.iscoroutine(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"did not come true within {within_s} s"
        await asyncio.sleep(0.002)


class InProcessGateway:
    """One worker without its process. An async context manager; `address` is where it listens."""

    def __init__(
        self,
        postgres_url: str,
        redis_url: str,
        *,
        encryption_keys: str | None = ENCRYPTION_KEY,
        name: str = "gateway-under-test",
        **gateway_settings: Any,
    ) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="tg-spool-")
        spool = {"spool_dir": Path(self._folder.name) / "spool"}
        self._settings = Settings(
            postgres_url=SecretStr(postgres_url),
            redis_url=SecretStr(redis_url),
            redis_shards=SHARDS,
            encryption_keys=SecretStr(encryption_keys) if encryption_keys is not None else None,
            gateway=GatewaySettings(**(spool | gateway_settings)),
        )
        self.door: Door
        self.is_reporter_asleep = False

    async def __aenter__(self) -> InProcessGateway:
        self.door = build_door(self._settings, self.name)
        self.gateway = self.door.gateway
        self.gateway.limiter.redis.start()
        self.gateway.snapshot.start()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: ClientConnection(self.door), "127.0.0.1", 0)
        self.address: tuple[str, int] = self._server.sockets[0].getsockname()
        self._census = Census(self.gateway.limiter, self.name)
        self.reporter = Reporter(self.gateway.limiter, self.name, SHARDS, self.door.in_flight)
        self.standing = Standing(self.gateway, self.door.connections)
        self._beat = asyncio.create_task(self._tick(), name="beat")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in tuple(self.door.connections):
            connection.abort()
        gateway = self.gateway
        await self.standing.close()
        await gateway.limiter.settlements.drain(1.0)
        gateway.pools.close()
        await gateway.tokens.close()
        await gateway.snapshot.close()
        await gateway.limiter.redis.close()
        self._beat.cancel()
        await asyncio.gather(self._beat, return_exceptions=True)
        if gateway.limiter.settlements.spool is not None:
            gateway.limiter.settlements.spool.close()
        self._folder.cleanup()

    async def _tick(self) -> None:
        beats = 0
        while True:
            await asyncio.sleep(_TICK_S)
            beats += 1
            if self.gateway.limiter.redis.available and beats % 10 == 1:
                self._census.take(self.gateway.limiter.redis)
                if not self.is_reporter_asleep:
                    self.reporter.look()
            self.gateway.clock.tick()
            for connection in tuple(self.door.connections):
                connection.sweep(self.gateway.clock.now)
            self.gateway.pools.sweep()
            self.gateway.pools.check(self.gateway.snapshot.table.by_id)
            self.standing.look()

    async def ready(self) -> None:
        """Wait until it has Redis, believes its counters, and has the snapshot."""
        limiter, snapshot = self.gateway.limiter, self.gateway.snapshot
        await until(lambda: limiter.redis.available and limiter.knows_counters and snapshot.is_connected)

    async def caught_up(self, pg: asyncpg.Connection) -> None:
        """Wait until it has seen everything that is committed."""
        revision = await pg.fetchval("SELECT coalesce(max(revision), 0) FROM changes")
        await until(lambda: self.gateway.snapshot.revision >= revision)

    async def settled(self) -> None:
        """Wait until no request is open and everything is settled."""
        await until(
            lambda: not any(c.is_busy for c in self.door.connections) and not self.gateway.limiter.settlements.unsettled
        )


class Catalogue:
    """The rows of one project, PROJECT, in live mode."""

    def __init__(self, pg: asyncpg.Connection) -> None:
        self.pg = pg

    async def project(self, project: str = PROJECT) -> str:
        await self.pg.execute("INSERT INTO projects (id, name, kind) VALUES ($1, $1, 'saas')", project)
        return project

    async def tier(
        self,
        name: str,
        *,
        per_minute: int | None = None,
        quotas: dict[str, int | None] | None = None,
        default: bool = False,
        concurrent: int | None = None,
        burst: int | None = None,
        is_shadow: bool = False,
        project: str = PROJECT,
    ) -> str:
        """A tier; its id."""
        tier = ids.new_id("tier")
        await self.pg.execute(
            "INSERT INTO tiers (id, project_id, mode, name, title, requests_per_minute, is_default,"
            " concurrent_requests, burst, is_shadow) VALUES ($1, $2, 'live', $3, $3, $4, $5, $6, $7, $8)",
            tier, project, name, per_minute, default, concurrent, burst, is_shadow,
        )  # fmt: skip
        for meter, quota in (quotas or {}).items():
            await self.pg.execute(
                "INSERT INTO tier_quotas (tier_id, meter, quota) VALUES ($1, $2, $3)", tier, meter, quota
            )
        return tier

    async def customer(
        self, external: str, *, tier: str | None = None, anchor: datetime | None = None, project: str = PROJECT
    ) -> str:
        """A customer, subscribed to the tier with the id `tier`; its id."""
        customer = ids.customer_id_for(project, "live", external)
        await self.pg.execute(
            "INSERT INTO customers (id, project_id, mode, external_id) VALUES ($1, $2, 'live', $3)",
            customer, project, external,
        )  # fmt: skip
        if tier is not None:
            await self.pg.execute(
                "INSERT INTO subscriptions (id, project_id, mode, customer_id, tier_id, status, anchor_at)"
                " VALUES ($1, $2, 'live', $3, $4, 'active', $5)",
                ids.new_id("subscription"), project, customer, tier, anchor or datetime(2026, 1, 1, tzinfo=UTC),
            )  # fmt: skip
        return customer

    async def key(
        self, kind: str = "sk", *, customer: str | None = None, project: str = PROJECT, **columns: Any
    ) -> str:
        """A key; its text. `columns` are those of the table."""
        new = keys.generate(keys.KeyKind(kind), keys.Mode.LIVE)
        row = {
            "id": ids.new_id("key"),
            "project_id": project,
            "mode": "live",
            "kind": kind,
            "name": "a key",
            "hash": new.hash,
            "prefix": new.prefix,
            "customer_id": customer,
            **columns,
        }
        places = ", ".join(f"${n + 1}" for n in range(len(row)))
        await self.pg.execute(f"INSERT INTO keys ({', '.join(row)}) VALUES ({places})", *row.values())
        return new.text

    async def route(
        self, name: str, path: str, origins: Iterable[str | tuple[str, int]], *, project: str = PROJECT, **spec: Any
    ) -> str:
        """A route and its upstream, both called `name`; the route's id. `upstream_*` are fields of the upstream's spec."""
        targets = [o if isinstance(o, str) else f"http://{o[0]}:{o[1]}" for o in origins]
        about_upstream = {f.removeprefix("upstream_"): spec.pop(f) for f in tuple(spec) if f.startswith("upstream_")}
        upstream = UpstreamSpec(name=name, targets=tuple(targets), **about_upstream)
        route = RouteSpec(name=name, path=path, upstream=name, **spec)
        upstream_id, route_id = ids.new_id("upstream"), ids.new_id("route")
        vault = Vault(decode_keys(ENCRYPTION_KEY))
        await self.pg.execute(
            "INSERT INTO upstreams (id, project_id, name, spec, secret) VALUES ($1, $2, $3, $4, $5)",
            upstream_id, project, name, upstream.model_dump_json(), sealed(upstream, upstream_id, None, vault)[1],
        )  # fmt: skip
        await self.pg.execute(
            "INSERT INTO routes (id, project_id, name, upstream_id, host, path, methods, spec, secret)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            route_id, project, name, upstream_id, route.host, route.path, sorted(route.methods), route.model_dump_json(),
            sealed(route, route_id, None, vault)[1],
        )  # fmt: skip
        return route_id


class Books:
    """What is in Redis: usage events, open reservations, quota counters, places."""

    def __init__(self, client: redis.asyncio.Redis) -> None:
        self._redis = client

    async def events(self) -> list[dict[str, Any]]:
        """All usage events in the order they were settled (per customer; over all, to the millisecond)."""
        found = []
        for shard in range(SHARDS):
            for entry_id, entry in await self._redis.xrange(names.usage_stream(shard)):
                ms, _, sequence = entry_id.partition(b"-")
                found.append((int(ms), int(sequence), orjson.loads(entry[b"e"])))
        return [event for *_, event in sorted(found, key=lambda row: row[:2])]

    async def reservations(self) -> list[dict[str, Any]]:
        """What is held for requests that are not settled."""
        return [
            orjson.loads(value)
            for shard in range(SHARDS)
            for value in (await self._redis.hgetall(names.reservations(shard))).values()
        ]

    async def places(self) -> dict[str, int]:
        """How many places are taken, by whose they are."""
        return {
            key.decode().split(":")[-1]: await self._redis.scard(key)
            async for key in self._redis.scan_iter("tg:*:places:*")
        }

    async def quotas(self) -> dict[str, int]:
        """Used and held, by meter, over all owners and periods."""
        used: dict[str, int] = {}
        async for key in self._redis.scan_iter("tg:*:quota:*"):
            meter = key.decode().split(":")[-2]
            used[meter] = used.get(meter, 0) + int(await self._redis.get(key))
        return used
