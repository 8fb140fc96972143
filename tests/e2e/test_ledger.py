"""What was served is what is written down: once, whatever is delivered twice and whoever dies."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e import load
from tests.e2e.books import Books, open_books
from tests.e2e.conftest import Origins
from tests.e2e.stack import Stack
from tests.support.processes import eventually

_MANY = 20_000


async def test_20000_requests_are_20000_everywhere(
    stack_of: Callable[[int], Stack],
    origins: Origins,
    customer: str,
    request_id: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stack = stack_of(3)
    headers = {"X-API-Key": stack.secret_key, "X-User-Id": customer}
    started = time.monotonic()
    statuses = await load.count(f"{stack.gateway}/c/count?id={request_id}", headers, total=_MANY, clients=50)
    served = time.monotonic() - started
    async with open_books(stack) as books:
        await books.balanced(deadline_s=30)
        stored = time.monotonic() - started - served
        events, quantity, rolled_up = await books.totals(customer)
    seen = origins.counting.seen(request_id)
    with capsys.disabled():
        print(
            f"\n  {_MANY} requests in {served:.1f} s ({_MANY / served:.0f}/s), all stored {stored:.2f} s after the last"
        )
    assert statuses == {200: _MANY}
    assert (seen, events, quantity, rolled_up) == (_MANY, _MANY, _MANY, _MANY)


async def _requests(stack: Stack, customer: str, number: int) -> None:
    headers = {"X-API-Key": stack.secret_key, "X-User-Id": customer}
    statuses = await load.count(f"{stack.gateway}/c/count?id=ledger", headers, total=number, clients=10)
    assert statuses == {200: number}


async def _entries_on_the_stream(books: Books, number: int) -> list[tuple[str, dict[Any, Any]]]:
    give_up = time.monotonic() + 5
    while len(entries := await books.stream_entries()) < number:
        assert time.monotonic() < give_up, f"{len(entries)} of {number} entries arrived"
        await asyncio.sleep(0.01)
    return entries


async def test_a_stream_entry_delivered_again_changes_nothing(stack: Stack, customer: str) -> None:
    worker = stack.leader("worker")
    async with open_books(stack) as books:
        os.kill(worker, signal.SIGSTOP)  # so that the entries stay on the stream long enough to be copied
        try:
            await _requests(stack, customer, 60)
            entries = await _entries_on_the_stream(books, 60)
            for stream, fields in entries[:40] + entries[:20]:  # some twice, some three times, before any is stored
                await books.redis.xadd(stream, fields)
        finally:
            os.kill(worker, signal.SIGCONT)
        await books.balanced()
        assert await books.totals(customer) == (60, 60, 60)
        for stream, fields in entries:  # and all of them once more, long after
            await books.redis.xadd(stream, fields)
        await books.balanced()
        assert await books.totals(customer) == (60, 60, 60)
        assert await books.postgres.fetchval("SELECT count(*) FROM dead_letters") == 0


async def test_an_entry_that_is_no_event_is_set_aside(stack: Stack, customer: str) -> None:
    async with open_books(stack) as books:
        await books.redis.xadd("tg:{00}:usage", {"e": b'{"not": "an event"}'})
        await books.redis.xadd("tg:{00}:usage", {"e": b"\xff\xfe"})
        await _requests(stack, customer, 5)
        await books.balanced()
        assert await books.totals(customer) == (5, 5, 5)
        rows = await books.postgres.fetch("DELETE FROM dead_letters RETURNING stream, reason")
        assert [row["stream"] for row in rows] == ["tg:{00}:usage"] * 2
        assert all(row["reason"] for row in rows)


async def test_a_worker_killed_at_work_loses_nothing(stack: Stack, customer: str) -> None:
    async with open_books(stack) as books:
        for _ in range(3):
            worker = stack.leader("worker")
            load_task = asyncio.create_task(_requests(stack, customer, 1_000), name="load")
            await asyncio.sleep(0.05)  # any moment will do; this one is in the middle of the load
            os.kill(worker, signal.SIGKILL)
            await load_task
            await asyncio.to_thread(eventually, lambda killed=worker: stack.leader("worker") != killed, within_s=15)
        await books.balanced(deadline_s=30)
        assert await books.totals(customer) == (3_000, 3_000, 3_000)
