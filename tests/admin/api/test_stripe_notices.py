"""The webhook that Stripe calls, at each of its names: signed is stored and acknowledged, anything else is refused."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import aiohttp
import asyncpg
import orjson
import pytest
from pydantic import SecretStr
from stripe import WebhookSignature

from admin.api.stripe_notices import PATHS
from admin.app import running
from config.settings import AdminSettings, Settings, StripeSettings
from ledger.billing.notices import MOST_BYTES, newest
from tests.admin.api.conftest import Client

SECRET = "whsec_test"
BODY = orjson.dumps({"id": "evt_1", "type": "v1.billing.meter.error_report_triggered", "livemode": False})


@pytest.fixture
async def client(postgres_url: str) -> AsyncIterator[Client]:
    stripe = StripeSettings(webhook_secrets=SecretStr(SECRET))
    settings = Settings(
        postgres_url=SecretStr(postgres_url), admin=AdminSettings(port=0, metrics_port=0), stripe=stripe
    )
    async with running(settings) as admin, aiohttp.ClientSession() as session:
        yield Client(session, admin.url, None)


def signed(body: bytes, at: float | None = None) -> dict[str, str]:
    header = WebhookSignature.generate_signature_header(body.decode(), SECRET, int(at or time.time()))
    return {"Stripe_Signature": header, "Content_Type": "application/json; charset=utf-8"}


@pytest.mark.parametrize("path", PATHS)
async def test_each_name_takes_it_once(path: str, client: Client, pg: asyncpg.Connection) -> None:
    for _ in range(2):
        answer = await client.post(path, BODY, **signed(BODY))
        assert (answer.status, answer.json) == (200, {"received": True})
    assert [(row["event_id"], row["mode"], row["state"]) for row in await newest(pg)] == [("evt_1", "test", "received")]


async def test_what_nothing_handles_yet_is_kept_and_says_so(client: Client, pg: asyncpg.Connection) -> None:
    body = orjson.dumps({"id": "evt_2", "type": "invoice.paid", "livemode": True, "account": "acct_9"})
    assert (await client.post(PATHS[0], body, **signed(body))).status == 200
    [kept] = await newest(pg)
    assert (kept["state"], kept["reason"], kept["account"]) == ("ignored", "nothing handles this kind yet", "acct_9")


@pytest.mark.parametrize(
    ("body", "over", "age_s", "code"),
    [
        (BODY, None, 0, "forged"),
        (BODY + b" ", BODY, 0, "forged"),
        (BODY, BODY, 400, "forged"),
        (BODY, BODY, -3600, "forged"),
        (b"{}", b"{}", 0, "bad_request"),
        (b"[1", b"[1", 0, "bad_request"),
        (b"x" * (MOST_BYTES + 1), b"x" * (MOST_BYTES + 1), 0, "body_too_large"),
    ],
    ids=["unsigned", "changed", "old", "of the future", "no event", "no json", "too large"],
)
async def test_anything_else_is_refused_and_leaves_nothing(
    body: bytes, over: bytes | None, age_s: float, code: str, client: Client, pg: asyncpg.Connection
) -> None:
    headers = {} if over is None else signed(over, time.time() - age_s)
    answer = await client.post(PATHS[0], body, **headers)
    assert answer.status in (400, 413)
    assert answer.code == code
    assert SECRET not in answer.text
    assert await newest(pg) == []


async def test_without_a_secret_there_is_no_webhook(postgres_url: str) -> None:
    settings = Settings(postgres_url=SecretStr(postgres_url), admin=AdminSettings(port=0, metrics_port=0))
    async with running(settings) as admin, aiohttp.ClientSession() as session:
        answer = await Client(session, admin.url, None).post(PATHS[0], BODY, **signed(BODY))
    assert (answer.status, answer.code) == (404, "not_found")
