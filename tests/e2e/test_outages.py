"""Redis or PostgreSQL goes away, hangs, or was never there: what is answered meanwhile, and that it mends by itself.

A stack of its own, whose stores are frozen (SIGSTOP: connected, silent) or killed; and a gateway alone, started before
its stores.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import redis

from ledger.keys import KeyKind, Mode, generate
from tests.e2e import raw
from tests.e2e.conftest import Origins
from tests.e2e.stack import Stack, environment
from tests.support.servers import trust
from tests.support.upstreams.child import REPOSITORY
from tollgate.dev.embedded import start_postgres, start_redis
from tollgate.dev.server import free_port

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def fragile(origins: Origins) -> Iterator[Stack]:
    """A stack that only these tests use and break."""
    stack = Stack.start(origins.declaration())
    yield stack
    stack.stop()


@contextmanager
def _frozen(stack: Stack, store: str) -> Iterator[None]:
    """Stop a store's processes in their tracks: connections stay open, nothing is answered."""
    leader = psutil.Process(stack.leader(store))
    leader.suspend()  # first, so that it makes no more children
    family = leader.children(recursive=True)
    try:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in (*family, leader):
            with suppress(psutil.NoSuchProcess):
                process.resume()


def _timed(ask: Callable[[], raw.Response]) -> tuple[raw.Response, float]:
    started = time.monotonic()
    answer = ask()
    return answer, time.monotonic() - started


def _wait_for(status: int, ask: Callable[[], raw.Response], deadline_s: float = 15.0) -> None:
    """Ask until the answer has this status; anything but it and 503 on the way is an error."""
    give_up = time.monotonic() + deadline_s
    while (answer := ask()).status != status:
        assert answer.status == 503, answer
        assert time.monotonic() < give_up, answer
        time.sleep(0.02)


