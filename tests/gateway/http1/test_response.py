"""Status lines and how the body of a response is framed."""

from __future__ import annotations

import pytest

from gateway.http1.errors import Malformed
from gateway.http1.fields import parse_fields
from gateway.http1.response import (
    CHUNKED,
    LENGTH,
    NONE,
    UNTIL_CLOSE,
    body_framing,
    forbids_framing,
    parse_status_line,
)

PLAIN = parse_fields(b"\r\n", 10)
SIZED = parse_fields(b"Content-Length: 5\r\n\r\n", 10)
STREAMED = parse_fields(b"Transfer-Encoding: chunked\r\n\r\n", 10)


@pytest.mark.parametrize(("line", "read"), [
    (b"HTTP/1.1 200 OK", (1, 200, b"OK")),
    (b"HTTP/1.0 404 Not Found", (0, 404, b"Not Found")),
    (b"HTTP/1.1 200 ", (1, 200, b"")),
    (b"HTTP/1.1 200", (1, 200, b"")),
    (b"HTTP/1.1 200 All right,\tthen", (1, 200, b"All right,\tthen")),
    (b"HTTP/1.1 200 caf\xc3\xa9", (1, 200, b"caf\xc3\xa9")),
    (b"HTTP/1.1 200  OK ", (1, 200, b" OK ")),
    (b"HTTP/1.1 100 Continue", (1, 100, b"Continue")),
    (b"HTTP/1.1 599 x", (1, 599, b"x")),
    (b"HTTP/1.1 999 Request denied", (1, 999, b"Request denied")),
])  # fmt: skip
def test_status_lines(line: bytes, read: tuple[int, int, bytes]) -> None:
    assert parse_status_line(line) == read


@pytest.mark.parametrize("line", [
    b"", b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 20", b"HTTP/1.1 2000", b"HTTP/1.1 099 x", b"HTTP/1.1 000",
    b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK",
    b"HTTP/1.1 200\tOK", b"HTTP/1.1 200OK", b"HTTP/2.0 200 OK", b"HTTP/1.2 200 OK", b"HTTP/0.9 200 OK",
    b"http/1.1 200 OK", b"ICY 200 OK",
    b"HTTP/1.1 2x0 OK", b"HTTP/1.1 +20 OK", b"HTTP/1.1 -20 OK", b"HTTP/1.1 200 O\0K", b"HTTP/1.1 200 OK\r",
    b"HTTP/1.1 200 OK\n", b"HTTP/1.1 200\n",
    b"HTTP/1.1 200 \x1b[0m", b"HTTP/1.1 200 \x7f", b" HTTP/1.1 200 OK", b"HTTP/1.1 \xb2\xb2\xb2 x",
    b"GET / HTTP/1.1", b"HTTP/1.1 200.1 OK",
])  # fmt: skip
def test_what_is_no_status_line(line: bytes) -> None:
    with pytest.raises(Malformed):
        parse_status_line(line)


def test_framing_follows_the_fields() -> None:
    assert body_framing(b"GET", 200, PLAIN) == UNTIL_CLOSE
    assert body_framing(b"GET", 200, SIZED) == LENGTH
    assert body_framing(b"GET", 200, STREAMED) == CHUNKED
    assert body_framing(b"POST", 404, parse_fields(b"Content-Length: 0\r\n\r\n", 10)) == LENGTH


@pytest.mark.parametrize("fields", [PLAIN, SIZED, STREAMED], ids=["plain", "sized", "streamed"])
def test_some_responses_never_have_a_body(fields: object) -> None:
    for status in (100, 101, 103, 199, 204, 304):
        assert body_framing(b"GET", status, fields) == NONE  # type: ignore[arg-type]
    assert body_framing(b"HEAD", 200, fields) == NONE  # type: ignore[arg-type]


def test_statuses_that_go_without_framing_fields() -> None:
    assert [status for status in (100, 101, 199, 200, 204, 205, 206, 304, 404) if forbids_framing(status)] == [
        100, 101, 199, 204,
    ]  # fmt: skip
