"""The snapshot against a real PostgreSQL: filled on demand, forgotten at once, and honest when it cannot know."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import asyncpg
import pytest

from gateway.store.nouns import Route
from gateway.store.snapshot import Snapshot, Unavailable
from ledger.ids import customer_id_for
from ledger.keys import hash_key
from tests.gateway.faults import Relay
from tests.support.gateway import PROJECT, Catalogue, until

NEVER = 3_600.0
"""A poll interval that leaves a snapshot with messages alone."""


@asynccontextmanager
async def following(url: str, **options: Any) -> AsyncIterator[Snapshot]:
    snapshot = Snapshot(url, **{"deadline": 2.0, "poll_interval": NEVER, "max_keys": 100, **options})
    snapshot.start()
    try:
        yield snapshot
    finally:
        await snapshot.close()


@asynccontextmanager
async def followed(url: str, **options: Any) -> AsyncIterator[Snapshot]:
    async with following(url, **options) as snapshot:
        await until(lambda: snapshot.is_connected)
        yield snapshot


@pytest.fixture
async def other(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A second connection to the same database."""
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close(timeout=5)


def sha(text: str) -> bytes:
    return hash_key(text.encode())


def route_named(snapshot: Snapshot, name: str) -> Route:
    return next(route for route in snapshot.table.by_id.values() if route.name == name)


# -- looking up


