"""`tollgate dev` as a whole: the composition root of the development stack.

    state directory locked → PostgreSQL, Redis → migrations → demo upstream, demo project → --apply FILE
    → worker, admin, gateway, sandbox → dev.json and the summary → supervised until Ctrl-C → all stopped in reverse order

Whatever fails on the way up stops what already runs and ends in one line. Should this process be killed, the guards of
its children stop them.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
from pydantic import SecretStr

from admin.changes import Refused
from config.load import Loaded
from config.settings import Settings
from tollgate.commands import UserError
from tollgate.database import connected, migrate
from tollgate.dev import demo, person, planes, ports, summary
from tollgate.dev.child import Child, spawn
from tollgate.dev.databases import sandbox_database
from tollgate.dev.embedded import EmbeddedError, Server, start_postgres, start_redis
from tollgate.dev.server import free_port
from tollgate.dev.state import StateDirectory
from tollgate.dev.supervisor import StartError, Supervisor, Unit

_REFRESH_S: Final = 0.5
_APPLY_TIMEOUT_S: Final = 120.0
_PATIENCE_S: Final = 1.0
"""A second signal sooner than this is the first one again: make passes on what its whole group got already."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line of `tollgate dev` says beyond settings."""

    state_dir: Path
    apply: Path | None = None
    demo: bool = True


class Stack:
    """Everything that runs, and what is known of it."""

    def __init__(self, loaded: Loaded, options: Options, state: StateDirectory) -> None:
        wired = planes.with_spool_in(planes.with_admin_behind_gateway(ports.assign(loaded)), options.state_dir)
        wired = planes.with_sandbox_behind_gateway(wired)
        self.settings: Settings = _with_key(wired, state)
        self.supervisor = Supervisor()
        self.demo: demo.Demo | None = None
        self.sign_in: str | None = None
        self.state_dir = options.state_dir
        self._options = options
        self._state = state
        self._info: dict[str, Any] = {}

    async def up(self) -> None:
        """Start everything. Raises UserError or StartError; what already runs is stopped by `down`."""
        servers = []
        if self.settings.postgres_url is None:
            servers.append(self._server("postgres", "postgres_url", start_postgres))
        if self.settings.redis_url is None:
            servers.append(self._server("redis", "redis_url", start_redis))
        await self.supervisor.start(*servers)
        assert self.settings.postgres_url is not None
        postgres_url = self.settings.postgres_url.get_secret_value()
        if servers and servers[0].name == "postgres" and self.settings.sandbox.postgres_url is None:
            await self._give_sandbox_a_database(postgres_url)
        has_sandbox = self.settings.sandbox.postgres_url is not None
        if not has_sandbox:
            log.warning("no code runner: set TOLLGATE_SANDBOX_POSTGRES_URL to a database with a role of its own")
        for name in await migrate(postgres_url):
            log.info("migration %s applied", name)
        if self._options.demo:
            upstream_url = await self._start_demo_upstream()
            async with connected(postgres_url) as connection:
                try:
                    runner_url = self.settings.gateway.sandbox_url if has_sandbox else None
                    plans_url = f"{self.settings.admin.origin}/dashboard/billing"
                    kept = self._state.read_keys()
                    self.demo = await demo.seed(connection, upstream_url, kept, runner_url, plans_url)
                except (Refused, asyncpg.PostgresError) as error:
                    raise UserError(f"the demo project cannot be made: {error}; --no-demo does without it") from None
            self._state.write_keys(dict(self.demo.keys))
        async with connected(postgres_url) as connection:
            project_id = self.demo.project_id if self.demo else None
            self.sign_in = await person.prepare(connection, self.settings.admin.origin, project_id)
        if self._options.apply is not None:
            await self._apply(self._options.apply)
        names = ("worker", "admin", "gateway", "sandbox") if has_sandbox else ("worker", "admin", "gateway")
        await self.supervisor.start(*map(self._plane, names))

    async def down(self) -> None:
        """Stop everything in reverse order."""
        await self.supervisor.stop()
        self._state.remove_info()

    def refresh(self) -> dict[str, Any]:
        """Write dev.json again if a process has changed since; returns its content.

        While something is being started again its last process stays listed.
        """
        pids: dict[str, Any] = self._info.get("pids", {"gateway": [], "admin": [], "worker": [], "sandbox": []})
        pids = {"postgres": None, "redis": None} | pids
        for unit in self.supervisor.units:
            if unit.child is not None and unit.name in pids:
                is_server = unit.name in ("postgres", "redis")
                pids[unit.name] = unit.child.pid if is_server else [unit.child.pid, *planes.children_of(unit.child.pid)]
        found = summary.info(self.settings, self.demo, pids, self.sign_in)
        if found != self._info:
            self._state.note_children(self.supervisor.guards())
            self._state.write_info(found)
            self._info = found
        return found

    def _server(self, name: str, setting: str, start: Callable[..., Server]) -> Unit:
        port = 0  # picked at the first start, kept from then on: the planes know it

        async def start_server() -> Child:
            nonlocal port
            try:
                server = await asyncio.to_thread(start, self._state.path / name, port=port)
            except (EmbeddedError, OSError) as error:
                raise StartError(str(error)) from None
            port = server.port
            self.settings = self.settings.model_copy(update={setting: SecretStr(server.url)})
            return server.child

        return Unit(name, start_server)

    async def _give_sandbox_a_database(self, postgres_url: str) -> None:
        async with connected(postgres_url) as connection:
            url = await sandbox_database(connection, postgres_url)
        sandbox = self.settings.sandbox.model_copy(update={"postgres_url": SecretStr(url)})
        self.settings = self.settings.model_copy(update={"sandbox": sandbox})

    def _plane(self, name: str) -> Unit:
        return Unit(name, lambda: planes.start_plane(name, self.settings, self._state.info_file))

    async def _start_demo_upstream(self) -> str:
        port = free_port()
        url = planes.base_url("127.0.0.1", port)
        program = [sys.executable, "-P", "-m", "tollgate.dev.demo_upstream", "--port", str(port)]
        env = planes.environment(Settings())  # it needs none of ours, and no secret
        await self.supervisor.start(
            Unit("demo", lambda: planes.start_http(program, "demo", f"{url}/hello", env, grace_s=5.0))
        )
        return url

    async def _apply(self, file: Path) -> None:
        program = [*planes.TOLLGATE, "apply", "-f", str(file)]
        child = spawn(program, name="apply", env=planes.environment(self.settings))
        try:
            async with asyncio.timeout(_APPLY_TIMEOUT_S):
                status = await child.ended()
        except TimeoutError:
            child.stop()
            raise UserError(f"--apply {file}: no end within {_APPLY_TIMEOUT_S:.0f} s") from None
        except asyncio.CancelledError:
            child.stop()
            raise
        if status != 0:
            raise UserError(f"--apply {file} failed, see above")


