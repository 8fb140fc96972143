"""The proxy of a run, asked as a hostile guest would: over its socket, with resolvers that lie."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from sandbox.egress.policy import Address
from sandbox.egress.proxy import Egress, Rules, resolve

LOOPBACK = (ip_network("127.0.0.1/32"),)


class Web:
    """A server that answers everything with what it got."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        writer.close()


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    web = Web()
    server = await asyncio.start_server(web.serve, "127.0.0.1", 0)
    web.port = server.sockets[0].getsockname()[1]
    yield web
    server.close()


async def say(egress: Egress, text: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(egress.path)
    writer.write(text)
    async with asyncio.timeout(5):
        found = await reader.read()
    writer.close()
    return found


def names(**table: str) -> object:
    async def find(host: str, port: int) -> list[Address]:
        if host not in table:
            raise OSError("unknown")
        return [ip_address(text) for text in table[host].split(",")]

    return find


async def test_connect_and_absolute_form(web: Web, tmp_path: Path) -> None:
    find = names(**{"web.test": "127.0.0.1"})
    async with Egress(str(tmp_path / "e"), Rules(("web.test",), LOOPBACK), find) as egress:  # type: ignore[arg-type]
        found = await say(egress, b"CONNECT web.test:%d HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n" % web.port)
        assert found.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.1 200 OK")
        request = (
            b"GET http://WEB.test:%d/a?b HTTP/1.1\r\nHost: other.test\r\nProxy-Authorization: x\r\nX: y\r\n\r\n"
            % web.port
        )
        assert (await say(egress, request)).endswith(b"ok")
        assert web.heads[1] == b"GET /a?b HTTP/1.1\r\nHost: WEB.test:%d\r\nConnection: close\r\nX: y\r\n\r\n" % web.port
        assert egress.traffic.bytes_in > 100
        assert egress.traffic.bytes_out > 18
        assert egress.traffic.denied == {}
    assert not os.path.exists(egress.path)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("web.test:80", "not among allowedHosts"),
        ("private.ok.test:80", "10.0.0.1 is not a public address"),
        ("metadata.ok.test:80", "169.254.169.254 is not a public address"),
        ("mixed.ok.test:80", "127.0.0.1 is not a public address"),  # one bad address is enough
        ("mapped.ok.test:80", "::ffff:a00:1 is not a public address"),
        ("public.ok.test:25", "port 25 is closed"),
        ("127.0.0.1:80", "not among allowedHosts"),
        ("[::1]:80", "not among allowedHosts"),
    ],
)
async def test_what_is_refused_is_noted(target: str, why: str, tmp_path: Path) -> None:
    find = names(
        **{
            "private.ok.test": "10.0.0.1",
            "metadata.ok.test": "169.254.169.254",
            "mixed.ok.test": "1.1.1.1,127.0.0.1",
            "mapped.ok.test": "::ffff:10.0.0.1",
            "public.ok.test": "1.1.1.1",
        }
    )
    async with Egress(str(tmp_path / "e"), Rules(("*.ok.test",)), find) as egress:  # type: ignore[arg-type]
        found = await say(egress, f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
        assert found.startswith(b"HTTP/1.1 403 ")
        assert egress.traffic.denied == {target: why}


@pytest.mark.parametrize("target", ["127.0.0.1:80", "[::1]:80", "[::ffff:169.254.169.254]:80", "169.254.169.254:80"])
async def test_addresses_of_here_without_any_list(target: str, tmp_path: Path) -> None:
    async with Egress(str(tmp_path / "e"), Rules()) as egress:
        assert (await say(egress, f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())).startswith(b"HTTP/1.1 403 ")
        assert list(egress.traffic.denied) == [target]


async def test_localhost_by_the_real_resolver(tmp_path: Path) -> None:
    assert all(address.is_loopback for address in await resolve("localhost", 80))
    async with Egress(str(tmp_path / "e"), Rules()) as egress:
        assert (await say(egress, b"CONNECT localhost:80 HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 403 ")


async def test_a_name_that_changes_its_mind(web: Web, tmp_path: Path) -> None:
    """DNS rebinding: the first answer is public, every later one is not. What was judged is what is connected to."""
    answers = iter([["192.0.2.1"], ["127.0.0.1"]])
    asked = 0

    async def find(host: str, port: int) -> list[Address]:
        nonlocal asked
        asked += 1
        return [ip_address(text) for text in next(answers)]

    async with Egress(str(tmp_path / "e"), Rules(networks=(ip_network("192.0.2.0/24"),)), find) as egress:
        try:
            async with asyncio.timeout(0.3):
                await say(egress, b"CONNECT rebind.test:%d HTTP/1.1\r\n\r\n" % web.port)
        except TimeoutError:
            pass  # nobody is at 192.0.2.1
        assert asked == 1
        assert web.heads == []
        assert (await say(egress, b"CONNECT rebind.test:%d HTTP/1.1\r\n\r\n" % web.port)).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"CONNECT\r\n\r\n",
        b"CONNECT x HTTP/1.1\r\n\r\n",
        b"CONNECT x:99999999 HTTP/1.1\r\n\r\n",
        b"CONNECT 127.1:80 HTTP/1.1\r\n\r\n",
        b"CONNECT a\0b:80 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET https://x/ HTTP/1.1\r\n\r\n",
        b"GET http://user@x/ HTTP/1.1\r\n\r\n",
        b"GET http://[::1/ HTTP/1.1\r\n\r\n",
        b"\xff\xfe HTTP/1.1\r\n\r\n",
        b"X" * 9_000,
        b"GET file:///etc/passwd HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_no_request(head: bytes, tmp_path: Path) -> None:
    async with Egress(str(tmp_path / "e"), Rules()) as egress:
        reader, writer = await asyncio.open_unix_connection(egress.path)
        writer.write(head)
        writer.write_eof()
        async with asyncio.timeout(5):
            assert (await reader.read()).startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))
        writer.close()


async def test_more_connections_than_there_may_be(tmp_path: Path) -> None:
    async with Egress(str(tmp_path / "e"), Rules()) as egress:
        opened = [await asyncio.open_unix_connection(egress.path) for _ in range(64)]
        reader, writer = await asyncio.open_unix_connection(egress.path)
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        for _, one in [*opened, (reader, writer)]:
            one.close()
