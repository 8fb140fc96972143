"""The sandbox's process: picks a backend, serves the API until SIGTERM or SIGINT, closes in reverse order.

It starts while PostgreSQL is down and where no backend is safe: /ready then says so, with what to install, and runs are
refused. Asked to stop, it takes no new connections, ends runs in hand as `stopped` and answers them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from config.log import setup
from config.settings import SandboxSettings, Settings
from sandbox.api import Api, guard
from sandbox.backends.base import Backend
from sandbox.backends.choose import Choice, choose
from sandbox.backends.docker.backend import DockerBackend, DockerOptions
from sandbox.backends.jail.backend import JailBackend, JailOptions
from sandbox.egress.policy import Network
from sandbox.functions import Functions
from sandbox.metrics import SandboxMetrics
from sandbox.nouns import MIB, Language
from sandbox.packages.install import Index, Packages
from sandbox.packages.layers import Layers
from sandbox.request import Ceilings
from sandbox.runner import Runner
from sandbox.scheduler import Bounds, Scheduler
from sandbox.store.database import Database
from sandbox.store.endpoints import Endpoints
from sandbox.store.nodes import Nodes, name_of
from sandbox.store.runs import Runs
from sandbox.survey import Survey, survey

DRAIN_S: Final = 10.0

log = logging.getLogger(__name__)


class Unusable(Exception):
    """The settings do not let the sandbox run. The message says which and why, without a secret."""


@dataclass(frozen=True, slots=True)
class Running:
    """Where it listens: base URLs without a trailing slash (`unix:` and a path for a socket), and what it chose."""

    url: str
    metrics_url: str
    choice: Choice


def main(settings: Settings) -> None:
    """Run the sandbox in this process until it is asked to stop. Raises SystemExit if it cannot run."""
    setup(settings, "sandbox")
    try:
        uvloop.run(_until_signalled(settings))
    except Unusable as error:
        raise SystemExit(f"tollgate sandbox: {error}") from None


async def _until_signalled(settings: Settings) -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with running(settings):
        await stop.wait()
        log.info("stopping; runs in hand are ended")


def candidates(settings: SandboxSettings) -> dict[str, Callable[[], Backend]]:
    """The backends to look at, in order."""
    options = JailOptions(
        bwrap=str(settings.bwrap) if settings.bwrap is not None else None,
        python=str(settings.python) if settings.python is not None else None,
        node=str(settings.node) if settings.node is not None else None,
        warm_python=settings.warm_python,
        warm_node=settings.warm_node,
        slots=settings.max_running + 8,
        uid_base=settings.uid_base,
        pids=settings.max_pids,
        cpus=settings.cpus,
        workspace_bytes=settings.workspace_mb * MIB,
        bubblewrap_only=settings.bubblewrap_only,
        zygote=settings.zygote,
    )
    containers = DockerOptions(
        url=settings.docker_url,
        image=settings.docker_image,
        runtime=settings.docker_runtime,
        warm_python=settings.warm_python,
        warm_node=settings.warm_node,
        pids=settings.max_pids,
        cpus=settings.cpus,
        workspace_bytes=settings.workspace_mb * MIB,
    )
    every: dict[str, Callable[[], Backend]] = {
        "jail": lambda: JailBackend(options),
        "docker": lambda: DockerBackend(containers),
    }
    return every if settings.backend == "auto" else {settings.backend: every[settings.backend]}


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """The sandbox, from choosing a backend to drained. Raises Unusable."""
    ours = settings.sandbox
    if ours.postgres_url is None:
        raise Unusable("sandbox.postgres_url is not set (TOLLGATE_SANDBOX_POSTGRES_URL)")
    if ours.secret is None and ours.socket is None:
        raise Unusable(
            "neither sandbox.secret (TOLLGATE_SANDBOX_SECRET) nor sandbox.socket is set: anybody could run code"
        )
    registry = CollectorRegistry()
    metrics = SandboxMetrics(registry)
    ceilings = Ceilings(
        ours.max_timeout_ms, ours.max_memory_mb, ours.max_output_bytes, ours.max_pids, ours.workspace_mb * MIB
    )
    bounds = Bounds(
        ours.max_running,
        ours.max_running_per_project,
        ours.max_waiting,
        ours.max_waiting_per_project,
        ours.wait_ms / 1000,
    )
    async with AsyncExitStack() as closing:
        database = Database(ours.postgres_url.get_secret_value())
        closing.push_async_callback(database.close)
        runs = Runs(database, timedelta(days=ours.keep_days))
        runs.open()
        closing.push_async_callback(runs.close)
        choice = await choose(candidates(ours))
        if choice.backend is not None:
            closing.push_async_callback(choice.backend.close)
        packages = _packages(ours, choice.backend) if choice.backend is not None else None
        scheduler = Scheduler(bounds)
        runner = Runner(
            choice.backend, choice.why_not, scheduler, runs, metrics, packages, _networks(ours.egress_networks)
        )
        metrics.running.set_function(lambda: scheduler.running)
        metrics.waiting.set_function(lambda: scheduler.waiting)
        metrics.results_dropped.set_function(lambda: runs.dropped)
        metrics.backend_up.set_function(lambda: float(_backend_state(choice) == "up"))
        metrics_url = await _listen(closing, _metrics_app(registry), ours.host, ours.metrics_port)
        secret = ours.secret.get_secret_value() if ours.secret is not None else None
        app = web.Application(middlewares=[guard(secret)], client_max_size=ours.max_body_bytes)
        app.on_response_prepare.append(_without_server)
        nodes = Nodes(database, name_of(socket.gethostname(), _where(ours)), (secret or "").encode())
        api = Api(runner, runs, ceilings, nodes)
        api.add_to(app)
        nodes.open(api.told)
        closing.push_async_callback(nodes.close)
        Functions(runner, Endpoints(database), ceilings).add_to(app)
        app.router.add_get("/health", _health)
        app.router.add_get("/ready", _readiness(choice, database, await survey(ours)))
        if ours.socket is not None:
            url = await _listen_unix(closing, app, str(ours.socket))
        else:
            url = await _listen(closing, app, ours.host, ours.port)
        closing.push_async_callback(runner.close)  # first of all: whoever waits for a run gets its end
        log.info("listening on %s, metrics on %s", url, metrics_url)
        yield Running(url, metrics_url, choice)


def _packages(ours: SandboxSettings, backend: Backend) -> Packages | None:
    """What installs packages, where any index is set. Raises Unusable."""
    indexes = {}
    for language, url, hosts in (
        (Language.PYTHON, ours.python_index, ours.python_index_hosts),
        (Language.NODE, ours.node_registry, ours.node_registry_hosts),
    ):
        if url is not None:
            indexes[language] = Index(url, tuple(host.strip().lower() for host in hosts.split(",") if host.strip()))
    if not indexes:
        return None
    if ours.layers_dir is not None:
        directory = ours.layers_dir
    else:
        directory = Path("/var/lib/tollgate-sandbox") if os.geteuid() == 0 else Path.home() / ".cache/tollgate-sandbox"
    try:
        layers = Layers(directory / "layers", ours.layers_mb * MIB)
    except OSError as error:
        raise Unusable(f"sandbox.layers_dir: {directory} cannot be used: {error.strerror}") from None
    return Packages(backend, layers, indexes, _networks(ours.egress_networks))


def _where(ours: SandboxSettings) -> str:
    """Where a node listens, as part of its name; one on any free port is another each time."""
    if ours.socket is not None:
        return str(ours.socket)
    return f"{ours.host}:{ours.port}" if ours.port else f"{ours.host}:{secrets.token_hex(8)}"


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def _backend_state(choice: Choice) -> str:
    return choice.backend.state() if choice.backend is not None else "none"


def _readiness(choice: Choice, database: Database, machine: Survey) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def ready(_: web.Request) -> web.Response:
        backend, postgres = _backend_state(choice), await database.state()
        is_ready = backend == "up" and postgres == "up"
        body = {
            "status": "ready" if is_ready else "not ready",
            "dependencies": {"backend": backend, "postgres": postgres},
            "backend": choice.backend.name if choice.backend is not None else None,
            "languages": sorted(choice.backend.languages()) if choice.backend is not None else [],
            "backends": dict(choice.reasons),
            "machine": machine.as_json(),
        }
        return web.json_response(body, status=200 if is_ready else 503)

    return ready


def _metrics_app(registry: CollectorRegistry) -> web.Application:
    async def exposition(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/metrics", exposition)
    app.router.add_get("/health", _health)
    return app


async def _without_server(_: web.Request, response: web.StreamResponse) -> None:
    """What this is made of is nobody's business."""
    response.headers.popall("Server", None)


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _runner(closing: AsyncExitStack, app: web.Application) -> web.AppRunner:
    # A client that goes away cancels its handler, which stops its run.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=DRAIN_S, handler_cancellation=True)
    await runner.setup()
    closing.push_async_callback(runner.cleanup)
    return runner


async def _listen(closing: AsyncExitStack, app: web.Application, host: str, port: int) -> str:
    runner = await _runner(closing, app)
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise Unusable(f"cannot listen on {host}:{port}: {error.strerror}") from None
    bound_host, bound_port = runner.addresses[0][:2]
    return f"http://[{bound_host}]:{bound_port}" if ":" in bound_host else f"http://{bound_host}:{bound_port}"


async def _listen_unix(closing: AsyncExitStack, app: web.Application, path: str) -> str:
    runner = await _runner(closing, app)
    mask = os.umask(0o117)  # for our own user and group
    try:
        await web.UnixSite(runner, path).start()
    except OSError as error:
        raise Unusable(f"cannot listen on {path}: {error.strerror}") from None
    finally:
        os.umask(mask)
    return f"unix:{path}"
