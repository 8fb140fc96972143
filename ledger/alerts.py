"""Alerts: a customer has used 50, 80 or 100 % of a quota; told once each by mail and webhook.

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
from ledger.usage import usage_in_period
from ledger.webhooks.emit import emit

MAILS_PER_HOUR: Final = 40

_SQL = sql.load("ledger", "alerts.sql")


def passed(used: int, quota: int, percents: Iterable[int]) -> list[int]:
    """The thresholds that `used` of `quota` has reached, lowest first. Pure."""
    return sorted(percent for percent in percents if used * 100 >= quota * percent)


async def raise_alerts(connection: asyncpg.Connection) -> int:
    """Note and tell every threshold that was reached since the last look; returns how many were told."""
    told = 0
    for row in await connection.fetch(_SQL["near"]):
        start, end = period_of(row["anchor_at"], datetime.now(UTC))
        usage = await usage_in_period(connection, row["project_id"], row["mode"], row["customer_id"], start, end)
        used = usage.get(row["meter"], 0)
        async with connection.transaction():
            reached = passed(used, row["quota"], row["alert_percents"])
            noted = [percent for percent in reached if await _note(connection, row, start, percent, used)]
            if noted:
                await _tell(connection, row, start, end, max(noted), used)
                told += 1
    return told


async def _note(connection: asyncpg.Connection, row: asyncpg.Record, start: datetime, percent: int, used: int) -> bool:
    """False if it was noted before."""
    noted = await connection.fetchval(
        _SQL["note"],
        ids.new_id("alert"),
        row["project_id"],
        row["mode"],
        row["customer_id"],
        row["meter"],
        start,
        percent,
        used,
        row["quota"],
    )
    return noted is not None


async def _tell(
    connection: asyncpg.Connection, row: asyncpg.Record, start: datetime, end: datetime, percent: int, used: int
) -> None:
    facts = {
        "customer": row["customer"],
        "meter": row["meter"],
        "percent": percent,
        "used": used,
        "limit": row["quota"],
        "period_end": end.strftime("%Y-%m-%d %H:%M UTC"),
    }
    data = {
        **facts,
        "customer_id": row["customer_id"],
        "period_start": start.isoformat(),
        "period_end": end.isoformat(),
    }
    await emit(connection, row["project_id"], row["mode"], "quota.reached", data)
    if row["alerts_by_mail"] and await connection.fetchval(_SQL["mails"], row["project_id"]) < MAILS_PER_HOUR:
        for reader in await connection.fetch(_SQL["readers"], row["project_id"]):
            letter = Letter(Kind.ALERT, reader["email"], {**facts, "project": row["project"], "mode": row["mode"]})
            key = f"alert:{row['customer_id']}:{row['meter']}:{start.isoformat()}:{percent}:{reader['email']}"
            await queue(connection, row["project_id"], letter, key)
