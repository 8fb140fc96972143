"""A client that sends exactly the bytes it is given and reports exactly what came back.

For what real clients refuse to send. Blocking sockets with a deadline on every read; a server that neither answers nor
hangs up is a TimeoutError, never a stuck test.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True)
class Response:
    """One response as it was on the wire; header names in lower case, repeated ones joined by a comma."""

    status: int
    headers: dict[str, str]
    body: bytes
    interim: tuple[bytes, ...] = ()
    trailers: dict[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        return json.loads(self.body)


class Broken(Exception):
    """The connection ended inside a response. `received` holds the bytes of its body that did arrive."""

    def __init__(self, received: bytes) -> None:
        super().__init__(f"the connection ended after {len(received)} bytes of the body")
        self.received = received


class Connection:
    """One TCP connection. A context manager."""

    def __init__(self, url: str, *, receive_buffer: int | None = None) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(_DEADLINE_S)
        self._pending = b""
        try:
            self._socket.connect((parts.hostname, parts.port or 80))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send all of it. A server that hangs up early is not an error here; its answer can still be read."""
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def send_what_fits(self, data: bytes, patience_s: float) -> int:
        """Send as much as the other side takes, until nothing moves for `patience_s`; returns the number of bytes."""
        sent = 0
        self._socket.settimeout(patience_s)
        try:
            while sent < len(data):
                sent += self._socket.send(memoryview(data)[sent : sent + 262_144])
        except TimeoutError:
            pass
        finally:
            self._socket.settimeout(_DEADLINE_S)
        return sent

    def half_close(self) -> None:
        """Say that nothing more will be sent (FIN)."""
        self._socket.shutdown(socket.SHUT_WR)

    def receive_some(self) -> bytes:
        """Whatever comes next; empty at the end of the connection, however it ended."""
        if self._pending:
            data, self._pending = self._pending, b""
            return data
        try:
            return self._socket.recv(262_144)
        except ConnectionResetError:
            return b""

    def read(self, *, head_only: bool = False) -> Response:
        """The next final response. Raises Broken when the connection ends inside it (also before its first byte)."""
        interim: list[bytes] = []
        while True:
            head = self._until(b"\r\n\r\n")
            lines = head[:-4].split(b"\r\n")
            status = int(lines[0].split(b" ")[1])
            if status >= 200 or status == 101:
                break
            interim.append(head)
        headers = _fields(lines[1:])
        trailers: dict[str, str] = {}
        if head_only or status in (101, 204, 304):
            body = b""
        elif headers.get("transfer-encoding", "").lower() == "chunked":
            body, trailers = self._chunked()
        elif "content-length" in headers:
            body = self._exactly(int(headers["content-length"]))
        else:
            body = self._to_the_end()
        return Response(status, headers, body, tuple(interim), trailers)

    def is_closed(self) -> bool:
        """True if the server ended the connection without sending anything further; False if it sent more bytes."""
        return self.receive_some() == b""

    def _until(self, mark: bytes) -> bytes:
        data = b""
        while mark not in data:
            more = self.receive_some()
            if not more:
                raise Broken(data)
            data += more
        end = data.index(mark) + len(mark)
        self._pending = data[end:]
        return data[:end]

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            more = self.receive_some()
            if not more:
                raise Broken(bytes(data))
            data += more
        self._pending = bytes(data[length:])
        return bytes(data[:length])

    def _to_the_end(self) -> bytes:
        data = bytearray()
        while more := self.receive_some():
            data += more
        return bytes(data)

    def _chunked(self) -> tuple[bytes, dict[str, str]]:
        body = bytearray()
        try:
            while size := int(self._until(b"\r\n").split(b";")[0], 16):
                body += self._exactly(size + 2)[:-2]
        except Broken as broken:
            raise Broken(bytes(body) + broken.received) from None
        lines = []
        while (line := self._until(b"\r\n")) != b"\r\n":
            lines.append(line[:-2])
        return bytes(body), _fields(lines)


def _fields(lines: list[bytes]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        name, value = name.lower(), value.strip()
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def ask(url: str, data: bytes) -> Response:
    """Send `data` on a new connection and return the first final response."""
    with Connection(url) as connection:
        connection.send(data)
        return connection.read()


def get(url: str, headers: dict[str, str] | None = None, method: str = "GET", body: bytes = b"") -> Response:
    """A well-formed request on a connection of its own."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(body)}")
    with Connection(url) as connection:
        connection.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return connection.read(head_only=method == "HEAD")
