"""The process: health, metrics, draining, and Postgres coming and going."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from pydantic import SecretStr

from admin import store
from admin.app import Unusable, running
from admin.declare import apply
from admin.keys import create_key
from config.settings import AdminSettings, Settings
from ledger.migrate import migrate
from ledger.specs import KeySpec
from tests.admin.declared import ACTOR, shop
from tollgate.dev.embedded import Server, start_postgres

FREE = AdminSettings(port=0, metrics_port=0)
TIERS = "/api/v1/tiers"
DEADLINE_S = 20.0


def settings(url: str, admin: AdminSettings = FREE) -> Settings:
    return Settings(postgres_url=SecretStr(url), admin=admin)


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session:
        yield session


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition. Raises TimeoutError."""
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():
            await asyncio.sleep(0.02)


async def is_waiting_for_the_lock(pg: asyncpg.Connection) -> bool:
    """Whether a control write waits in this test's database."""
    return bool(
        await pg.fetchval(
            "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
            " WHERE l.locktype = 'advisory' AND NOT l.granted AND d.datname = current_database()"
        )
    )


async def a_key(url: str) -> str:
    """The text of a key of a fresh project."""
    connection = await asyncpg.connect(url)
    try:
        (project, *_) = await apply(connection, shop(), actor=ACTOR)
        return (await create_key(connection, project.object_id, KeySpec(name="test"), actor=ACTOR)).key.text
    finally:
        await connection.close()


async def get(session: aiohttp.ClientSession, url: str, key: str | None = None) -> tuple[int, Any, Any]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with session.get(url, headers=headers) as response:
        return response.status, await response.json(content_type=None), response.headers


async def test_health_and_readiness(session: aiohttp.ClientSession, postgres_url: str) -> None:
    async with running(settings(postgres_url)) as where:
        status, body, _ = await get(session, where.url + "/health")
        assert (status, body) == (200, {"status": "ok"})
        status, body, _ = await get(session, where.url + "/ready")
        assert (status, body) == (200, {"status": "ready", "dependencies": {"postgres": "up"}})


async def test_an_empty_database_is_not_ready(session: aiohttp.ClientSession, empty_postgres_url: str) -> None:
    async with running(settings(empty_postgres_url)) as where:
        status, body, _ = await get(session, where.url + "/ready")
        assert (status, body["dependencies"]) == (503, {"postgres": "is not migrated"})


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://127.0.0.1:{closed}/x", "refuses connections"),
        ("{here}_gone", "the database does not exist"),
        ("postgresql://nobody:secret@nowhere.invalid/x", "is not reachable"),
    ],
)
async def test_readiness_says_why(session: aiohttp.ClientSession, postgres_url: str, url: str, reason: str) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        wrong = url.format(closed=closed.getsockname()[1], here=postgres_url)
        async with running(settings(wrong)) as where:
            status, body, _ = await get(session, where.url + "/ready")
    assert (status, body["dependencies"]) == (503, {"postgres": reason})


async def test_metrics_count_by_pattern(session: aiohttp.ClientSession, postgres_url: str) -> None:
    key = await a_key(postgres_url)
    async with running(settings(postgres_url)) as where:
        await get(session, where.url + TIERS, key)
        await get(session, where.url + TIERS + "/tier_1", key)
        await get(session, where.url + TIERS + "/tier_2", key)
        await get(session, where.url + "/random/path", key)
        async with session.get(where.metrics_url + "/metrics") as response:
            text = await response.text()
        async with session.get(where.url + "/metrics") as response:
            assert response.status == 404
    assert 'tollgate_admin_requests_total{method="GET",route="/api/v1/tiers",status="2xx"} 1.0' in text
    assert 'tollgate_admin_requests_total{method="GET",route="/api/v1/tiers/{id}",status="4xx"} 2.0' in text
    assert 'tollgate_admin_requests_total{method="GET",route="unmatched",status="4xx"} 1.0' in text
    assert 'tollgate_admin_request_seconds_count{route="/api/v1/tiers"} 1.0' in text
    assert "tollgate_postgres_errors_total 0.0" in text
    assert "random" not in text


async def test_a_busy_port_is_one_clear_line(postgres_url: str) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(Unusable, match=f"cannot listen on 127.0.0.1:{port}: "):
            async with running(settings(postgres_url, AdminSettings(port=port, metrics_port=0))):
                pass


async def test_no_database_is_one_clear_line() -> None:
    with pytest.raises(Unusable, match="postgres_url is not set"):
        async with running(Settings()):
            pass


