"""The `changed` triggers: every change of a control table is one revision, in commit order, and a notification."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

PEOPLE = """
INSERT INTO projects (id, name, kind) VALUES ('prj_1', 'One', 'saas');
INSERT INTO tiers (id, project_id, mode, name, title) VALUES ('tier_1', 'prj_1', 'live', 'free', 'Free');
INSERT INTO tier_quotas (tier_id, meter, quota) VALUES ('tier_1', 'requests', 500);
INSERT INTO customers (id, project_id, mode, external_id) VALUES ('cus_1', 'prj_1', 'live', 'ada');
INSERT INTO subscriptions (id, project_id, mode, customer_id, tier_id, status, anchor_at)
    VALUES ('sub_1', 'prj_1', 'live', 'cus_1', 'tier_1', 'active', now());
INSERT INTO keys (id, project_id, mode, kind, name, hash, prefix)
    VALUES ('key_1', 'prj_1', 'live', 'sk', 'main', sha256('1'), 'sk_live_abcd');
INSERT INTO issuers (id, project_id, name, issuer, spec) VALUES ('iss_1', 'prj_1', 'idp', 'https://idp.test/', '{}');
INSERT INTO upstreams (id, project_id, name, spec) VALUES ('ups_1', 'prj_1', 'api', '{}');
INSERT INTO routes (id, project_id, name, upstream_id, path, spec) VALUES ('rte_1', 'prj_1', 'api', 'ups_1', '/*', '{}');
"""


@pytest.fixture
async def other(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A second connection to the same database."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close(timeout=5)


async def changes(pg: asyncpg.Connection, statement: str) -> list[tuple[str, str, str]]:
    """What a statement adds to `changes`, as (noun, object, project)."""
    seen = await pg.fetchval("SELECT coalesce(max(revision), 0) FROM changes")
    await pg.execute(statement)
    rows = await pg.fetch("SELECT noun, object_id, project_id FROM changes WHERE revision > $1 ORDER BY revision", seen)
    return [tuple(row) for row in rows]


async def test_each_noun_is_noted_with_its_id_and_its_project(pg: asyncpg.Connection) -> None:
    assert await changes(pg, PEOPLE) == [
        ("project", "prj_1", "prj_1"),
        ("tier", "tier_1", "prj_1"),
        ("tier", "tier_1", "prj_1"),  # its quota
        ("customer", "cus_1", "prj_1"),
        ("customer", "cus_1", "prj_1"),  # its subscription
        ("key", "key_1", "prj_1"),
        ("issuer", "iss_1", "prj_1"),
        ("upstream", "ups_1", "prj_1"),
        ("route", "rte_1", "prj_1"),
    ]


@pytest.mark.parametrize(
    ("statement", "noted"),
    [
        ("UPDATE projects SET name = 'Uno' WHERE id = 'prj_1'", ("project", "prj_1")),
        ("UPDATE tiers SET requests_per_minute = 9", ("tier", "tier_1")),
        ("UPDATE tier_quotas SET quota = NULL", ("tier", "tier_1")),
        ("DELETE FROM tier_quotas", ("tier", "tier_1")),
        ("UPDATE customers SET name = 'Ada'", ("customer", "cus_1")),
        ("UPDATE subscriptions SET status = 'canceled'", ("customer", "cus_1")),
        ("DELETE FROM subscriptions", ("customer", "cus_1")),
        ("UPDATE keys SET revoked_at = now()", ("key", "key_1")),
        ("UPDATE keys SET revoked_at = now(), last_used_at = now()", ("key", "key_1")),
        ("DELETE FROM keys", ("key", "key_1")),
        ("UPDATE issuers SET spec = '{\"a\": 1}'", ("issuer", "iss_1")),
        ("DELETE FROM issuers", ("issuer", "iss_1")),
        ("UPDATE upstreams SET spec = '{\"a\": 1}'", ("upstream", "ups_1")),
        ("UPDATE routes SET path = '/v1/*'", ("route", "rte_1")),
        ("DELETE FROM routes", ("route", "rte_1")),
    ],
)
async def test_an_update_or_a_deletion_is_one_revision(
    statement: str, noted: tuple[str, str], pg: asyncpg.Connection
) -> None:
    await pg.execute(PEOPLE)

    assert await changes(pg, statement) == [(*noted, "prj_1")]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE keys SET last_used_at = now()",
        "INSERT INTO customers (id, project_id, mode, external_id, origin) VALUES ('cus_2','prj_1','live','bob','seen')",
    ],
)
async def test_what_gateways_need_not_hear_of_is_no_revision(statement: str, pg: asyncpg.Connection) -> None:
    await pg.execute(PEOPLE)

    assert await changes(pg, statement) == []


async def test_a_deleted_project_takes_everything_with_it_and_says_so(pg: asyncpg.Connection) -> None:
    await pg.execute(PEOPLE)

    noted = await changes(pg, "DELETE FROM routes; DELETE FROM subscriptions; DELETE FROM projects WHERE id = 'prj_1'")

    assert set(noted) == {
        ("project", "prj_1", "prj_1"),
        ("tier", "tier_1", "prj_1"),
        ("customer", "cus_1", "prj_1"),
        ("key", "key_1", "prj_1"),
        ("issuer", "iss_1", "prj_1"),
        ("upstream", "ups_1", "prj_1"),
        ("route", "rte_1", "prj_1"),
    }


async def test_a_change_notifies_when_it_commits_and_not_before(
    pg: asyncpg.Connection, other: asyncpg.Connection
) -> None:
    heard = asyncio.Event()
    await other.add_listener("tollgate_changes", lambda *_: heard.set())
    change = pg.transaction()
    await change.start()
    await pg.execute(PEOPLE)
    await other.fetchval("SELECT 1")  # would bring a notification along
    assert not heard.is_set()

    await change.commit()

    await asyncio.wait_for(heard.wait(), 5)


async def test_a_change_that_is_rolled_back_is_not_noted(pg: asyncpg.Connection) -> None:
    change = pg.transaction()
    await change.start()
    await pg.execute(PEOPLE)
    await change.rollback()

    assert await changes(pg, "SELECT 1") == []
    assert await pg.fetchval("SELECT count(*) FROM changes WHERE project_id = 'prj_1'") == 0


async def test_a_revision_becomes_visible_only_after_all_before_it(
    pg: asyncpg.Connection, other: asyncpg.Connection, postgres_url: str
) -> None:
    """The second writer would get the higher revision and commit first, so it must wait for the first writer."""
    await pg.execute(PEOPLE)
    seen = await pg.fetchval("SELECT max(revision) FROM changes")
    first = pg.transaction()
    await first.start()
    await pg.execute("UPDATE routes SET path = '/first/*'")

    second = asyncio.create_task(other.execute("UPDATE upstreams SET name = 'second'"))
    reader = await asyncpg.connect(postgres_url)
    try:
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"
        async with asyncio.timeout(5):
            while not await reader.fetchval(waits):
                await asyncio.sleep(0.005)
        assert await reader.fetch("SELECT FROM changes WHERE revision > $1", seen) == []

        await first.commit()
        await second

        rows = await reader.fetch("SELECT noun FROM changes WHERE revision > $1 ORDER BY revision", seen)
        assert [row["noun"] for row in rows] == ["route", "upstream"]
    finally:
        await reader.close(timeout=5)


async def test_a_reader_that_polls_while_many_write_misses_nothing(postgres_url: str, pg: asyncpg.Connection) -> None:
    await pg.execute(PEOPLE)
    writers, rounds = 4, 15
    seen = await pg.fetchval("SELECT max(revision) FROM changes")
    done = asyncio.Event()
    read: list[str] = []

    async def write(number: int) -> None:
        connection = await asyncpg.connect(postgres_url)
        try:
            for count in range(rounds):
                await connection.execute(
                    "INSERT INTO upstreams (id, project_id, name, spec) VALUES ($1, 'prj_1', $1, '{}')",
                    f"ups_{number}_{count}",
                )
        finally:
            await connection.close(timeout=5)

    async def poll() -> None:
        last = seen
        while True:
            is_last = done.is_set()
            for row in await pg.fetch("SELECT * FROM changes WHERE revision > $1 ORDER BY revision", last):
                last = row["revision"]
                read.append(row["object_id"])
            if is_last:
                return
            await asyncio.sleep(0)

    polling = asyncio.create_task(poll())
    await asyncio.gather(*(write(number) for number in range(writers)))
    done.set()
    await polling

    assert sorted(read) == sorted(f"ups_{number}_{count}" for number in range(writers) for count in range(rounds))
