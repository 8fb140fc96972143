"""Upstreams that are spoken to by TLS: only who shows a certificate for the right name is sent a request."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.gateway.conftest import MakeStage
from tests.gateway.test_tls import write_pair
from tests.gateway.wire import answering, ask, ok, request
from tests.support.gateway import Books
from tests.support.raw import Peer

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 3\r\n\r\n"


@asynccontextmanager
async def origin(chain: Path, key: Path, script: Callable[[Peer], object]) -> AsyncIterator[tuple[int, list[Peer]]]:
    """A server that speaks TLS; its port and those who came."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain, key)
    peers: list[Peer] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(Peer(reader, writer))
        await script(peers[-1])  # type: ignore[misc]
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], peers
    finally:
        server.close()
        for peer in peers:
            peer._writer.transport.abort()


@pytest.mark.parametrize("form", ["with a length", "chunked", "until it closes"])
async def test_requests_and_answers_pass(
    stage: MakeStage, books: Books, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    chain, key = write_pair(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    answers = {"with a length": ok(b"abc"), "chunked": CHUNKED, "until it closes": b"HTTP/1.0 200 OK\r\n\r\nabc"}
    async with origin(chain, key, answering(answers[form], forever=form != "until it closes")) as (port, peers):
        s = await stage(answering(ok()), route={"origins": [f"https://localhost:{port}"]})
        client = await s.client()
        for _ in range(3):
            sent = request("/api/x", s.key, method="POST", body=b"x" * 100_000)
            answer = await ask(client, sent)
            assert (answer.status, answer.body) == (200, b"abc")
        assert len(peers) == (3 if form == "until it closes" else 1)  # kept, where it can be
        assert bytes(peers[0].received).count(b"x" * 100_000) >= 1
    await s.inside.settled()
    assert [event["outcome"] for event in await books.events()] == ["completed"] * 3


@pytest.mark.parametrize("fault", ["another name", "expired", "nobody vouches for it"])
async def test_whoever_cannot_show_who_it_is_gets_nothing(
    stage: MakeStage, books: Books, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    name = "elsewhere.test" if fault == "another name" else "localhost"
    chain, key = write_pair(tmp_path, name, ends=timedelta(days=-1 if fault == "expired" else 1))
    if fault != "nobody vouches for it":
        monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    async with origin(chain, key, answering(ok(b"abc"))) as (port, peers):
        s = await stage(answering(ok()), route={"origins": [f"https://localhost:{port}"], "retries": 0})
        client = await s.client()
        answer = await ask(client, request("/api/x", s.key))
        assert (answer.status, answer.json()["code"]) == (502, "upstream_unreachable")
        assert "localhost" not in answer.body.decode()  # what is inside is not for clients
        assert all(not peer.received for peer in peers)
    await s.inside.settled()
    assert [event["meters"]["requests"] for event in await books.events()] == [0]


async def test_an_end_without_a_word_is_not_taken_for_the_end_of_an_answer(
    stage: MakeStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the connection's end ends a body, it must be TLS that says so: anybody on the way could cut TCP there."""
    chain, key = write_pair(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))

    async def cut(peer: Peer) -> None:
        await peer.read_until(b"\r\n\r\n")
        await peer.send(b"HTTP/1.0 200 OK\r\n\r\nhalf")
        raw = peer._writer.get_extra_info("socket")
        with socket.fromfd(raw.fileno(), raw.family, raw.type) as same:
            same.shutdown(socket.SHUT_WR)  # FIN, and no close_notify
        await peer.read_to_end()

    async with origin(chain, key, cut) as (port, _):
        s = await stage(answering(ok()), route={"origins": [f"https://localhost:{port}"], "retries": 0})
        client = await s.client()
        await client.send(request("/api/x", s.key))
        received = await client.read_to_end()
        assert received.startswith(b"HTTP/1.1 200 OK")
        assert not received.endswith(b"0\r\n\r\n")
