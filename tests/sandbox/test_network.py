"""Networked runs on every backend: programs work unchanged, and reach only what they may."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network

import pytest
import pytest_asyncio

from sandbox.backends.base import Backend
from sandbox.egress.policy import Address
from sandbox.egress.proxy import Egress, Rules
from tests.sandbox.runs import node, python, says

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="binds port 80 of a loopback address"),
    pytest.mark.asyncio(loop_scope="module"),
]
HERE = f"127.9.{os.getpid() % 250}.{os.getpid() // 250 % 250 + 1}"  # nobody else's port 80


@pytest_asyncio.fixture(loop_scope="module")
async def web() -> AsyncIterator[list[bytes]]:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            body = b"x" * 300_000 if b" /large " in heads[-1] else b"hello"
            if b" /away " in heads[-1]:
                writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://metadata.test/\r\nContent-Length: 0\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    server = await asyncio.start_server(serve, HERE, 80)
    yield heads
    server.close()


@asynccontextmanager
async def way_out(backend: Backend, hosts: tuple[str, ...] | None = None) -> AsyncIterator[Egress]:
    """A proxy whose names lead to our own server, except metadata.test."""

    async def find(host: str, port: int) -> list[Address]:
        return [ip_address("169.254.169.254" if host == "metadata.test" else HERE)]

    path = f"{backend.egress_directory}/{secrets.token_hex(8)}.sock"
    async with Egress(path, Rules(hosts, (ip_network(f"{HERE}/32"),)), find) as egress:
        yield egress


async def test_programs_work_unchanged(backend: Backend, web: list[bytes]) -> None:
    async with way_out(backend) as egress:
        code = (
            "import urllib.request as u; print(u.urlopen('http://api.test/x').read(),"
            " len(u.urlopen('http://b.test/large').read()))"
        )
        assert await says(backend, code, egress=egress.path) == "b'hello' 300000"
        assert b"Host: api.test" in web[0]
        assert egress.traffic.bytes_in > 300_000
        ended = await node(
            backend, "fetch('http://api.test/').then(r => r.text()).then(console.log)", egress=egress.path
        )
        assert ended.stdout == b"hello\n", ended.stderr
        assert (
            await says(backend, "import socket; print(socket.gethostbyname('api.test')[:7])", egress=egress.path)
            == "127.77."
        )


async def test_what_is_not_allowed_is_reset_and_noted(backend: Backend, web: list[bytes]) -> None:
    async with way_out(backend, ("api.test",)) as egress:
        code = """
            import urllib.request as u
            print(u.urlopen("http://api.test/").read())
            for url in ("http://other.test/", "http://metadata.test/", "http://api.test/away"):
                try: print(u.urlopen(url).read())
                except OSError as error: print("refused")
            raise SystemExit(3)
        """
        ended = await python(backend, code, egress=egress.path)
        assert ended.stdout.decode().split() == ["b'hello'", "refused", "refused", "refused"], ended.stderr
        assert set(egress.traffic.denied) == {"other.test:80", "metadata.test:80"}


async def test_there_is_no_other_way(backend: Backend, web: list[bytes]) -> None:
    """Addresses instead of names, other families, the host's own ports: only the proxy leads anywhere."""
    async with way_out(backend, ("api.test",)) as egress:
        code = f"""
            import socket
            places = ("1.1.1.1", 443), ("169.254.169.254", 80), ({HERE!r}, 80), ("10.0.0.1", 80), ("127.0.0.1", 22)
            for address in places:
                try:
                    s = socket.create_connection(address, 1); s.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n"); print(len(s.recv(1)))
                except OSError: print(0)
            s = socket.create_connection(("127.0.0.1", 3128), 1)
            s.sendall(b"CONNECT {HERE}:80 HTTP/1.1\\r\\n\\r\\n"); print(s.recv(12))
            for family in (40, 38, 16):
                try: socket.socket(family, socket.SOCK_RAW); print("open")
                except OSError: pass
            try: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); print("raw")
            except OSError: pass
            status = open("/proc/self/status").read()
            print(*[int(status.split(name)[1].split()[0], 16) for name in ("CapEff:", "CapPrm:", "CapAmb:", "CapInh:")])
        """
        found = await says(backend, code, egress=egress.path)
        assert found.splitlines() == ["0", "0", "0", "0", "0", "b'HTTP/1.1 403'", "0 0 0 0"]
        assert web == []
        import ctypes  # noqa: F401 - the same doors as without a network stay shut

        assert (
            await says(backend, "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))", egress=egress.path)
            == "-1"
        )


async def test_the_relay_is_not_in_the_way_of_what_a_program_leaves(backend: Backend, web: list[bytes]) -> None:
    async with way_out(backend) as egress:
        ended = await python(backend, "import os; open('out/x', 'w').write('y'); os._exit(3)", egress=egress.path)
        assert (ended.exit_code, [a.path for a in ended.artifacts]) == (3, ["x"])
