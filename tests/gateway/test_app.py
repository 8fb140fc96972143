"""The gateway plane as processes: a parent that keeps workers alive, counts for them and takes them down in order."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.wire import answering, ok
from tests.support.gateway import ENCRYPTION_KEY, Catalogue
from tests.support.processes import eventually, family, runs
from tests.support.raw import Upstream


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Plane:
    """`tollgate gateway` as a child; `log` is what it has said so far."""

    def __init__(self, postgres_url: str, redis_url: str, config: Path | None = None, **settings: Any) -> None:
        self.port, self.metrics_port = free_port(), free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")}
        wanted = {"port": self.port, "metrics_port": self.metrics_port, "drain_timeout_ms": 3_000, **settings}
        environment |= {f"TOLLGATE_GATEWAY_{name.upper()}": str(value) for name, value in wanted.items()}
        self.folder = tempfile.mkdtemp(prefix="tg-gateway-")
        environment |= {"TOLLGATE_GATEWAY_SPOOL_DIR": f"{self.folder}/spool"}
        environment |= {"TOLLGATE_POSTGRES_URL": postgres_url, "TOLLGATE_REDIS_URL": redis_url}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tollgate.cli", "gateway", *(["--config", str(config)] if config else [])],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.process.pid

    def workers(self) -> list[int]:
        """The worker processes, as far as they are visible by now."""
        return sorted(pid for pid in family(self.pid) if pid != self.pid)

    def get(self, port: int, path: str, **headers: str) -> tuple[int, str]:
        try:
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def is_ready(self) -> bool:
        return self.get(self.metrics_port, "/health")[0] == 200 and self.get(self.port, "/ready")[0] == 200

    def samples(self) -> dict[str, float]:
        """All samples of /metrics by name and labels."""
        status, text = self.get(self.metrics_port, "/metrics")
        assert status == 200
        return {
            f"{sample.name}{sorted(sample.labels.items())}": sample.value
            for metric in text_string_to_metric_families(text)
            for sample in metric.samples
        }

    def end(self) -> str:
        """Make sure that it is over; what it said."""
        self.process.kill()
        said, _ = self.process.communicate(timeout=10)
        shutil.rmtree(self.folder, ignore_errors=True)
        return said.decode()


@contextmanager
def plane(postgres_url: str, redis_url: str, **settings: Any) -> Iterator[Plane]:
    running = Plane(postgres_url, redis_url, **settings)
    workers: list[int] = []
    try:
        eventually(running.is_ready, within_s=20, what="the gateway's start")
        workers = running.workers()
        yield running
    finally:
        said = running.end()
        try:
            eventually(lambda: not any(map(runs, workers)), what="the end of all workers")
        finally:
            for pid in filter(runs, workers):
                os.kill(pid, signal.SIGKILL)
        assert "Traceback" not in said, said


def requests_sent(port: int, path: str, count: int) -> list[int]:
    """Statuses of so many requests, each on a connection of its own."""
    found = []
    for _ in range(count):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while more := client.recv(65_536):
                answer += more
            found.append(int(answer.split(b" ")[1]))
    return found


async def test_workers_that_die_are_replaced_and_what_they_counted_stays_counted(
    catalogue: Catalogue, postgres_url: str, redis_url: str
) -> None:
    await catalogue.route("gone", "/gone/*", ["http://127.0.0.1:1"], auth="none", retries=0)
    with plane(postgres_url, redis_url, workers=2) as running:
        assert len(running.workers()) == 2
        assert requests_sent(running.port, "/gone/x", 12) == [502] * 12
        counted = "tollgate_requests_total[('route', 'gone'), ('status', '5xx')]"
        before = eventually(lambda: (s := running.samples()).get(counted) == 12 and s, what="12 counted requests")
        assert before["tollgate_gateway_workers[]"] == 2

        killed, other = running.workers()
        os.kill(killed, signal.SIGKILL)
        seen = before
        deadline = time.monotonic() + 15
        while True:  # no counter ever goes back, whenever it is looked at
            now = running.samples()
            for name, value in seen.items():
                if re.match(r"\w+_(total|count|sum|bucket)\[", name):
                    assert now.get(name, 0) >= value, name
            seen = now
            new = [pid for pid in running.workers() if pid not in (killed, other)]
            if new and running.is_ready():
                break
            assert time.monotonic() < deadline
        assert other in running.workers()
        assert requests_sent(running.port, "/gone/x", 6) == [502] * 6
        eventually(lambda: running.samples()[counted] == 18, what="18 counted requests")


async def test_asked_to_stop_it_finishes_what_is_open_and_leaves_nothing_behind(
    catalogue: Catalogue, postgres_url: str, redis_url: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        await catalogue.route("slow", "/slow/*", [upstream.getsockname()[:2]], auth="none")
        with (
            plane(postgres_url, redis_url, workers=1) as running,
            socket.create_connection(("127.0.0.1", running.port), timeout=10) as busy,
            socket.create_connection(("127.0.0.1", running.port), timeout=10) as idle,
        ):
            busy.sendall(b"GET /slow/x HTTP/1.1\r\nHost: a\r\n\r\n")
            behind, _ = upstream.accept()
            assert behind.recv(65_536).startswith(b"GET /x ")
            running.process.send_signal(signal.SIGTERM)
            assert idle.recv(1) == b""  # an idle connection is closed, having had time for one more request
            eventually(lambda: not _is_listening(running.port), what="the end of accepting")
            behind.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
            answer = b""
            while more := busy.recv(65_536):
                answer += more
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert answer.endswith(b"\r\n\r\ndone")
            assert running.process.wait(10) == 0
            behind.close()


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_what_does_not_finish_in_time_is_broken_off(
    catalogue: Catalogue, postgres_url: str, redis_url: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as upstream:
        await catalogue.route("slow", "/slow/*", [upstream.getsockname()[:2]], auth="none")
        with (
            plane(postgres_url, redis_url, workers=1, drain_timeout_ms=300) as running,
            socket.create_connection(("127.0.0.1", running.port), timeout=10) as busy,
        ):
            busy.sendall(b"GET /slow/x HTTP/1.1\r\nHost: a\r\n\r\n")
            behind, _ = upstream.accept()
            began = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(10) == 0
            assert time.monotonic() - began < 5
            assert busy.recv(1) == b""
            behind.close()


async def test_workers_do_not_outlive_their_parent_and_tell_no_secret(postgres_url: str, redis_url: str) -> None:
    with plane(postgres_url, redis_url, workers=2) as running:
        workers = running.workers()
        for pid in (running.pid, *workers):
            assert "postgresql://" not in " ".join(psutil.Process(pid).cmdline())
        os.kill(running.pid, signal.SIGKILL)
        for pid in workers:
            eventually(lambda pid=pid: not runs(pid), what="the end of a worker")
        assert not _is_listening(running.port)


def refused(postgres_url: str, redis_url: str, **settings: Any) -> str:
    """What a gateway says that cannot start; it ends by itself with status 1."""
    trying = Plane(postgres_url, redis_url, **settings)
    try:
        assert trying.process.wait(20) == 1
    finally:
        said = trying.end()
    assert "Traceback" not in said, said
    return said


@pytest.mark.parametrize("which", ["port", "metrics_port"])
def test_a_port_that_is_taken_is_a_clear_error(which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refused("postgresql://a:hunter2@127.0.0.1:1/a", "redis://127.0.0.1:1", **{which: port})
    assert f"gateway.{which} {port}" in said
    assert "address already in use" in said.lower()
    assert "hunter2" not in said


def test_a_redis_url_that_makes_no_sense_is_a_clear_error() -> None:
    said = refused("postgresql://127.0.0.1:1/a", "redis://:hunter2@127.0.0.1/five")
    assert "redis_url: expected redis://" in said
    assert "hunter2" not in said


def test_a_worker_is_not_started_by_hand() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway.worker"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.strip() == "gateway.worker is started by the gateway's parent process; use: tollgate gateway"


def test_it_may_open_as_many_files_as_its_parent_may_allow() -> None:
    code = """
