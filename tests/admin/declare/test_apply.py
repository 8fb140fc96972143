"""Applying: what is written, what is left alone, what is refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest

from admin.changes import Action, Refused
from admin.declare import apply, load
from ledger.ids import customer_id_for
from ledger.keys import Mode
from ledger.specs import RouteSpec, UpstreamSpec
from tests.admin.declared import ACTOR, SHOP, apply_text, audit, brief, revision, shop

PG = asyncpg.Connection


async def project_id(pg: PG) -> str:
    return str(await pg.fetchval("SELECT id FROM projects WHERE name = 'Shop'"))


async def test_the_first_time_makes_everything(pg: PG) -> None:
    changes = await apply(pg, shop(), actor=ACTOR)
    assert brief(changes) == [
        "created project Shop",
        "created tier pro test",
        "created tier free test",
        "created tier pro live",
        "created tier free live",
        "created issuer staging test",
        "created issuer sign-in live",
        "created upstream api",
        "created route all",
        "created route read",
        "created customer ada test",
        "created customer bob test",
        "created customer ada live",
    ]
    pro = await pg.fetchrow("SELECT * FROM tiers WHERE name = 'pro' AND mode = 'live'")
    assert pro is not None
    assert (pro["title"], pro["price_minor"], pro["trial_days"], pro["is_default"]) == ("Professional", 4900, 14, False)
    quotas = await pg.fetch("SELECT * FROM tier_quotas WHERE tier_id = $1 ORDER BY meter", pro["id"])
    assert [(q["meter"], q["quota"], q["is_hard"], str(q["overage_unit_price"])) for q in quotas] == [
        ("requests", 5000, False, "0.0020000000"),
        ("tokens", None, True, "None"),
    ]


async def test_rows_are_what_a_gateway_reads(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    route = await pg.fetchrow("SELECT host, path, methods, spec::text AS spec FROM routes WHERE name = 'read'")
    assert route is not None
    assert (route["host"], route["path"], route["methods"]) == (None, "/shop/items", ["GET", "HEAD"])
    assert RouteSpec.model_validate_json(route["spec"]).auth == "none"
    spec = UpstreamSpec.model_validate_json(await pg.fetchval("SELECT spec::text FROM upstreams"))
    assert [(target.url, target.weight) for target in spec.targets] == [
        ("http://127.0.0.1:9001", 1),
        ("http://127.0.0.1:9002/base", 3),
    ]


async def test_a_customer_gets_the_derived_id_and_a_subscription(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    project = await project_id(pg)
    rows = await pg.fetch("SELECT id, mode, email, origin FROM customers WHERE external_id = 'ada' ORDER BY mode")
    assert [tuple(row) for row in rows] == [
        (customer_id_for(project, mode, "ada"), mode, "ada@example.com", "declared") for mode in ("live", "test")
    ]
    subscription = await pg.fetchrow("SELECT * FROM subscriptions WHERE customer_id = $1", rows[0]["id"])
    assert subscription is not None
    assert subscription["status"] == "trialing"
    assert subscription["anchor_at"].microsecond == 0
    assert (subscription["trial_ends_at"] - subscription["anchor_at"]).days == 14


async def test_the_second_time_changes_nothing_and_writes_nothing(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    before = await revision(pg), len(await audit(pg)), await pg.fetch("SELECT xmin, id FROM customers ORDER BY id")
    assert await apply(pg, shop(), actor=ACTOR) == []
    assert (
        await revision(pg),
        len(await audit(pg)),
        await pg.fetch("SELECT xmin, id FROM customers ORDER BY id"),
    ) == before


async def test_an_update_says_which_fields(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    changes = await apply(pg, shop(**{"limit: 5000": "limit: 6000", "seats: 5": "seats: true"}), actor=ACTOR)
    assert brief(changes) == ["updated tier pro test", "updated tier pro live"]
    assert changes[0].fields == {
        "quotas": (
            {
                "requests": {"limit": 5000, "hard": False, "overage_price": "0.002"},
                "tokens": {"limit": None, "hard": True, "overage_price": None},
            },
            {
                "requests": {"limit": 6000, "hard": False, "overage_price": "0.002"},
                "tokens": {"limit": None, "hard": True, "overage_price": None},
            },
        ),
        "features": (
            {"region": "eu", "seats": 5, "sso": True},
            {"region": "eu", "seats": True, "sso": True},
        ),
    }
    assert set(await pg.fetch("SELECT DISTINCT quota FROM tier_quotas WHERE meter = 'requests'")) == {(6000,), (1000,)}


async def test_true_and_one_are_not_the_same(pg: PG) -> None:
    await apply(pg, shop(**{"sso: true": "sso: 1"}), actor=ACTOR)
    changes = await apply(pg, shop(), actor=ACTOR)
    assert brief(changes) == ["updated tier pro test", "updated tier pro live"]


async def test_a_meter_that_is_gone_from_a_tier_is_gone(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    await apply(pg, shop(**{"          tokens: null\n": ""}), actor=ACTOR)
    assert await pg.fetchval("SELECT count(*) FROM tier_quotas WHERE meter = 'tokens'") == 0
    assert await pg.fetchval("SELECT count(*) FROM tier_quotas WHERE meter = 'requests'") == 4


async def test_a_dry_run_tells_all_and_keeps_nothing(pg: PG) -> None:
    told = brief(await apply(pg, shop(), actor=ACTOR, dry_run=True))
    assert await pg.fetchval("SELECT count(*) FROM tiers") == 0
    assert await audit(pg) == []
    assert told == brief(await apply(pg, shop(), actor=ACTOR))


async def test_a_failure_at_the_end_leaves_nothing(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    other = SHOP.replace("Shop", "Other").replace("/shop/*", "/other/*").replace("/shop/items", "/other")
    before = await revision(pg)
    with pytest.raises(Refused):
        await apply_text(pg, other.replace("path: /other,", "path: /shop/items,"))
    assert await pg.fetchval("SELECT count(*) FROM projects WHERE name = 'Other'") == 0
    assert await revision(pg) == before


async def test_another_projects_route_is_not_taken(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    with pytest.raises(Refused) as caught:
        await apply_text(pg, SHOP.replace("name: Shop", "name: Thief"))
    assert caught.value.message == "any method any host/shop/* is served by a route of another project already"
    assert caught.value.path == ("projects", 0, "routes", 0, "path")


async def test_a_parameter_by_another_name_is_the_same_path(pg: PG) -> None:
    await apply(pg, shop(**{"path: /shop/*": "path: '/shop/{id}'"}), actor=ACTOR)
    other = SHOP.replace("name: Shop", "name: Thief").replace("path: /shop/*", "path: '/shop/{name}'")
    with pytest.raises(Refused, match=r"any host/shop/\{\} is served by a route of another project already"):
        await apply_text(pg, other)
    assert await apply(pg, shop(**{"path: /shop/*": "path: '/shop/{id}'"}), actor=ACTOR) == []


async def test_two_routes_trade_places(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    text = SHOP.replace("path: /shop/*", "path: /X").replace("path: /shop/items, methods: [GET, HEAD]", "path: /shop/*")
    text = text.replace("path: /X", "path: /shop/items, methods: [HEAD, GET]")
    assert brief(await apply_text(pg, text)) == ["updated route all", "updated route read"]
    rows = await pg.fetch("SELECT name, path, methods FROM routes ORDER BY name")
    assert [tuple(row) for row in rows] == [("all", "/shop/items", ["GET", "HEAD"]), ("read", "/shop/*", [])]
    assert await apply_text(pg, text) == []


async def test_the_default_moves_from_tier_to_tier(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    text = SHOP.replace("name: free, default: true", "name: free").replace(
        "name: pro\n", "name: pro\n        default: true\n"
    )
    await apply_text(pg, text)
    rows = await pg.fetch("SELECT name FROM tiers WHERE is_default")
    assert [row["name"] for row in rows] == ["pro", "pro"]


async def test_a_new_default_takes_over_from_one_that_the_file_does_not_mention(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    changes = await apply_text(pg, "projects: [{name: Shop, tiers: [{name: basic, default: true, modes: [live]}]}]")
    assert brief(changes) == ["updated tier free live", "created tier basic live"]
    assert changes[0].fields == {"default": (True, False)}
    rows = await pg.fetch("SELECT name, mode FROM tiers WHERE is_default ORDER BY mode")
    assert [tuple(row) for row in rows] == [("basic", "live"), ("free", "test")]


async def test_what_is_absent_stays(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    assert await apply_text(pg, "projects: [{name: Shop}]") == []
    assert await pg.fetchval("SELECT count(*) FROM routes") == 2


async def test_prune_deletes_what_is_absent_and_never_customers(pg: PG) -> None:
    await apply(pg, shop(**{", tier: pro": ""}), actor=ACTOR)
    changes = await apply_text(pg, "projects: [{name: Shop, tiers: [{name: free}]}]", prune=True)
    assert brief(changes) == [
        "updated tier free test",
        "updated tier free live",
        "deleted issuer staging test",
        "deleted issuer sign-in live",
        "deleted route all",
        "deleted route read",
        "deleted upstream api",
        "deleted tier pro test",
        "deleted tier pro live",
    ]
    assert await pg.fetchval("SELECT count(*) FROM customers") == 3


async def test_prune_frees_what_a_deleted_route_matched(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    text = SHOP.replace("name: all,", "name: everything,")
    assert brief(await apply_text(pg, text, prune=True)) == ["deleted route all", "created route everything"]


async def test_prune_leaves_other_projects_alone(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    assert brief(await apply_text(pg, "projects: [{name: Empty}]", prune=True)) == ["created project Empty"]
    assert await pg.fetchval("SELECT count(*) FROM tiers") == 4


async def test_a_tier_with_subscribers_is_not_pruned(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    text = "projects: [{name: Shop, tiers: [{name: free, default: true, requests_per_minute: 60}]}]"
    with pytest.raises(
        Refused, match=r"tier 'pro' \(test\) has 1 current and 0 past subscriptions; move the customers"
    ):
        await apply_text(pg, text, prune=True)
    assert await pg.fetchval("SELECT count(*) FROM routes") == 2


ONE_TIER_LESS = """
projects:
  - name: Shop
    tiers: [{name: free, default: true}, {name: pro, modes: [live]}]
    customers: [{external_id: ada, tier: free, modes: [test]}]
