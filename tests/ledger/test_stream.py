"""The Redis side: what is handed out, to whom, and that nothing is lost or handed out beyond the limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from ledger.names import CONSUMER_GROUP, usage_stream
from ledger.stream import Entry, GroupLost, UsageStream, connect
from tests.ledger.facts import examples

SHARDS = 4
STREAMS = [usage_stream(shard) for shard in range(SHARDS)]


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def consumer(redis: Redis) -> Callable[[str], UsageStream]:
    return lambda name: UsageStream(redis, STREAMS, name, block_ms=1, linger_ms=1)


async def add(redis: Redis, shard: int, count: int) -> list[bytes]:
    """Put so many entries on a stream; returns their ids."""
    return [await redis.xadd(STREAMS[shard], {"e": f"{shard}/{n}"}) for n in range(count)]


async def pending(redis: Redis) -> int:
    return sum([(await redis.xpending(stream, CONSUMER_GROUP))["pending"] for stream in STREAMS])


async def read_all(stream: UsageStream, limit: int) -> list[Entry]:
    """Read and acknowledge until there is nothing; every batch is within the limit."""
    everything: list[Entry] = []
    while batch := await stream.read(limit):
        assert len(batch) <= max(limit, SHARDS)
        everything += batch
        await stream.acknowledge(batch)
    return everything


async def test_entries_are_handed_out_once_and_gone_when_acknowledged(
    redis: Redis, consumer: Callable[[str], UsageStream]
) -> None:
    stream = consumer("a")
    await add(redis, 0, 3)  # before there is a group: nothing that was ever sent is skipped
    await stream.prepare()
    await add(redis, 2, 2)

    batch = await stream.read(100)

    assert sorted(entry.fields[b"e"] for entry in batch) == [b"0/0", b"0/1", b"0/2", b"2/0", b"2/1"]
    assert {entry.stream for entry in batch} == {STREAMS[0], STREAMS[2]}
    assert await stream.read(100) == []
    assert (await stream.backlog()).entries == 5
    await stream.acknowledge(batch)
    assert (await stream.backlog()).entries == 0
    assert await pending(redis) == 0


@settings(examples, max_examples=25)
@given(lengths=st.lists(st.integers(0, 60), min_size=SHARDS, max_size=SHARDS), limit=st.integers(1, 50))
async def test_everything_is_read_within_the_limit_however_it_is_spread(
    redis: Redis, consumer: Callable[[str], UsageStream], lengths: list[int], limit: int
) -> None:
    await redis.flushall()
    stream = consumer("a")
    await stream.prepare()
    for shard, length in enumerate(lengths):
        await add(redis, shard, length)

    read = await read_all(stream, limit)

    assert len({(entry.stream, entry.id) for entry in read}) == len(read) == sum(lengths)
    for stream_name in STREAMS:
        own = [entry.fields[b"e"] for entry in read if entry.stream == stream_name]
        assert own == sorted(own, key=lambda value: int(value.partition(b"/")[2]))


async def test_one_long_stream_fills_a_whole_batch(redis: Redis, consumer: Callable[[str], UsageStream]) -> None:
    stream = consumer("a")
    await stream.prepare()
    await add(redis, 1, 200)

    assert len(await stream.read(100)) == 100


async def test_two_consumers_share_and_never_get_the_same(redis: Redis, consumer: Callable[[str], UsageStream]) -> None:
    one, two = consumer("one"), consumer("two")
    await one.prepare()
    await two.prepare()
    await add(redis, 0, 40)

    first, second = await one.read(16), await two.read(100)

    assert len(first) == 16
    assert len(second) == 24
    assert not {entry.id for entry in first} & {entry.id for entry in second}


async def test_what_is_pending_for_oneself_comes_first_after_a_replay(
    redis: Redis, consumer: Callable[[str], UsageStream]
) -> None:
    stream = consumer("a")
    await stream.prepare()
    await add(redis, 0, 5)
    lost = await stream.read(100)  # the reply got lost, say
    await add(redis, 0, 2)

    stream.replay()

    assert await stream.read(100) == lost
    assert await stream.read(100) == lost  # until it is acknowledged
    await stream.acknowledge(lost)
    assert len(await stream.read(100)) == 2


async def test_entries_deleted_while_pending_are_let_go(redis: Redis, consumer: Callable[[str], UsageStream]) -> None:
    stream = consumer("a")
    await stream.prepare()
    ids = await add(redis, 0, 3)
    await stream.read(100)
    await redis.xdel(STREAMS[0], *ids[:2])

    stream.replay()

    assert [entry.id for entry in await stream.read(100)] == ids[2:]
    assert await pending(redis) == 1


async def test_entries_of_a_silent_consumer_are_taken_over(
    redis: Redis, consumer: Callable[[str], UsageStream]
) -> None:
    dead, alive = consumer("dead"), consumer("alive")
    await dead.prepare()
    for shard in range(SHARDS):
        await add(redis, shard, 10)
    held = await dead.read(100)

    assert await alive.reclaim(60_000, 100) == ([], True)  # not silent for long enough

    taken: list[Entry] = []
    complete = False
    while not complete:
        batch, complete = await alive.reclaim(0, 8)
        assert len(batch) <= 8
        await alive.acknowledge(batch)
        taken += batch
    assert sorted(taken) == sorted(held)
    assert await pending(redis) == 0


async def test_entries_deleted_while_a_dead_consumer_held_them_are_let_go(
    redis: Redis, consumer: Callable[[str], UsageStream]
) -> None:
    dead, alive = consumer("dead"), consumer("alive")
    await dead.prepare()
    ids = await add(redis, 0, 3)
    await dead.read(100)
    await alive.read(100)
    await redis.xdel(STREAMS[0], *ids[:2])

    taken, _ = await alive.reclaim(0, 100)

    assert [entry.id for entry in taken] == ids[2:]
    await alive.acknowledge(taken)
    assert await alive.read(100) == []
    assert await pending(redis) == 0


async def _consumers(redis: Redis) -> set[bytes]:
    return {info["name"] for stream in STREAMS for info in await redis.xinfo_consumers(stream, CONSUMER_GROUP)}


async def test_a_silent_consumer_is_removed_only_when_it_holds_nothing(
    redis: Redis, consumer: Callable[[str], UsageStream]
) -> None:
    holding, empty, alive = consumer("holding"), consumer("empty"), consumer("alive")
    await alive.prepare()
    await add(redis, 0, 1)
    await holding.read(100)
    await add(redis, 0, 1)
    await empty.acknowledge(await empty.read(100))
    await alive.read(100)
    while min(info["idle"] for info in await redis.xinfo_consumers(STREAMS[0], CONSUMER_GROUP)) < 2:
        await asyncio.sleep(0.001)

    assert await alive.remove_silent(60_000) == 0
    assert await alive.remove_silent(1) >= 1

    assert await _consumers(redis) == {b"holding", b"alive"}
    assert await pending(redis) == 1


async def test_a_group_that_is_gone_is_said_to_be_lost_and_made_again_from_the_beginning(
    redis: Redis, consumer: Callable[[str], UsageStream]
) -> None:
    stream = consumer("a")
    await stream.prepare()
    await stream.read(100)
    await redis.flushall()
    await add(redis, 3, 2)

    for attempt in (stream.read(100), stream.reclaim(0, 100)):
        with pytest.raises(GroupLost):
            await attempt
    await stream.prepare()

    assert len(await stream.read(100)) == 2


async def test_preparing_twice_is_preparing_once(redis: Redis, consumer: Callable[[str], UsageStream]) -> None:
    stream = consumer("a")
    await stream.prepare()
    await add(redis, 0, 1)
    await stream.read(100)

    await stream.prepare()

    assert await stream.read(100) == []


async def test_the_backlog_tells_when_its_oldest_entry_came(
    redis: Redis, consumer: Callable[[str], UsageStream]
) -> None:
    stream = consumer("a")
    empty = await stream.backlog()
    await redis.xadd(STREAMS[1], {"e": "x"}, id="5000-1")
    await redis.xadd(STREAMS[2], {"e": "x"}, id="4000-0")
    await redis.xadd(STREAMS[2], {"e": "x"}, id="6000-0")

    backlog = await stream.backlog()

    assert (empty.entries, empty.oldest_ms) == (0, None)
    assert (backlog.entries, backlog.oldest_ms) == (3, 4000)
