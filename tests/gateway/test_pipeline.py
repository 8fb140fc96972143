"""The life of a request."""

from __future__ import annotations

from tests.gateway.conftest import MakeStage
from tests.gateway.wire import answering, ask, ok, request
from tests.support.gateway import Books


async def test_a_request_goes_through_and_is_counted(stage: MakeStage, books: Books) -> None:
    s = await stage(answering(ok(b"hello")), tier={"per_minute": 10, "quotas": {"requests": 100}})
    client = await s.client()
    answer = await ask(client, request("/api/x?a=1", s.key))
    assert (answer.status, answer.body) == (200, b"hello")
    await s.inside.settled()
    assert await books.reservations() == []
    [event] = await books.events()
    assert event["outcome"] == "completed"
