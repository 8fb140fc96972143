"""The pool: what is certain after a failure, and that nothing waits for a server that does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest

from admin import store as store_module
from admin.store import Store, StoreUnavailable, reason_of
from ledger.dependency import Dependency
from tests.gateway.faults import Relay


class Counted:
    """A store behind a relay, with short deadlines and its failures counted."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.failures = 0
        self.store = Store(relay.url, Dependency("postgres", self._count))

    def _count(self) -> None:
        self.failures += 1


@pytest.fixture
async def counted(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Counted]:
    for name in ("_ACQUIRE_S", "_CONNECT_S", "_STATEMENT_S"):
        monkeypatch.setattr(store_module, name, 0.4)
    async with Relay(postgres_url) as relay:
        counted = Counted(relay)
        await counted.store.open()
        yield counted
        relay.swallows_replies = False
        await counted.store.close()


async def ask(store: Store) -> int:
    async with store.reading() as connection:
        return int(await connection.fetchval("SELECT 1"))


async def test_a_server_that_stops_answering_costs_one_deadline(
    counted: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    assert await ask(counted.store) == 1
    counted.relay.swallows_replies = True
    for work in (counted.store.reading, counted.store.writing):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="did not answer in time") as caught:
            async with work() as connection:
                await connection.fetchval("SELECT 1")
        assert time.monotonic() - began < 2
        assert caught.value.is_certain
    assert (counted.failures, counted.store.postgres.state) == (2, "did not answer in time")
    assert "on its way back" not in caplog.text  # it was cut, not asked to clean up
    counted.relay.swallows_replies = False
    assert await ask(counted.store) == 1
    assert counted.store.postgres.is_up


async def insert(counted: Counted, then: str | None = None) -> None:
    """Insert a row, lose the replies from then on, and run a further statement before the commit."""
    async with counted.store.writing() as connection:
        await connection.execute("INSERT INTO projects (id, name, kind) VALUES ('prj_1', 'x', 'saas')")
        counted.relay.swallows_replies = True
        if then is not None:
            await connection.execute(then)


async def inserted(counted: Counted) -> int:
    """How many rows `insert` left, when replies arrive again."""
    counted.relay.swallows_replies = False
    async with counted.store.reading() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM projects WHERE id = 'prj_1'"))


async def test_in_the_middle_of_a_write(counted: Counted) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await insert(counted, "SELECT 1")
    assert caught.value.is_certain
    assert await inserted(counted) == 0


async def test_a_commit_whose_answer_is_lost_is_not_certain(counted: Counted) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await insert(counted)
    assert not caught.value.is_certain
    assert await inserted(counted) == 1


async def test_a_connection_that_was_cut_is_replaced(counted: Counted) -> None:
    assert await ask(counted.store) == 1
    await counted.relay.cut()
    outcomes = [await asyncio.gather(ask(counted.store), return_exceptions=True) for _ in range(3)]
    assert outcomes[-1] == [1]
    assert counted.failures <= 1


async def test_more_requests_than_connections_is_busy_not_down(counted: Counted) -> None:
    async with AsyncExitStack() as held:
        for _ in range(8):
            await held.enter_async_context(counted.store.reading())
        with pytest.raises(StoreUnavailable, match="is busy"):
            await ask(counted.store)
    assert counted.failures == 0
    assert await ask(counted.store) == 1


async def test_an_error_of_ours_is_not_the_servers(counted: Counted) -> None:
    with pytest.raises(asyncpg.PostgresSyntaxError):
        async with counted.store.reading() as connection:
            await connection.execute("SELEKT")
    with pytest.raises(asyncpg.DataError):
        async with counted.store.writing() as connection:
            await connection.fetchval("SELECT $1::int", "x")
    assert counted.failures == 0


async def test_writers_wait_for_each_other(counted: Counted) -> None:
    seen: list[str] = []

    async def write(name: str) -> None:
        async with counted.store.writing() as connection:
            seen.append(f"{name} in")
            await connection.execute("SELECT pg_sleep(0.02)")
            seen.append(f"{name} out")

    await asyncio.gather(write("a"), write("b"))
    assert [entry.split()[1] for entry in seen] == ["in", "out", "in", "out"]


async def test_an_exception_inside_takes_back_what_was_written(counted: Counted) -> None:
    async def fail() -> None:
        async with counted.store.writing() as connection:
            await connection.execute("INSERT INTO projects (id, name, kind) VALUES ('prj_1', 'x', 'saas')")
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    assert await inserted(counted) == 0


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(), "refuses connections"),
        (TimeoutError(), "did not answer in time"),
        (OSError("no route to 10.0.0.7"), "is not reachable"),
        (asyncpg.InvalidPasswordError("user bob"), "refuses the credentials"),
        (asyncpg.TooManyConnectionsError(), "has no connection left"),
        (asyncpg.CannotConnectNowError(), "is starting or stopping"),
        (asyncpg.AdminShutdownError(), "closed the connection"),
        (asyncpg.DeadlockDetectedError(), "is busy"),
        (asyncpg.QueryCanceledError(), "is busy"),
        (asyncpg.UniqueViolationError(), None),
        (asyncpg.exceptions.DataError(), None),
        (ValueError(), None),
    ],
)
def test_reasons_name_no_host_and_no_user(error: Exception, reason: str | None) -> None:
    assert reason_of(error) == reason
