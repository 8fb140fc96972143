"""Figures that move: a stream says what changed, to who may see it, and ends with the process."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import aiohttp
import pytest

from tests.admin.api.conftest import World
from tests.admin.people import Browser
from tests.admin.web.person import Person


async def opened(world: World, browser: Browser, part: str = "tiles") -> aiohttp.ClientResponse:
    cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    return await world.session.get(f"{world.where.url}/dashboard/live/{part}", headers={"Cookie": cookie})


async def said(response: aiohttp.ClientResponse) -> str:
    async with asyncio.timeout(15):
        return (await response.content.readuntil(b"\n\n")).decode()


async def test_a_stream_says_what_changed(world: World, owner: Person) -> None:
    response = await opened(world, owner.browser, "start")
    assert (response.status, response.headers["Content-Type"]) == (200, "text/event-stream")
    assert "Waiting for the first call" in await said(response)
    await world.pg.execute(
        "INSERT INTO usage_daily (project_id, mode, day, customer_id, meter, quantity, events, duration_us)"
        " VALUES ($1, 'test', $2, 'cus_1', 'requests', 7, 7, 1)",
        world.shop_id,
        datetime.now(UTC).date(),
    )
    assert "7 requests this month" in await said(response)
    response.close()


async def test_who_may_not_look_is_refused(world: World, owner: Person) -> None:
    assert (await opened(world, Browser(world.where.url, world.session))).status == 401
    assert (await opened(world, owner.browser, "secrets")).status == 404


async def test_one_session_has_ten_streams(world: World, owner: Person) -> None:
    streams = [await opened(world, owner.browser) for _ in range(11)]
    assert [stream.status for stream in streams] == [200] * 10 + [503]
    for stream in streams:
        stream.close()


@pytest.mark.timeout(30)
async def test_signing_out_ends_a_stream(world: World, owner: Person) -> None:
    response = await opened(world, owner.browser)
    await said(response)
    await world.pg.execute("DELETE FROM sessions")
    async with asyncio.timeout(15):
        assert b"event" not in await response.content.read()