async def test_a_key_is_looked_up_when_first_asked_for_and_then_known(catalogue: Catalogue, postgres_url: str) -> None:
    tier = await catalogue.tier("pro", per_minute=60, quotas={"requests": 1000, "tokens": None})
    anchor = datetime(2026, 1, 31, 6, tzinfo=UTC)
    customer = await catalogue.customer("ada", tier=tier, anchor=anchor)
    expires = datetime(2030, 1, 1, tzinfo=UTC)
    text = await catalogue.key(
        "ck",
        customer=customer,
        scopes=["read", "run"],
        requests_per_minute=7,
        allowed_origins=["*.example.com"],
        allowed_ips=["10.0.0.0/8", "2001:db8::/32"],
        expires_at=expires,
    )
    async with followed(postgres_url) as snapshot:
        assert snapshot.known(sha(text)) is None
        found = await snapshot.principal(sha(text))
        assert found is not None
        assert snapshot.known(sha(text)) is found
        assert (found.project_id, found.mode, found.kind) == (PROJECT, "live", "ck")
        assert (found.scopes, found.requests_per_minute) == ({"read", "run"}, 7)
        assert found.allowed_origins == ("*.example.com",)
        assert found.allowed_ips == (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
        assert (found.expires_at, found.is_revoked) == (expires.timestamp(), False)
        assert found.customer is not None
        assert (found.customer.id, found.customer.external_id, found.customer.anchor) == (customer, "ada", anchor)
        assert found.customer.tier is not None
        assert (found.customer.tier.name, found.customer.tier.requests_per_minute) == ("pro", 60)
        assert found.customer.tier.quotas == {"requests": 1000, "tokens": None}


async def test_a_soft_quota_limits_nothing(catalogue: Catalogue, pg: asyncpg.Connection, postgres_url: str) -> None:
    tier = await catalogue.tier("pro", quotas={"requests": 5, "tokens": 9})
    await pg.execute("UPDATE tier_quotas SET is_hard = false WHERE meter = 'tokens'")
    text = await catalogue.key("ck", customer=await catalogue.customer("ada", tier=tier))
    async with followed(postgres_url) as snapshot:
        found = await snapshot.principal(sha(text))
        assert found is not None
        assert found.customer is not None
        assert found.customer.tier is not None
        assert found.customer.tier.quotas == {"requests": 5, "tokens": None}


@pytest.mark.parametrize("status", [None, "canceled", "past_due"])
async def test_without_a_subscription_the_default_tier_counts(
    catalogue: Catalogue, pg: asyncpg.Connection, postgres_url: str, status: str | None
) -> None:
    await catalogue.tier("free", default=True)
    pro = await catalogue.tier("pro")
    text = await catalogue.key("ck", customer=await catalogue.customer("ada", tier=pro if status else None))
    if status:
        await pg.execute("UPDATE subscriptions SET status = $1", status)
    async with followed(postgres_url) as snapshot:
        found = await snapshot.principal(sha(text))
        assert found is not None
        assert found.customer is not None
        assert found.customer.tier is not None
        assert found.customer.tier.name == ("pro" if status == "past_due" else "free")


async def test_however_many_ask_a_key_is_looked_up_once(catalogue: Catalogue, postgres_url: str) -> None:
    text = await catalogue.key()
    async with followed(postgres_url) as snapshot:
        found = await asyncio.gather(*(snapshot.principal(sha(text)) for _ in range(200)))
        assert len({id(principal) for principal in found}) == 1
        assert found[0] is not None


async def test_more_look_ups_than_connections_all_get_their_answer(catalogue: Catalogue, postgres_url: str) -> None:
    tier = await catalogue.tier("free")
    texts = [await catalogue.key("ck", customer=await catalogue.customer(f"c{n}", tier=tier)) for n in range(90)]
    async with followed(postgres_url) as snapshot:
        found = await asyncio.gather(*(snapshot.principal(sha(text)) for text in texts))
        assert all(principal is not None and principal.customer is not None for principal in found)


async def test_end_users_are_known_by_the_projects_own_id_or_made_up(catalogue: Catalogue, postgres_url: str) -> None:
    await catalogue.tier("free", default=True)
    pro = await catalogue.tier("pro")
    customer = await catalogue.customer("ada", tier=pro)
    async with followed(postgres_url) as snapshot:
        assert snapshot.known_end_user(PROJECT, "live", "ada") is None
        ada = await snapshot.end_user(PROJECT, "live", "ada")
        assert snapshot.known_end_user(PROJECT, "live", "ada") is ada
        assert (ada.id, ada.is_known, ada.tier and ada.tier.name) == (customer, True, "pro")
        bob = await snapshot.end_user(PROJECT, "live", "bob")
        assert (bob.id, bob.is_known) == (customer_id_for(PROJECT, "live", "bob"), False)
        assert (bob.tier and bob.tier.name, bob.anchor) == ("free", None)
        assert (await snapshot.end_user(PROJECT, "test", "ada")).is_known is False


async def test_tiers_go_by_name(catalogue: Catalogue, postgres_url: str) -> None:
    await catalogue.tier("pro", per_minute=3)
    async with followed(postgres_url) as snapshot:
        assert snapshot.known_tiers(PROJECT, "live") is None
        pro = await snapshot.tier(PROJECT, "live", "pro")
        assert pro is not None
        assert pro.requests_per_minute == 3
        assert await snapshot.tier(PROJECT, "live", "none") is None
        assert await snapshot.tier(PROJECT, "test", "pro") is None
        assert snapshot.known_tiers(PROJECT, "live") == {"pro": pro}


# -- changes


@pytest.fixture(params=["told", "polled"])
async def watching(
    request: pytest.FixtureRequest, catalogue: Catalogue, pg: asyncpg.Connection, postgres_url: str
) -> AsyncIterator[Snapshot]:
    """A snapshot that learns of changes by message only, or by polling only."""
    if request.param == "polled":
        source: str = await pg.fetchval("SELECT pg_get_functiondef('note_change'::regproc)")
        mute = source.replace("PERFORM pg_notify('tollgate_changes', '');", "")
        assert mute != source
        await pg.execute(mute)
    interval = NEVER if request.param == "told" else 0.1
    async with followed(postgres_url, poll_interval=interval) as snapshot:
        yield snapshot


async def caught_up(snapshot: Snapshot, pg: asyncpg.Connection) -> None:
    """Wait until the snapshot has seen everything that is committed."""
    revision = await pg.fetchval("SELECT max(revision) FROM changes")
    await until(lambda: snapshot.revision == revision)


async def seen_within_a_second(check: Any) -> None:
    began = time.monotonic()
    await until(check, within_s=1.0)
    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("UPDATE keys SET revoked_at = now()", ("free", 60, True, None)),
        ("UPDATE keys SET requests_per_minute = 5", ("free", 60, False, 5)),
        ("DELETE FROM keys", None),
        ("UPDATE tiers SET requests_per_minute = 9 WHERE name = 'free'", ("free", 9, False, None)),
        ("UPDATE subscriptions SET tier_id = (SELECT id FROM tiers WHERE name = 'pro')", ("pro", 600, False, None)),
        ("UPDATE subscriptions SET status = 'canceled'", ("pro", 600, False, None)),
        ("DELETE FROM customers", None),
        ("DELETE FROM projects WHERE id = 'prj_acme'", None),
    ],
)
async def test_a_change_that_a_key_rests_on_is_seen_within_a_second(
    watching: Snapshot, catalogue: Catalogue, pg: asyncpg.Connection, change: str, expected: Any
) -> None:
    free = await catalogue.tier("free", per_minute=60)
    await catalogue.tier("pro", per_minute=600, default=True)
    text = await catalogue.key("ck", customer=await catalogue.customer("ada", tier=free))
    await caught_up(watching, pg)
    before = await watching.principal(sha(text))
    assert before is not None
    generation = watching.generation
    await pg.execute(change)
    await seen_within_a_second(lambda: watching.known(sha(text)) is None)
    assert watching.generation > generation
    now = await watching.principal(sha(text))
    if expected is None:
        assert now is None
    else:
        assert now is not None
        assert now.customer is not None
        assert now.customer.tier is not None
        tier = now.customer.tier
        assert (tier.name, tier.requests_per_minute, now.is_revoked, now.requests_per_minute) == expected


