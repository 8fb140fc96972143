"""The sandbox's own database in the embedded PostgreSQL: a role that owns it and may not enter the others."""

from __future__ import annotations

import secrets
from typing import Final
from urllib.parse import urlsplit

import asyncpg

_NAME: Final = "tollgate_sandbox"


async def sandbox_database(connection: asyncpg.Connection, url: str) -> str:
    """Make role and database where they are not yet; returns their URL, with a new password each time.

    `connection` is a superuser's, `url` where it leads. Raises asyncpg errors.
    """
    password = secrets.token_hex(24)
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", _NAME):
        await connection.execute(f"CREATE ROLE {_NAME} LOGIN")
    await connection.execute(f"ALTER ROLE {_NAME} PASSWORD '{password}'")
    if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", _NAME):
        await connection.execute(f"CREATE DATABASE {_NAME} OWNER {_NAME}")
    ours = urlsplit(url).path.lstrip("/")
    if not ours.replace("_", "").isalnum():
        raise ValueError(f"a database called {ours!r}")
    await connection.execute(f"REVOKE CONNECT ON DATABASE {ours} FROM PUBLIC")
    parts = urlsplit(url)
    return f"postgresql://{_NAME}:{password}@{parts.hostname}:{parts.port}/{_NAME}"
