"""Sessions: a browser that is signed in, known by a cookie whose text is stored nowhere.

The CSRF token of a session follows from the cookie's text (`csrf_of`): a page of another origin can send the cookie and
cannot know the token. A session remembers which project and mode its pages show.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Final

import asyncpg

from ledger import ids, sql
from ledger.keys import Mode
from ledger.mail.post import hash_token

LIFE: Final = timedelta(days=30)
_NOTED_EVERY: Final = timedelta(minutes=5)

_SQL = sql.load("admin.accounts", "sessions.sql")
_OF_HASH, _OF_ACCOUNT = (f"{_SQL['select']} {_SQL[which]}" for which in ("of_hash", "of_account"))


@dataclass(frozen=True, slots=True)
class Session:
    """One browser that is signed in. `project_id` and `mode` are what its pages show; None before there is a project."""

    id: str
    account_id: str
    email: str
    address: str
    user_agent: str
    project_id: str | None
    mode: Mode
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime

    @property
    def actor(self) -> str:
        """What the audit log says."""
        return f"account:{self.account_id}"


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session at the only moment its token exists."""

    account_id: str
    token: str

    def __repr__(self) -> str:
        return f"NewSession(account_id={self.account_id!r})"


def csrf_of(token: str) -> str:
    """What a form must send along with the cookie `token`."""
    return sha256(b"csrf:" + token.encode("utf-8", "surrogatepass")).hexdigest()


def is_csrf(token: str, given: str) -> bool:
    """True if `given` belongs to the cookie; takes the same time for every wrong one."""
    return hmac.compare_digest(csrf_of(token).encode(), given.encode("utf-8", "surrogatepass"))


async def begin(
    connection: asyncpg.Connection, account_id: str, address: str, user_agent: str, old: str | None
) -> NewSession:
    """A fresh session; the one whose token the browser had before (`old`) ends."""
    if old is not None:
        await connection.execute(_SQL["end_token"], hash_token(old))
    token = secrets.token_urlsafe(32)
    agent = "".join(c for c in user_agent if c.isprintable())[:300]
    await connection.execute(_SQL["add"], ids.new_id("session"), hash_token(token), account_id, address, agent)
    return NewSession(account_id, token)


async def find(connection: asyncpg.Connection, token: str, address: str) -> Session | None:
    """The session of a cookie, or None. Notes, at most every 5 minutes, when and from where it was last seen."""
    row = await connection.fetchrow(_OF_HASH, hash_token(token))
    if row is None:
        return None
    session = _session(row)
    if datetime.now(UTC) - session.last_seen_at > _NOTED_EVERY or session.address != address:
        await connection.execute(_SQL["seen"], session.id, address)
    return session


async def of_account(connection: asyncpg.Connection, account_id: str) -> list[Session]:
    """Where an account is signed in, the one last seen first."""
    return [_session(row) for row in await connection.fetch(_OF_ACCOUNT, account_id)]


async def turn_to(connection: asyncpg.Connection, session: Session, project_id: str | None, mode: Mode) -> None:
    """Let its pages show another project or mode. Whether the account may see it is the caller's to check."""
    await connection.execute(_SQL["turn_to"], session.id, project_id, mode)


async def end(connection: asyncpg.Connection, account_id: str, session_id: str) -> bool:
    """Sign one browser of an account out; False if there is no such session of that account."""
    return await connection.fetchval(_SQL["end"], account_id, session_id) is not None


async def end_token(connection: asyncpg.Connection, token: str) -> None:
    """Sign the browser with this cookie out."""
    await connection.execute(_SQL["end_token"], hash_token(token))


async def end_others(connection: asyncpg.Connection, session: Session) -> None:
    """Sign an account out everywhere but here."""
    await connection.execute(_SQL["end_others"], session.account_id, session.id)


def _session(row: asyncpg.Record) -> Session:
    return Session(**{**row, "mode": Mode(row["mode"])})


def in_mode(session: Session, mode: Mode) -> Session:
    """The session as if its pages showed this mode."""
    return session if session.mode is mode else replace(session, mode=mode)
