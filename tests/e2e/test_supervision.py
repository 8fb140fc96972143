"""Processes die; the port goes on answering and the books stay right."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import urlsplit

import psutil

from tests.e2e import raw
from tests.e2e.books import open_books
from tests.e2e.conftest import Origins
from tests.e2e.stack import Stack
from tests.support.processes import eventually


def _kill(stack: Stack) -> int:
    """Kill one gateway process with SIGKILL and wait until it is buried; returns its id.

    A zombie would not do: as long as one of its threads is still ending, its sockets are open.
    """
    victim = stack.gateway_workers()[0]
    os.kill(victim, signal.SIGKILL)
    eventually(lambda: not psutil.pid_exists(victim), what="its end")
    return victim


def _all_serve(stack: Stack, workers: int, without: int = 0) -> bool:
    """All gateway processes are there and listen, and one that was killed is not among them."""
    health = raw.get(stack.info["metrics"]["gateway"].replace("/metrics", "/health"))
    pids = stack.gateway_workers()
    return without not in pids and health.json()["workers_ready"] == workers == len(pids)


def test_connections_are_spread_over_all_gateway_processes(stack_of: Callable[[int], Stack]) -> None:
    stack = stack_of(3)
    eventually(lambda: _all_serve(stack, 3), what="three gateway processes")
    port = urlsplit(stack.gateway).port
    with ExitStack() as held:
        for _ in range(60):
            held.enter_context(raw.Connection(stack.gateway))

        def served() -> list[int]:
            return [
                sum(
                    c.laddr.port == port and c.status == psutil.CONN_ESTABLISHED for c in process.net_connections("tcp")
                )
                for process in map(psutil.Process, stack.gateway_workers())
            ]

        eventually(lambda: sum(served()) == 60, what="60 accepted connections")
        assert len(served()) == 3
        assert all(served()), served()


def test_a_killed_gateway_process_comes_back_and_the_port_answers_all_the_while(
    stack_of: Callable[[int], Stack],
) -> None:
    stack = stack_of(3)
    url, headers = f"{stack.gateway}/c/count", {"X-API-Key": stack.secret_key}
    victim = _kill(stack)
    for _ in range(60):  # each on a new connection, while one of three is missing
        assert raw.get(url, headers).status == 200
    eventually(lambda: _all_serve(stack, 3, without=victim), what="a new gateway process")
    for _ in range(60):
        assert raw.get(url, headers).status == 200


async def test_a_request_in_flight_in_a_killed_gateway_process_is_resolved(
    stack_of: Callable[[int], Stack], origins: Origins, customer: str, request_id: str
) -> None:
    """Its reservation outlives it; once its sign of life is gone, it becomes one event and nothing stays held."""
    stack = stack_of(1)
    head = f"GET /c/slow?id={request_id}&gate={request_id} HTTP/1.1\r\nHost: e2e\r\n"
    head += f"X-API-Key: {stack.secret_key}\r\nX-User-Id: {customer}\r\n\r\n"
    with raw.Connection(stack.gateway) as connection:
        connection.send(head.encode())
        await asyncio.to_thread(eventually, lambda: origins.counting.seen(request_id) == 1)
        victim = await asyncio.to_thread(_kill, stack)
        assert connection.is_closed()
    await asyncio.to_thread(eventually, lambda: _all_serve(stack, 1, without=victim))
    async with open_books(stack) as books:
        async for sign_of_life in books.redis.scan_iter(f"tg:gateway:*-{victim}-*"):
            await books.redis.delete(sign_of_life)  # instead of waiting for it to expire
        try:
            event = await books.only_event(customer, deadline_s=5)
            assert (event.outcome, event.meters["requests"]) == ("orphaned", 1)
        finally:
            await books.forget_reservations()
