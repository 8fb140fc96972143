"""requests, httpx and Node's fetch against httpbin: the same tour directly and through the gateway."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import requests

from tests.e2e.conftest import Door, Origins
from tests.e2e.stack import Stack

_OF_THE_HOP = (
    "Host",
    "X-Api-Key",
    "X-User-Id",
    "X-Request-Id",
    "X-Forwarded",
    "Forwarded",
    "Via",
    "Connection",
)


@pytest.fixture
def httpbin_doors(origins: Origins, stack: Stack, through: Callable[[str], Door]) -> tuple[Door, Door]:
    """httpbin directly, and as the route for the host `localhost`: its redirects then lead back to the gateway."""
    door = through("")
    return Door("direct", origins.httpbin), Door("gateway", door.url.replace("127.0.0.1", "localhost"), door.headers)


def comparable(value: Any) -> Any:
    """httpbin's answer without what is bound to differ: addresses, and fields a gateway adds or takes."""
    if isinstance(value, dict):
        return {
            name: comparable(member)
            for name, member in value.items()
            if name not in ("origin", "url") and not name.startswith(_OF_THE_HOP)
        }
    return value


def tour(send: Callable[..., Any]) -> list[Any]:
    """What a program does with a client library; `send(method, path, **options)` gives a response of that library."""
    seen: list[Any] = []
    for method, path, options in (
        ("GET", "/anything/a%20b?x=1&x=2&y=%2F", {}),
        ("POST", "/post", {"json": {"name": "Ada", "tags": ["π", None, 1.5]}}),
        ("POST", "/post", {"data": {"form": "field", "more": "a&b"}}),
        ("POST", "/post", {"files": {"upload": ("a.bin", b"\0\1\2" * 5000, "application/octet-stream")}}),
        ("PUT", "/put", {"json": "\0 is a character too"}),
        ("PATCH", "/patch", {"json": []}),
        ("DELETE", "/delete", {}),
        ("GET", "/redirect/3", {}),
        ("GET", "/cookies/set?flavour=oat", {}),
        ("GET", "/basic-auth/me/secret", {"auth": ("me", "secret")}),
        ("GET", "/basic-auth/me/secret", {"auth": ("me", "wrong")}),
        ("GET", "/gzip", {}),
        ("GET", "/deflate", {}),
        ("GET", "/encoding/utf8", {}),
        ("GET", "/bytes/40000?seed=7", {}),
        ("GET", "/stream-bytes/40000?seed=7&chunk_size=1000", {}),
        ("GET", "/range/2000", {"headers": {"Range": "bytes=10-99"}}),
        ("GET", "/etag/abc", {"headers": {"If-None-Match": "abc"}}),
        ("GET", "/response-headers?X-Echo=one&X-Echo=two", {}),
        ("GET", "/status/418", {}),
        ("GET", "/status/503", {}),
        ("HEAD", "/get", {}),
        ("OPTIONS", "/get", {}),
    ):
        response = send(method, path, **options)
        body = response.content
        if response.headers.get("content-type") == "application/json" and body:
            body = comparable(json.loads(body))
            body = {name: value for name, value in body.items() if name != "headers"} | {"sent": _steady(body)}
        seen.append((method, path, response.status_code, response.headers.get("content-type"), body))
    return seen


def _steady(body: dict[str, Any]) -> dict[str, str]:
    """The request headers that httpbin saw, without the multipart boundary, which is random."""
    return {
        name: value
        for name, value in body.get("headers", {}).items()
        if not (name == "Content-Type" and value.startswith("multipart/"))
    }


def test_requests(httpbin_doors: tuple[Door, Door]) -> None:
    def visit(door: Door) -> list[Any]:
        with requests.Session() as session:
            session.headers.update(door.headers)

            def with_requests(method: str, path: str, **options: Any) -> requests.Response:
                return session.request(method, door.url + path, timeout=20, **options)

            return tour(with_requests)

    direct, gateway = (visit(door) for door in httpbin_doors)
    for before, after in zip(direct, gateway, strict=True):
        assert before == after


def test_httpx(httpbin_doors: tuple[Door, Door]) -> None:
    def visit(door: Door) -> list[Any]:
        with httpx.Client(base_url=door.url, headers=door.headers, follow_redirects=True, timeout=20) as client:

            def with_httpx(method: str, path: str, **options: Any) -> httpx.Response:
                return client.request(method, path, **options)

            return tour(with_httpx)

    direct, gateway = (visit(door) for door in httpbin_doors)
    for before, after in zip(direct, gateway, strict=True):
        assert before == after


async def test_httpx_async_with_many_requests_on_few_connections(doors: tuple[Door, Door]) -> None:
    async def visit(door: Door) -> list[tuple[int, int]]:
        limits = httpx.Limits(max_connections=4)
        async with httpx.AsyncClient(base_url=door.url, headers=door.headers, limits=limits, timeout=20) as client:
            answers = await asyncio.gather(*(client.get(f"/body?bytes={n * 1000}") for n in range(40)))
        return [(answer.status_code, len(answer.content)) for answer in answers]

    direct, gateway = [await visit(door) for door in doors]
    assert direct == gateway


_NODE = """
import { createHash } from "node:crypto";
const [base, given] = [process.argv[2], JSON.parse(process.argv[3])];
const call = async (path, options = {}) => {
  const response = await fetch(base + path, { ...options, headers: { ...given, ...(options.headers || {}) } });
  const body = Buffer.from(await response.arrayBuffer());
  return [path, response.status, response.headers.get("content-type"), body.length,
          createHash("sha256").update(body).digest("hex")];
};
const seen = [];
seen.push(await call("/count"));
seen.push(await call("/file", { headers: { range: "bytes=5-99" } }));
seen.push(await call("/gzip"));
seen.push(await call("/status?code=204"));
seen.push(await call("/status?code=500"));
seen.push(await call("/body?bytes=500000&framing=chunked"));
seen.push(...await Promise.all([1, 2, 3, 4, 5, 6, 7, 8].map((n) => call(`/body?bytes=${n}0000`))));
const echo = async (options) => {
  const response = await fetch(base + "/echo", { ...options, headers: given });
  const { method, length, sha256 } = await response.json();
  return [method, length, sha256];
};
seen.push(await echo({ method: "POST", body: JSON.stringify({ name: "Ada" }) }));
seen.push(await echo({ method: "POST", body: new URLSearchParams({ a: "b" }) }));
const pieces = new ReadableStream({
  start(controller) {
    for (let n = 0; n < 50; n++) controller.enqueue(new Uint8Array(9999).fill(n));
    controller.close();
  },
});
seen.push(await echo({ method: "PUT", body: pieces, duplex: "half" }));
const stop = new AbortController();
const hanging = fetch(base + "/sse?n=2&gate=never", { headers: given, signal: stop.signal });
const reader = (await hanging).body.getReader();
seen.push(new TextDecoder().decode((await reader.read()).value));
stop.abort();
seen.push(await reader.read().then(() => "read on", (error) => error.name));
seen.push(await call("/count"));
console.log(JSON.stringify(seen));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_node_fetch(doors: tuple[Door, Door]) -> None:
    def visit(door: Door) -> Any:
        command = ["node", "--input-type=module", "-", door.url, json.dumps(door.headers)]
        done = subprocess.run(command, input=_NODE, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    direct, gateway = (visit(door) for door in doors)
    for before, after in zip(direct, gateway, strict=True):
        assert before == after
