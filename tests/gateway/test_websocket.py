"""WebSockets through a whole gateway: spliced byte for byte, counted by message, settled when either side ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.gateway.conftest import MakeStage
from tests.gateway.metering.test_frames import frame
from tests.gateway.wire import ask, drop, ok, read_answer, read_request, request
from tests.support.gateway import Books, until
from tests.support.raw import Peer

HANDSHAKE = (
    "Connection: keep-alive, Upgrade",
    "Upgrade: WebSocket",
    "Sec-WebSocket-Key: x",
    "Sec-WebSocket-Version: 13",
)
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n"
)
HELLO = frame(1, 5, is_masked=True)
REPLY = frame(1, 700)
LIMITED: dict[str, Any] = {"quotas": {"requests": 9}}


async def replying(peer: Peer) -> None:
    """Accepts, greets in the same segment, answers each HELLO with two messages; hangs up after the bye."""
    head = await read_request(peer)
    assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in head
    await peer.send(ACCEPTED + REPLY)
    while (await peer.read_exactly(len(HELLO))) == HELLO:
        await peer.send(REPLY * 2, pause_after=(1, 300, 704))


async def test_bytes_pass_both_ways_and_messages_are_counted(stage: MakeStage, books: Books) -> None:
    s = await stage(replying, tier=LIMITED)
    client = await s.client()
    await client.send(request("/api/ws?a=b", s.key, *HANDSHAKE) + HELLO)  # impatient: the first message comes along
    answer = await read_answer(client)
    assert (answer.status, answer.headers["upgrade"], answer.headers["connection"]) == (101, "websocket", "Upgrade")
    assert answer.headers["sec-websocket-accept"] == "y"
    assert answer.headers["ratelimit"].startswith('"requests";r=8;')
    assert await client.read_exactly(3 * len(REPLY)) == REPLY * 3
    await client.send(HELLO, pause_after=(1, 3, 7))
    assert await client.read_exactly(2 * len(REPLY)) == REPLY * 2
    assert len(await books.reservations()) == 1  # it is still going on
    bye = frame(8, 5, is_masked=True)
    await client.send(bye)
    assert await client.read_to_end() == b""
    await s.inside.settled()
    [event] = await books.events()
    assert (event["status"], event["outcome"]) == (101, "completed")
    assert event["meters"] == {
        "requests": 1,
        "bytes_in": 2 * len(HELLO) + len(bye),
        "bytes_out": 5 * len(REPLY),
        "messages_in": 2,
        "messages_out": 5,
    }
    assert await books.reservations() == []


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_ends_it(stage: MakeStage, books: Books, how: str) -> None:
    ended = asyncio.Event()

    async def until_the_end(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(ACCEPTED)
        await peer.read_to_end()
        ended.set()

    s = await stage(until_the_end, tier=LIMITED)
    client = await s.client()
    assert (await ask(client, request("/api/ws", s.key, *HANDSHAKE))).status == 101
    await (client.close() if how == "close" else client.reset())
    await asyncio.wait_for(ended.wait(), 5)
    await s.inside.settled()
    [event] = await books.events()
    assert (event["outcome"], event["meters"]["messages_in"]) == ("completed", 0)
    assert await books.reservations() == []


async def test_one_on_which_nothing_moves_is_ended(stage: MakeStage, books: Books) -> None:
    async def silent(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(ACCEPTED)
        await peer.read_to_end()

    s = await stage(silent, route={"websocket_idle_ms": 1_000, "read_timeout_ms": 10})
    client = await s.client()
    assert (await ask(client, request("/api/ws", s.key, *HANDSHAKE))).status == 101
    await asyncio.sleep(0.1)  # longer than an upstream may think about an ordinary request
    assert len(s.inside.door.connections) == 1
    assert await client.read_to_end() == b""
    await s.inside.settled()
    assert len(await books.events()) == 1


async def test_an_upstream_may_say_no(stage: MakeStage, books: Books) -> None:
    async def refuse(peer: Peer) -> None:
        for _ in range(2):
            await read_request(peer)
            await peer.send(ok(b"no", status=b"426 Upgrade Required"))
        await peer.read_to_end()

    s = await stage(refuse)
    client = await s.client()
    for _ in range(2):
        answer = await ask(client, request("/api/ws", s.key, *HANDSHAKE))
        assert (answer.status, answer.body) == (426, b"no")
    await s.inside.settled()
    assert [set(event["meters"]) for event in await books.events()] == [{"requests", "bytes_in", "bytes_out"}] * 2


@pytest.mark.parametrize(
    ("route", "lines", "method"),
    [
        ({"websocket": False}, HANDSHAKE, "GET"),
        ({}, ("Connection: Upgrade", "Upgrade: h2c"), "GET"),
        ({}, ("Upgrade: websocket",), "GET"),
        ({}, HANDSHAKE, "POST"),
    ],
    ids=["not on this route", "another protocol", "not named by Connection", "not GET"],
)
async def test_any_other_upgrade_is_an_ordinary_request(
    stage: MakeStage, route: dict[str, Any], lines: tuple[str, ...], method: str
) -> None:
    async def tempting(peer: Peer) -> None:
        head = await read_request(peer)
        assert b"\r\nUpgrade:" not in head
        await peer.send(ACCEPTED)  # although nobody asked
        await peer.read_to_end()

    s = await stage(tempting, route=route)
    answer = await ask(await s.client(), request("/api/ws", s.key, *lines, method=method))
    assert (answer.status, answer.json()["code"]) == (502, "upstream_invalid")


async def test_a_peer_that_does_not_read_holds_the_other(stage: MakeStage) -> None:
    async def deaf(peer: Peer) -> None:
        await read_request(peer)
        await peer.send(ACCEPTED)
        peer._reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    s = await stage(deaf, route={"websocket_idle_ms": 1_000})
    client = await s.client()
    assert (await ask(client, request("/api/ws", s.key, *HANDSHAKE))).status == 101
    sent = 0

    async def pour() -> None:
        nonlocal sent
        while sent < 2**26:
            await client.send(frame(2, 60_000, is_masked=True))
            sent += 60_000

    pouring = asyncio.create_task(pour())
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.1)
    assert sent < 2**25
    pouring.cancel()
    await asyncio.gather(pouring, return_exceptions=True)
    drop(client)
    await until(lambda: not s.inside.door.connections)
