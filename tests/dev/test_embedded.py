"""Embedded servers: what they keep, whom they let in, and that whatever happened before, they start."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis.asyncio

from tests.support.processes import runs
from tests.support.servers import quick_directory
from tollgate.dev.embedded import start_postgres, start_redis
from tollgate.dev.server import EmbeddedError, Server, free_port

pytestmark = pytest.mark.timeout(60)

Start = Callable[..., Server]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder closed to others, so the servers have to get by with that."""
    path = quick_directory("embedded")
    yield path
    shutil.rmtree(path)


@pytest.fixture
def servers(folder: Path) -> Iterator[list[Server]]:
    """Servers put here are stopped afterwards, before `folder` goes."""
    started: list[Server] = []
    yield started
    for server in started:
        server.stop()


@pytest.fixture(params=[start_postgres, start_redis], ids=["postgres", "redis"])
def start(request: pytest.FixtureRequest, servers: list[Server]) -> Start:
    def start(directory: Path, **options: object) -> Server:
        server: Server = request.param(directory, **options)
        servers.append(server)
        return server

    return start


async def note(server: Server, text: str) -> None:
    """Keep `text` in the server."""
    if server.url.startswith("redis"):
        client = redis.asyncio.from_url(server.url)
        await client.set("note", text)
        await client.aclose()
    else:
        connection = await asyncpg.connect(server.url)
        await connection.execute(f"CREATE TABLE note AS SELECT '{text}' AS text")
        await connection.close()


async def noted(server: Server) -> str:
    """The text kept in the server."""
    if server.url.startswith("redis"):
        client = redis.asyncio.from_url(server.url, decode_responses=True)
        text = await client.get("note")
        await client.aclose()
    else:
        connection = await asyncpg.connect(server.url)
        text = await connection.fetchval("SELECT text FROM note")
        await connection.close()
    return str(text)


async def test_data_survive_a_restart_on_another_port(start: Start, folder: Path) -> None:
    first = start(folder / "server")
    await note(first, "kept")
    first.stop()
    assert not runs(first.pid)
    second = start(folder / "server", port=free_port())
    assert await noted(second) == "kept"


async def test_a_killed_server_starts_again_with_its_data(start: Start, folder: Path) -> None:
    first = start(folder / "server")
    await note(first, "kept")
    os.kill(first.pid, signal.SIGKILL)
    first.child.wait()
    second = start(folder / "server", port=first.port)
    assert await noted(second) == "kept"


async def test_a_server_nobody_owns_any_more_is_stopped_first(start: Start, folder: Path) -> None:
    first = start(folder / "server")
    await note(first, "kept")
    second = start(folder / "server")
    assert not runs(first.pid)
    assert await noted(second) == "kept"


def test_a_pid_file_of_somebody_else_is_no_obstacle(start: Start, folder: Path) -> None:
    first = start(folder / "server")
    pid_file = folder / "server" / ("redis.pid" if "redis" in first.url else "data/postmaster.pid")
    text = pid_file.read_text()
    first.stop()
    pid_file.write_text(text.replace(str(first.pid), str(os.getpid()), 1))
    assert start(folder / "server").pid != os.getpid()


def test_only_this_machine_is_listened_to(start: Start, folder: Path) -> None:
    server = start(folder / "server", durable=False)
    listening = [c for c in psutil.Process(server.pid).net_connections("all") if c.status == psutil.CONN_LISTEN]
    assert [(c.laddr.ip, c.laddr.port) for c in listening] == [("127.0.0.1", server.port)]


def test_the_password_is_in_a_private_file_and_not_on_the_command_line(start: Start, folder: Path) -> None:
    server = start(folder / "server", durable=False)
    path = folder / "server" / "password"
    password = path.read_text().strip()
    assert len(password) >= 32
    assert password in server.url
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for pid in (server.pid, server.child.guard.pid):
        process = psutil.Process(pid)
        assert password not in " ".join(process.cmdline())
        assert password not in str(process.environ())


def test_a_busy_port_is_an_error_that_names_it(start: Start, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(EmbeddedError, match=rf": port {port} is in use"):
            start(folder / "server", port=port)


async def test_postgres_wants_the_password(folder: Path, servers: list[Server]) -> None:
    servers.append(server := start_postgres(folder / "postgres", durable=False))
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(f"postgresql://tollgate:guess@127.0.0.1:{server.port}/tollgate")


async def test_redis_wants_the_password(folder: Path, servers: list[Server]) -> None:
    servers.append(server := start_redis(folder / "redis"))
    client = redis.asyncio.from_url(f"redis://127.0.0.1:{server.port}/0")
    with pytest.raises(redis.exceptions.AuthenticationError):
        await client.get("note")
    await client.aclose()


async def test_redis_never_throws_data_away(folder: Path, servers: list[Server]) -> None:
    servers.append(server := start_redis(folder / "a folder with 'quotes' and spaces"))
    client = redis.asyncio.from_url(server.url, decode_responses=True)
    assert await client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert await client.config_get("appendonly") == {"appendonly": "yes"}
    await client.aclose()


def test_postgres_does_not_run_as_root(folder: Path, servers: list[Server]) -> None:
    servers.append(server := start_postgres(folder / "postgres", durable=False))
    assert all(psutil.Process(server.pid).uids())
    assert 0 not in psutil.Process(server.pid).gids()


async def test_an_interrupted_first_start_is_no_obstacle(folder: Path, servers: list[Server]) -> None:
    (folder / "postgres" / "data.new" / "data").mkdir(parents=True)
    (folder / "postgres" / "data.new" / "data" / "PG_VERSION").write_text("18\n")
    servers.append(server := start_postgres(folder / "postgres", durable=False))
    await note(server, "made")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: (d / "password").unlink(), "password is missing"),
        (lambda d: (d / "data" / "PG_VERSION").write_text("15\n"), "is of PostgreSQL 15, this release embeds 18"),
        (lambda d: (d / "data" / "global" / "pg_control").unlink(), "postgres did not start: .*log: "),
    ],
    ids=["no password", "another version", "broken data"],
)
def test_what_cannot_be_started_says_why(folder: Path, break_it: Callable[[Path], object], message: str) -> None:
    directory = folder / "postgres"
    start_postgres(directory, durable=False).stop()
    break_it(directory)
    with pytest.raises(EmbeddedError, match=message):
        start_postgres(directory)


def test_a_directory_can_go_with_its_server(start: Start, folder: Path) -> None:
    start(folder / "server", durable=False, remove=True).stop()
    assert not (folder / "server").exists()


def test_free_ports_lie_below_those_of_outgoing_connections() -> None:
    assert all(20_000 <= free_port() < 32_000 for _ in range(20))
