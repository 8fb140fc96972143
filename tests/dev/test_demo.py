"""The demo project: made once, found again, repaired where a key was lost; what its user changed stays."""

from __future__ import annotations

import asyncpg

from ledger.ids import PLATFORM_PROJECT_ID
from ledger.keys import is_well_formed
from tollgate.dev.demo import seed


async def test_the_first_start_makes_what_the_summary_promises(pg: asyncpg.Connection) -> None:
    demo = await seed(pg, "http://127.0.0.1:30001", {})
    tier = await pg.fetchrow(
        "SELECT t.name, t.requests_per_minute, t.is_default, q.quota FROM tiers t JOIN tier_quotas q ON q.tier_id = t.id"
        " WHERE t.project_id = $1 AND t.mode = 'test' AND q.meter = 'requests'",
        demo.project_id,
    )
    assert tuple(tier) == ("free", 300, True, 100_000)
    customer = await pg.fetchval("SELECT external_id FROM customers WHERE id = $1 AND mode = 'test'", demo.customer_id)
    assert customer == "demo"
    assert await pg.fetchval("SELECT path FROM routes WHERE project_id = $1", demo.project_id) == "/demo/*"
    assert {name: key[:8] for name, key in demo.keys.items()} == {
        "secret": "sk_test_",
        "publishable": "pk_test_",
        "customer": "ck_test_",
    }
    assert all(is_well_formed(key.encode()) for key in demo.keys.values())


async def test_a_later_start_changes_nothing_but_the_address(pg: asyncpg.Connection) -> None:
    first = await seed(pg, "http://127.0.0.1:30001", {})
    await pg.execute("UPDATE tiers SET requests_per_minute = 7 WHERE project_id = $1", first.project_id)
    second = await seed(pg, "http://127.0.0.1:3000", first.keys)
    assert second == first
    assert await pg.fetchval("SELECT count(*) FROM keys") == 3
    assert await pg.fetchval("SELECT count(*) FROM routes") == 1
    assert await pg.fetchval("SELECT min(requests_per_minute) FROM tiers WHERE project_id = $1", first.project_id) == 7
    targets = await pg.fetchval("SELECT spec ->> 'targets' FROM upstreams WHERE name = 'demo'")
    assert "127.0.0.1:3000" in targets
    assert "30001" not in targets


async def test_a_start_with_the_same_address_writes_nothing(pg: asyncpg.Connection) -> None:
    first = await seed(pg, "http://127.0.0.1:30001", {})
    revision = await pg.fetchval("SELECT max(revision) FROM changes")
    await seed(pg, "http://127.0.0.1:30001", first.keys)
    assert await pg.fetchval("SELECT max(revision) FROM changes") == revision


async def test_a_key_that_was_revoked_or_lost_is_replaced_alone(pg: asyncpg.Connection) -> None:
    first = await seed(pg, "http://127.0.0.1:30001", {})
    await pg.execute("UPDATE keys SET revoked_at = now() WHERE kind = 'sk'")
    kept = {name: text for name, text in first.keys.items() if name != "publishable"}
    second = await seed(pg, "http://127.0.0.1:30001", kept)
    assert second.keys["customer"] == first.keys["customer"]
    assert second.keys["secret"] != first.keys["secret"]
    assert second.keys["publishable"] != first.keys["publishable"]


async def test_where_code_is_run_the_project_is_a_customer_of_the_platform(pg: asyncpg.Connection) -> None:
    plans = "http://127.0.0.1:8080/dashboard/billing"
    first = await seed(pg, "http://127.0.0.1:30001", {}, "http://127.0.0.1:30002", plans)
    assert first.keys["platform"].startswith("ck_test_")
    tier = await pg.fetchrow(
        "SELECT t.name, t.is_default, q.quota, q.is_hard, t.upgrade_url FROM tiers t"
        " JOIN tier_quotas q ON q.tier_id = t.id AND q.meter = 'runs'"
        " WHERE t.project_id = $1 AND t.mode = 'live' AND t.name = 'free'",
        PLATFORM_PROJECT_ID,
    )
    assert tuple(tier) == ("free", True, 100, True, plans)
    of_platform = "SELECT external_id FROM customers WHERE project_id = $1 AND mode = 'test'"
    assert await pg.fetchval(of_platform, PLATFORM_PROJECT_ID) == first.project_id
    revision = await pg.fetchval("SELECT max(revision) FROM changes")
    second = await seed(pg, "http://127.0.0.1:30001", first.keys, "http://127.0.0.1:30002", plans)
    assert second == first
    assert await pg.fetchval("SELECT max(revision) FROM changes") == revision
    await pg.execute("UPDATE tier_quotas SET quota = 7 WHERE meter = 'runs' AND quota = 100")
    await seed(pg, "http://127.0.0.1:30001", first.keys, "http://127.0.0.1:30003, http://127.0.0.1:30004", plans)
    targets = "SELECT spec ->> 'targets' FROM upstreams WHERE name = 'sandbox'"
    for (moved,) in await pg.fetch(targets):
        assert "30003" in moved
        assert "30004" in moved
        assert "30002" not in moved
    assert await pg.fetchval("SELECT count(*) FROM tier_quotas WHERE quota = 7") == 2  # what an operator changed stays