class Outage:
    """A PostgreSQL of one test's own, to be stopped, frozen and started again on the same port."""

    def __init__(self) -> None:
        self._directory = Path(
            tempfile.mkdtemp(prefix="tg-outage-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        )
        self._server: Server = start_postgres(self._directory, durable=False, remove=False)
        self.url = self._server.url
        self._port = self._server.port

    def stop(self) -> None:
        self._server.stop()

    def start(self) -> None:
        self._server = start_postgres(self._directory, port=self._port, durable=False, remove=False)

    def close(self) -> None:
        self._server.stop()
        shutil.rmtree(self._directory, ignore_errors=True)


@pytest.fixture
def outage() -> Iterator[Outage]:
    outage = Outage()
    yield outage
    outage.close()


async def test_starts_before_postgres_and_survives_its_outages(session: aiohttp.ClientSession, outage: Outage) -> None:
    connection = await asyncpg.connect(outage.url)
    await migrate(connection)
    await connection.close()
    key = await a_key(outage.url)
    await asyncio.to_thread(outage.stop)
    async with running(settings(outage.url)) as where:
        for _ in range(2):
            status, body, headers = await get(session, where.url + TIERS, key)
            assert (status, body["code"], headers["Retry-After"]) == (503, "store_unavailable", "2")
            assert "PostgreSQL refuses connections" in body["detail"]
            assert "WWW-Authenticate" not in headers
            assert (await get(session, where.url + TIERS))[0] == 401  # what needs no look-up is answered as ever
            assert (await get(session, where.url + "/health"))[0] == 200
            await asyncio.to_thread(outage.start)

            async def is_ready() -> bool:
                return (await get(session, where.url + "/ready"))[0] == 200

            await until(is_ready)
            assert (await get(session, where.url + TIERS, key))[0] == 200
            await asyncio.to_thread(outage.stop)
        await asyncio.to_thread(outage.start)


async def test_postgres_goes_away_in_the_middle_of_a_request(
    session: aiohttp.ClientSession, pg: asyncpg.Connection, postgres_url: str
) -> None:
    key = await a_key(postgres_url)
    async with running(settings(postgres_url)) as where:

        async def change() -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {key}"}
            async with session.post(where.url + TIERS, json={"name": "gold"}, headers=headers) as response:
                return response.status, await response.json(content_type=None)

        blocker = pg.transaction()
        await blocker.start()
        await pg.execute("SELECT pg_advisory_xact_lock(7240318801)")  # what every control write takes first
        request = asyncio.create_task(change(), name="change")

        await until(partial(is_waiting_for_the_lock, pg))
        await pg.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'tollgate-admin' AND datname = current_database()"
        )
        status, body = await request
        assert (status, body["code"]) == (503, "store_unavailable")
        assert body["detail"] == "PostgreSQL closed the connection. Nothing was changed."
        await blocker.rollback()
        assert await pg.fetchval("SELECT count(*) FROM tiers WHERE name = 'gold'") == 0
        assert (await change())[0] == 201
        assert await pg.fetchval("SELECT count(*) FROM tiers WHERE name = 'gold'") == 1


async def test_a_lock_that_is_held_too_long_is_busy(
    session: aiohttp.ClientSession, pg: asyncpg.Connection, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(store._SERVER_SETTINGS, "lock_timeout", "200")
    key = await a_key(postgres_url)
    async with running(settings(postgres_url)) as where, pg.transaction():
        await pg.execute("SELECT pg_advisory_xact_lock(7240318801)")
        headers = {"Authorization": f"Bearer {key}"}
        async with session.post(where.url + TIERS, json={"name": "gold"}, headers=headers) as response:
            body = await response.json(content_type=None)
        assert (response.status, body["detail"]) == (503, "PostgreSQL is busy. Nothing was changed.")
        assert (await get(session, where.url + TIERS, key))[0] == 200  # reading goes on
        assert (await get(session, where.url + "/ready"))[0] == 200


async def test_slow_clients_hold_no_connection(session: aiohttp.ClientSession, postgres_url: str) -> None:
    key = await a_key(postgres_url)
    async with running(settings(postgres_url)) as where:
        host, port = where.url.removeprefix("http://").split(":")
        head = (
            f"POST {TIERS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        slow = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
        try:
            for _, writer in slow:
                writer.write(head.encode())
                await writer.drain()
            began = time.monotonic()
            assert (await get(session, where.url + TIERS, key))[0] == 200
            assert time.monotonic() - began < 1.5
        finally:
            for _, writer in slow:
                writer.close()


class Process:
    """`tollgate admin` as a process."""

    def __init__(self, url: str, port: int, metrics_port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")},
            "TOLLGATE_POSTGRES_URL": url,
            "TOLLGATE_REDIS_URL": "redis://127.0.0.1:1",
            "TOLLGATE_ADMIN_PORT": str(port),
            "TOLLGATE_ADMIN_METRICS_PORT": str(metrics_port),
        }

    async def start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tollgate.cli",
            "admin",
            env=self._environment,
            stderr=asyncio.subprocess.PIPE,
        )


async def test_asked_to_stop_it_finishes_what_it_has_in_hand(
    session: aiohttp.ClientSession,
    pg: asyncpg.Connection,
    postgres_url: str,
    unused_tcp_port_factory: Callable[[], int],
) -> None:
    key = await a_key(postgres_url)
    admin = Process(postgres_url, unused_tcp_port_factory(), unused_tcp_port_factory())
    process = await admin.start()
    try:

        async def is_ready() -> bool:
            try:
                return (await get(session, admin.url + "/ready"))[0] == 200
            except aiohttp.ClientError:
                return False

        await until(is_ready)

        async def change() -> int:
            headers = {"Authorization": f"Bearer {key}"}
            async with session.post(admin.url + TIERS, json={"name": "gold"}, headers=headers) as response:
                return response.status

        async def is_refused() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", int(admin.url.rpartition(":")[2]))
            except OSError:
                return True
            writer.close()
            return False

        async with pg.transaction():
            await pg.execute("SELECT pg_advisory_xact_lock(7240318801)")
            request = asyncio.create_task(change(), name="change")
            await until(partial(is_waiting_for_the_lock, pg))
            process.send_signal(signal.SIGTERM)
            await until(is_refused)
        assert await request == 201
        _, log = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert process.returncode == 0
        assert b"listening on" in log
        assert key.encode() not in log
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
