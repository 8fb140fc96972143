"""Bringing deliveries out: take the head of each line, sign, send, note what came of it."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Final

import aiohttp
import asyncpg

from ledger import sql
from ledger.vault import CannotOpen, Vault
from ledger.webhooks.public import NotPublic, PublicOnly, is_allowed_url
from ledger.webhooks.sign import headers

AT_ONCE: Final = 10
TIMEOUT_S: Final = 15.0
TRIED_FOR: Final = timedelta(days=3)
_MOST_READ: Final = 4096
_PAUSES_S: Final = (5.0, 60.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0)
_GONE: Final = 410

_SQL = sql.load("ledger.webhooks", "webhooks.sql")

log = logging.getLogger(__name__)


def pause_s(attempts: int) -> float:
    """Seconds until the next try after so many: 5 s, 1 min, 5 min, 30 min, 2 h, 5 h, then every 10 h."""
    return _PAUSES_S[min(attempts, len(_PAUSES_S)) - 1]


class Post:
    """Sends deliveries; has one HTTP session, to be closed. Without a vault nothing can be signed, and all waits."""

    def __init__(self, vault: Vault | None, *, allow_private: bool = False) -> None:
        self._vault = vault
        self._allow_private = allow_private
        resolver = None if allow_private else PublicOnly()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, force_close=True, limit=AT_ONCE),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        await self._session.close()

    async def deliver_due(self, connection: asyncpg.Connection) -> int:
        """Try what is due, at most one delivery of an endpoint and AT_ONCE in all; returns how many. Raises asyncpg's."""
        if self._vault is None:
            return 0
        rows = await connection.fetch(_SQL["take"], AT_ONCE)
        outcomes = await asyncio.gather(*(self._send(row) for row in rows))
        for row, (status, error) in zip(rows, outcomes, strict=True):
            await _note(connection, row, status, error)
        return len(rows)

    async def _send(self, row: asyncpg.Record) -> tuple[int | None, str | None]:
        """The status of the answer, and what was wrong; None for nothing. Never raises."""
        assert self._vault is not None
        if not is_allowed_url(row["url"], allow_private=self._allow_private):
            return None, "the address is not allowed"
        try:
            sealed = [row["secret"], *([row["old_secret"]] if row["old_secret"] is not None else [])]
            secrets = [self._vault.open(secret, row["endpoint_id"]) for secret in sealed]
        except CannotOpen as error:
            return None, f"the secret cannot be opened: {error}"
        fields = headers(secrets, row["message_id"], int(time.time()), row["body"])
        try:
            async with self._session.post(
                row["url"], data=row["body"].encode(), headers=fields, allow_redirects=False
            ) as response:
                await response.content.read(_MOST_READ)
                is_taken = 200 <= response.status < 300
                return response.status, None if is_taken else f"answered {response.status}"
        except NotPublic as error:
            return None, str(error)
        except TimeoutError:
            return None, f"no answer within {TIMEOUT_S:.0f} s"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            inside = error.__cause__ if isinstance(error.__cause__, NotPublic) else None
            return None, str(inside) if inside else f"no answer ({type(error).__name__})"


async def _note(connection: asyncpg.Connection, row: asyncpg.Record, status: int | None, error: str | None) -> None:
    if error is None:
        await connection.execute(_SQL["delivered"], row["id"], status)
    elif status == _GONE:
        await connection.execute(_SQL["given_up"], row["id"], status, error)
        await connection.execute(_SQL["turn_off"], row["endpoint_id"])
        log.warning("a webhook endpoint said it is gone; it is turned off", extra={"endpoint_id": row["endpoint_id"]})
    elif datetime.now(UTC) - row["created_at"] > TRIED_FOR:
        await connection.execute(_SQL["given_up"], row["id"], status, error)
    else:
        await connection.execute(_SQL["failed"], row["id"], status, error, pause_s(row["attempts"]))


async def forget_old(connection: asyncpg.Connection) -> None:
    """Delete messages of more than 30 days that nobody waits for."""
    await connection.execute(_SQL["forget_old"])
