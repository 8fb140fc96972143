"""Reservations of dead gateways: found, resolved once, under the stated policy."""

from __future__ import annotations

from collections.abc import AsyncIterator

import orjson
import pytest
import redis.asyncio as aioredis
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import names
from ledger.events import decode
from ledger.ids import uuid7_hex
from ledger.sweep import Policy, Sweeper, UnreadableReservation, orphan_of
from tests.ledger.facts import NOW_MS

SHARDS = 4
QUOTA = names.quota(1, "live:cus_a", "requests", 0)


def reservation(event_id: str, gateway: str = "gw-1", quantity: int = 1) -> bytes:
    return orjson.dumps(
        {
            "id": event_id,
            "at": NOW_MS,
            "project": "prj_a",
            "mode": "live",
            "customer": "cus_a",
            "key": "key_a",
            "route": None,
            "gateway": gateway,
            "meters": {"requests": quantity},
            "hold": [[QUOTA, quantity]],
        }
    )


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[aioredis.Redis]:
    client = aioredis.Redis.from_url(redis_url)
    yield client
    await client.aclose()


async def hold(client: aioredis.Redis, gateway: str = "gw-1", quantity: int = 1) -> str:
    event_id = uuid7_hex(NOW_MS)
    await client.hset(names.reservations(1), event_id, reservation(event_id, gateway, quantity))
    await client.incrby(QUOTA, quantity)
    return event_id


async def stream(client: aioredis.Redis) -> list[bytes]:
    return [fields[names.STREAM_FIELD] for _, fields in await client.xrange(names.usage_stream(1))]


async def test_a_gateway_missing_twice_leaves_orphans_that_are_charged(client: aioredis.Redis) -> None:
    event_id = await hold(client, quantity=3)
    sweeper = Sweeper(client, SHARDS, "charge_estimate")
    assert await sweeper.sweep() == 0  # it might only be slow
    assert await sweeper.sweep() == 1
    (event,) = map(decode, await stream(client))
    assert (event.id.hex, event.outcome, event.meters, event.customer) == (
        event_id,
        "orphaned",
        {"requests": 3},
        "cus_a",
    )
    assert await client.get(QUOTA) == b"3"
    assert await client.hlen(names.reservations(1)) == 0
    assert await sweeper.sweep() == 0


async def test_released_orphans_count_nothing_and_give_the_quota_back(client: aioredis.Redis) -> None:
    await hold(client, quantity=3)
    sweeper = Sweeper(client, SHARDS, "release")
    await sweeper.sweep()
    assert await sweeper.sweep() == 1
    (event,) = map(decode, await stream(client))
    assert (event.outcome, event.meters) == ("orphaned", {"requests": 0})
    assert await client.get(QUOTA) == b"0"


async def test_a_gateway_that_lives_keeps_its_reservations(client: aioredis.Redis) -> None:
    await hold(client)
    await client.set(names.gateway_alive("gw-1"), "alive")
    sweeper = Sweeper(client, SHARDS, "charge_estimate")
    assert [await sweeper.sweep() for _ in range(3)] == [0, 0, 0]


async def test_one_that_comes_back_between_two_passes_is_not_missing(client: aioredis.Redis) -> None:
    await hold(client)
    sweeper = Sweeper(client, SHARDS, "charge_estimate")
    await sweeper.sweep()
    await client.set(names.gateway_alive("gw-1"), "alive")
    await sweeper.sweep()
    await client.delete(names.gateway_alive("gw-1"))
    assert await sweeper.sweep() == 0


async def test_two_sweepers_resolve_a_reservation_once(client: aioredis.Redis) -> None:
    await hold(client)
    one, other = Sweeper(client, SHARDS, "release"), Sweeper(client, SHARDS, "release")
    await one.sweep()
    await other.sweep()
    assert await one.sweep() + await other.sweep() == 1
    assert len(await stream(client)) == 1
    assert await client.get(QUOTA) == b"0"


async def test_what_cannot_be_read_goes_where_a_person_sees_it(client: aioredis.Redis) -> None:
    await client.hset(names.reservations(1), "x", b"garbage")
    sweeper = Sweeper(client, SHARDS, "charge_estimate")
    await sweeper.sweep()
    assert await sweeper.sweep() == 1
    assert await stream(client) == [b"garbage"]


async def test_a_counter_that_has_expired_is_not_made_anew(client: aioredis.Redis) -> None:
    await hold(client)
    await client.delete(QUOTA)
    sweeper = Sweeper(client, SHARDS, "release")
    await sweeper.sweep()
    assert await sweeper.sweep() == 1
    assert await client.exists(QUOTA) == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values, st.sampled_from(("charge_estimate", "release")))
@settings(max_examples=100, deadline=None, database=None)
def test_nothing_but_a_reservation_is_taken_for_one(value: object, policy: Policy) -> None:
    try:
        raw = orjson.dumps(value)
    except TypeError:  # integers beyond 64 bits, lone surrogates
        return
    with pytest.raises(UnreadableReservation):
        orphan_of(raw, policy)
