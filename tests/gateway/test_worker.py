"""What a worker does on its clock: closing the door before the usage streams pass their bound."""

from __future__ import annotations

import redis.asyncio

from gateway.limits.limiter import SCRIPTS, Limiter
from gateway.store.redis import LOST, RedisPipe
from gateway.worker import _Backlog
from ledger import names
from tests.support.gateway import until


async def test_the_door_closes_while_any_usage_stream_is_too_long(
    redis_url: str, redis_client: redis.asyncio.Redis
) -> None:
    pipe = RedisPipe(redis_url, SCRIPTS, deadline=0.1)
    pipe.start()
    await until(lambda: pipe.available)
    limiter = Limiter(pipe)
    backlog = _Backlog(limiter, 3, 2)

    async def looked() -> bool:
        backlog.ask(pipe)
        backlog.ask(pipe)  # asked again while the answers are on their way
        await until(lambda: not backlog._waiting)
        return limiter.settlements.backlogged

    assert not await looked()
    for _ in range(3):
        await redis_client.xadd(names.usage_stream(1), {"e": "x"})
    assert await looked()
    assert limiter.settlements.is_full
    await redis_client.xtrim(names.usage_stream(1), maxlen=2, approximate=False)
    assert not await looked()
    await pipe.close()


async def test_answers_that_are_lost_leave_it_able_to_ask_again() -> None:
    pipe = RedisPipe("redis://127.0.0.1:1", (), deadline=0.1)
    limiter = Limiter(pipe)
    backlog = _Backlog(limiter, 3, 2)
    backlog.ask(pipe)
    for _ in range(3):  # one more than was asked: the sign of life answers here too
        backlog.on_reply(LOST)
    assert not limiter.settlements.backlogged
    backlog.ask(pipe)
    backlog.on_reply(5)
    backlog.on_reply(0)
    assert limiter.settlements.backlogged
    await pipe.close()
