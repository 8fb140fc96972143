"""What a finished request counts."""

from __future__ import annotations

import orjson
import pytest

from gateway.exchange import Exchange, Tunnel
from gateway.http1.fields import parse_fields
from gateway.http1.request import parse_request_line
from gateway.metering.count import NOTHING, quantities
from gateway.metering.frames import MessageCounter


def finished(status: int = 200, bytes_in: int = 3, bytes_out: int = 5) -> Exchange:
    line = parse_request_line(b"GET / HTTP/1.1", 100)
    ex = Exchange(None, line, parse_fields(b"\r\n", 1), b"0" * 32, 1, 1)  # type: ignore[arg-type]
    ex.status, ex.bytes_in, ex.bytes_out = status, bytes_in, bytes_out
    return ex


@pytest.mark.parametrize(
    ("fixed", "expected"),
    [
        (b'"requests":1', {"requests": 1, "bytes_in": 3, "bytes_out": 5}),
        (b'"requests":1,"units":7', {"requests": 1, "units": 7, "bytes_in": 3, "bytes_out": 5}),
        (b"", {"bytes_in": 3, "bytes_out": 5}),
    ],
)
def test_fixed_quantities_and_bytes(fixed: bytes, expected: dict[str, int]) -> None:
    assert orjson.loads(quantities(fixed, finished())) == expected


def test_messages_count_only_on_a_websocket_that_came_about() -> None:
    ex = finished(status=101)
    ex.tunnel = Tunnel(MessageCounter(), MessageCounter())
    ex.tunnel.incoming.messages, ex.tunnel.outgoing.messages = 2, 9
    assert orjson.loads(quantities(b'"requests":1', ex)) == {
        "requests": 1, "bytes_in": 3, "bytes_out": 5, "messages_in": 2, "messages_out": 9,
    }  # fmt: skip
    ex.status = 426  # the upstream said no
    assert "messages_in" not in orjson.loads(quantities(b'"requests":1', ex))


def test_what_never_reached_an_upstream_counts_nothing() -> None:
    assert set(orjson.loads(NOTHING).values()) == {0}
