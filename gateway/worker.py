"""One gateway worker: the composition root of the process that serves clients.

Started by the parent (gateway.slots), which writes one JSON line to standard input: the descriptor of the inherited
listening socket and the settings. Standard output carries a line when the worker is ready and then, once a second, what it
has counted. The end of standard input means that the parent is gone, and stops the worker as SIGTERM does: no new
connections, open requests finish within `drain_timeout_ms`, idle connections are told to go with their next answer or
close after `drain_idle_ms`, everything is settled, then exit. SIGUSR2 does the same to a worker that has a successor:
the gateway stays ready.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import secrets
import signal
import socket
import sys
import time
from importlib import resources
from typing import Any, Final

import orjson
import uvloop

from config.log import setup
from config.settings import Settings
from gateway.auth.jwks import Fetcher
from gateway.auth.strangers import Strangers
from gateway.auth.tokens import Tokens
from gateway.clock import TICK, Clock
from gateway.context import Gateway
from gateway.door import Door
from gateway.limits.caps import Caps
from gateway.limits.census import Census
from gateway.limits.limiter import SCRIPTS, Limiter
from gateway.limits.report import Reporter, sign_of_life
from gateway.listener import ClientConnection
from gateway.memory import Memory
from gateway.metrics import Metrics
from gateway.proxy.builtin import Sandbox, nodes_of
from gateway.proxy.cache import Caches
from gateway.proxy.pool import Pools
from gateway.proxy.sender import Trust
from gateway.relay import admin_route
from gateway.slots import BACKLOG
from gateway.spool.disk import Spool
from gateway.standing import Standing
from gateway.store.redis import RedisPipe, encode
from gateway.store.snapshot import Snapshot
from gateway.tls import Certificate, certificate_of
from ledger import names
from ledger.vault import vault_of

_log = logging.getLogger("gateway.worker")
_READY_WITHIN_S: Final = 2.0


def build_door(settings: Settings, name: str) -> Door:
    """Wire a worker's parts. Its connections to Redis and Postgres are still to be started; needs a running loop."""
    assert settings.postgres_url is not None
    assert settings.redis_url is not None
    gateway = settings.gateway
    clock = Clock()
    redis = RedisPipe(
        settings.redis_url.get_secret_value(),
        SCRIPTS,
        deadline=gateway.store_deadline_ms / 1000,
        # before anything is held in this process's name, and before any counter is believed
        greeting=[sign_of_life(name), _census(name), _arrival(settings.redis_shards)],
    )
    snapshot = Snapshot(
        settings.postgres_url.get_secret_value(),
        deadline=gateway.lookup_deadline_ms / 1000,
        poll_interval=gateway.poll_interval_ms / 1000,
        max_keys=gateway.max_cached_keys,
        vault=vault_of(settings),
    )
    spool = None
    if gateway.spool_max_bytes:
        spool = Spool(gateway.spool_dir, name, max_bytes=gateway.spool_max_bytes, fsync=gateway.spool_fsync)
    context = Gateway(
        snapshot,
        Limiter(redis, spool=spool, loses_when_full=gateway.spool_when_full == "lose"),
        Pools(clock),
        clock,
        Metrics(),
        name,
        settings.redis_shards,
        Tokens(snapshot, Fetcher()),
        caps=Caps(gateway.max_requests_per_project),
        caches=Caches(gateway.cache_max_bytes),
        strangers=Strangers(gateway.unknown_keys_per_minute),
    )
    if gateway.admin_url is not None:
        context.admin = admin_route(gateway.admin_url)
    if gateway.sandbox_url is not None and settings.sandbox.secret is not None:
        context.sandbox = Sandbox(nodes_of(gateway.sandbox_url), settings.sandbox.secret.get_secret_value())
    trust = Trust(gateway.trusted_proxies, gateway.forwarded_by)
    return Door(context, gateway, set(), Memory(gateway.max_known_heads), trust)


def _census(name: str) -> tuple[str, ...]:
    return ("ZADD", names.GATEWAYS, str(int(time.time())), name)


def _arrival(shards: int) -> tuple[str, ...]:
    """The command that makes the counters unknown if Redis is another process than before."""
    script = resources.files("ledger").joinpath("arrive.lua").read_text(encoding="utf-8")
    return ("EVAL", script, str(1 + shards), names.RUN, *(names.epoch(shard) for shard in range(shards)))


