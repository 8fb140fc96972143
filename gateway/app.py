"""The gateway plane's parent process: keeps N workers alive and adds up what they count.

The parent holds the port's number, starts the workers, restarts the ones that die (after 0.1 s, doubling to 5 s while they
die young) and serves /metrics for all of them. Each worker listens on the same port (SO_REUSEPORT), with an event loop of
its own. Settings go to a worker over its standard input, never over the command line; when that pipe closes, the parent is
gone and the worker stops. Over its standard output a worker says when it is ready and, once a second, what it has counted.

SIGTERM or SIGINT: workers stop accepting, finish what is open within `drain_timeout_ms`, settle, and exit.
"""

from __future__ import annotations

import asyncio
import logging
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
from gateway.metrics import families, merge
from gateway.store.redis import address_of
from gateway.tls import TlsError, certificate_of

_log = logging.getLogger("gateway.app")
_BACKOFF_S: Final = (0.1, 5.0)
_OLD_ENOUGH_S: Final = 10.0


class StartError(Exception):
    """The gateway cannot start; the message says what to change."""


def main(settings: Settings) -> None:
    """Run the gateway plane until SIGTERM or SIGINT. Raises StartError."""
    setup(settings, plane="gateway")
    if settings.postgres_url is None or settings.redis_url is None:
        raise StartError("the gateway needs postgres_url and redis_url (TOLLGATE_POSTGRES_URL, TOLLGATE_REDIS_URL)")
    try:
        address_of(settings.redis_url.get_secret_value())
        certificate_of(settings.gateway)
    except (TlsError, ValueError) as error:
        raise StartError(str(error)) from None
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
            self._signal_all(signal.SIGTERM)
            _, late = await asyncio.wait(keepers, timeout=gateway.drain_timeout_ms / 1000 + 5)
            self._signal_all(signal.SIGKILL)
            if late:
                await asyncio.wait(late)
            await runner.cleanup()

    def _signal_all(self, number: signal.Signals) -> None:
        for process in self._workers.values():
            try:
                process.send_signal(number)
            except ProcessLookupError:  # it has ended and is about to be noticed
                pass

    async def _keep(self, index: int, port: int) -> None:
        """One worker after the other in one place."""
        delay = _BACKOFF_S[0]
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            began = loop.time()
            try:
                code: int | str = await self._run_worker(index, port)
            except OSError as error:  # no process or no memory to be had: perhaps later
                code = str(error)
            if self._stopping.is_set():
                return
            delay = _BACKOFF_S[0] if loop.time() - began > _OLD_ENOUGH_S else min(_BACKOFF_S[1], delay * 2)
            _log.error(
                "a worker died and is started again", extra={"worker": index, "exit_code": code, "delay_s": delay}
            )
            try:
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
            except TimeoutError:
                pass

    async def _run_worker(self, index: int, port: int) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.worker",
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
