"""Export: what it writes, and that it applies to itself without a change."""

from __future__ import annotations

import asyncpg
import pytest

from admin.changes import Unfit
from admin.declare import apply, export
from ledger.keys import Mode
from tests.admin.declared import ACTOR, apply_text, brief, shop

PG = asyncpg.Connection

EXPORTED = """\
version: 1
projects:
  - name: Shop
    tiers:
      - name: free
        requests_per_minute: 60
        quotas:
          requests: 1000
        default: true
      - name: pro
        title: Professional
        price_minor: 4900
        quotas:
          requests:
            limit: 5000
            hard: false
            overage_price: '0.002'
          tokens: null
        trial_days: 14
        features:
          sso: true
          seats: 5
          region: eu
    customers:
      - external_id: ada
        name: Ada
        email: ada@example.com
        tier: pro
      - external_id: bob
        modes:
          - test
    issuers:
      - name: staging
        issuer: https://staging.example
        jwks_url: https://staging.example/keys
        mode: test
      - name: sign-in
        issuer: https://id.example
        jwks_url: https://id.example/keys
        audiences:
          - shop
    upstreams:
      - name: api
        targets:
          - http://127.0.0.1:9001
          - url: http://127.0.0.1:9002/base
            weight: 3
    routes:
      - name: all
        path: /shop/*
        upstream: api
      - name: read
        path: /shop/items
        methods:
          - GET
          - HEAD
        upstream: api
        auth: none
        meters: {}
"""


async def test_says_what_was_declared_and_nothing_that_goes_without_saying(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    assert await export(pg) == EXPORTED
    assert await export(pg, "Shop") == EXPORTED


async def test_applies_to_itself_without_a_change(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    assert await apply_text(pg, await export(pg), prune=True) == []


async def test_makes_the_same_in_another_place(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    text = await export(pg)
    await pg.execute("DELETE FROM subscriptions; DELETE FROM routes; DELETE FROM projects WHERE name = 'Shop'")
    await apply_text(pg, text)
    assert await export(pg) == text


AWKWARD = r"""
projects:
  - name: "on"
    kind: store
    tiers:
      - name: "123"
        title: "null"
        quotas: {a: {limit: 0}, b: {hard: false}, c: 5, "1": null, d: {limit: 1, hard: false, overage_price: 0.0000000001}}
        features: {"yes": "no", "1": "1", "a: b": "~", "#": "12:30", x: "1e3", u: "0x1F", "é": "日本 🎈", '"': "'", e: ""}
        spend_cap_minor: 9007199254740992
        billing_interval: year
        currency: eur
        modes: [live]
      - {name: "123", price_minor: 1, modes: [test]}
    customers:
      - {external_id: "0123", name: "- x", email: "a+b@c"}
      - {external_id: "true", tier: "123"}
      - {external_id: "x{y}", tier: "123", modes: [live]}
      - {external_id: "x{y}", name: other, modes: [test]}
    issuers:
      - name: i
        issuer: "null"
        jwks_url: http://127.0.0.1:1/k?a=b
        audiences: ["1", "true"]
        leeway_s: 0
        algorithms: [EdDSA, RS256]
        claims: {customer: /a~1b/c, tier: "https://x/y", scopes: null}
        mode: test
    upstreams:
      - {name: u, targets: ["http://[::1]:80/a"], connect_timeout_ms: 1, keepalive_ms: 0, max_connections: 1}
    routes:
      - name: r
        host: "*.example.com"
        path: /*
        methods: [PUT, GET, PUT]
        upstream: u
        key_header: X-Key
        key_query: k
        scopes: [a, b]
        strip_prefix: false
        preserve_host: true
        requests_per_minute: 5
        meters: {requests: 0, tokens: 3}
        read_timeout_ms: 1
        total_timeout_ms: 2
        retries: 0
        max_body_bytes: 0
"""


async def test_what_is_awkward_survives_the_round_trip(pg: PG) -> None:
    assert len(await apply_text(pg, AWKWARD)) == 12
    assert await apply_text(pg, AWKWARD, prune=True) == []
    text = await export(pg)
    assert await apply_text(pg, text, prune=True) == []
    await pg.execute("DELETE FROM subscriptions; DELETE FROM routes; DELETE FROM projects WHERE name = 'on'")
    await apply_text(pg, text)
    assert await export(pg) == text
    assert await apply_text(pg, AWKWARD, prune=True) == []


async def test_customers_only_seen_at_a_gateway_are_left_out(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    await pg.execute("UPDATE customers SET origin = 'seen' WHERE external_id = 'bob'")
    assert "bob" not in await export(pg)


async def test_one_project_of_several(pg: PG) -> None:
    await apply_text(pg, "projects: [{name: A}, {name: B, tiers: [{name: t}]}]")
    assert await export(pg, "B") == "version: 1\nprojects:\n  - name: B\n    tiers:\n      - name: t\n"
    assert [line for line in (await export(pg)).splitlines() if "- name" in line and line.startswith("  - ")] == [
        "  - name: A",
        "  - name: B",
    ]


async def test_the_platforms_project_appears_when_something_is_declared_for_it(pg: PG) -> None:
    assert await export(pg) == "version: 1\nprojects: []\n"
    await apply_text(pg, "projects: [{name: Platform, tiers: [{name: free, quotas: {runs: 100}}]}]")
    assert "name: Platform" in await export(pg)


async def test_an_unknown_project_is_told(pg: PG) -> None:
    with pytest.raises(Unfit, match="no project is called 'Nope'"):
        await export(pg, "Nope")


async def test_one_mode_alone(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    text = await export(pg, "Shop", modes=(Mode.LIVE,))
    assert "bob" not in text
    assert text.count("- live") == 3
    assert brief(await apply_text(pg, text)) == []