def _with_key(settings: Settings, state: StateDirectory) -> Settings:
    """The settings with an encryption key, unless they name one."""
    if settings.encryption_keys is not None or settings.encryption_keys_file is not None:
        return settings
    return settings.model_copy(update={"encryption_keys": SecretStr(state.encryption_key())})


async def run(loaded: Loaded, options: Options) -> int:
    """Run the stack until SIGINT, SIGTERM or SIGHUP; a second one, a second later, shortens the stop. Raises UserError."""
    state = StateDirectory.open(options.state_dir)
    try:
        await asyncio.to_thread(state.begin)
        await _run(Stack(loaded, options, state))
    finally:
        state.close()
    return 0


async def _run(stack: Stack) -> None:
    loop = asyncio.get_running_loop()
    interrupted = asyncio.Event()
    patience_ends = 0.0

    def interrupt() -> None:
        nonlocal patience_ends
        if not interrupted.is_set():
            patience_ends = loop.time() + _PATIENCE_S
            interrupted.set()
        elif loop.time() > patience_ends:
            stack.supervisor.hurry()

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signum is not signal.SIGHUP or signal.getsignal(signum) is not signal.SIG_IGN:  # nohup stays nohup
            loop.add_signal_handler(signum, interrupt)
    life = asyncio.create_task(_live(stack), name="stack")
    end = asyncio.create_task(interrupted.wait(), name="interrupt")
    try:
        await asyncio.wait((life, end), return_when=asyncio.FIRST_COMPLETED)
    finally:
        end.cancel()
        life.cancel()
        (outcome, _) = await asyncio.gather(life, end, return_exceptions=True)
        log.info("stopping")
        await stack.down()
    if isinstance(outcome, StartError):
        raise UserError(str(outcome))
    if isinstance(outcome, Exception):
        raise outcome


async def _live(stack: Stack) -> None:
    await stack.up()
    print(summary.text(stack.refresh(), stack.state_dir), flush=True)
    while True:
        await asyncio.sleep(_REFRESH_S)
        stack.refresh()
