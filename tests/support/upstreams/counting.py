"""An origin that counts what reaches it and misbehaves on demand, on a bare asyncio protocol with llhttp.

Every request is counted by its `id` query parameter (or "" without one), except those below `/-/`, which ask the
counter itself. Progress is steered by named gates instead of by time: a handler waits at `gate`, the test opens it with
`POST /-/open?gate=…`. Nothing here is strict or robust: what is malformed is counted as `malformed` and hung up on.

| path                         | answer                                                                                |
|------------------------------|---------------------------------------------------------------------------------------|
| `/count`                     | 200 `ok`                                                                              |
| `/echo`                      | JSON: method, target, version, headers, trailers, length and SHA-256 of the body      |
| `/body?bytes=&framing=`      | the pattern below; framing `length` (default), `chunked` or `close`                   |
| `/file`                      | 64 KiB with ETag, ranges, If-None-Match, HEAD                                         |
| `/gzip`                      | gzip bytes with Content-Encoding                                                      |
| `/status?code=`              | that status, with a body where one is allowed                                         |
| `/sse?n=&gate=`              | n server-sent events; all but the first wait at the gate                              |
| `/trailers`, `/early`        | chunked with two trailer fields; a 103 with Link before the 200                       |
| `/reset?bytes=&gate=`        | promises 1 MiB, sends `bytes`, waits at the gate, then resets; `/truncate` closes     |
| `/hang`, `/slow?gate=`       | no answer at all; an answer once the gate opens                                       |
| `/garbage`                   | bytes that are not HTTP                                                               |
| `/unread?gate=`              | takes the head, reads no body before the gate opens, then answers like `/echo`        |
| `/-/seen`                    | JSON: total, ids, sent (body bytes by id), connections, malformed                     |
| `/-/open?gate=&n=`           | lets n (default 1) waiters through                                                    |
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import socket
import struct
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from hashlib import sha256
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

import httptools
import uvloop

from tests.support.upstreams import child

BLOCK: Final = random.Random(20).randbytes(262_144 + 7)
FILE: Final = BLOCK[:65_536]
ETAG: Final = '"pattern-1"'
RESET_LENGTH: Final = 1_048_576


def pattern(length: int) -> Iterator[bytes]:
    """The body of `/body?bytes=length`: blocks that differ in where they are cut, so a lost or doubled one shows."""
    while length > 0:
        block = BLOCK[:length]
        yield block
        length -= len(block)


def pattern_digest(length: int) -> str:
    """SHA-256 of the pattern, in hexadecimal."""
    digest = sha256()
    for block in pattern(length):
        digest.update(block)
    return digest.hexdigest()


class State:
    """All that the counter knows."""

    def __init__(self) -> None:
        self.ids: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.connections = 0
        self.malformed = 0
        self.gates: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(0))


class Request:
    """One request as it arrived; the body is hashed, never kept."""

    def __init__(self) -> None:
        self.target = ""
        self.method = ""
        self.version = ""
        self.headers: list[tuple[str, str]] = []
        self.trailers: list[tuple[str, str]] = []
        self.has_head = False
        self.keep_alive = False
        self.length = 0
        self.digest = sha256()
        self.complete = asyncio.Event()

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)

    def number(self, name: str, default: int) -> int:
        return int(self.query.get(name, default))


class Connection(asyncio.Protocol):
    """Parses requests in `data_received`, answers them one after the other in a task."""

    transport: asyncio.Transport

    def __init__(self, state: State) -> None:
        self.state = state
        self.parser = httptools.HttpRequestParser(self)
        self.request = Request()
        self.waiting: asyncio.Queue[Request] = asyncio.Queue()
        self.writable = asyncio.Event()
        self.writable.set()

    # What the transport calls
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        self.state.connections += 1
        self.driver = asyncio.get_running_loop().create_task(self._answer_all(), name="upstream-connection")

    def connection_lost(self, error: Exception | None) -> None:
        self.writable.set()
        self.driver.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            self.state.malformed += 1
            self.transport.abort()

    # What the parser calls
    def on_message_begin(self) -> None:
        self.request = Request()

    def on_url(self, url: bytes) -> None:
        self.request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        fields = self.request.trailers if self.request.has_head else self.request.headers
        fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        request = self.request
        request.has_head = True
        request.method = self.parser.get_method().decode()
        request.version = self.parser.get_http_version()
        request.keep_alive = self.parser.should_keep_alive()
        if request.path == "/unread":
            self.transport.pause_reading()
        self.waiting.put_nowait(request)

    def on_body(self, body: bytes) -> None:
        self.request.length += len(body)
        self.request.digest.update(body)

    def on_message_complete(self) -> None:
        self.request.complete.set()

    # Answers
    async def _answer_all(self) -> None:
        while True:
            request = await self.waiting.get()
            path = request.path
            if not path.startswith("/-/"):
                self.state.ids[request.query.get("id", "")] += 1
            if request.header("expect") == "100-continue":
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await ANSWERS.get(path, _not_found)(self, request)
            await request.complete.wait()
            if not request.keep_alive:
                self.transport.close()
                return

    async def send(self, data: bytes) -> None:
        self.transport.write(data)
        await self.writable.wait()

    async def reply(
        self, request: Request, body: bytes, status: str = "200 OK", content_type: str = "text/plain", **fields: str
    ) -> None:
        """A whole answer with a length; HEAD gets its head only."""
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        if not request.keep_alive:
            lines.append("Connection: close")
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        await self.send(head if request.method == "HEAD" else head + body)

    async def reply_json(self, request: Request, value: Any) -> None:
        await self.reply(request, json.dumps(value).encode(), content_type="application/json")

    async def pass_gate(self, request: Request) -> None:
        await self.state.gates[request.query.get("gate", "")].acquire()

    def reset(self) -> None:
        """End with RST instead of FIN."""
        raw: socket.socket = self.transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


Answer = Callable[[Connection, Request], Awaitable[None]]
ANSWERS: dict[str, Answer] = {}


def answers(*paths: str) -> Callable[[Answer], Answer]:
    def register(answer: Answer) -> Answer:
        ANSWERS.update(dict.fromkeys(paths, answer))
        return answer

    return register


async def _not_found(connection: Connection, request: Request) -> None:
    await connection.reply(request, b"no such path", status="404 Not Found")


@answers("/count")
async def _count(connection: Connection, request: Request) -> None:
    await connection.reply(request, b"ok")


@answers("/echo", "/unread")
async def _echo(connection: Connection, request: Request) -> None:
    if request.path == "/unread":
        await connection.pass_gate(request)
        connection.transport.resume_reading()
    await request.complete.wait()
    await connection.reply_json(
        request,
        {
            "method": request.method,
            "target": request.target,
            "version": request.version,
            "headers": request.headers,
            "trailers": request.trailers,
            "length": request.length,
            "sha256": request.digest.hexdigest(),
        },
    )


@answers("/body")
async def _body(connection: Connection, request: Request) -> None:
    length, framing, sent_id = request.number("bytes", 1024), request.query.get("framing"), request.query.get("id", "")
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
    head += {"chunked": "Transfer-Encoding: chunked\r\n", "close": "Connection: close\r\n"}.get(
        framing or "length", f"Content-Length: {length}\r\n"
    )
    await connection.send(head.encode() + b"\r\n")
    for block in pattern(length):
        await connection.send(b"%x\r\n%b\r\n" % (len(block), block) if framing == "chunked" else block)
        connection.state.sent[sent_id] += len(block)
    if framing == "chunked":
        await connection.send(b"0\r\n\r\n")
    if framing == "close":
        connection.transport.close()


@answers("/file")
async def _file(connection: Connection, request: Request) -> None:
    if request.header("if-none-match") == ETAG:
        await connection.send(f"HTTP/1.1 304 Not Modified\r\nETag: {ETAG}\r\n\r\n".encode())
        return
    wanted = request.header("range")
    if wanted is None:
        await connection.reply(request, FILE, ETag=ETAG, Accept_Ranges="bytes")
        return
    first, last = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
    if first >= len(FILE):
        await connection.reply(request, b"", status="416 Range Not Satisfiable", Content_Range=f"bytes */{len(FILE)}")
        return
    content_range = f"bytes {first}-{last}/{len(FILE)}"
    await connection.reply(
        request, FILE[first : last + 1], status="206 Partial Content", ETag=ETAG, Content_Range=content_range
    )


@answers("/gzip")
async def _gzip(connection: Connection, request: Request) -> None:
    await connection.reply(
        request, gzip.compress(b"squeeze me " * 500, mtime=0), Content_Encoding="gzip", Vary="Accept"
    )


@answers("/status")
async def _status(connection: Connection, request: Request) -> None:
    code = request.number("code", 200)
    if code in (204, 304):
        await connection.send(f"HTTP/1.1 {code} Empty\r\nX-Status: {code}\r\n\r\n".encode())
    else:
        await connection.reply(request, f"status {code}".encode(), status=f"{code} Chosen", X_Status=str(code))


@answers("/sse")
async def _sse(connection: Connection, request: Request) -> None:
    await connection.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    for number in range(request.number("n", 3)):
        if number:
            await connection.pass_gate(request)
        event = f"id: {number}\ndata: event {number}\n\n".encode()
        await connection.send(b"%x\r\n%b\r\n" % (len(event), event))
    await connection.send(b"0\r\n\r\n")


@answers("/trailers")
async def _trailers(connection: Connection, request: Request) -> None:
    await connection.send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Rows\r\n\r\n"
        b"5\r\nhello\r\n0\r\nX-Sum: 42\r\nX-Rows: 7\r\n\r\n"
    )


@answers("/early")
async def _early(connection: Connection, request: Request) -> None:
    await connection.send(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
    await connection.reply(request, b"late")


@answers("/reset", "/truncate")
async def _reset(connection: Connection, request: Request) -> None:
    length = request.number("bytes", 1000)
    await connection.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % RESET_LENGTH
        + BLOCK[:length]
    )
    await connection.pass_gate(request)
    if request.path == "/reset":
        connection.reset()
    else:
        connection.transport.close()


@answers("/hang")
async def _hang(connection: Connection, request: Request) -> None:
    await asyncio.Event().wait()


@answers("/slow")
async def _slow(connection: Connection, request: Request) -> None:
    await connection.pass_gate(request)
    await connection.reply(request, b"at last")


@answers("/garbage")
async def _garbage(connection: Connection, request: Request) -> None:
    await connection.send(b"220 this is not the protocol you are looking for\r\n")
    connection.transport.close()


@answers("/-/seen")
async def _seen(connection: Connection, request: Request) -> None:
    state = connection.state
    await connection.reply_json(
        request,
        {
            "total": state.ids.total(),
            "ids": state.ids,
            "sent": state.sent,
            "connections": state.connections,
            "malformed": state.malformed,
        },
    )


@answers("/-/open")
async def _open(connection: Connection, request: Request) -> None:
    for _ in range(request.number("n", 1)):
        connection.state.gates[request.query.get("gate", "")].release()
    await connection.reply(request, b"open")


async def main() -> None:
    state = State()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(state), "127.0.0.1", 0, backlog=1024)
    child.announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    child.exit_with_parent()
    uvloop.run(main())
