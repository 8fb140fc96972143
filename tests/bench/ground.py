"""The ground all peers stand on: a scratch directory, the upstream, certificates, and children that cannot outlive us.

Everything listens on 127.0.0.1. The directory is deleted at the end, also when this process is killed.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from tests.bench import packages
from tests.bench.population import Population
from tests.support.issuer import key_set
from tollgate.dev.child import Child, spawn
from tollgate.dev.embedded import Server, start_redis
from tollgate.dev.server import free_port

CONF: Final = Path(__file__).parent / "conf"
BODY_1K: Final = b"x" * 1024
BODY_1M: Final = random.Random(1).randbytes(1024 * 1024)
EVENT: Final = 'data: {"choices":[{"delta":{"content":"word"}}]}'
EVENTS: Final = 200
_START_S: Final = 20.0


class BenchError(Exception):
    """The benchmark cannot go on; the message is one line that says why."""


class Ground:
    """Use as a context manager; leaving it stops all children, the last started first."""

    def __init__(self, population: Population) -> None:
        self.population = population
        self.directory = Path()
        self.upstream_port = 0
        self.upstream_pid = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        memory = Path("/dev/shm")
        self.directory = Path(tempfile.mkdtemp(prefix="tollgate-bench-", dir=memory if memory.is_dir() else None))
        self.directory.chmod(0o755)  # PostgreSQL does not run as root and has to pass
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        try:
            self._start_upstream()
            self._make_certificate()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self, template: str, name: str, **values: Any) -> Path:
        """Write conf/`template` to the scratch directory as `name`, with every @name@ in it filled in."""
        known = {
            "directory": self.directory,
            "conf": CONF,
            "modules": packages.modules(),
            "upstream": self.upstream_port,
            "user": "user root;" if os.geteuid() == 0 else "",
        } | values
        text = re.sub(r"@(\w+)@", lambda match: str(known[match[1]]), (CONF / template).read_text())
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def run(
        self,
        name: str,
        command: Sequence[str | Path],
        port: int,
        *,
        env: Mapping[str, str] | None = None,
        grace_s: float = 3,
    ) -> Child:
        """Start a program and wait until something listens on its port. Raises BenchError with the program's last words."""
        log_path = self.directory / f"{name}.out"
        with log_path.open("ab") as log:
            child = spawn(
                command, name=name, env=env, cwd=self.directory, output=log, grace_s=grace_s, orphan_grace_s=1,
                remove=self.directory if name == "upstream" else None,
            )  # fmt: skip
        self._stack.callback(child.stop)
        deadline = time.monotonic() + _START_S
        while child.returncode is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return child
            except OSError:
                time.sleep(0.02)
        said = log_path.read_text(errors="replace").strip().splitlines()[-1:] or ["nothing"]
        raise BenchError(f"{name} did not start; it said: {said[0]}")

    def redis(self, name: str) -> Server:
        """A Redis of its own that keeps nothing on disk: the same binary and settings for every peer."""
        server = start_redis(self.directory / f"redis-{name}", durable=False, remove=True)
        self._stack.callback(server.stop)
        return server

    def on_leaving(self, server: Server) -> None:
        """Stop a server when the ground is left."""
        self._stack.callback(server.stop)

    def _start_upstream(self) -> None:
        (self.directory / "1m").write_bytes(BODY_1M)
        self.upstream_port = free_port()
        values = {"port": self.upstream_port, "body_1k": BODY_1K.decode(), "events": EVENTS}
        (self.directory / "jwks.json").write_bytes(key_set(self.population.signer))
        conf = self.fill("upstream.conf", "upstream.conf", event=EVENT.replace('"', '\\"'), **values)
        self.upstream_pid = self.run("upstream", [packages.find("nginx"), "-c", conf], self.upstream_port).pid

    def _make_certificate(self) -> None:
        key, certificate = self.directory / "key.pem", self.directory / "cert.pem"
        command = [
            packages.find("openssl"),
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ]
        command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise BenchError(f"openssl made no certificate: {done.stderr.strip().splitlines()[-1]}")
        (self.directory / "certificate.pem").write_text(certificate.read_text() + key.read_text())
