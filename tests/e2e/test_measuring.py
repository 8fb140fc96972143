"""What requests really cost, from an upstream's answer to the ledger, with clients as people have them."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import httpx
import pytest
from aiohttp import web

from tests.e2e.books import Books
from tests.e2e.stack import Stack
from tests.support.processes import eventually
from tests.support.raw import Upstream
from tests.support.upstreams.models import COMPLETION, PROMPT, Model, chat_chunks

_DECLARATION = """\
version: 1
projects:
  - name: e2e
    tiers:
      - {{name: {name}, quotas: {{tokens: 100, messages_in: 10, requests: null}}}}
    upstreams:
      - {{name: {name}-model, targets: ["{model}"]}}
      - {{name: {name}-chat, targets: ["{chat}"]}}
    routes:
      - name: {name}-model
        path: /{name}-model/*
        upstream: {name}-model
        meters: {{requests: 1, tokens: {{source: "usage:total", estimate: 40}}}}
        include_usage: true
      - {{name: {name}-chat, path: /{name}-chat/*, upstream: {name}-chat, settle_every_messages: 4}}
"""


@pytest.fixture
def name() -> str:
    return f"m-{secrets.token_hex(4)}"


@pytest.fixture
async def chat() -> AsyncIterator[str]:
    """A WebSocket server that echoes; its address."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
        return socket

    app = web.Application()
    app.router.add_get("/{any:.*}", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_tokens_and_messages_from_the_answer_to_the_ledger(
    stack: Stack, books: Books, customer: str, tmp_path: Path, name: str, chat: str
) -> None:
    headers = {"X-API-Key": stack.secret_key, "X-User-Id": customer, "X-User-Plan": name}
    async with Upstream(Model()) as upstream, httpx.AsyncClient(headers=headers, timeout=10) as client:
        file = tmp_path / "routes.yaml"
        model = f"http://{upstream.host}:{upstream.port}"
        file.write_text(_DECLARATION.format(name=name, model=model, chat=chat), encoding="utf-8")
        await asyncio.to_thread(stack.command, "apply", "-f", str(file))
        url = f"{stack.gateway}/{name}-model/v1/chat/completions"

        async def is_there() -> bool:
            return (await client.get(f"{stack.gateway}/{name}-chat/x")).status_code != 404

        while not await is_there():
            await asyncio.sleep(0.01)
        document = {"model": "m", "messages": [], "stream": True}
        async with client.stream("POST", url, json=document) as answer:
            assert answer.status_code == 200
            lines = [line async for line in answer.aiter_lines() if line]
        *chunks, _, done = chat_chunks(include_usage=True)
        assert lines == [chunk.decode().strip() for chunk in (*chunks, done)]
        whole = await client.post(url, json={"model": "m", "messages": []})
        assert whole.json()["usage"]["total_tokens"] == PROMPT + COMPLETION
        eventually(lambda: _count(stack, headers, "tokens") == 2 * (PROMPT + COMPLETION), within_s=5)
        refused = await client.post(url, json=document)
        assert (refused.status_code, refused.json()["violated-policies"]) == (429, ["tokens"])

    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(f"{stack.gateway}/{name}-chat/room") as socket,
    ):
        for number in range(10):
            await socket.send_str(str(number))
            assert await socket.receive_str(timeout=5) == str(number)
        await socket.send_str("one too many")
        last = await socket.receive(timeout=5)
        assert (last.type, last.data, last.extra) == (aiohttp.WSMsgType.CLOSE, 1008, "quota used up: messages_in")
    assert _count(stack, headers, "messages_in") == 10

    await books.balanced()
    events = [e for e in await books.events(customer) if e.outcome != "upstream_failed"]
    assert sum(e.meters.get("tokens", 0) for e in events) == 2 * (PROMPT + COMPLETION)
    assert sum(e.meters.get("messages_in", 0) for e in events) == 10
    assert sum(e.meters.get("messages_out", 0) for e in events) == 10
    assert [e.outcome for e in events].count("limit_reached") == 1


def _count(stack: Stack, headers: dict[str, str], meter: str) -> int:
    answer = httpx.get(f"{stack.gateway}/api/usage", params={"meter": meter}, headers=headers).json()
    found: int = answer["usage"]["count"]
    return found