async def test_a_change_that_an_end_user_rests_on_is_seen_within_a_second(
    watching: Snapshot, catalogue: Catalogue, pg: asyncpg.Connection
) -> None:
    pro = await catalogue.tier("pro")
    made_up = await watching.end_user(PROJECT, "live", "ada")
    assert not made_up.is_known
    await catalogue.customer("ada", tier=pro)
    await seen_within_a_second(lambda: watching.known_end_user(PROJECT, "live", "ada") is None)
    declared = await watching.end_user(PROJECT, "live", "ada")
    assert (declared.id, declared.is_known, declared.tier and declared.tier.name) == (made_up.id, True, "pro")
    await pg.execute("UPDATE tier_quotas SET quota = 5")  # of no tier: nothing changes
    await pg.execute("INSERT INTO tier_quotas (tier_id, meter, quota) VALUES ($1, 'requests', 3)", pro)
    await seen_within_a_second(lambda: watching.known_end_user(PROJECT, "live", "ada") is None)


async def test_routes_change_within_a_second_and_the_untouched_stay_as_they_are(
    watching: Snapshot, catalogue: Catalogue, pg: asyncpg.Connection
) -> None:
    await catalogue.route("kept", "/kept/*", ["http://127.0.0.1:1"], meters={"requests": 1, "tokens": 5})
    await catalogue.route("changed", "/changed/*", ["http://127.0.0.1:1"])
    await seen_within_a_second(lambda: len(watching.table.by_id) == 2)
    kept, changed = route_named(watching, "kept"), route_named(watching, "changed")
    generation = watching.generation

    await pg.execute("UPDATE routes SET spec = jsonb_set(spec, '{requests_per_minute}', '7') WHERE name = 'changed'")
    await seen_within_a_second(lambda: route_named(watching, "changed").spec.requests_per_minute == 7)
    assert watching.generation > generation
    assert route_named(watching, "changed") is not changed
    assert route_named(watching, "kept") is kept  # with its pools, plans and counters

    changed = route_named(watching, "changed")
    await pg.execute("UPDATE upstreams SET spec = jsonb_set(spec, '{max_connections}', '3') WHERE name = 'changed'")
    await seen_within_a_second(lambda: route_named(watching, "changed").upstream.max_connections == 3)
    assert route_named(watching, "kept") is kept

    await pg.execute("DELETE FROM routes WHERE name = 'changed'")
    await seen_within_a_second(lambda: watching.table.match(None, b"/changed/x", b"GET") is None)
    assert watching.table.match(None, b"/kept/x", b"GET") is kept