def test_redis_frozen_is_503_at_once_and_mends(fragile: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    def ask() -> raw.Response:
        return raw.get(f"{fragile.gateway}/c/count", {"X-API-Key": fragile.secret_key})

    assert ask().status == 200
    with _frozen(fragile, "redis"):
        first, took = _timed(ask)
        assert (first.status, first.json()["code"]) == (503, "limits_unavailable")
        assert int(first.headers["retry-after"]) >= 1
        later = [_timed(ask) for _ in range(20)]
        assert {answer.status for answer, _ in later} == {503}
        slowest = max(seconds for _, seconds in later)
        assert raw.get(f"{fragile.gateway}/health").status == 200
        ready = raw.get(f"{fragile.gateway}/ready")
        assert ready.status == 503
        assert b"redis" in ready.body.lower()
    with capsys.disabled():
        print(f"\n  redis frozen: refused after {took * 1000:.0f} ms, then within {slowest * 1000:.0f} ms")
    assert took < 0.3
    assert slowest < 0.3
    _wait_for(200, ask)
    _wait_for(200, lambda: raw.get(f"{fragile.gateway}/ready"))


def test_redis_killed_is_started_again_and_found_again(fragile: Stack) -> None:
    def ask() -> raw.Response:
        return raw.get(f"{fragile.gateway}/c/count", {"X-API-Key": fragile.secret_key})

    _wait_for(200, ask)
    os.kill(fragile.leader("redis"), signal.SIGKILL)
    _wait_for(200, ask, deadline_s=30)


def test_postgres_frozen_known_keys_go_on_and_unknown_ones_are_not_called_bad(fragile: Stack) -> None:
    url = f"{fragile.gateway}/c/count"
    known = {"X-API-Key": fragile.secret_key, "X-User-Id": "known-before"}
    unknown = {"X-API-Key": generate(KeyKind.SECRET, Mode.LIVE).text}
    mistyped = {"X-API-Key": fragile.secret_key[:-1] + ("A" if fragile.secret_key[-1] != "A" else "B")}
    _wait_for(200, lambda: raw.get(url, known))
    with _frozen(fragile, "postgres"):
        answer, took = _timed(lambda: raw.get(url, known))
        assert (answer.status, took < 0.3) == (200, True)
        answer, took = _timed(lambda: raw.get(url, mistyped))
        assert (answer.status, answer.json()["code"], took < 0.3) == (401, "bad_credential", True), "no I/O is needed"
        answer, took = _timed(lambda: raw.get(url, unknown))
        assert (answer.status, answer.json()["code"]) == (503, "auth_unavailable")
        assert "retry-after" in answer.headers
        assert took < 4
    _wait_for(401, lambda: raw.get(url, unknown), deadline_s=20)


def test_postgres_killed_loses_no_usage(fragile: Stack) -> None:
    url = f"{fragile.gateway}/c/count"
    headers = {"X-API-Key": fragile.secret_key, "X-User-Id": "through-the-crash"}
    _wait_for(200, lambda: raw.get(url, headers))
    os.kill(fragile.leader("postgres"), signal.SIGKILL)
    for _ in range(50):
        assert raw.get(url, headers).status == 200
    new_key = generate(KeyKind.SECRET, Mode.LIVE).text
    _wait_for(401, lambda: raw.get(url, {"X-API-Key": new_key}), deadline_s=40)


def test_a_gateway_started_before_its_stores_waits_for_them(tmp_path: Path, origins: Origins) -> None:
    """It starts, says what is missing, refuses with 503, and serves as soon as it can."""
    postgres_port, redis_port, port = free_port(), free_port(), free_port()
    folders = tmp_path / "postgres", tmp_path / "redis"
    # Both are started once, to learn the passwords that their folders keep.
    postgres, store = start_postgres(folders[0], port=postgres_port), start_redis(folders[1], port=redis_port)
    urls = {"TOLLGATE_POSTGRES_URL": postgres.url, "TOLLGATE_REDIS_URL": store.url}
    _tollgate("migrate", urls)
    postgres.stop()
    store.stop()
    spool = {"TOLLGATE_GATEWAY_SPOOL_DIR": str(tmp_path / "spool")}
    settings = environment(TOLLGATE_GATEWAY_PORT=str(port), **spool, **urls)
    log = (tmp_path / "log").open("wb")
    gateway = subprocess.Popen(
        [sys.executable, "-m", "tollgate.cli", "gateway"], cwd=REPOSITORY, env=settings, stdout=log, stderr=log
    )
    base = f"http://127.0.0.1:{port}"
    try:
        _wait_until_listening(base, gateway)
        assert raw.get(f"{base}/health").status == 200
        ready = raw.get(f"{base}/ready")
        assert ready.status == 503
        assert b"redis" in ready.body.lower()
        assert b"postgres" in ready.body.lower()
        unknown = {"X-API-Key": generate(KeyKind.SECRET, Mode.LIVE).text}
        assert raw.get(f"{base}/anything", unknown).status == 503
        postgres = start_postgres(folders[0], port=postgres_port)
        store = start_redis(folders[1], port=redis_port)
        with redis.Redis.from_url(store.url) as client:
            trust(client)  # as a worker would, which does not run here
        _wait_for(200, lambda: raw.get(f"{base}/ready"))
        assert raw.get(f"{base}/anything", unknown).status in (401, 404)
    finally:
        gateway.send_signal(signal.SIGTERM)
        try:
            status = gateway.wait(timeout=15)
        except subprocess.TimeoutExpired:
            gateway.kill()
            status = gateway.wait()
        log.close()
        postgres.stop()
        store.stop()
    assert status == 0, (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()


def _tollgate(command: str, settings: dict[str, str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "tollgate.cli", command],
        cwd=REPOSITORY,
        env=environment(**settings),
        check=True,
        capture_output=True,
        timeout=30,
    )


def _wait_until_listening(base: str, gateway: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 15
    while True:
        try:
            raw.get(f"{base}/health")
            return
        except (ConnectionRefusedError, TimeoutError, raw.Broken):  # no process to accept it yet
            assert gateway.poll() is None, "the gateway ended"
            assert time.monotonic() < give_up
            time.sleep(0.02)
