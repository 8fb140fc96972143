"""The whole product, started the way a user starts it: `tollgate dev`, and found through the dev.json it writes.

A stack lives in a short-named temporary folder of its own, on free ports. It fails to start loudly, with the process's
own output; it stops by SIGINT like a user's Ctrl-C, and `stop` raises when that leaves a process behind.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar, Final

import psutil

from tests.e2e import raw
from tests.support.processes import eventually, runs
from tests.support.upstreams.child import REPOSITORY

START_DEADLINE_S: Final = 60
STOP_DEADLINE_S: Final = 30
PROJECT: Final = "e2e"
_ENVIRONMENT: Final = {
    "TOLLGATE_GATEWAY_METRICS_PORT": "0",
    "TOLLGATE_ADMIN_METRICS_PORT": "0",
    "TOLLGATE_WORKER_METRICS_PORT": "0",
    "TOLLGATE_SANDBOX_PORT": "0",
    "TOLLGATE_SANDBOX_METRICS_PORT": "0",
    "TOLLGATE_WORKER_RECLAIM_AFTER_MS": "1000",
    "TOLLGATE_WORKER_SWEEP_INTERVAL_MS": "1000",
}


class StackError(AssertionError):
    """The product did not start, stop or answer as it should; the message holds its log."""


def environment(**more: str) -> dict[str, str]:
    """This process's environment without any TOLLGATE_ setting of its own, with the tests' settings and `more`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")}
    return {**inherited, **_ENVIRONMENT, **more}


class Stack:
    """A running `tollgate dev`. `info` is dev.json as it is now; `running` are all stacks of this process."""

    running: ClassVar[list[Stack]] = []

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder
        self._secret_key: str | None = None

    @classmethod
    def start(cls, declaration: str, *, workers: int = 1, **settings: str) -> Stack:
        """Start it with the text of a declaration applied; `settings` are TOLLGATE_… variables. Raises StackError."""
        folder = Path(tempfile.mkdtemp(prefix="tg-e2e-"))
        declared = folder / "e2e.yaml"
        declared.write_text(declaration, encoding="utf-8")
        command = [sys.executable, "-m", "tollgate.cli", "dev", "--state-dir", str(folder / "state")]
        command += ["--gateway-port", "0", "--admin-port", "0", "--workers", str(workers), "--apply", str(declared)]
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=environment(**settings),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        stack = cls(process, folder)
        deadline = time.monotonic() + START_DEADLINE_S
        while not stack._dev_json.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                log = stack.log()
                stack._kill()
                raise StackError(f"`{' '.join(command[1:])}` did not come up (status {process.returncode}):\n{log}")
            time.sleep(0.02)
        cls.running.append(stack)
        return stack

    @property
    def _dev_json(self) -> Path:
        return self.folder / "state" / "dev.json"

    @property
    def info(self) -> dict[str, Any]:
        info: dict[str, Any] = json.loads(self._dev_json.read_text(encoding="utf-8"))
        return info

    @property
    def gateway(self) -> str:
        """The gateway's base URL, without a trailing slash."""
        return str(self.info["gateway"]).rstrip("/")

    @property
    def admin(self) -> str:
        return str(self.info["admin"]).rstrip("/")

    @property
    def postgres_url(self) -> str:
        return str(self.info["postgres"])

    @property
    def redis_url(self) -> str:
        return str(self.info["redis"])

    def leader(self, plane: str) -> int:
        """The process that leads a plane, or that of `postgres` or `redis`; waits while it is being started again."""

        def running() -> int | None:
            found = self.info["pids"][plane]
            pid: int | None = found[0] if isinstance(found, list) and found else found or None
            return pid if pid is not None and runs(pid) else None

        pid = eventually(running, what=f"a running {plane}")
        assert pid is not None
        return pid

    @property
    def secret_key(self) -> str:
        """A live secret key of the project e2e, made with the command line when first asked for."""
        if self._secret_key is None:
            self._secret_key = self.command(
                *("keys", "create", "--project", PROJECT, "--mode", "live", "--name", "e2e")
            ).strip()
        return self._secret_key

    def create_key(self, **fields: str | int) -> dict[str, str]:
        """POST /api/keys at the admin plane; returns {key, id, prefix}."""
        return self._ask_admin("POST", "/api/keys", json.dumps(fields).encode(), expected=201)

    def revoke_key(self, key_id: str) -> None:
        """DELETE /api/keys/{id} at the admin plane."""
        self._ask_admin("DELETE", f"/api/keys/{key_id}", b"", expected=200)

    def _ask_admin(self, method: str, path: str, body: bytes, expected: int) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self.secret_key}", "Content-Type": "application/json"}
        answer = raw.get(self.admin + path, headers, method, body)
        if answer.status != expected:
            raise StackError(f"{method} {path}: {answer.status} {answer.body.decode(errors='replace')}")
        result: dict[str, str] = answer.json()
        return result

    def gateway_workers(self) -> list[int]:
        """The processes that serve requests: children of the one that keeps them alive."""
        return [process.pid for process in psutil.Process(self.leader("gateway")).children()]

    def output(self) -> str:
        """What it printed for its user."""
        return (self.folder / "stdout").read_text(encoding="utf-8", errors="replace")

    def log(self, lines: int = 80) -> str:
        """The end of all that it printed, for a failure's message."""
        text = self.output() + "\n--- stderr\n" + (self.folder / "stderr").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def command(self, *arguments: str) -> str:
        """Run a `tollgate` command against this stack's stores; returns what it printed. Raises StackError."""
        stores = environment(TOLLGATE_POSTGRES_URL=self.postgres_url, TOLLGATE_REDIS_URL=self.redis_url)
        done = subprocess.run(
            [sys.executable, "-m", "tollgate.cli", *arguments],
            cwd=REPOSITORY,
            env=stores,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if done.returncode:
            raise StackError(f"tollgate {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def stop(self) -> None:
        """Ctrl-C, then look for what is left. Raises StackError when it lingers, fails or leaves a process behind."""
        family = [*psutil.Process(self.process.pid).children(recursive=True)] if self.process.poll() is None else []
        try:
            if self.process.poll() is not None:
                raise StackError(f"it ended by itself (status {self.process.returncode}):\n{self.log()}")
            self.process.send_signal(signal.SIGINT)
            try:
                status = self.process.wait(timeout=STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                raise StackError(f"still there {STOP_DEADLINE_S} s after Ctrl-C:\n{self.log()}") from None
            _, left = psutil.wait_procs(family, timeout=2)
            if left:
                raise StackError(f"left behind: {[process.cmdline() for process in left]}\n{self.log()}")
            if status not in (0, 130, -signal.SIGINT):
                raise StackError(f"ended with status {status}:\n{self.log()}")
        finally:
            self._kill(family)

    def _kill(self, family: list[psutil.Process] | None = None) -> None:
        if self.process.poll() is None:
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
        for process in family or []:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        if self in Stack.running:
            Stack.running.remove(self)
        shutil.rmtree(self.folder, ignore_errors=True)
