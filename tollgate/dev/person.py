"""The person at the keyboard: an account that owns the demo project and the platform, and a link that signs it in.

The link works as often as one likes, for a day; every start makes a new one. It is for `tollgate dev` alone.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from admin.accounts.members import put_member
from admin.accounts.sign_in import ensure_account
from admin.permissions import Role
from ledger.ids import PLATFORM_PROJECT_ID
from ledger.mail.post import make_link

EMAIL: Final = "you@tollgate.localhost"


async def prepare(connection: asyncpg.Connection, origin: str, project_id: str | None) -> str:
    """Make the account what it shall be; returns its link. Raises asyncpg errors."""
    account_id = await ensure_account(connection, EMAIL)
    for owned in (PLATFORM_PROJECT_ID, project_id):
        if owned is not None:
            await put_member(connection, owned, account_id, Role.OWNER)
    return await make_link(connection, origin, EMAIL, is_reusable=True)
