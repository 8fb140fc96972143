"""What belongs to admin: passed on with its credential, unmetered, and only where no route is declared."""

from __future__ import annotations

import pytest

from gateway.relay import belongs_to_admin
from tests.gateway.conftest import MakeStage
from tests.support.gateway import Books
from tests.support.raw import Peer, Upstream

ANSWER = b"HTTP/1.1 201 Created\r\nLocation: /x\r\nContent-Length: 5\r\n\r\nadmin"


@pytest.mark.parametrize(
    "path", [b"/api/v1/tiers", b"/api/v1", b"/api/keys/key_1/rotate", b"/auth/verify", b"/openapi.json", b"/login"]
)
def test_paths_of_admin(path: bytes) -> None:
    assert belongs_to_admin(path)


@pytest.mark.parametrize("path", [b"/", b"/api", b"/api/", b"/api/run", b"/api/v1x", b"/authx", b"/v1/keys", b"/e/abc"])
def test_paths_of_others(path: bytes) -> None:
    assert not belongs_to_admin(path)


async def test_it_goes_on_as_it_is_and_counts_nothing(stage: MakeStage, books: Books) -> None:
    seen: list[bytes] = []

    async def admin(peer: Peer) -> None:
        seen.append(await peer.read_until(b"{}"))
        await peer.send(ANSWER)

    async def nobody(peer: Peer) -> None:
        raise AssertionError("the route's own upstream was asked")

    async with Upstream(admin) as plane:
        here = await stage(nobody, route={"path": "/mine/*"}, admin_url=f"http://{plane.host}:{plane.port}")
        client = await here.client()
        await client.send(
            b"POST /api/v1/tiers?dry_run=true HTTP/1.1\r\nHost: gate.test\r\nAuthorization: Bearer sk_x\r\n"
            b"X-User-Id: spoofed\r\nContent-Length: 2\r\n\r\n{}"
        )
        answer = await client.read_until(b"admin")
    assert answer.startswith(b"HTTP/1.1 201 Created\r\n")
    head = seen[0].lower()
    assert head.startswith(b"post /api/v1/tiers?dry_run=true http/1.1\r\nhost: gate.test\r\n")
    assert b"authorization: bearer sk_x\r\n" in head
    assert b"spoofed" not in head
    await here.inside.settled()
    assert await books.events() == []
    assert await books.reservations() == []


async def test_a_declared_route_comes_first(stage: MakeStage) -> None:
    async def mine(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine")

    here = await stage(mine, route={"path": "/api/v1/*"}, admin_url="http://127.0.0.1:9")
    client = await here.client()
    await client.send(b"GET /api/v1/tiers HTTP/1.1\r\nHost: a\r\nX-API-Key: %b\r\n\r\n" % here.key.encode())
    assert (await client.read_until(b"mine")).startswith(b"HTTP/1.1 200 OK\r\n")


async def test_without_admin_there_is_nothing_and_with_admin_away_a_502(stage: MakeStage) -> None:
    async def nobody(peer: Peer) -> None:
        raise AssertionError("the route's own upstream was asked")

    here = await stage(nobody, route={"path": "/mine/*"}, admin_url="http://127.0.0.1:9")
    client = await here.client()
    await client.send(b"GET /api/keys HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await client.read_until(b"}")).startswith(b"HTTP/1.1 502 ")
    here.inside.gateway.admin = None
    await client.send(b"GET /api/tiers HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await client.read_until(b"}")).startswith(b"HTTP/1.1 404 ")


async def test_the_usage_of_a_month_is_admins_to_tell(stage: MakeStage) -> None:
    async def admin(peer: Peer) -> None:
        assert (await peer.read_until(b"\r\n\r\n")).startswith(b"GET /api/usage?period=2026-11 HTTP/1.1\r\n")
        await peer.send(ANSWER)

    async def nobody(peer: Peer) -> None:
        raise AssertionError("the route's own upstream was asked")

    async with Upstream(admin) as plane:
        here = await stage(nobody, route={"path": "/mine/*"}, admin_url=f"http://{plane.host}:{plane.port}")
        client = await here.client()
        head = b"GET /api/usage%b HTTP/1.1\r\nHost: a\r\nX-API-Key: %b\r\n\r\n"
        await client.send(head % (b"", here.key.encode()))
        assert b'"userId":"ada"' in await client.read_until(b"}}")
        await client.send(head % (b"?period=2026-11", here.key.encode()))
        assert (await client.read_until(b"admin")).startswith(b"HTTP/1.1 201 ")
