"""Thousands of connections on which nothing happens cost memory in proportion, and nobody else anything."""

from __future__ import annotations

import os
import resource
import signal
import socket
from contextlib import ExitStack

import psutil

from tests.gateway.test_app import plane, requests_sent
from tests.support.gateway import Catalogue
from tests.support.processes import eventually

MANY = 3_000
KIB_EACH = 16


async def test_thousands_of_idle_connections(catalogue: Catalogue, postgres_url: str, redis_url: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY + 500
    assert hard == resource.RLIM_INFINITY or hard >= wanted, f"needs {wanted} open files, the hard limit is {hard}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        await catalogue.route("gone", "/gone/*", ["http://127.0.0.1:1"], auth="none", retries=0)
        with plane(postgres_url, redis_url, workers=1, head_timeout_ms=60_000) as running, ExitStack() as idle:
            worker = psutil.Process(running.workers()[0])
            before = worker.memory_info().rss
            for number in range(MANY):
                client = idle.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=10))
                if number % 2:
                    client.sendall(b"GET /gone/x HTTP/1.1\r\nHost: a\r\nX-Slow: ")  # a head that never ends
            open_now = "tollgate_connections[]"
            eventually(lambda: running.samples().get(open_now, 0) >= MANY, what="all connections")
            assert worker.memory_info().rss - before < MANY * KIB_EACH * 1024
            used = worker.cpu_times()
            assert requests_sent(running.port, "/gone/x", 20) == [502] * 20
            assert running.get(running.port, "/ready")[0] == 200
            idle.close()
            eventually(lambda: running.samples().get(open_now, 0) < 5, what="all connections closed")
            spent = worker.cpu_times().user - used.user
            assert spent < 5
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_burst_queues_while_the_worker_is_held_up(postgres_url: str, redis_url: str) -> None:
    with plane(postgres_url, redis_url, workers=1) as running, ExitStack() as burst:
        (worker,) = running.workers()
        os.kill(worker, signal.SIGSTOP)
        try:
            for _ in range(1_000):  # beyond the queue, a connection would hang and be tried again after a second
                burst.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=5))
        finally:
            os.kill(worker, signal.SIGCONT)
        assert running.get(running.port, "/health")[0] == 200