import resource
from gateway.app import raise_file_limit
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
raise_file_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


async def test_workers_get_keys_and_proxies_of_the_settings_and_tell_of_targets(
    catalogue: Catalogue, postgres_url: str, redis_url: str, tmp_path: Path
) -> None:
    config = tmp_path / "tollgate.toml"
    config.write_text(f'encryption_keys = "{ENCRYPTION_KEY}"\n[gateway]\ntrusted_proxies = ["127.0.0.0/8"]\n')
    async with Upstream(answering(ok(b"hello"))) as upstream:
        await catalogue.route(
            "api",
            "/api/*",
            [(upstream.host, upstream.port), "http://127.0.0.1:1"],
            auth="none",
            credential={"header": "X-Key", "value": "secret"},
            upstream_active_health={"path": "/up", "interval_ms": 200, "unhealthy": 1},
        )

        def watch(running: Plane) -> str:
            up, down = (f"tollgate_upstream_targets[('state', '{s}'), ('upstream', 'api')]" for s in ("up", "down"))
            eventually(lambda: (s := running.samples()).get(up) == s.get(down) == 1, what="one target up, one down")
            forwarded = {"X-Forwarded-For": "6.6.6.6, 1.2.3.4"}
            assert running.get(running.port, "/api/y", **forwarded) == (200, "hello")
            return " ".join(" ".join(psutil.Process(pid).cmdline()) for pid in running.workers())

        with plane(postgres_url, redis_url, config=config) as running:
            command_lines = await asyncio.to_thread(watch, running)
    [sent] = [head for received in upstream.received for head in received.split(b"\r\n\r\n") if b"/y " in head]
    assert b"\r\nX-Key: secret\r\n" in sent
    assert b"\r\nX-Forwarded-For: 1.2.3.4, 127.0.0.1\r\n" in sent
    assert ENCRYPTION_KEY not in command_lines
