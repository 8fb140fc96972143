"""Never one more than the limit, on one gateway process or three, however many ask at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.e2e import load, raw
from tests.e2e.books import open_books
from tests.e2e.conftest import Origins
from tests.e2e.stack import Stack

_WORKERS = pytest.mark.parametrize("workers", [1, 3])


@_WORKERS
async def test_100_a_minute_admits_exactly_100_of_1000(
    stack_of: Callable[[int], Stack], origins: Origins, customer: str, request_id: str, workers: int
) -> None:
    stack = stack_of(workers)
    headers = {"X-API-Key": stack.secret_key, "X-User-Id": customer, "X-User-Plan": "hundred"}
    statuses = await load.count(f"{stack.gateway}/c/count?id={request_id}", headers, total=1_000, clients=50)
    assert statuses == {200: 100, 429: 900}
    assert origins.counting.seen(request_id) == 100
    async with open_books(stack) as books:
        await books.balanced()
        assert await books.totals(customer) == (100, 100, 100)


@_WORKERS
async def test_a_quota_of_500_admits_exactly_500(
    stack_of: Callable[[int], Stack], origins: Origins, customer: str, request_id: str, workers: int
) -> None:
    stack = stack_of(workers)
    headers = {"X-API-Key": stack.secret_key, "X-User-Id": customer, "X-User-Plan": "five-hundred"}
    statuses = await load.count(f"{stack.gateway}/c/count?id={request_id}", headers, total=900, clients=50)
    assert statuses == {200: 500, 429: 400}
    assert origins.counting.seen(request_id) == 500
    async with open_books(stack) as books:
        await books.balanced()
        assert await books.totals(customer) == (500, 500, 500)


async def test_a_key_of_its_own_limit_shares_it_between_workers(
    stack_of: Callable[[int], Stack], origins: Origins, request_id: str
) -> None:
    stack = stack_of(3)
    key = stack.create_key(name="seven a minute", rateLimitPerMinute=7)["key"]
    url = f"{stack.gateway}/c/count?id={request_id}"
    assert await load.count(url, {"X-API-Key": key}, total=60, clients=20) == {200: 7, 429: 53}
    assert origins.counting.seen(request_id) == 7


async def test_a_failed_request_gives_its_quota_back(stack: Stack, customer: str) -> None:
    headers = {"X-API-Key": stack.secret_key, "X-User-Id": customer, "X-User-Plan": "five-hundred"}
    for _ in range(5):
        assert raw.get(f"{stack.gateway}/refused/x", headers).status == 502
    async with open_books(stack) as books:
        await books.balanced()
        assert (await books.totals(customer))[1] == 0
    statuses = await load.count(f"{stack.gateway}/c/count?id=quota", headers, total=600, clients=20)
    assert statuses == {200: 500, 429: 100}


def test_what_a_limited_client_is_told(stack: Stack, customer: str) -> None:
    headers = {"X-API-Key": stack.secret_key, "X-User-Id": customer, "X-User-Plan": "hundred"}
    answer = raw.get(f"{stack.gateway}/c/count", headers)
    assert answer.headers["ratelimit-policy"] == '"minute";q=100;w=60'
    assert answer.headers["ratelimit"] == '"minute";r=99;t=60'
    assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("100", "99")
    assert "x-request-id" in answer.headers
    asyncio.run(load.count(f"{stack.gateway}/c/count?id=limited", headers, total=99, clients=10))
    refused = raw.get(f"{stack.gateway}/c/count", headers)
    problem = refused.json()
    assert (refused.status, refused.headers["content-type"]) == (429, "application/problem+json")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert '"minute";r=0' in refused.headers["ratelimit"]
    assert (problem["code"], problem["violated-policies"]) == ("rate_limited", ["minute"])
    assert problem["request_id"] == refused.headers["x-request-id"]
    assert problem["error"]
    assert problem["message"]


def test_a_quota_is_told_with_its_period(stack: Stack, customer: str) -> None:
    headers = {"X-API-Key": stack.secret_key, "X-User-Id": customer, "X-User-Plan": "five-hundred"}
    answer = raw.get(f"{stack.gateway}/c/count", headers)
    assert answer.headers["ratelimit-policy"].startswith('"requests";q=500;w=')
    assert answer.headers["ratelimit"].startswith('"requests";r=499;t=')
