"""Alerts: each mark of a quota is told once a period, the highest of several, by mail and webhook."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import asyncpg
import pytest

from admin.accounts.members import put_member
from admin.accounts.sign_in import ensure_account
from admin.permissions import Role
from ledger.alerts import passed, raise_alerts
from ledger.ids import customer_id_for
from ledger.mail.letters import Kind, Letter, write
from tests.admin.declared import apply_text

SHOP = """
version: 1
projects:
  - name: Shop
    tiers: [{name: free, default: true, quotas: {requests: 10, tokens: null}}]
    customers: [{external_id: ada, modes: [test]}]
"""


@pytest.fixture
async def project(pg: asyncpg.Connection) -> str:
    await apply_text(pg, SHOP)
    project_id = str(await pg.fetchval("SELECT id FROM projects WHERE name = 'Shop'"))
    for email, role in (("owner@example.com", Role.OWNER), ("viewer@example.com", Role.VIEWER)):
        await put_member(pg, project_id, await ensure_account(pg, email), role)
    return project_id


async def use(pg: asyncpg.Connection, project_id: str, quantity: int) -> None:
    """What the ledger holds of ada, all of it in this hour."""
    customer, now = customer_id_for(project_id, "test", "ada"), datetime.now(UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)
    event = (project_id, now, customer, json.dumps({"requests": quantity}))
    await pg.execute("DELETE FROM usage_events")
    await pg.execute(
        "CREATE TABLE IF NOT EXISTS usage_events_now PARTITION OF usage_events DEFAULT",
    )
    await pg.execute(
        "INSERT INTO usage_events (project_id, at, id, mode, customer_id, method, status, outcome, meters, duration_us,"
        " upstream_us) VALUES ($1, $2, gen_random_uuid(), 'test', $3, 'POST', 200, 'counted', $4, 1, 1)",
        *event,
    )
    for table, column, at in (("usage_hourly", "hour", hour), ("usage_daily", "day", hour.date())):
        more = ("", "") if table == "usage_hourly" else (", duration_us", ", 1")
        await pg.execute(
            f"INSERT INTO {table} (project_id, mode, {column}, customer_id, meter, quantity, events{more[0]})"
            f" VALUES ($1, 'test', $2, $3, 'requests', $4, 1{more[1]})"
            f" ON CONFLICT (project_id, mode, {column}, customer_id, key_id, route_id, meter) DO UPDATE SET quantity = $4",
            *(project_id, at, customer, quantity),
        )


async def subjects(pg: asyncpg.Connection) -> list[tuple[str, int]]:
    rows = await pg.fetch("SELECT payload::text FROM outbox WHERE topic = 'mail' ORDER BY id")
    found = [json.loads(row["payload"]) for row in rows]
    return [(letter["to"], letter["facts"]["percent"]) for letter in found]


async def test_each_mark_is_told_once(pg: asyncpg.Connection, project: str) -> None:
    told = []
    for used in (4, 5, 6, 9, 10, 11):
        await use(pg, project, used)
        told.append(await raise_alerts(pg))
    assert told == [0, 1, 0, 1, 1, 0]
    assert await subjects(pg) == [("owner@example.com", 50), ("owner@example.com", 80), ("owner@example.com", 100)]


async def test_of_several_at_once_the_highest_is_told(pg: asyncpg.Connection, project: str) -> None:
    await use(pg, project, 10)
    assert await raise_alerts(pg) == 1
    assert await subjects(pg) == [("owner@example.com", 100)]
    assert await pg.fetchval("SELECT count(*) FROM alerts") == 3


async def test_a_project_says_when_and_how(pg: asyncpg.Connection, project: str) -> None:
    await pg.execute("UPDATE projects SET alert_percents = '{90}', alerts_by_mail = false WHERE id = $1", project)
    await use(pg, project, 8)
    assert await raise_alerts(pg) == 0
    await use(pg, project, 9)
    assert await raise_alerts(pg) == 1
    assert await subjects(pg) == []


async def test_webhooks_are_told_too(pg: asyncpg.Connection, project: str) -> None:
    await pg.execute(
        "INSERT INTO webhook_endpoints (id, project_id, mode, url, events, secret)"
        " VALUES ('whk_1', $1, 'test', 'https://example.com', '{quota.reached}', '')",
        project,
    )
    await use(pg, project, 5)
    await raise_alerts(pg)
    body = json.loads(await pg.fetchval("SELECT body FROM webhook_messages"))
    assert body["type"] == "quota.reached"
    assert (body["data"]["used"], body["data"]["limit"], body["data"]["percent"]) == (5, 10, 50)


async def test_a_spend_cap_is_told_in_money(pg: asyncpg.Connection, project: str) -> None:
    await apply_text(
        pg,
        """
version: 1
projects:
  - name: Shop
    tiers:
      - name: free
        default: true
        price_minor: 5000
        spend_cap_minor: 1000
        quotas: {requests: {limit: 100, hard: false, overage_price: 2}}
""",
    )
    await use(pg, project, 499)  # 399 beyond the quota, at 2 cents: 7.98 of 10
    await raise_alerts(pg)
    await pg.execute("DELETE FROM outbox")
    await use(pg, project, 500)
    assert await raise_alerts(pg) == 1
    rows = [json.loads(row["payload"]) for row in await pg.fetch("SELECT payload::text FROM outbox")]
    (letter,) = [Letter(Kind(row["kind"]), row["to"], row["facts"]) for row in rows]
    message = write(letter, "https://gate.example", None)
    assert message.subject == "ada has used 80 % of the spend cap in Shop (test mode)"
    assert "8.00 USD of 10.00 USD overage" in message.text


@pytest.mark.parametrize(
    ("used", "quota", "expected"),
    [(0, 10, []), (4, 10, []), (5, 10, [50]), (100, 10, [50, 80, 100]), (1, 1, [50, 80, 100])],
)
def test_marks(used: int, quota: int, expected: list[int]) -> None:
    assert passed(used, quota, (100, 50, 80)) == expected
