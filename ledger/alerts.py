"""Alerts: a customer has used 50, 80 or 100 % of a quota or spend cap; told once each by mail and webhook.

The worker looks every few seconds at the customers that were just counted. Thresholds are the project's. A customer that
passes several at once is told the highest. Bound: 40 mails of a project in an hour, beyond which only webhooks and the
list of alerts tell. Errors are the connection's; what was not noted is found again at the next look.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import asyncpg

from ledger import ids, sql
from ledger.mail.letters import Kind, Letter, queue
from ledger.periods import period_of
from ledger.rating import Plan, bill
from ledger.usage import usage_in_period
from ledger.usage_figures import plans
from ledger.webhooks.emit import emit

MAILS_PER_HOUR: Final = 40
SPEND: Final = "$spend"
"""What stands for the spend cap where a meter stands; no meter can be called so."""

_SQL = sql.load("ledger", "alerts.sql")


def passed(used: int, quota: int, percents: Iterable[int]) -> list[int]:
    """The thresholds that `used` of `quota` has reached, lowest first. Pure."""
    return sorted(percent for percent in percents if used * 100 >= quota * percent)


async def raise_alerts(connection: asyncpg.Connection) -> int:
    """Note and tell every threshold that was reached since the last look; returns how many were told."""
    told = 0
    for row in await connection.fetch(_SQL["near"]):
        start, end, usage = await _used(connection, row)
        told += await _alert(connection, row, row["meter"], usage.get(row["meter"], 0), (start, end), None)
    known: dict[tuple[str, str], dict[str, Plan]] = {}
    for row in await connection.fetch(_SQL["capped"]):
        half = row["project_id"], row["mode"]
        if half not in known:
            known[half] = await plans(connection, *half)
        start, end, usage = await _used(connection, row)
        lines = bill(known[half][row["tier_id"]], usage) if row["tier_id"] in known[half] else []
        spent = sum(line.amount_minor for line in lines if line.meter is not None)  # the base is not overage
        told += await _alert(connection, row, SPEND, spent, (start, end), row["currency"])
    return told


async def _used(connection: asyncpg.Connection, row: asyncpg.Record) -> tuple[datetime, datetime, dict[str, int]]:
    """A customer's present period, and what was used in it."""
    start, end = period_of(row["anchor_at"], datetime.now(UTC))
    usage = await usage_in_period(connection, row["project_id"], row["mode"], row["customer_id"], start, end)
    return start, end, usage


async def _alert(
    connection: asyncpg.Connection,
    row: asyncpg.Record,
    meter: str,
    used: int,
    period: tuple[datetime, datetime],
    currency: str | None,
) -> int:
    """Note what was reached; tell the highest of what is new. Returns 1 if it was told."""
    async with connection.transaction():
        reached = passed(used, row["quota"], row["alert_percents"])
        noted = [percent for percent in reached if await _note(connection, row, meter, period[0], percent, used)]
        if noted:
            await _tell(connection, row, meter, period, max(noted), used, currency)
    return int(bool(noted))


async def _note(
    connection: asyncpg.Connection, row: asyncpg.Record, meter: str, start: datetime, percent: int, used: int
) -> bool:
    """False if it was noted before."""
    noted = await connection.fetchval(
        _SQL["note"],
        ids.new_id("alert"),
        row["project_id"],
        row["mode"],
        row["customer_id"],
        meter,
        start,
        percent,
        used,
        row["quota"],
    )
    return noted is not None


async def _tell(
    connection: asyncpg.Connection,
    row: asyncpg.Record,
    meter: str,
    period: tuple[datetime, datetime],
    percent: int,
    used: int,
    currency: str | None,
) -> None:
    start, end = period
    facts = {
        "customer": row["customer"],
        "meter": "the spend cap" if meter == SPEND else meter,
        "percent": percent,
        "used": used,
        "limit": row["quota"],
        "currency": currency,
        "period_end": end.strftime("%Y-%m-%d %H:%M UTC"),
    }
    data = {
        **facts,
        "meter": "spend_cap" if meter == SPEND else meter,
        "customer_id": row["customer_id"],
        "period_start": start.isoformat(),
        "period_end": end.isoformat(),
    }
    type_ = "spend_cap.reached" if meter == SPEND else "quota.reached"
    await emit(connection, row["project_id"], row["mode"], type_, data)
    if row["alerts_by_mail"] and await connection.fetchval(_SQL["mails"], row["project_id"]) < MAILS_PER_HOUR:
        for reader in await connection.fetch(_SQL["readers"], row["project_id"]):
            letter = Letter(Kind.ALERT, reader["email"], {**facts, "project": row["project"], "mode": row["mode"]})
            key = f"alert:{row['customer_id']}:{meter}:{start.isoformat()}:{percent}:{reader['email']}"
            await queue(connection, row["project_id"], letter, key)
