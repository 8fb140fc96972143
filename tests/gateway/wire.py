"""HTTP/1.1 on a raw connection: requests as bytes, answers taken apart just enough to look at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from tests.support.raw import Peer


@dataclass(frozen=True, slots=True)
class Answer:
    """One response as it was on the wire; header names in lower case, the last of repeated ones."""

    status: int
    headers: dict[str, str]
    body: bytes
    head: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


def request(
    target: str = "/api/x", key: str | None = None, *lines: str, method: str = "GET", body: bytes | None = None
) -> bytes:
    """A request; `lines` are further header lines, `body` comes with its length."""
    head = [f"{method} {target} HTTP/1.1", "Host: gateway.test"]
    if key is not None:
        head.append(f"Authorization: Bearer {key}")
    if body is not None:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*head, *lines, "", ""]).encode("latin-1") + (body or b"")


async def read_answer(peer: Peer, *, to_head: bool = False) -> Answer:
    """The next answer, 1xx included. EOFError if the connection ends inside it; `to_head`: it answers a HEAD request."""
    head = await peer.read_until(b"\r\n\r\n")
    lines = head[:-4].split(b"\r\n")
    status = int(lines[0].split(b" ")[1])
    pairs = (line.decode("latin-1").split(":", 1) for line in lines[1:])
    headers = {name.lower(): value.strip() for name, value in pairs}
    if to_head or status < 200 or status in (204, 304):
        body = b""
    elif headers.get("transfer-encoding") == "chunked":
        body = await _read_chunks(peer)
    elif "content-length" in headers:
        body = await peer.read_exactly(int(headers["content-length"]))
    else:
        body = await peer.read_to_end()
    return Answer(status, headers, body, head)


async def _read_chunks(peer: Peer) -> bytes:
    body = b""
    while size := int(await peer.read_until(b"\r\n"), 16):
        body += (await peer.read_exactly(size + 2))[:-2]
    while await peer.read_until(b"\r\n") != b"\r\n":
        pass
    return body


def drop(peer: Peer) -> None:
    """Hang up at once, whatever is still unsent."""
    peer._writer.transport.abort()


async def ask(peer: Peer, data: bytes) -> Answer:
    """Send a request and read its answer."""
    await peer.send(data)
    return await read_answer(peer, to_head=data.startswith(b"HEAD "))


async def read_request(peer: Peer) -> bytes:
    """An upstream's view: the next request whole, its body (if it has a length) included. EOFError at the end."""
    head = await peer.read_until(b"\r\n\r\n")
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return head + await peer.read_exactly(int(value))
        if name.lower() == b"transfer-encoding":
            return head + await _read_chunked(peer)
    return head


def payload(raw: bytes) -> bytes:
    """What a chunked body holds."""
    found = b""
    while size := int(raw[: (start := raw.index(b"\r\n") + 2)], 16):
        found += raw[start : start + size]
        raw = raw[start + size + 2 :]
    return found


async def _read_chunked(peer: Peer) -> bytes:
    """A chunked body as it was on the wire, trailers included."""
    body = b""
    while (line := await peer.read_until(b"\r\n")) != b"0\r\n":
        body += line + await peer.read_exactly(int(line, 16) + 2)
    body += line
    while (line := await peer.read_until(b"\r\n")) != b"\r\n":
        body += line
    return body + line


def ok(body: bytes = b"ok", *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """An upstream's answer with a length."""
    head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n" % (status, len(body))
    return head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def answering(*answers: bytes, forever: bool = True) -> Any:
    """A script that answers request after request on a connection with these bytes; the last one again and again."""

    async def script(peer: Peer) -> None:
        turn = 0
        try:
            while True:
                await read_request(peer)
                await peer.send(answers[min(turn, len(answers) - 1)])
                turn += 1
                if turn == len(answers) and not forever:
                    return
        except (EOFError, TimeoutError, ConnectionError):
            pass

    return script
