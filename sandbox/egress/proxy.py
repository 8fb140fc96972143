"""The proxy of one run: CONNECT and absolute-form HTTP on a unix socket, to where the policy lets it.

A name is resolved once, every address of it is judged, and the connection goes to the very address that passed: a second
look-up with another answer (DNS rebinding) changes nothing, and a redirect is a new connection that is judged again.

Bounds: 64 connections at once, 8 KiB of head, 10 s to resolve and connect; 100 refusals are noted. Everything ends with
the run.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from sandbox.egress.policy import Address, Network, as_address, is_named, is_open, may_reach

_MAX_CONNECTIONS: Final = 64
_HEAD_BYTES: Final = 8_192
_CONNECT_S: Final = 10.0
_PIECE_BYTES: Final = 65_536
_MAX_NOTED: Final = 100

log = logging.getLogger(__name__)

Resolve = Callable[[str, int], Awaitable[list[Address]]]


@dataclass(frozen=True, slots=True)
class Rules:
    """What a run may reach. `hosts` None: any public one. `networks` are private ones that the operator has opened."""

    hosts: tuple[str, ...] | None = None
    networks: tuple[Network, ...] = ()


@dataclass(slots=True)
class Traffic:
    """What passed and what did not. `denied` are (host:port, why), each once."""

    bytes_in: int = 0
    bytes_out: int = 0
    denied: dict[str, str] = field(default_factory=dict)

    def refuse(self, where: str, why: str) -> None:
        if len(self.denied) < _MAX_NOTED:
            self.denied.setdefault(where, why)


class _Denied(Exception):
    """Not to be reached; the message says why."""


async def resolve(host: str, port: int) -> list[Address]:
    """A name's addresses, by the system's resolver, outside the loop. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(str(entry[4][0])) for entry in found))


class Egress:
    """An async context manager: the proxy listens on `path` while it is open."""

    def __init__(self, path: str, rules: Rules, find: Resolve = resolve) -> None:
        self.path = path
        self.traffic = Traffic()
        self._rules = rules
        self._resolve = find
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Egress:
        self._server = await asyncio.start_unix_server(self._accept, self.path, limit=_HEAD_BYTES)
        os.chmod(self.path, 0o666)  # the run's uid connects; only its jail has the path  # noqa: S103
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= _MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="egress connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_CONNECT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                host, port, onward = _understood(head)
                far_reader, far_writer = await self._connect(host, port)
        except _Denied as denied:
            await _answer(writer, b"403 Forbidden", str(denied))
            return
        except (OSError, TimeoutError) as error:
            await _answer(writer, b"502 Bad Gateway", type(error).__name__)
            return
        except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            await _answer(writer, b"400 Bad Request", str(error)[:200])
            return
        except asyncio.CancelledError:
            writer.transport.abort()
            raise
        try:
            if onward is None:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                far_writer.write(onward)
                self.traffic.bytes_out += len(onward)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._copy(reader, far_writer, "bytes_out"))
                both.create_task(self._copy(far_reader, writer, "bytes_in"))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for side in (writer, far_writer):
                side.transport.abort() if not side.is_closing() else side.close()

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to a destination that may be reached. Raises _Denied, OSError, ValueError."""
        where = f"{host}:{port}"
        try:
            host = host.lower().removesuffix(".")
            literal = as_address(host)
            if not is_open(port):
                raise _Denied(f"port {port} is closed")
            if not is_named(host, self._rules.hosts):
                raise _Denied("not among allowedHosts")
            addresses = [literal] if literal is not None else await self._resolve(host, port)
            if not addresses:
                raise OSError("no address")
            for address in addresses:
                if not may_reach(address, self._rules.networks):
                    raise _Denied(f"{address} is not a public address")
                if address not in _opened(self._rules.networks) and _is_ours(address):
                    raise _Denied(f"{address} is an address of this machine")
        except _Denied as denied:
            self.traffic.refuse(where, str(denied))
            raise
        last: OSError = OSError("no address")
        for address in addresses[:4]:
            try:
                return await asyncio.open_connection(str(address), port, limit=_PIECE_BYTES)
            except OSError as error:
                last = error
        raise last

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: str) -> None:
        while piece := await reader.read(_PIECE_BYTES):
            setattr(self.traffic, counted, getattr(self.traffic, counted) + len(piece))
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


class _opened:
    """Membership in networks the operator has opened, where our own addresses are no secret."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = networks

    def __contains__(self, address: Address) -> bool:
        return any(address in network for network in self._networks if network.version == address.version)


def _is_ours(address: Address) -> bool:
    """True if packets to an address would not leave this machine: the kernel would send them from that very address."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))  # sends nothing
            return str(ip_address(probe.getsockname()[0])) == str(address)
        except OSError:
            return False


def _understood(head: bytes) -> tuple[str, int, bytes | None]:
    """Host, port, and what to send on (None for CONNECT) of a request's head. Raises ValueError."""
    line, _, fields = head.partition(b"\r\n")
    words = line.decode("ascii").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not re.fullmatch(r"[A-Z]{1,20}", words[0]):
        raise ValueError("not a request")
    method, target, _ = words
    if method == "CONNECT":
        host, _, port = target.rpartition(":")
        if not re.fullmatch(r"\d{1,5}", port):
            raise ValueError("CONNECT needs host:port")
        return host, int(port), None
    parts = urlsplit(target)
    if parts.scheme != "http" or not parts.hostname or "@" in parts.netloc:
        raise ValueError("expected CONNECT, or http:// in the request line")
    kept = [
        field
        for field in fields.split(b"\r\n")
        if field and not field.lower().startswith((b"proxy-", b"connection:", b"host:", b"keep-alive:"))
    ]
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    first = [f"{method} {path} HTTP/1.1".encode(), b"Host: " + parts.netloc.encode(), b"Connection: close"]
    return parts.hostname, parts.port or 80, b"\r\n".join([*first, *kept, b"", b""])


async def _answer(writer: asyncio.StreamWriter, status: bytes, why: str) -> None:
    body = why.encode() + b"\n"
    writer.write(
        b"HTTP/1.1 %b\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
        % (status, len(body), body)
    )
    try:
        async with asyncio.timeout(1):
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()
