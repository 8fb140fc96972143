"""The post: takes due letters from the outbox, writes them, hands them to the transport, notes what became of them."""

from __future__ import annotations

import logging
import secrets
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

import asyncpg

from ledger import sql
from ledger.mail.letters import LINK_LIFE, Kind, Letter, read, write
from ledger.mail.transports import NotTaken, Transport

AT_ONCE: Final = 10
_FIRST_PAUSE_S: Final = 5.0
_LONGEST_PAUSE_S: Final = 3600.0
DEV_LINK_LIFE: Final = timedelta(hours=24)
VERIFY: Final = "/auth/verify"

_SQL = sql.load("ledger.mail", "mail.sql")

log = logging.getLogger(__name__)


def hash_token(token: str) -> bytes:
    """SHA-256 of a token of a link, a session or a claim: the only form that is stored."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def pause_s(attempts: int) -> float:
    """Seconds until the next try after so many."""
    return float(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 3.0 ** min(attempts - 1, 10)))


async def make_link(connection: asyncpg.Connection, origin: str, email: str, *, is_reusable: bool = False) -> str:
    """A fresh sign-in link for an address; its token is stored as a hash. One that is reusable lives for a day."""
    token = secrets.token_urlsafe(32)
    expires_at = datetime.now(UTC) + (DEV_LINK_LIFE if is_reusable else LINK_LIFE)
    await connection.execute(_SQL["add_link"], hash_token(token), email.lower(), is_reusable, expires_at)
    return f"{origin}{VERIFY}?token={token}"


async def deliver_due(connection: asyncpg.Connection, transport: Transport, origin: str) -> int:
    """Try every letter that is due now, at most AT_ONCE; returns how many were taken up.

    Raises asyncpg errors; a letter that was taken up comes back after two minutes.
    """
    rows = await connection.fetch(_SQL["take"], AT_ONCE)
    for row in rows:
        await _deliver(connection, transport, origin, row)
    return len(rows)


async def _deliver(connection: asyncpg.Connection, transport: Transport, origin: str, row: asyncpg.Record) -> None:
    try:
        letter = read(row["payload"])
        if datetime.now(UTC) >= letter.useful_until(row["created_at"]):
            raise NotTaken("too late to be of use", is_final=True)
        await transport(connection, write(letter, origin, await _link(connection, origin, letter)))
    except (NotTaken, ValueError, KeyError, TypeError) as error:
        reason = str(error) if isinstance(error, NotTaken) else f"unreadable: {type(error).__name__}"
        if not isinstance(error, NotTaken) or error.is_final:
            log.error("a mail is given up: %s", reason, extra={"outbox_id": row["id"]})
            await connection.execute(_SQL["given_up"], row["id"], reason)
        else:
            log.warning("a mail was not taken: %s", reason, extra={"outbox_id": row["id"]})
            await connection.execute(_SQL["failed"], row["id"], reason, pause_s(row["attempts"]))
    else:
        await connection.execute(_SQL["sent"], row["id"])


async def _link(connection: asyncpg.Connection, origin: str, letter: Letter) -> str | None:
    return await make_link(connection, origin, letter.to) if letter.kind is Kind.SIGN_IN else None


async def forget_old(connection: asyncpg.Connection) -> None:
    """Delete what is over: sent mail after a week, links, attempts, sessions and invitations when they expire."""
    for name, statement in _SQL.items():
        if name.startswith("forget_"):
            await connection.execute(statement)