class Worker:
    """One worker process: wires everything, runs, and takes it down in reverse order."""

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings = settings
        self._listener = listener
        self._stopping = asyncio.Event()
        self._is_followed = False
        self._out: asyncio.WriteTransport | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGUSR2, self._make_room)
        gateway_settings = self._settings.gateway
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        door = build_door(self._settings, name)
        gateway = door.gateway
        redis, snapshot, limiter, pools = gateway.limiter.redis, gateway.snapshot, gateway.limiter, gateway.pools
        reporter = Reporter(limiter, name, gateway.shards, door.in_flight)
        redis.start()
        snapshot.start()
        await self._until_ready(door, reporter)
        certificate = certificate_of(gateway_settings)
        server = await loop.create_server(
            lambda: ClientConnection(door),
            sock=self._listener,
            backlog=BACKLOG,  # listening again would otherwise shorten the queue
            ssl=certificate.context if certificate else None,
            ssl_handshake_timeout=gateway_settings.head_timeout_ms / 1000 if certificate else None,
        )
        standing = Standing(gateway, door.connections)
        beat = asyncio.create_task(self._beat(door, reporter, standing, name, certificate), name="gateway-beat")
        beat.add_done_callback(self._beat_ended)
        # What is loaded by now stays: the collector need not walk it again, nor run every 700 allocations. Requests make
        # no cycles, so nothing waits for it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)
        await self._attach_pipes()
        self._say({"ready": True})
        await self._stopping.wait()

        gateway.is_draining, gateway.is_followed = True, self._is_followed
        server.close()
        deadline = loop.time() + gateway_settings.drain_timeout_ms / 1000
        for connection in tuple(door.connections):
            connection.drain()
        if certificate is not None:  # those in the middle of the handshake are not among the connections yet
            await asyncio.sleep(min(gateway_settings.drain_idle_ms, gateway_settings.drain_timeout_ms) / 1000)
        while door.connections and loop.time() < deadline:
            await asyncio.sleep(0.02)
        for connection in tuple(door.connections):
            connection.abort()
        await asyncio.sleep(0)
        left = await limiter.settlements.drain(max(1.0, deadline - loop.time()))
        if left:
            _log.error("stopped with %d settlements unsent; their reservations will be swept", left)
        if limiter.settlements.spool is not None and limiter.settlements.spool.entries:
            _log.warning(
                "stopped with %d records in the spool, for the next process", limiter.settlements.spool.entries
            )
        beat.cancel()
        await standing.close()
        redis.send(encode(("ZREM", names.GATEWAYS, name)), _Backlog(limiter, 1, 0))
        await asyncio.sleep(0)
        self._say(_snapshot_of(door, redis))
        pools.close()
        await gateway.tokens.close()
        await snapshot.close()
        await redis.close()
        if limiter.settlements.spool is not None:
            limiter.settlements.spool.close()

    def _make_room(self) -> None:
        """Another worker serves in this place by now."""
        self._is_followed = True
        self._stopping.set()

    async def _until_ready(self, door: Door, reporter: Reporter) -> None:
        """Wait until there is something to serve with: a worker that listens takes its share of the connections.

        Not for ever: without Redis or Postgres it says so to clients, and goes on trying.
        """
        limiter, snapshot = door.gateway.limiter, door.gateway.snapshot
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _READY_WITHIN_S
        while not ((limiter.knows_counters and snapshot.is_connected) or self._stopping.is_set()):
            if loop.time() > deadline:
                return
            reporter.look()
            await asyncio.sleep(0.01)

    async def _beat(
        self, door: Door, reporter: Reporter, standing: Standing, name: str, certificate: Certificate | None
    ) -> None:
        """What happens on the clock: deadlines, idle connections, backlog, sign of life, figures for the parent."""
        gateway = door.gateway
        redis = gateway.limiter.redis
        alive = encode(sign_of_life(name))
        backlog = _Backlog(gateway.limiter, self._settings.stream_max_entries, gateway.shards)
        census = Census(gateway.limiter, name)
        beats = 0
        while True:
            await asyncio.sleep(TICK)
            gateway.clock.tick()
            gateway.pools.check(gateway.snapshot.table.by_id)
            standing.look()
            beats += 1
            if beats % 2 == 0:
                now = gateway.clock.now - TICK  # deadlines were set by a clock up to a tick old: never fire early
                for connection in tuple(door.connections):
                    connection.sweep(now)
            if beats % (10 if gateway.limiter.knows_counters else 1) == 0:
                reporter.look()
            if beats % 10 == 0:
                gateway.pools.sweep()
                gateway.incidents.tick()
                gateway.tokens.sweep()
                if certificate is not None:
                    certificate.refresh()
                if gateway.limiter.settlements.spool is not None:
                    gateway.limiter.settlements.spool.sync()
                    if beats % 50 == 0:
                        gateway.limiter.settlements.take_over()
                if redis.available:
                    backlog.ask(redis)
                    redis.send(alive, backlog)
                    census.take(redis)
                self._say(_snapshot_of(door, redis))

    def _beat_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            _log.critical("the gateway's clock stopped", exc_info=task.exception())
            self._stopping.set()

    async def _attach_pipes(self) -> None:
        """Standard output carries figures to the parent; the end of standard input means that the parent is gone."""
        loop = asyncio.get_running_loop()
        self._out, _ = await loop.connect_write_pipe(asyncio.Protocol, os.fdopen(os.dup(1), "wb", 0))
        await loop.connect_read_pipe(lambda: _UntilEnd(self._stopping), os.fdopen(os.dup(0), "rb", 0))

    def _say(self, message: dict[str, Any]) -> None:
        """One line to the parent, if there is one; left out while it has not read the last (the next supersedes it)."""
        if self._out is not None and not self._out.is_closing() and not self._out.get_write_buffer_size():
            self._out.write(orjson.dumps(message) + b"\n")


