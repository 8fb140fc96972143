"""Signing in through the gateway: whose tries are counted, whatever a client claims about where it is."""

from __future__ import annotations

import json

import asyncpg

from tests.e2e import raw
from tests.e2e.stack import Stack

JSON = {"Content-Type": "application/json", "Accept": "application/json"}


def _claims(n: int) -> dict[str, str]:
    """What a client may say about its address, another one each time."""
    return {
        "X-Forwarded-For": f"198.51.100.{n}, 203.0.113.{n}",
        "X-Real-IP": f"198.51.100.{n}",
        "Forwarded": f"for=198.51.100.{n}",
        "CF-Connecting-IP": f"198.51.100.{n}",
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "https",
    }


async def test_tries_count_by_the_real_address(stack: Stack) -> None:
    pg = await asyncpg.connect(stack.postgres_url)
    try:
        await pg.execute("DELETE FROM sign_in_attempts")
        statuses = []
        for n in range(7):
            body = json.dumps({"email": f"somebody-{n}@example.com"}).encode()
            asked = raw.get(f"{stack.gateway}/auth/magic-link", JSON | _claims(n), "POST", body)
            statuses.append(asked.status)
        assert statuses == [202] * 5 + [429] * 2
        statuses = []
        for n in range(22):
            body = json.dumps({"token": f"guess-{n}"}).encode()
            tried = raw.get(f"{stack.gateway}/auth/verify", JSON | _claims(n), "POST", body)
            statuses.append(tried.status)
        assert statuses == [401] * 20 + [429] * 2
        rows = await pg.fetch("SELECT DISTINCT address FROM sign_in_attempts")
        assert [row["address"] for row in rows] == ["127.0.0.1"]
    finally:
        await pg.execute("DELETE FROM sign_in_attempts")
        await pg.close()
