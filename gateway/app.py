"""The gateway plane's parent process: keeps N workers alive and adds up what they count.

The parent holds the port, one listening socket per worker (gateway.slots), restarts workers that die, and serves /metrics
for all of them. Each worker has an event loop of its own; when its standard input closes, the parent is gone and it stops.

SIGTERM or SIGINT: workers stop accepting, finish what is open within `drain_timeout_ms`, settle, and exit.
SIGHUP: the settings are read again and the workers are replaced one after the other, each new one serving before the old
one finishes, without a failed request. So settings, certificates and a newly installed version take effect; what the
parent itself holds (addresses, ports, number of workers) needs a restart, and is said so.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
from collections.abc import Callable
from typing import Any, Final

import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from pydantic import SecretStr

from config.load import values
from config.log import setup
from config.settings import Settings
from gateway.metrics import families, merge
from gateway.slots import Slot, WorkerProcess, listen_in
from gateway.spool.disk import SpoolError, usable
from gateway.store.redis import address_of
from gateway.tls import TlsError, certificate_of
from ledger.vault import VaultError, vault_of

_log = logging.getLogger("gateway.app")
SECRETS_OF_WORKERS: Final = frozenset(("postgres_url", "redis_url", "encryption_keys", "sandbox.secret"))
"""What a process that strangers talk to has to know, by path in the settings."""
_HELD_BY_PARENT: Final = ("host", "port", "metrics_port", "workers")


class StartError(Exception):
    """The gateway cannot start; the message says what to change."""


def main(settings: Settings, reload: Callable[[], Settings]) -> None:
    """Run the gateway plane until SIGTERM or SIGINT. `reload` reads the settings again; it may raise. Raises StartError."""
    setup(settings, plane="gateway")
    _check(settings)
    raise_file_limit()
    uvloop.run(_Parent(settings, reload).run())


def raise_file_limit() -> None:
    """Let this process and its workers open as many files as they may: shells often grant a thousand of many more."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _check(settings: Settings) -> None:
    """Raises StartError when no worker could ever start with these settings."""
    if settings.postgres_url is None or settings.redis_url is None:
        raise StartError("the gateway needs postgres_url and redis_url (TOLLGATE_POSTGRES_URL, TOLLGATE_REDIS_URL)")
    try:
        address_of(settings.redis_url.get_secret_value())
        certificate_of(settings.gateway)
        vault_of(settings)
        if settings.gateway.spool_max_bytes:
            usable(settings.gateway.spool_dir)
    except SpoolError as error:
        raise StartError(f"gateway.spool_dir: {error}") from None
    except (TlsError, VaultError, ValueError) as error:
        raise StartError(str(error)) from None


class _Parent(Collector):
    """Keeps the workers alive and adds up what they count."""

    def __init__(self, settings: Settings, reload: Callable[[], Settings]) -> None:
        self._settings = settings
        self._reload = reload
        self._stopping = asyncio.Event()
        self._hung_up = asyncio.Event()
        self._slots: list[Slot] = []
        self._workers: dict[WorkerProcess, asyncio.Task[None]] = {}
        self._buried: dict[str, Any] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        gateway = self._settings.gateway
        try:
            listeners = listen_in(gateway.workers, gateway.host, gateway.port)
        except OSError as error:
            why = error.strerror or error
            raise StartError(f"gateway.port {gateway.port} on {gateway.host}: {why}") from None
        port = listeners[0].getsockname()[1]
        self._slots = [
            Slot(i, listener, lambda: _plain(self._settings), self._begun, self._stopping)
            for i, listener in enumerate(listeners)
        ]
        try:
            runner = await self._serve_metrics()
            tasks = [asyncio.create_task(slot.keep(), name=f"slot-{i}") for i, slot in enumerate(self._slots)]
            tasks.append(asyncio.create_task(self._reload_when_told(), name="reload"))
            _log.info("listening", extra={"host": gateway.host, "port": port, "workers": gateway.workers})
            await self._stopping.wait()
        finally:
            for slot in self._slots:
                slot.close()
        for worker in self._workers:
            worker.send(signal.SIGTERM)
        await self._all_ended(self._settings.gateway.drain_timeout_ms / 1000 + 5)
        for worker in self._workers:
            worker.send(signal.SIGKILL)
        self._hung_up.set()  # whoever waits for it sees that it is over
        await asyncio.gather(*tasks)
        await self._all_ended(None)
        await runner.cleanup()

    async def _all_ended(self, within_s: float | None) -> None:
        if self._workers:
            await asyncio.wait(self._workers.values(), timeout=within_s)

    async def _reload_when_told(self) -> None:
        """Replace the workers one after the other, each time that SIGHUP asked for it."""
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            if self._stopping.is_set():
                return
            try:
                settings = self._reload()
                _check(settings)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with them, the running ones go on
                _log.error("the settings stay as they were: %s", error)
                continue
            before, after = self._settings.gateway, settings.gateway
            for name in _HELD_BY_PARENT:
                if getattr(before, name) != getattr(after, name):
                    _log.warning("gateway.%s changes only when the gateway is restarted", name)
            self._settings = settings
            replaced = 0
            for slot in self._slots:
                replaced += await slot.replace(after.drain_timeout_ms / 1000)
            _log.info("workers replaced", extra={"replaced": replaced, "workers": len(self._slots)})

    def _begun(self, worker: WorkerProcess) -> None:
        task = asyncio.create_task(worker.follow(), name=f"worker-{worker.pid}")
        self._workers[worker] = task
        task.add_done_callback(lambda _: self._bury(worker))

    def _bury(self, worker: WorkerProcess) -> None:
        """It has ended: what it counted stays counted."""
        del self._workers[worker]
        if worker.latest is not None:
            self._buried = merge((self._buried, {**worker.latest, "gauges": {}, "targets": {}}))

    async def _serve_metrics(self) -> web.AppRunner:
        registry = CollectorRegistry()
        registry.register(self)

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

        async def health(_: web.Request) -> web.Response:
            ready = sum(slot.is_ready for slot in self._slots)
            return web.json_response({"workers_ready": ready}, status=200 if ready == len(self._slots) else 503)

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
        living = [worker.latest for worker in self._workers if worker.latest is not None]
        return families(merge((self._buried, *living)), len(self._workers))


def _plain(settings: Settings) -> dict[str, Any]:
    """The settings for a worker's pipe, with the secrets that it needs; all others, wherever they are, stay masked."""
    plain = settings.model_dump(mode="json")
    for path, value in values(settings).items():
        if path in SECRETS_OF_WORKERS and isinstance(value, SecretStr):
            *sections, name = path.split(".")
            node = plain
            for section in sections:
                node = node[section]
            node[name] = value.get_secret_value()
    return plain