"""


async def test_customers_move_off_a_tier_that_goes_in_the_same_file(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    changes = await apply_text(pg, ONE_TIER_LESS, prune=True)
    assert brief(changes)[-2:] == ["updated customer ada test", "deleted tier pro test"]


async def test_a_tier_with_past_subscriptions_is_kept(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    with pytest.raises(Refused, match="has 0 current and 1 past"):
        await apply_text(pg, ONE_TIER_LESS.replace("tier: free,", "tier: null,"), prune=True)


async def test_changing_a_customers_tier_keeps_the_anchor(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    await pg.execute("UPDATE subscriptions SET anchor_at = '2024-01-31T00:00:00Z', status = 'active'")
    changes = await apply(pg, shop(**{"tier: pro": "tier: free"}), actor=ACTOR)
    assert changes[0].fields == {"tier": ("pro", "free")}
    rows = await pg.fetch(
        "SELECT t.name, s.anchor_at::date::text AS day, s.status, count(*) OVER () AS n"
        " FROM subscriptions s JOIN tiers t ON t.id = s.tier_id"
    )
    assert [tuple(row) for row in rows] == [("free", "2024-01-31", "active", 2)] * 2


async def test_a_tier_that_is_not_mentioned_stays_and_null_ends_it(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    assert await apply(pg, shop(**{", tier: pro": ""}), actor=ACTOR) == []
    assert len(await apply(pg, shop(**{"tier: pro": "tier: null"}), actor=ACTOR)) == 2
    assert {row["status"] for row in await pg.fetch("SELECT status FROM subscriptions")} == {"canceled"}
    assert await apply(pg, shop(**{"tier: pro": "tier: null"}), actor=ACTOR) == []
    await apply(pg, shop(), actor=ACTOR)  # and begins anew
    assert await pg.fetchval("SELECT count(*) FROM subscriptions WHERE status = 'trialing'") == 2


async def test_a_customer_first_seen_at_a_gateway_becomes_declared(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    await pg.execute("UPDATE customers SET origin = 'seen' WHERE external_id = 'bob'")
    assert brief(await apply(pg, shop(), actor=ACTOR)) == ["updated customer bob test"]
    assert await apply(pg, shop(), actor=ACTOR) == []


async def test_an_email_address_is_one_customers(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    with pytest.raises(Refused, match=r"ada@example\.com is the e-mail address of test customer 'ada'") as caught:
        await apply_text(pg, "projects: [{name: Shop, customers: [{external_id: eve, email: ADA@example.com}]}]")
    assert caught.value.path == ("projects", 0, "customers", 0, "email")


async def test_the_kind_of_a_project_is_fixed(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    with pytest.raises(Refused, match="is of kind saas") as caught:
        await apply_text(pg, "projects: [{name: Shop, kind: store}]")
    assert caught.value.path == ("projects", 0, "kind")


async def test_narrowed_to_a_mode_the_other_is_untouched(pg: PG) -> None:
    changes = await apply(pg, shop(), actor=ACTOR, modes=(Mode.TEST,))
    assert {change.mode for change in changes} == {None, "test"}
    assert await pg.fetchval("SELECT count(*) FROM tiers WHERE mode = 'live'") == 0


async def test_everything_leaves_an_audit_row(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    changes = await apply(pg, shop(**{'targets: ["http://127.0.0.1:9001", ': "targets: ["}), actor="key:key_1")
    rows = await audit(pg)
    assert len(rows) == 14
    assert {row["actor"] for row in rows[:13]} == {ACTOR}
    assert {row["project_id"] for row in rows} == {await project_id(pg)}
    last = rows[-1]
    assert (last["actor"], last["action"], last["noun"]) == ("key:key_1", "updated", "upstream")
    assert (last["before"], last["after"]) == (changes[0].before, changes[0].after)
    assert rows[1]["after"]["mode"] == "test"
    assert changes[0].action is Action.UPDATED


async def test_every_gateway_hears_of_a_change(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    before = await revision(pg)
    await apply(pg, shop(**{"requests_per_minute: 60": "requests_per_minute: 61"}), actor=ACTOR)
    rows = await pg.fetch("SELECT noun FROM changes WHERE revision > $1", before)
    assert [row["noun"] for row in rows] == ["tier", "tier"]


async def test_two_at_once_make_one_of_everything(pg: PG, postgres_url: str) -> None:
    connections = [await asyncpg.connect(postgres_url) for _ in range(4)]
    try:
        done = await asyncio.gather(*(apply(connection, shop(), actor=ACTOR) for connection in connections))
    finally:
        for connection in connections:
            await connection.close()
    assert sorted(len(changes) for changes in done) == [0, 0, 0, 13]
    assert await pg.fetchval("SELECT count(*) FROM tiers") == 4


async def test_two_different_files_at_once_both_count(pg: PG, postgres_url: str) -> None:
    await apply(pg, shop(), actor=ACTOR)
    other: PG = await asyncpg.connect(postgres_url)
    edits: list[dict[str, str]] = [
        {"limit: 5000": "limit: 7000"},
        {"requests_per_minute: 60": "requests_per_minute: 70"},
    ]
    try:
        await asyncio.gather(apply(pg, shop(**edits[0]), actor=ACTOR), apply(other, shop(**edits[1]), actor=ACTOR))
    finally:
        await other.close()
    final = [
        await pg.fetchval("SELECT max(quota) FROM tier_quotas"),
        await pg.fetchval("SELECT max(requests_per_minute) FROM tiers"),
    ]
    assert final in ([7000, 60], [5000, 70])  # the later one, whole


async def test_applying_inside_a_transaction_can_fail_alone(pg: PG) -> None:
    async with pg.transaction():
        await apply(pg, shop(), actor=ACTOR)
        with pytest.raises(Refused):
            await apply_text(pg, SHOP.replace("name: Shop", "name: Thief"))
    assert await pg.fetchval("SELECT count(*) FROM projects") == 2


async def test_a_thousand_customers(pg: PG) -> None:
    customers: list[dict[str, Any]] = [{"external_id": f"c{i}", "tier": "free"} for i in range(1000)]
    text = json.dumps({"projects": [{"name": "Many", "tiers": [{"name": "free"}], "customers": customers}]})
    declaration = load(text, "many.json")
    changes = await apply(pg, declaration, actor=ACTOR, modes=(Mode.TEST,))
    assert len(changes) == 1002
    assert await apply(pg, declaration, actor=ACTOR, modes=(Mode.TEST,)) == []


async def test_an_issuer_belongs_to_one_mode(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    with pytest.raises(Refused, match="there is a test issuer 'staging' for the same name already") as caught:
        await apply(pg, shop(**{", mode: test}": "}"}), actor=ACTOR)
    assert caught.value.path == ("projects", 0, "issuers", 0, "name")
    changes = await apply(pg, shop(**{", mode: test}": "}"}), actor=ACTOR, prune=True)
    assert brief(changes) == ["deleted issuer staging test", "created issuer staging live"]


async def test_an_issuer_has_one_name(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    other = "{name: x, issuer: 'https://id.example', jwks_url: 'https://x/', mode: test}"
    with pytest.raises(Refused, match="there is a live issuer 'sign-in' for the same issuer already"):
        await apply_text(pg, f"projects: [{{name: Shop, issuers: [{other}]}}]")


async def test_narrowed_to_a_mode_the_issuers_of_the_other_are_untouched(pg: PG) -> None:
    await apply(pg, shop(), actor=ACTOR)
    changes = await apply_text(
        pg,
        "projects: [{name: Shop, tiers: [{name: pro}, {name: free, default: true}], upstreams: [], routes: []}]",
        prune=True,
        modes=(Mode.TEST,),
    )
    assert [c for c in brief(changes) if "issuer" in c] == ["deleted issuer staging test"]
