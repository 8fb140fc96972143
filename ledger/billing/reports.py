"""Error reports: what Stripe found wrong with meter events after it had accepted them. Each is taken once.

Two ways lead to a report: a notice that a webhook received (ledger.billing.notices), and asking for all of them every few
minutes, for notices that never came. Either way it is read from Stripe itself, kept by its id, and the entries that it names
are dead with Stripe's code, in one transaction with the notice's being handled.

How it fails: Stripe away, a notice is tried again with growing pauses, TRIES times; then it has failed, visibly, and asking
is what is left. Postgres away, nothing has happened, and the notice is handled by the next who looks.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg
import orjson

from ledger import sql
from ledger.billing.deliver import pause_s, utc_now
from ledger.billing.door import Door, Report, StripeUnavailable
from ledger.billing.notices import NUL
from ledger.metrics import BillingMetrics

TRIES: Final = 20
"""Some hour and a quarter, with the pauses of delivery."""
_AT_ONCE: Final = 20
_LEASE: Final = timedelta(seconds=60)
"""A notice is with one worker for so long; twice would do no harm."""
_SQL: Final = sql.load("ledger.billing", "reports.sql")

log = logging.getLogger(__name__)


class Reports:
    """One worker's part of it. `pool` is an asyncpg pool."""

    def __init__(
        self, pool: asyncpg.Pool, door: Door, metrics: BillingMetrics, *, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._pool = pool
        self._door = door
        self._metrics = metrics
        self._now = now

    async def handle_notices(self) -> int:
        """Handle what webhooks have received; returns how many notices were tried. Raises what asyncpg raises."""
        now = self._now()
        notices = await self._pool.fetch(_SQL["claim"], now, now + _LEASE, self._door.modes, _AT_ONCE)
        for notice in notices:
            connected = notice["connected"]
            try:
                report = await self._door.report(notice["mode"], connected, notice["event_id"])
            except StripeUnavailable as error:
                await self._again(notice, str(error))
                continue
            async with self._pool.acquire() as connection, connection.transaction():
                if await connection.fetchval(_SQL["handled"], notice["event_id"], now) is None:
                    continue  # by somebody else meanwhile
                await self._take(connection, connected or "", notice["mode"], report)
        return len(notices)

    async def _again(self, notice: asyncpg.Record, reason: str) -> None:
        is_last = notice["attempts"] >= TRIES
        if is_last:
            log.error("notice %s of Stripe's cannot be handled, it is given up: %s", notice["event_id"], reason)
        wait = timedelta(seconds=pause_s(notice["attempts"], random.random()))  # noqa: S311 - spreads load, guards nothing
        state = "failed" if is_last else "received"
        await self._pool.execute(_SQL["not_now"], notice["event_id"], state, reason[:500], self._now() + wait)

    async def ask(self) -> int:
        """Ask for all reports that are not known; returns how many were new. Raises what asyncpg raises."""
        taken = 0
        for row in await self._pool.fetch(_SQL["accounts"], self._door.modes):
            account = row["account"] or ""
            known = {r["event_id"] for r in await self._pool.fetch(_SQL["known"], account, row["mode"])}
            try:
                reports = await self._door.reports(row["mode"], row["account"], known.__contains__)
            except StripeUnavailable as error:
                log.info("reports of billing errors cannot be had now: %s", error)
                continue
            for report in reports:
                async with self._pool.acquire() as connection, connection.transaction():
                    taken += await self._take(connection, account, row["mode"], report)
        return taken

    async def _take(self, connection: Any, account: str, mode: str, report: Report) -> bool:
        """Keep one report and put aside what it names; False if it was kept before."""
        payload = NUL.sub(r"\1\\ufffd", orjson.dumps(report.payload, default=str).decode())
        kept = await connection.fetchval(
            _SQL["keep"], report.event_id, account, mode, report.kind, report.errors, payload
        )
        if kept is None:
            return False
        codes = list(report.rejected.values())
        done = await connection.execute(_SQL["reject"], list(report.rejected), codes)
        log.error("Stripe reports %d events that do not count: %s (%s)", report.errors, sorted(set(codes)), done)
        self._metrics.rejected.inc(report.errors)
        return True
