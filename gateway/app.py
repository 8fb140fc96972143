"""The gateway plane's processes: a parent that keeps N workers alive, and the worker's composition root.

The parent holds the port's number, starts the workers, restarts the ones that die (after 0.1 s, doubling to 5 s while they
die young) and serves /metrics for all of them. Each worker listens on the same port (SO_REUSEPORT), with an event loop of
its own. Settings go to a worker over its standard input, never over the command line; when that pipe closes, the parent is
gone and the worker stops. Over its standard output a worker says when it is ready and, once a second, what it has counted.

SIGTERM or SIGINT: workers stop accepting, finish what is open within `drain_timeout_ms`, settle, and exit.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from typing import Any, Final

import orjson
import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from config.log import setup
from config.settings import Settings
from gateway.clock import TICK, Clock
from gateway.limits.limiter import SCRIPTS, Limiter
from gateway.listener import ClientConnection, Door
from gateway.metrics import Metrics, families, merge
from gateway.pipeline import Gateway
from gateway.proxy.pool import Pools
from gateway.store.redis import RedisPipe, encode
from gateway.store.snapshot import Snapshot
from ledger import names

_log = logging.getLogger("gateway.app")
_BACKOFF_S: Final = (0.1, 5.0)
_OLD_ENOUGH_S: Final = 10.0


class StartError(Exception):
    """The gateway cannot start; the message says what to change."""


# -- the parent


def main(settings: Settings) -> None:
    """Run the gateway plane until SIGTERM or SIGINT. Raises StartError."""
    setup(settings, plane="gateway")
    if settings.postgres_url is None or settings.redis_url is None:
        raise StartError("the gateway needs postgres_url and redis_url (TOLLGATE_POSTGRES_URL, TOLLGATE_REDIS_URL)")
    uvloop.run(_Parent(settings).run())


class _Parent(Collector):
    """Keeps the workers alive and adds up what they count."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stopping = asyncio.Event()
        self._workers: dict[int, asyncio.subprocess.Process] = {}
        self._latest: dict[int, dict[str, Any]] = {}
        self._buried: dict[str, Any] = {}
        self._ready: set[int] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        gateway = self._settings.gateway
        with _hold_port(gateway.host, gateway.port) as held:
            port = held.getsockname()[1]
            runner = await self._serve_metrics()
            keepers = [asyncio.create_task(self._keep(i, port), name=f"worker-{i}") for i in range(gateway.workers)]
            _log.info("listening", extra={"host": gateway.host, "port": port, "workers": gateway.workers})
            await self._stopping.wait()
            for process in self._workers.values():
                process.terminate()
            _, late = await asyncio.wait(keepers, timeout=gateway.drain_timeout_ms / 1000 + 5)
            for process in self._workers.values():
                process.kill()
            if late:
                await asyncio.wait(late)
            await runner.cleanup()

    async def _keep(self, index: int, port: int) -> None:
        """One worker after the other in one place."""
        delay = _BACKOFF_S[0]
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            code = await self._run_worker(index, port)
            if self._stopping.is_set():
                return
            delay = _BACKOFF_S[0] if loop.time() - began > _OLD_ENOUGH_S else min(_BACKOFF_S[1], delay * 2)
            _log.error(
                "a worker died and is started again", extra={"worker": index, "exit_code": code, "delay_s": delay}
            )
            try:
                await asyncio.wait_for(self._stopping.wait(), delay)
            except TimeoutError:
                pass

    async def _run_worker(self, index: int, port: int) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.app",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=16 * 2**20, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        self._workers[index] = process
        if self._stopping.is_set():
            process.terminate()
        try:
            process.stdin.write(orjson.dumps({"port": port, "settings": _plain(self._settings)}) + b"\n")
            async for line in process.stdout:
                message = orjson.loads(line)
                if "ready" in message:
                    self._ready.add(index)
                else:
                    self._latest[index] = message
        except (ConnectionError, orjson.JSONDecodeError, ValueError) as error:
            _log.error("lost touch with a worker: %s", error, extra={"worker": index})
            process.kill()
        code = await process.wait()
        del self._workers[index]
        self._ready.discard(index)
        last = self._latest.pop(index, None)
        if last is not None:
            self._buried = merge((self._buried, {**last, "gauges": {}}))
        return code

    async def _serve_metrics(self) -> web.AppRunner:
        registry = CollectorRegistry()
        registry.register(self)

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

        async def health(_: web.Request) -> web.Response:
            is_up = len(self._ready) == self._settings.gateway.workers
            return web.json_response({"workers_ready": len(self._ready)}, status=200 if is_up else 503)

        app = web.Application()
        app.add_routes([web.get("/metrics", metrics), web.get("/health", health)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        gateway = self._settings.gateway
        try:
            await web.TCPSite(runner, gateway.host, gateway.metrics_port).start()
        except OSError as error:
            raise StartError(f"gateway.metrics_port {gateway.metrics_port}: {error.strerror or error}") from None
        return runner

    def collect(self) -> list[Any]:
        """Prometheus families of all workers together, the dead included."""
        return families(merge((self._buried, *self._latest.values())), len(self._workers))


def _hold_port(host: str, port: int) -> socket.socket:
    """A bound, silent socket: it keeps the number (also one picked by the system) while workers come and go."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:  # without SO_REUSEPORT: notices any other listener
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            port = probe.getsockname()[1]
        held = socket.socket(family, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((host, port))
    except OSError as error:
        raise StartError(f"gateway.port {port} on {host}: {error.strerror or error}") from None
    return held


def _plain(settings: Settings) -> dict[str, Any]:
    """The settings with their secrets, for a worker's pipe."""
    plain = settings.model_dump(mode="json")
    for name in ("postgres_url", "redis_url"):
        secret = getattr(settings, name)
        plain[name] = secret.get_secret_value() if secret is not None else None
    return plain


# -- a worker


class Worker:
    """One worker process: wires everything, runs, and takes it down in reverse order."""

    def __init__(self, settings: Settings, port: int) -> None:
        self._settings = settings
        self._port = port
        self._stopping = asyncio.Event()
        self._out: asyncio.WriteTransport | None = None

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        settings, gateway_settings = self._settings, self._settings.gateway
        assert settings.postgres_url is not None
        assert settings.redis_url is not None
        clock = Clock()
        metrics = Metrics()
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        redis = RedisPipe(
            settings.redis_url.get_secret_value(), SCRIPTS, deadline=gateway_settings.store_deadline_ms / 1000
        )
        snapshot = Snapshot(
            settings.postgres_url.get_secret_value(),
            deadline=gateway_settings.lookup_deadline_ms / 1000,
            poll_interval=gateway_settings.poll_interval_ms / 1000,
            max_keys=gateway_settings.max_cached_keys,
        )
        limiter = Limiter(redis)
        pools = Pools(clock)
        gateway = Gateway(
            snapshot, limiter, pools, clock, metrics, name, settings.redis_shards, gateway_settings.trust_forwarded
        )
        door = Door(gateway, gateway_settings, set())
        redis.start()
        snapshot.start()
        server = await loop.create_server(
            lambda: ClientConnection(door), gateway_settings.host, self._port, reuse_port=True, backlog=2048
        )
        beat = asyncio.create_task(self._beat(door, redis, name), name="gateway-beat")
        beat.add_done_callback(self._beat_ended)
        await self._attach_pipes()
        self._say({"ready": True})
        await self._stopping.wait()

        gateway.is_draining = True
        server.close()
        deadline = loop.time() + gateway_settings.drain_timeout_ms / 1000
        for connection in tuple(door.connections):
            connection.drain()
        while door.connections and loop.time() < deadline:
            await asyncio.sleep(0.02)
        for connection in tuple(door.connections):
            connection.abort()
        await asyncio.sleep(0)
        left = await limiter.drain(max(1.0, deadline - loop.time()))
        if left:
            _log.error("stopped with %d settlements unsent; their reservations will be swept", left)
        beat.cancel()
        self._say(_snapshot_of(door, redis))
        pools.close()
        await snapshot.close()
        await redis.close()

    async def _beat(self, door: Door, redis: RedisPipe, name: str) -> None:
        """What happens on the clock: deadlines, idle connections, backlog, sign of life, figures for the parent."""
        gateway = door.gateway
        alive = encode(("SET", names.gateway_alive(name), "alive", "EX", "15"))
        backlog = _Backlog(gateway.limiter, self._settings.stream_max_entries, gateway.shards)
        beats = 0
        while True:
            await asyncio.sleep(TICK)
            gateway.clock.tick()
            beats += 1
            if beats % 2 == 0:
                now = gateway.clock.now
                for connection in tuple(door.connections):
                    connection.sweep(now)
            if beats % 10 == 0:
                gateway.pools.sweep()
                if redis.available:
                    backlog.ask(redis)
                    if beats % 50 == 0 or beats == 10:
                        redis.send(alive, backlog)
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
        """One line to the parent; left out while the parent has not read the last (the next one supersedes it)."""
        if self._out is not None and not self._out.get_write_buffer_size():
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
                was_full, self._limiter.backlogged = self._limiter.backlogged, self._longest >= self._bound
                if self._limiter.backlogged and not was_full:
                    _log.error("a usage stream holds %d events; refusing requests until it drains", self._longest)

    def on_timeout(self) -> None:
        pass


def _snapshot_of(door: Door, redis: RedisPipe) -> dict[str, Any]:
    gateway = door.gateway
    metrics = gateway.metrics
    metrics.counts["redis_errors_total"] = redis.errors
    metrics.counts["postgres_errors_total"] = gateway.snapshot.errors
    metrics.gauges = {
        "connections": len(door.connections),
        "requests_in_flight": sum(1 for c in door.connections if c.is_busy),
        "settlements_waiting": gateway.limiter.unsettled,
    }
    return metrics.snapshot()


def _worker_main() -> None:
    first = sys.stdin.buffer.readline()
    if not first:
        sys.exit("gateway.app is started by the gateway's parent process; use: tollgate gateway")
    message = orjson.loads(first)
    settings = Settings.model_validate(message["settings"])
    setup(settings, plane="gateway")
    uvloop.run(Worker(settings, message["port"]).run())


if __name__ == "__main__":
    _worker_main()
