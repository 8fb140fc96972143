"""The kinds of traffic that are measured: what is sent, what must come back, and what a peer must be able to do for it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.bench.ground import BODY_1K, BODY_1M, EVENT, EVENTS
from tests.bench.population import Population

_SSE: Final = f"{EVENT}\n\n".encode() * EVENTS
_MESSAGE: Final = b"m" * 64


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of traffic.

    `send` makes the raw requests, which are sent in turn; `body` is what an answer with `status` must hold (None: not
    looked at). `needs` is looked up in a peer's `can`; `customers` is how many of the population take part.
    """

    name: str
    title: str
    send: Callable[[Population], Sequence[bytes]]
    body: bytes | None = None
    status: int = 200
    needs: frozenset[str] = frozenset()
    customers: int = 1
    is_tls: bool = False
    is_fresh: bool = False
    """Each request on a connection of its own."""
    is_websocket: bool = False
    has_open_loop: bool = False

    @property
    def is_admitted(self) -> bool:
        """True if every request passes the limits, so that Redis must have counted each of them."""
        return self.status == 200


def request(key: str, *, method: str = "GET", path: str = "/bench/1k", body: bytes = b"", fields: str = "") -> bytes:
    """One raw request, with the fields that a typical API client sends."""
    length = f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n" if body else ""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        f"Authorization: Bearer {key}\r\n{length}{fields}\r\n"
    )
    return head.encode() + body


def handshake(population: Population) -> bytes:
    """What opens the WebSocket."""
    nonce = base64.b64encode(b"0123456789abcdef").decode()
    fields = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {nonce}\r\n"
    return request(population.keys[0].text, path="/bench/echo", fields=fields)


MESSAGE: Final = b"\x81" + bytes([0x80 | len(_MESSAGE)]) + b"\0\0\0\0" + _MESSAGE
"""A masked text message; the mask of zeros spares the generator the work."""
ECHO: Final = b"\x81" + bytes([len(_MESSAGE)]) + _MESSAGE


def _first(**request_of: object) -> Callable[[Population], list[bytes]]:
    return lambda people: [request(people.keys[0].text, **request_of)]  # type: ignore[arg-type]


_KEYS: Final = frozenset({"keys"})

CASES: Final[dict[str, Case]] = {
    case.name: case
    for case in (
        Case("get_1k", "GET 1 KiB", _first(), BODY_1K, has_open_loop=True),
        Case("post_16k", "POST 16 KiB", _first(method="POST", body=b"p" * 16384), BODY_1K),
        Case("download_1m", "GET 1 MiB", _first(path="/bench/1m"), BODY_1M),
        Case("sse_200", f"SSE, {EVENTS} events", _first(path="/bench/events"), _SSE),
        Case(
            "keys_10k",
            "GET 1 KiB, 10,000 keys in turn",
            lambda people: [request(key.text) for key in people.roomy[:10_000]],
            BODY_1K,
            needs=_KEYS,
            customers=10_000,
        ),
        Case(
            "flood_429", "over the minute limit", lambda people: [request(people.tight.text)], status=429, needs=_KEYS
        ),
        Case(
            "flood_401",
            "1,000 unknown keys in turn",
            lambda people: [request(key.text) for key in people.unknown],
            status=401,
            needs=_KEYS,
        ),
        Case(
            "jwt",
            "GET 1 KiB, 100 RS256 tokens in turn",
            lambda people: [request(token, path="/jwt/bench/1k") for token in people.tokens],
            BODY_1K,
            needs=frozenset({"jwt"}),
        ),
        Case("websocket", "64-byte echo", lambda _: [MESSAGE], needs=frozenset({"websocket"}), is_websocket=True),
        Case(
            "new_connection",
            "GET 1 KiB, connection each",
            _first(fields="Connection: close\r\n"),
            BODY_1K,
            is_fresh=True,
        ),
        Case("tls", "GET 1 KiB over TLS", _first(), BODY_1K, needs=frozenset({"tls"}), is_tls=True),
    )
}