async def test_a_route_that_cannot_be_read_is_left_out_and_said(
    catalogue: Catalogue, pg: asyncpg.Connection, postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await catalogue.route("good", "/good/*", ["http://127.0.0.1:1"])
    await catalogue.route("bad", "/bad/*", ["http://127.0.0.1:1"])
    await pg.execute("""UPDATE routes SET spec = spec || '{"from_the_future": "hunter2"}' WHERE name = 'bad'""")
    with caplog.at_level(logging.ERROR):
        async with followed(postgres_url) as snapshot:
            assert [route.name for route in snapshot.table.by_id.values()] == ["good"]
    assert "route bad is left out" in caplog.text
    assert "hunter2" not in caplog.text


async def test_an_unknown_key_is_remembered_until_one_is_made(
    watching: Snapshot, catalogue: Catalogue, pg: asyncpg.Connection
) -> None:
    text = await catalogue.key()
    row = dict(await pg.fetchrow("DELETE FROM keys RETURNING *"))
    await caught_up(watching, pg)
    assert await watching.principal(sha(text)) is None
    assert watching.is_known_unknown(sha(text))
    places = ", ".join(f"${n + 1}" for n in range(len(row)))
    await pg.execute(f"INSERT INTO keys ({', '.join(row)}) VALUES ({places})", *row.values())
    await seen_within_a_second(lambda: not watching.is_known_unknown(sha(text)))
    assert await watching.principal(sha(text)) is not None


async def test_other_changes_leave_a_key_alone(
    watching: Snapshot, catalogue: Catalogue, pg: asyncpg.Connection
) -> None:
    await catalogue.project("prj_other")
    text = await catalogue.key()
    await caught_up(watching, pg)
    found = await watching.principal(sha(text))
    assert found is not None
    await catalogue.key()
    await catalogue.tier("new", project="prj_other")
    await catalogue.customer("bob")
    await catalogue.route("api", "/api/*", ["http://127.0.0.1:1"])
    await pg.execute("UPDATE keys SET last_used_at = now()")
    await caught_up(watching, pg)
    assert watching.known(sha(text)) is found


# -- races


async def test_what_was_read_before_a_change_is_not_kept_after_it(
    catalogue: Catalogue, pg: asyncpg.Connection, other: asyncpg.Connection, postgres_url: str
) -> None:
    tier = await catalogue.tier("free")
    text = await catalogue.key("ck", customer=await catalogue.customer("ada", tier=tier))
    async with followed(postgres_url) as snapshot:
        async with other.transaction():
            await other.execute("LOCK TABLE customers")  # the look-up has read the key and waits for its customer
            racing = asyncio.create_task(snapshot.principal(sha(text)))
            await until(lambda: is_waiting(pg))
            await pg.execute("UPDATE keys SET revoked_at = now()")
            await caught_up(snapshot, pg)
            after = asyncio.create_task(snapshot.principal(sha(text)))  # asks when the change is known already
            await asyncio.sleep(0.02)
        before_the_change, after_the_change = await racing, await after
        assert before_the_change is not None
        assert not before_the_change.is_revoked
        assert after_the_change is not None
        assert after_the_change.is_revoked
        known = snapshot.known(sha(text))
        assert known is None or known.is_revoked


async def is_waiting(pg: asyncpg.Connection) -> bool:
    """True once a statement of somebody waits for a lock in this database."""
    waiting: int = await pg.fetchval(
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
        " WHERE NOT l.granted AND a.datname = current_database()"
    )
    return waiting > 0


async def test_changes_that_were_trimmed_away_unseen_mean_that_nothing_is_believed(
    catalogue: Catalogue, pg: asyncpg.Connection, postgres_url: str
) -> None:
    pro = await catalogue.tier("pro")
    await catalogue.customer("ada", tier=pro)
    text = await catalogue.key()
    async with followed(postgres_url) as snapshot:
        await snapshot.principal(sha(text))
        await snapshot.end_user(PROJECT, "live", "ada")
        assert snapshot.known_tiers(PROJECT, "live")
        async with pg.transaction():
            await pg.execute("UPDATE keys SET revoked_at = now()")
            await catalogue.route("new", "/new/*", ["http://127.0.0.1:1"])
            await catalogue.customer("bob")
            await pg.execute("DELETE FROM changes WHERE revision < (SELECT max(revision) FROM changes)")
        await until(lambda: snapshot.known(sha(text)) is None)
        assert snapshot.known_end_user(PROJECT, "live", "ada") is None
        assert snapshot.known_tiers(PROJECT, "live") is None
        assert snapshot.table.match(None, b"/new/x", b"GET") is not None
        assert snapshot.revision == await pg.fetchval("SELECT max(revision) FROM changes")


async def test_a_gap_that_a_rolled_back_change_left_means_nothing(
    catalogue: Catalogue, pg: asyncpg.Connection, postgres_url: str
) -> None:
    text = await catalogue.key()
    async with followed(postgres_url) as snapshot:
        found = await snapshot.principal(sha(text))
        tried = pg.transaction()
        await tried.start()
        await catalogue.customer("bob")
        await tried.rollback()
        await catalogue.customer("bob")
        await caught_up(snapshot, pg)
        assert snapshot.known(sha(text)) is found


# -- Postgres away


async def test_while_postgres_is_away_the_known_stay_known_and_the_unknown_cannot_be_told(
    catalogue: Catalogue, pg: asyncpg.Connection, postgres_url: str
) -> None:
    known, unknown = await catalogue.key(), await catalogue.key()
    await catalogue.route("api", "/api/*", ["http://127.0.0.1:1"])
    async with Relay(postgres_url) as relay, followed(relay.url, poll_interval=0.05) as snapshot:
        found = await snapshot.principal(sha(known))
        relay.is_away = True
        await relay.cut()
        await until(lambda: not snapshot.is_connected)
        assert snapshot.known(sha(known)) is found
        assert snapshot.table.match(None, b"/api/x", b"GET") is not None
        for asked in (
            snapshot.principal(sha(unknown)),
            snapshot.end_user(PROJECT, "live", "ada"),
            snapshot.tier(PROJECT, "live", "pro"),
        ):
            with pytest.raises(Unavailable):
                await asked
        assert not snapshot.is_known_unknown(sha(unknown))
        await pg.execute("UPDATE keys SET revoked_at = now()")
        relay.is_away = False
        await until(lambda: snapshot.is_connected)
        assert snapshot.known(sha(known)) is None  # what changed meanwhile is noticed before anything else is
        now = await snapshot.principal(sha(known))
        assert now is not None
        assert now.is_revoked


async def test_a_postgres_that_does_not_answer_is_waited_for_no_longer_than_the_deadline(
    catalogue: Catalogue, postgres_url: str
) -> None:
    text = await catalogue.key()
    async with Relay(postgres_url) as relay, followed(relay.url, deadline=0.3) as snapshot:
        relay.swallows_replies = True
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await snapshot.principal(sha(text))
        assert 0.2 < time.monotonic() - began < 1.0


async def test_a_silent_connection_is_noticed_by_polling_and_made_anew(catalogue: Catalogue, postgres_url: str) -> None:
    async with (
        Relay(postgres_url) as relay,
        followed(relay.url, deadline=0.3, poll_interval=0.05) as snapshot,
    ):
        relay.swallows_replies = True
        await until(lambda: not snapshot.is_connected)
        relay.swallows_replies = False
        await until(lambda: snapshot.is_connected)
        await catalogue.route("api", "/api/*", ["http://127.0.0.1:1"])
        await until(lambda: len(snapshot.table.by_id) == 1)


async def test_it_starts_without_postgres_and_loads_when_it_comes(catalogue: Catalogue, postgres_url: str) -> None:
    await catalogue.route("api", "/api/*", ["http://127.0.0.1:1"])
    async with Relay(postgres_url) as relay:
        relay.is_away = True
        async with following(relay.url) as snapshot:
            await until(lambda: snapshot.errors)
            assert (snapshot.is_loaded, snapshot.is_connected) == (False, False)
            with pytest.raises(Unavailable):
                await snapshot.principal(b"0" * 32)
            relay.is_away = False
            await until(lambda: snapshot.is_connected)
            assert snapshot.is_loaded
            assert len(snapshot.table.by_id) == 1


async def test_a_password_never_shows(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with following("postgresql://someone:hunter2@127.0.0.1:1/none") as snapshot:
        await until(lambda: snapshot.errors)
    assert "postgres cannot be followed" in caplog.text
    assert "hunter2" not in caplog.text


# -- bounds


async def test_no_more_keys_are_remembered_than_allowed(catalogue: Catalogue, postgres_url: str) -> None:
    texts = [await catalogue.key() for _ in range(8)]
    async with followed(postgres_url, max_keys=5) as snapshot:
        for text in texts:
            await snapshot.principal(sha(text))
            await snapshot.end_user(PROJECT, "live", text)
            assert await snapshot.principal(sha(text + "x")) is None
        assert [snapshot.known(sha(text)) is not None for text in texts] == [False] * 3 + [True] * 5
        known_users = [snapshot.known_end_user(PROJECT, "live", text) is not None for text in texts]
        assert known_users == [False] * 3 + [True] * 5
        assert sum(snapshot.is_known_unknown(sha(text + "x")) for text in texts) <= 5
        assert snapshot.is_known_unknown(sha(texts[-1] + "x"))


async def test_an_unknown_key_is_asked_for_again_after_a_while(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with followed(postgres_url) as snapshot:
        await snapshot.principal(b"0" * 32)
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + timedelta(minutes=1).total_seconds())
        assert not snapshot.is_known_unknown(b"0" * 32)
        monkeypatch.undo()


async def test_a_message_that_comes_while_it_is_looking_is_not_lost(
    catalogue: Catalogue, pg: asyncpg.Connection, other: asyncpg.Connection, postgres_url: str
) -> None:
    async with followed(postgres_url) as snapshot:
        async with other.transaction():
            await other.execute("LOCK TABLE routes IN ACCESS EXCLUSIVE MODE")
            await catalogue.project("prj_other")  # has the routes read again, which takes a while
            await until(lambda: is_waiting(pg))
            await catalogue.tier("free")  # told meanwhile
            await asyncio.sleep(0.05)
        await caught_up(snapshot, pg)
