"""A project to declare in tests, and looking at what was written."""

from __future__ import annotations

from typing import Any

import asyncpg
import orjson

from admin.changes import Change
from admin.declare import apply, load
from ledger.specs import Declaration

ACTOR = "cli"

SHOP = """
version: 1
projects:
  - name: Shop
    tiers:
      - {name: free, default: true, requests_per_minute: 60, quotas: {requests: 1000}}
      - name: pro
        title: Professional
        price_minor: 4900
        trial_days: 14
        quotas:
          requests: {limit: 5000, hard: false, overage_price: 0.002}
          tokens: null
        features: {sso: true, seats: 5, region: eu}
    customers:
      - {external_id: ada, name: Ada, email: Ada@example.com, tier: pro}
      - {external_id: bob, modes: [test]}
    issuers:
      - {name: staging, issuer: https://staging.example, jwks_url: "https://staging.example/keys", mode: test}
      - {name: sign-in, issuer: https://id.example, jwks_url: "https://id.example/keys", audiences: [shop]}
    upstreams:
      - {name: api, targets: ["http://127.0.0.1:9001", {url: "http://127.0.0.1:9002/base", weight: 3}]}
    routes:
      - {name: all, path: /shop/*, upstream: api}
      - {name: read, path: /shop/items, methods: [GET, HEAD], upstream: api, auth: none, meters: {}}
"""


def shop(**edits: str) -> Declaration:
    """SHOP, with every occurrence of a text replaced by another: shop(**{"limit: 5000": "limit: 6000"})."""
    text = SHOP
    for old, new in edits.items():
        assert old in text, old
        text = text.replace(old, new)
    return load(text, "shop.yaml")


async def apply_text(connection: asyncpg.Connection, text: str, **options: Any) -> list[Change]:
    """Apply a declaration's text."""
    return await apply(connection, load(text, "test.yaml"), actor=ACTOR, **options)


def brief(changes: list[Change]) -> list[str]:
    """What changed, one short line each: `created tier free test`."""
    return [" ".join(filter(None, (c.action, c.noun, c.name, c.mode))) for c in changes]


async def revision(connection: asyncpg.Connection) -> int:
    """The last revision that was handed out."""
    return int(await connection.fetchval("SELECT coalesce(max(revision), 0) FROM changes"))


async def audit(connection: asyncpg.Connection) -> list[dict[str, Any]]:
    """All audit rows, oldest first, with before and after as values."""
    rows = await connection.fetch("SELECT actor, action, noun, before, after, project_id FROM audit ORDER BY id")
    return [
        {**row, **{side: None if row[side] is None else orjson.loads(row[side]) for side in ("before", "after")}}
        for row in rows
    ]
