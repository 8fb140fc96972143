"""A fake on a free port, and the real library talking to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import stripe

from stripefake.app import Running, running

stripe.enable_telemetry = False  # it would write to the home folder


@dataclass(frozen=True, slots=True)
class Steering:
    """The control endpoint of a fake."""

    url: str
    session: aiohttp.ClientSession

    async def __call__(self, method: str, path: str, body: Any = None) -> Any:
        async with self.session.request(method, f"{self.url}/_fake/{path}", json=body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def fault(self, kind: str, **rule: Any) -> None:
        await self("POST", "faults", {"kind": kind, **rule})


@pytest.fixture
async def fake() -> AsyncIterator[Running]:
    async with running() as where:
        yield where


@pytest.fixture
async def steer(fake: Running) -> AsyncIterator[Steering]:
    async with aiohttp.ClientSession() as session:
        yield Steering(fake.url, session)


@pytest.fixture
async def client_of(fake: Running) -> AsyncIterator[Callable[..., stripe.StripeClient]]:
    """Makes clients of the real library: client_of("sk_live_x")."""
    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))

    def make(key: str = "sk_test_1", **options: Any) -> stripe.StripeClient:
        return stripe.StripeClient(
            key,
            http_client=stripe.AIOHTTPClient(session=session, timeout=5),
            base_addresses={"api": fake.url, "connect": fake.url, "files": fake.url, "meter_events": fake.url},
            **({"max_network_retries": 0} | options),
        )

    yield make
    await session.close()


@pytest.fixture
def client(client_of: Callable[..., stripe.StripeClient]) -> stripe.StripeClient:
    return client_of()
