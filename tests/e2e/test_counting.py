"""POST /api/data and GET /api/usage: counting what does not pass through the gateway, under the same limits."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

from tests.e2e import raw
from tests.e2e.books import Books
from tests.e2e.stack import Stack


def _headers(stack: Stack, customer: str, plan: str = "five-hundred") -> dict[str, str]:
    return {"Authorization": f"Bearer {stack.secret_key}", "X-User-Id": customer, "X-User-Plan": plan}


def _count(stack: Stack, customer: str, **asked: Any) -> raw.Response:
    headers = {**_headers(stack, customer), "Content-Type": "application/json"}
    return raw.get(f"{stack.gateway}/api/data", headers, "POST", json.dumps(asked).encode())


async def test_a_count_is_answered_limited_and_written_down(stack: Stack, books: Books, customer: str) -> None:
    answer = _count(stack, customer, quantity=120)
    told = answer.json()
    assert (answer.status, told["success"], told["allowed"], told["userId"]) == (200, True, True, customer)
    usage = told["usage"]
    assert (usage["count"], usage["limit"], usage["remaining"], usage["plan"]) == (120, 500, 380, "five-hundred")
    assert datetime.fromisoformat(usage["periodStart"]) < datetime.fromisoformat(usage["periodEnd"])
    assert _count(stack, customer).json()["usage"]["count"] == 121
    read = raw.get(f"{stack.gateway}/api/usage", _headers(stack, customer)).json()
    assert read["usage"] == {**usage, "count": 121, "remaining": 379}
    await books.balanced()
    assert await books.totals(customer) == (2, 121, 121)
    assert {event.outcome for event in await books.events(customer)} == {"counted"}


def test_at_the_limit_the_answer_is_403(stack: Stack, customer: str) -> None:
    assert _count(stack, customer, quantity=500).status == 200
    refused = _count(stack, customer)
    told = refused.json()
    assert (refused.status, told["error"], told["count"], told["limit"]) == (403, "Tier limit reached", 500, 500)
    assert told["plan"] == "five-hundred"
    assert told["message"]
    proxied = raw.get(f"{stack.gateway}/c/count", _headers(stack, customer))
    assert (proxied.status, proxied.json()["code"]) == (429, "quota_exceeded")


async def test_an_idempotent_count_counts_once_however_often_and_many_at_once(
    stack: Stack, books: Books, customer: str
) -> None:
    answers = await asyncio.gather(
        *(asyncio.to_thread(_count, stack, customer, quantity=3, idempotencyKey="invoice-7") for _ in range(12))
    )
    assert {answer.status for answer in answers} == {200}
    assert {answer.json()["usage"]["count"] for answer in answers} == {3}
    await books.balanced()
    assert await books.totals(customer) == (1, 3, 3)


def test_what_cannot_be_counted_is_said(stack: Stack, customer: str) -> None:
    for asked in ({"quantity": 0}, {"quantity": -1}, {"quantity": 1.5}, {"quantity": True}, {"meter": "No!"}, {"x": 1}):
        answer = _count(stack, customer, **asked)
        assert (answer.status, answer.json()["code"]) == (422, "invalid"), asked
    headers = {**_headers(stack, customer), "Content-Type": "application/json"}
    for body in (b"{", b"[]", b"\xff"):
        assert raw.get(f"{stack.gateway}/api/data", headers, "POST", body).status in (400, 422), body
    assert raw.get(f"{stack.gateway}/api/usage", _headers(stack, customer)).json()["usage"]["count"] == 0
