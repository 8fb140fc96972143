"""Changes as people read them."""

from __future__ import annotations

import asyncpg

from admin.declare import apply, show
from tests.admin.declared import ACTOR, apply_text, shop

PG = asyncpg.Connection


async def test_a_difference(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    changes = await apply_text(
        pg,
        """
projects:
  - name: Shop
    tiers: [{name: pro, title: Pró, price_minor: 5900, trial_days: 14, modes: [live]}]
    upstreams: [{name: api, targets: ["http://127.0.0.1:9001"]}]
    routes: [{name: new, path: /new, upstream: api}]
  - name: Other
""",
    )
    names = {row["id"]: row["name"] for row in await pg.fetch("SELECT id, name FROM projects WHERE name = 'Shop'")}
    quotas = (
        '{"requests": {"limit": 5000, "hard": false, "overage_price": "0.002"},'
        ' "tokens": {"limit": null, "hard": true, "overage_price": null}}'
    )
    targets = '{"url": "http://127.0.0.1:9001", "weight": 1}'
    assert show(changes, names).splitlines() == [
        "project Shop",
        "  ~ tier pro (live)",
        '      title: "Professional" -> "Pró"',
        "      price_minor: 4900 -> 5900",
        f"      quotas: {quotas} -> {{}}",
        '      features: {"sso": true, "seats": 5, "region": "eu"} -> {}',
        "  ~ upstream api",
        f'      targets: [{targets}, {{"url": "http://127.0.0.1:9002/base", "weight": 3}}] -> [{targets}]',
        "  + route new",
        "project Other",
        "  + project Other",
        "2 created, 2 updated.",
    ]


async def test_nothing(pg: PG) -> None:
    assert show(await apply_text(pg, "projects: []")) == "Nothing changes: it is so already."


async def test_a_customer_that_was_seen_before(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    await pg.execute("UPDATE customers SET origin = 'seen' WHERE external_id = 'bob'")
    shown = show(await apply(pg, shop(), actor=ACTOR)).splitlines()
    assert shown[1:] == ["  ~ customer bob (test)", "      declared now; first seen at a gateway", "1 updated."]
