"""Shadow mode: limits that only report; and bursts, as a client meets them."""

from __future__ import annotations

import pytest

from tests.gateway.conftest import MakeStage
from tests.gateway.wire import answering, ask, ok, request
from tests.support.gateway import Books


@pytest.mark.parametrize("where", ["route", "tier"])
async def test_nothing_is_refused_and_what_would_have_been_is_told(stage: MakeStage, books: Books, where: str) -> None:
    tier = {"per_minute": 2, "quotas": {"requests": 100}, "is_shadow": where == "tier"}
    s = await stage(answering(ok()), tier=tier, route={"shadow": where == "route"})
    client = await s.client()
    answers = [await ask(client, request("/api/x", s.key)) for _ in range(4)]
    assert [a.status for a in answers] == [200] * 4
    assert [a.headers.get("x-tollgate-would-refuse") for a in answers] == [None, None, "minute", "minute"]
    assert answers[3].headers["ratelimit"].startswith('"minute";r=0')
    await s.inside.settled()
    assert await books.quotas() == {"requests": 4}
    assert s.inside.gateway.metrics.counts["would_have_refused_total"] == 2


async def test_a_burst_is_admitted_above_the_rate_and_then_no_more(stage: MakeStage) -> None:
    s = await stage(answering(ok()), tier={"per_minute": 2, "burst": 3})
    client = await s.client()
    answers = [await ask(client, request("/api/x", s.key)) for _ in range(6)]
    assert [a.status for a in answers] == [200] * 5 + [429]
    assert answers[0].headers["ratelimit-policy"] == '"minute";q=5;w=60, "minute-burst";q=13;w=300'
    assert answers[5].json()["violated-policies"] == ["minute"]