class _UntilEnd(asyncio.Protocol):
    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.set()


class _Backlog:
    """Watches how full the usage streams are, and closes the door before one passes its bound."""

    def __init__(self, limiter: Limiter, bound: int, shards: int) -> None:
        self._limiter = limiter
        self._bound = bound
        self._commands = [encode(("XLEN", names.usage_stream(shard))) for shard in range(shards)]
        self._longest = 0
        self._waiting = 0

    def ask(self, redis: RedisPipe) -> None:
        if self._waiting:
            return
        self._waiting, self._longest = len(self._commands), 0
        for command in self._commands:
            redis.send(command, self)

    def on_reply(self, reply: Any) -> None:
        if self._waiting:
            self._waiting -= 1
            if type(reply) is int:
                self._longest = max(self._longest, reply)
            if not self._waiting:
                was_full, self._limiter.settlements.backlogged = (
                    self._limiter.settlements.backlogged,
                    self._longest >= self._bound,
                )
                if self._limiter.settlements.backlogged and not was_full:
                    _log.error("a usage stream holds %d events; refusing requests until it drains", self._longest)

    def on_timeout(self) -> None:
        pass


def _snapshot_of(door: Door, redis: RedisPipe) -> dict[str, Any]:
    gateway = door.gateway
    metrics = gateway.metrics
    metrics.counts["redis_errors_total"] = redis.errors
    metrics.counts["postgres_errors_total"] = gateway.snapshot.errors
    metrics.counts["tokens_verified_total"] = gateway.tokens.verifications
    metrics.counts["issuer_errors_total"] = gateway.tokens.fetch_failures
    limiter, spool = gateway.limiter, gateway.limiter.settlements.spool
    metrics.counts["unknown_keys_refused_total"] = gateway.strangers.refused
    metrics.counts["spool_refused_total"] = limiter.refused_full
    metrics.counts["spool_lost_total"] = limiter.settlements.lost
    metrics.counts["admitted_alone_total"] = limiter.admitted_alone
    metrics.counts["spool_written_total"] = spool.appended if spool is not None else 0
    metrics.counts["spool_replayed_total"] = spool.confirmed if spool is not None else 0
    metrics.counts["spool_torn_total"] = spool.torn if spool is not None else 0
    tally = gateway.pools.tally
    metrics.counts["ejections_total"] = tally.ejections
    metrics.counts["circuit_refusals_total"] = tally.refusals
    metrics.counts["checks_failed_total"] = tally.checks_failed
    metrics.targets = gateway.pools.states()
    metrics.gauges = {
        "spool_bytes": spool.bytes if spool is not None else 0,
        "spool_entries": spool.entries if spool is not None else 0,
        "connections": len(door.connections),
        "cache_bytes": gateway.caches.used,
        "requests_in_flight": sum(1 for c in door.connections if c.is_busy),
        "settlements_waiting": gateway.limiter.settlements.unsettled,
        "tokens_remembered": gateway.tokens.remembered,
        "issuers_stale": gateway.tokens.stale_issuers,
    }
    return metrics.snapshot()


def _worker_main() -> None:
    first = sys.stdin.buffer.readline()
    if not first:
        sys.exit("gateway.worker is started by the gateway's parent process; use: tollgate gateway")
    message = orjson.loads(first)
    settings = Settings.model_validate(message["settings"])
    setup(settings, plane="gateway")
    uvloop.run(Worker(settings, socket.socket(fileno=message["listener"])).run())


if __name__ == "__main__":
    _worker_main()
