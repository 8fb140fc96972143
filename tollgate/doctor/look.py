"""Collects the facts that `findings` judges: one look at PostgreSQL, Redis, the spool, clocks and the code runner.

Every look has a deadline of a few seconds. What is away is itself a finding; looking changes nothing anywhere.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import time
from datetime import UTC, datetime
from typing import Any, Final

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from config.redact import redact
from config.settings import Settings
from ledger import names, sql
from ledger.migrate import migrations
from ledger.periods import months_after
from ledger.stream import connect as connect_redis
from ledger.vault import CannotOpen, VaultError, vault_of
from tollgate.doctor import findings as judge
from tollgate.doctor import runner
from tollgate.doctor.findings import Finding, fail

_SQL: Final = sql.load("tollgate.doctor", "look.sql")
_DEADLINE_S: Final = 10.0
_PINGS: Final = 20


async def look(settings: Settings) -> list[Finding]:
    """Everything, in the order in which one would ask."""
    found: list[Finding] = []
    postgres, redis = settings.postgres_url, settings.redis_url
    sealed: list[tuple[str, bytes]] = []
    if postgres is None:
        found.append(fail("settings.postgres_url", "postgres_url is not set", "set TOLLGATE_POSTGRES_URL"))
    else:
        found.append(judge.of_password("postgres_url", postgres.get_secret_value()))
    if redis is None:
        found.append(fail("settings.redis_url", "redis_url is not set", "set TOLLGATE_REDIS_URL"))
    else:
        found.append(judge.of_password("redis_url", redis.get_secret_value()))
    if postgres is not None:
        more, sealed = await _postgres(postgres.get_secret_value())
        found += more
    found.insert(2, _keys(settings, sealed))
    if redis is not None:
        found += await _redis(settings, redis.get_secret_value())
    found += _spool(settings)
    found += await runner.look(settings.sandbox)
    return found


def _keys(settings: Settings, sealed: list[tuple[str, bytes]]) -> Finding:
    try:
        vault = vault_of(settings)
    except VaultError as error:
        return judge.of_keys(str(error), True, len(sealed), 0, 0)
    lost = older = 0
    for object_id, secret in sealed:
        try:
            if vault is None:
                raise CannotOpen("there is no key")
            vault.open(secret, object_id)
            older += not vault.is_current(secret)
        except CannotOpen:
            lost += 1
    return judge.of_keys(None, vault is not None, len(sealed), lost, older)


async def _postgres(url: str) -> tuple[list[Finding], list[tuple[str, bytes]]]:
    """The findings, and the stored credentials: whose they are, sealed."""
    try:
        async with asyncio.timeout(_DEADLINE_S):
            connection = await asyncpg.connect(url, timeout=_DEADLINE_S, command_timeout=_DEADLINE_S)
            try:
                return await _ask_postgres(connection)
            finally:
                connection.terminate()
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        reason = redact(f"{type(error).__name__}: {error}").splitlines()[0]
        return [fail("postgres.connection", f"PostgreSQL cannot be asked: {reason}", "check postgres_url")], []


async def _ask_postgres(connection: asyncpg.Connection) -> tuple[list[Finding], list[tuple[str, bytes]]]:
    version = int(await connection.fetchval("SHOW server_version_num"))
    found = [judge.of_postgres_version(version)]
    applied: set[Any] = set()
    if await connection.fetchval("SELECT to_regclass('schema_migrations')") is not None:
        applied = {row["version"] for row in await connection.fetch("SELECT version FROM schema_migrations")}
    ours = {migration.version for migration in migrations()}
    found.append(judge.of_migrations(len(ours - applied), len(applied - ours)))
    durability = {name: str(await connection.fetchval(f"SHOW {name}")) for name in _DURABILITY}
    found += judge.of_durability(durability)
    row: Any = await connection.fetchrow(_SQL["connections"])
    found.append(judge.of_connections(row["used"], row["most"]))
    sealed: list[tuple[str, bytes]] = []
    if not ours - applied:
        now = datetime.now(UTC)
        months = [months_after(now.replace(day=1), n) for n in (0, 1)]
        there = {r["name"] for r in await connection.fetch(_SQL["partitions"])}
        found.append(
            judge.of_partitions([f"{m:%Y-%m}" for m in months if not any(f"{m:%Y_%m}" in name for name in there)])
        )
        dead: Any = await connection.fetchrow(_SQL["dead_letters"])
        found.append(judge.of_dead_letters(dead["entries"], dead["newest"] or ""))
        sealed = [(r["id"], r["secret"]) for r in await connection.fetch(_SQL["sealed"])]
    before = time.time()
    theirs = (await connection.fetchval("SELECT clock_timestamp()")).timestamp()
    found.append(judge.of_skew("postgres", theirs - (before + time.time()) / 2))
    return found, sealed


_DURABILITY: Final = ("fsync", "full_page_writes", "synchronous_commit")


async def _redis(settings: Settings, url: str) -> list[Finding]:
    try:
        client = connect_redis(url)
    except ValueError:
        return [fail("redis.connection", "redis_url is not a redis:// URL", "check redis_url")]
    try:
        async with asyncio.timeout(_DEADLINE_S):
            return await _ask_redis(settings, client)
    except (RedisError, OSError, TimeoutError) as error:
        reason = redact(f"{type(error).__name__}: {error}").splitlines()[0]
        return [fail("redis.connection", f"Redis cannot be asked: {reason}", "check redis_url")]
    finally:
        await client.aclose()


async def _ask_redis(settings: Settings, client: Redis) -> list[Finding]:
    info: dict[str, Any] = await client.info()
    found = [judge.of_redis_version(str(info.get("redis_version", ""))), judge.of_role(str(info.get("role", "master")))]
    config = {name: await _config(client, name) for name in ("maxmemory-policy", "appendonly", "appendfsync")}
    found.append(judge.of_eviction(config["maxmemory-policy"] or info.get("maxmemory_policy")))
    last_write = str(info.get("aof_last_write_status", ""))
    found.append(judge.of_persistence(config["appendonly"], config["appendfsync"], last_write))
    used, limit, system = (int(info.get(k, 0)) for k in ("used_memory", "maxmemory", "total_system_memory"))
    found.append(judge.of_memory(used, limit, system))
    took = []
    for _ in range(_PINGS):
        began = time.perf_counter()
        await client.ping()
        took.append((time.perf_counter() - began) * 1000)
    found.append(judge.of_latency(statistics.median(took), max(took), settings.gateway.store_deadline_ms))
    shards = range(settings.redis_shards)
    epochs = await client.mget([names.epoch(shard) for shard in shards])
    found.append(judge.of_counters(sum(epoch is None for epoch in epochs), len(shards)))
    found.append(await _lag(client, shards))
    alive: int = await client.zcount(names.GATEWAYS, time.time() - 15, "+inf")
    found.append(judge.of_gateways(alive))
    before = time.time()
    seconds, microseconds = await client.time()
    found.append(judge.of_skew("redis", seconds + microseconds / 1e6 - (before + time.time()) / 2))
    return found


async def _config(client: Redis, name: str) -> str | None:
    """A setting of Redis; None where it may not be asked for (managed services)."""
    try:
        answer: dict[Any, Any] = await client.config_get(name)
    except ResponseError:
        return None
    value = answer.get(name)
    return value.decode() if isinstance(value, bytes) else value


async def _lag(client: Redis, shards: range) -> Finding:
    entries, oldest, groups_missing = 0, time.time(), 0
    for shard in shards:
        stream = names.usage_stream(shard)
        waiting = await client.xlen(stream)
        if not waiting:
            continue
        entries += waiting
        first: Any = await client.xrange(stream, count=1)
        if first:
            oldest = min(oldest, int(first[0][0].partition(b"-")[0]) / 1000)
        groups: Any = await client.xinfo_groups(stream)
        groups_missing += not groups
    return judge.of_lag(entries, max(0.0, time.time() - oldest), groups_missing)


def _spool(settings: Settings) -> list[Finding]:
    gateway = settings.gateway
    if not gateway.spool_max_bytes:
        return [
            judge.warn(
                "spool.folder", "spool_max_bytes is 0: what Redis does not take is in memory only", "set a bound"
            )
        ]
    root = gateway.spool_dir
    problem: str | None = None
    free = segments = damaged = 0
    try:
        there = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(there).free
        segments = sum(1 for _ in root.glob("*/*.seg"))
        damaged = sum(1 for pattern in ("*/*.torn", "*/*.unreadable", "unreadable") for _ in root.glob(pattern))
        if root.exists():
            next(root.iterdir(), None)
            if not os.access(root, os.W_OK):
                problem = f"{root} cannot be written"
    except OSError as error:
        problem = f"{root}: {error.strerror or error}"
    found = [judge.of_spool(problem, free, gateway.spool_max_bytes * gateway.workers)]
    return found if problem is not None else [*found, judge.of_leftovers(segments, damaged)]
