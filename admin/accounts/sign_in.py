"""Signing in: a link is asked for, and a person who opens it and confirms gets a session.

Limits, exact on any number of processes: 5 links in 15 minutes for an address of the network and as many for an e-mail
address; 20 tokens that are none for an address of the network. An IPv6 address counts with its /64.
"""

from __future__ import annotations

import secrets
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

import asyncpg

from admin.accounts.members import put_member
from admin.accounts.sessions import NewSession, begin
from admin.changes import Action, Change, Unfit, record
from admin.permissions import Role
from ledger import ids, sql
from ledger.ids import PLATFORM_PROJECT_ID
from ledger.mail.letters import Kind, Letter, queue
from ledger.mail.post import hash_token

LINKS_PER_WINDOW: Final = 5
TOKENS_PER_WINDOW: Final = 20

_SQL = sql.load("admin.accounts", "accounts.sql")


class Limited(Exception):
    """Too many tries from here, or for this address; `wait_s` until the next one can succeed."""

    def __init__(self, wait_s: int) -> None:
        super().__init__(f"too many tries; wait {wait_s} s")
        self.wait_s = wait_s


async def ask_for_link(connection: asyncpg.Connection, email: str, address: str) -> None:
    """Have a link sent. The same for every address, known or not. Raises Limited."""
    email, address = email.lower(), network_of(address)
    async with connection.transaction():
        await _limit(connection, "link", address, email, LINKS_PER_WINDOW)
        await connection.execute(_SQL["note_attempt"], "link", address, email)
        await queue(connection, PLATFORM_PROJECT_ID, Letter(Kind.SIGN_IN, email, {}), f"sign_in:{ids.uuid7()}")


async def peek(connection: asyncpg.Connection, token: str) -> str | None:
    """The e-mail address that a link would sign in, without using it; None if it is used, over or none at all."""
    row = await connection.fetchrow(_SQL["link"], hash_token(token))
    return None if row is None else str(row["email"])


async def sign_in(
    connection: asyncpg.Connection, token: str, address: str, user_agent: str, old_session: str | None
) -> NewSession | None:
    """Use a link: a fresh session, in place of the one the browser had; None if the link is not good (any more).

    Raises Limited after too many tokens that are none.
    """
    async with connection.transaction():
        await _limit(connection, "token", network_of(address), None, TOKENS_PER_WINDOW)
        row = await connection.fetchrow(_SQL["link"], hash_token(token))
        email = row["email"] if row is not None and row["is_reusable"] else None
        if email is None:
            email = await connection.fetchval(_SQL["use_link"], hash_token(token))
        if email is None:
            await connection.execute(_SQL["note_attempt"], "token", network_of(address), None)
            return None
        await connection.execute(_SQL["drop_links"], email)
        account_id = await connection.fetchval(_SQL["sign_in"], ids.new_id("account"), email)
        return await begin(connection, account_id, address, user_agent, old_session)


async def ensure_account(connection: asyncpg.Connection, email: str) -> str:
    """The id of the account of an address, made if need be."""
    return str(await connection.fetchval(_SQL["ensure_account"], ids.new_id("account"), email.lower()))


async def new_claim(connection: asyncpg.Connection) -> str | None:
    """A token that makes its bearer the operator; None if there is one already."""
    if await connection.fetchval(_SQL["has_operator"]):
        return None
    token = secrets.token_urlsafe(24)
    await connection.execute(_SQL["add_claim"], hash_token(token))
    return token


async def claim(connection: asyncpg.Connection, account_id: str, token: str, address: str) -> None:
    """Make an account the operator. All claims end with that. Raises Unfit for a token that is none, and Limited."""
    address = network_of(address)
    async with connection.transaction():
        await _limit(connection, "token", address, None, TOKENS_PER_WINDOW)
        is_good = await connection.fetchval(_SQL["use_claim"], hash_token(token.strip())) is not None
        if is_good:
            await connection.execute(_SQL["drop_claims"])
            await put_member(connection, PLATFORM_PROJECT_ID, account_id, Role.OWNER)
            after = {"role": Role.OWNER}
            change = Change(
                Action.CREATED, "member", account_id, account_id, PLATFORM_PROJECT_ID, None, None, dict(after)
            )
            await record(connection, change, actor=f"account:{account_id}")
        else:
            await connection.execute(_SQL["note_attempt"], "token", address, None)
    if not is_good:
        raise Unfit("is not a token that this installation printed", "token")


def network_of(address: str) -> str:
    """What an address is counted as: IPv6 with its /64, as whoever has one of it has them all. Pure."""
    try:
        found = ip_address(address)
    except ValueError:
        return address  # "unknown": all of them together
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(IPv6Network((found, 64), strict=False))
    return address


async def _limit(connection: asyncpg.Connection, kind: str, address: str, email: str | None, most: int) -> None:
    """Let no more than `most` through in a window. Holds the lock of all attempts until the transaction ends."""
    await connection.execute(_SQL["lock_attempts"])
    row = await connection.fetchrow(_SQL["attempts"], kind, address, email)
    assert row is not None
    if row["by_address"] >= most or row["by_email"] >= most:
        raise Limited(max(1, int(row["wait_s"]) + 1))
