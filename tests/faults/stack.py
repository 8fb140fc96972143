"""The stack that the faults are done to: real servers and processes, each of which can be killed, paused and started again.

PostgreSQL and Redis are the embedded ones (Redis with an append-only file), kept on their ports and folders over restarts;
gateway and worker are `tollgate gateway` and `tollgate worker` with settings in their environment. Everything lives in one
temporary folder; `close` ends and removes all of it, whatever state it is in.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import psutil
import redis.asyncio

from ledger.migrate import migrate
from ledger.specs import StoreFailure
from tests.e2e.stack import environment
from tests.faults.load import hang_up
from tests.faults.origin import Origin
from tests.faults.till import bill_from_now_on
from tests.support.gateway import Catalogue
from tests.support.servers import quick_directory
from tests.support.upstreams.child import REPOSITORY
from tollgate.dev.embedded import Server, start_postgres, start_redis
from tollgate.dev.server import free_port

SHARDS = 4
QUOTA = 30
PER_MINUTE = 15
ESTIMATE = 3
"""Units that are reserved for a request before its answer says how many they were."""
SPOOL_BYTES = 1 << 20
_SHIFTED = Path(__file__).parent / "shifted"


class Stack:
    """See the module. `origin` is the upstream of all routes."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.folder = quick_directory("chaos")
        self.spool = self.folder / "spool"
        self.port, self._metrics_port, self._worker_port = free_port(), free_port(), free_port()
        self._postgres_port, self._redis_port = free_port(), free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._is_mounted = False
        self.key = ""
        self.clock_offset_s = 0.0

    async def start(self) -> None:
        """Everything up, seeded and ready."""
        self.spool.mkdir()
        if os.geteuid() == 0:
            options = f"size={SPOOL_BYTES},mode=700"
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "chaos", self.spool], capture_output=True)
            self._is_mounted = done.returncode == 0
        await asyncio.gather(self.start_postgres(), self.start_redis())
        async with asyncio.timeout(30):
            connection = await asyncpg.connect(self.postgres.url)
        await migrate(connection)
        await self._seed(Catalogue(connection))
        await bill_from_now_on(connection)
        await connection.close()
        self.start_worker()
        self.start_gateway()
        await self.ready()

    async def _seed(self, rows: Catalogue) -> None:
        await rows.project()
        await rows.tier("free", default=True, quotas={"units": None})
        await rows.tier("tight", quotas={"requests": QUOTA, "units": None})
        await rows.tier("minute", per_minute=PER_MINUTE, quotas={"units": None})
        self.key = await rows.key("sk")
        for policy in (StoreFailure.CLOSED, StoreFailure.SHARE):
            await rows.route(
                policy.value,
                f"/{policy.value}/*",
                [("127.0.0.1", self.origin.port)],
                on_store_failure=policy,
                meters={"requests": 1, "units": {"source": "header:X-Units", "estimate": ESTIMATE}},
            )

    # -- servers

    async def start_postgres(self) -> None:
        self.postgres: Server = await asyncio.to_thread(
            start_postgres, self.folder / "postgres", port=self._postgres_port
        )

    async def start_redis(self) -> None:
        self.redis: Server = await asyncio.to_thread(start_redis, self.folder / "redis", port=self._redis_port)

    # -- planes

    def start_gateway(self) -> None:
        self._start(
            "gateway",
            TOLLGATE_GATEWAY_PORT=str(self.port),
            TOLLGATE_GATEWAY_METRICS_PORT=str(self._metrics_port),
            TOLLGATE_GATEWAY_WORKERS="2",
            TOLLGATE_GATEWAY_SPOOL_DIR=str(self.spool),
            TOLLGATE_GATEWAY_SPOOL_MAX_BYTES=str(16 * SPOOL_BYTES if self._is_mounted else SPOOL_BYTES // 2),
            **self.gateway_settings(),
        )

    def gateway_settings(self) -> dict[str, str]:
        """What else a gateway is told."""
        return {}

    def start_worker(self) -> None:
        self._start("worker", TOLLGATE_WORKER_METRICS_PORT=str(self._worker_port))

    def _start(self, plane: str, **settings: str) -> None:
        servers = {"TOLLGATE_POSTGRES_URL": self.postgres.url, "TOLLGATE_REDIS_URL": self.redis.url}
        env = environment(**servers, TOLLGATE_REDIS_SHARDS=str(SHARDS), **settings)
        env["PYTHONPATH"] = str(_SHIFTED)
        env["CHAOS_CLOCK_OFFSET_S"] = str(self.clock_offset_s)
        self.start_process(plane, env)

    def start_process(self, plane: str, env: dict[str, str]) -> None:
        """`tollgate PLANE` with this environment, its output in a file of our folder."""
        with (self.folder / f"{plane}.log").open("ab") as log:
            self._processes[plane] = subprocess.Popen(
                [sys.executable, "-m", "tollgate.cli", plane], cwd=REPOSITORY, env=env, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def pid(self, plane: str) -> int:
        return self._processes[plane].pid

    def gateway_workers(self) -> list[int]:
        """The processes that serve requests."""
        return [child.pid for child in psutil.Process(self.pid("gateway")).children()]

    async def stop(self, plane: str) -> None:
        """In order, as an operator would."""
        process = self._processes[plane]
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait, 40)

    async def kill(self, plane: str) -> None:
        process = self._processes[plane]
        process.kill()
        await asyncio.to_thread(process.wait, 10)

    async def ready(self, within_s: float = 40.0) -> None:
        """Wait until the gateway says that it is ready, twice (two processes share the port)."""
        give_up = time.monotonic() + within_s
        good = 0
        answer = b"nothing"
        while good < 4:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(b"GET /ready HTTP/1.1\r\nHost: chaos\r\nConnection: close\r\n\r\n")
                    async with asyncio.timeout(2):
                        answer = await reader.read(4096)
                finally:
                    await hang_up(writer)
                good = good + 1 if b" 200 " in answer[:20] else 0
            except (OSError, TimeoutError):
                good = 0
            assert time.monotonic() < give_up, f"not ready: {answer!r}\n{self.log()}"
            await asyncio.sleep(0.05 if not good else 0)

    # -- looking in

    def client(self) -> redis.asyncio.Redis:
        """A connection to Redis; the caller closes it."""
        client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(self.redis.url)
        return client

    def log(self, lines: int = 40) -> str:
        """The end of what each plane said."""
        parts = []
        for plane in self._processes:
            path = self.folder / f"{plane}.log"
            text = path.read_text(errors="replace") if path.exists() else ""
            parts.append(f"--- {plane}\n" + "\n".join(text.splitlines()[-lines:]))
        return "\n".join(parts)

    def now(self) -> datetime:
        """What the planes think the time is."""
        return datetime.fromtimestamp(time.time() + self.clock_offset_s, UTC)

    def close(self) -> None:
        """End everything and remove what it left."""
        for process in self._processes.values():
            if process.poll() is None:
                family = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                process.wait()
                for child in family:
                    try:
                        child.kill()
                        child.wait(5)
                    except psutil.Error:
                        continue
        for server in (getattr(self, "postgres", None), getattr(self, "redis", None)):
            if server is not None:
                server.stop()
        if self._is_mounted:
            subprocess.run(["umount", self.spool], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)
