"""What PostgreSQL and Redis have in common when we run them: a directory of their own, a password, a port, a start.

The directory holds the server's `data`, its `log` and its `password`; the caller sees to it that only one process
uses it.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tollgate.dev.child import Child, ChildError, spawn

_START_DEADLINE_S: Final = 60.0
_MAX_LOG_BYTES: Final = 10 * 1024 * 1024


class EmbeddedError(Exception):
    """A server could not be started. The message is one line that says why and what to do."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `url` holds the password: do not log it."""

    url: str
    port: int
    child: Child

    @property
    def pid(self) -> int:
        return self.child.pid

    def stop(self) -> None:
        """Stop it in order and wait for the end. May be called again."""
        self.child.stop()


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one server: its command line for a port, and whether it is ready there."""

    name: str
    directory: Path
    stop_signal: str
    program: Callable[[int], list[str | Path]]
    is_ready: Callable[[Child, int], bool]


def launch(plan: Launch, port: int, *, remove: bool) -> tuple[Child, int]:
    """Start a server and wait until it is ready; returns it with its port.

    Port 0 picks a free one, and another should somebody else take it meanwhile. Raises EmbeddedError.
    """
    log_file = plan.directory / "log"
    if log_file.exists() and log_file.stat().st_size > _MAX_LOG_BYTES:
        log_file.replace(plan.directory / "log.1")
    if port and not is_port_free(port):
        raise EmbeddedError(f"{plan.name}: port {port} is in use")
    attempts = 1 if port else 3
    while True:
        attempts -= 1
        actual = port or free_port()
        with log_file.open("ab") as log:
            seen = log.tell()
            try:
                child = spawn(
                    plan.program(actual),
                    name=plan.name,
                    env=server_environment(),
                    output=log,
                    cwd=plan.directory,
                    stop_signal=plan.stop_signal,
                    orphan_grace_s=10,
                    remove=plan.directory if remove else None,
                )
            except ChildError as error:
                raise EmbeddedError(str(error)) from None
        if _wait_until_ready(child, actual, plan.is_ready):
            return child, actual
        child.stop()
        report = log_file.read_bytes()[seen:].decode(errors="replace") if log_file.exists() else ""
        if not attempts or "Address already in use" not in report:
            reason = report.strip().splitlines()[-1:] or ["no output"]
            raise EmbeddedError(f"{plan.name} did not start: {reason[0].strip()} (log: {log_file})")


def _wait_until_ready(child: Child, port: int, is_ready: Callable[[Child, int], bool]) -> bool:
    deadline = time.monotonic() + _START_DEADLINE_S
    while child.returncode is None and time.monotonic() < deadline:
        if is_ready(child, port):
            return True
        time.sleep(0.02)
    return False


def take_over(pid_file: Path, data: Path) -> None:
    """Make a directory usable whose last server was killed, or still runs although nobody owns it any more.

    A pid file alone proves nothing: the number may long belong to another process. Raises EmbeddedError after 30 s.
    """
    try:
        pid = int(pid_file.read_text().split(maxsplit=1)[0])
    except (FileNotFoundError, ValueError, IndexError):
        pid_file.unlink(missing_ok=True)
        return
    deadline = time.monotonic() + 30
    while _works_in(pid, data):
        if time.monotonic() > deadline:
            raise EmbeddedError(f"process {pid} still uses {data} and does not stop")
        os.kill(pid, signal.SIGINT)
        time.sleep(0.2)
    pid_file.unlink(missing_ok=True)


def _works_in(pid: int, data: Path) -> bool:
    try:
        return Path(f"/proc/{pid}/cwd").readlink() == data
    except OSError:
        return False


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody uses at this moment.

    It lies below the range that systems use for outgoing connections (from 32768 on), one of which could take it before
    a server does.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        if is_port_free(port):
            return port


def is_port_free(port: int, host: str = "127.0.0.1") -> bool:
    """True if a server could listen on the port now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def own_directory(directory: Path) -> Path:
    """Make the directory (mode 0700) where there is none; returns its absolute path."""
    directory = directory.resolve()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def own_password(directory: Path) -> str:
    """The server's password: made on the first start, read afterwards."""
    path = directory / "password"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        if (directory / "data" / "PG_VERSION").exists():
            raise EmbeddedError(f"{path} is missing; without it the data beside it cannot be opened") from None
    password = secrets.token_urlsafe(24)
    write_private(path, password + "\n")
    return password


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, as a whole or not at all."""
    partial = path.with_name(f"{path.name}.new")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


def server_environment() -> dict[str, str]:
    """What servers get of our environment: nothing that could change their behaviour, and none of our secrets."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
