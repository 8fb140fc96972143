"""Whatever is accepted here, llhttp (Node's parser, by way of httptools) accepts too and understands in the same way.

The other direction does not hold and should not: llhttp takes more than is safe to forward.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http1.errors import Malformed
from gateway.http1.fields import Fields, parse_fields
from gateway.http1.head import find_head, split_head
from gateway.http1.request import RequestLine, check_request, keeps_alive, parse_request_line
from gateway.http1.response import CHUNKED, LENGTH, UNTIL_CLOSE, body_framing, parse_status_line
from tests.gateway.http1.grammar import (
    SPOKEN_BY_LLHTTP,
    connections,
    damaged,
    examples,
    framings,
    lines,
    requests,
    text,
)


@dataclass
class Seen:
    """What llhttp called back with."""

    url: bytes = b""
    reason: bytes = b""
    items: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    head_done: bool = False
    done: bool = False
    kept: bool = False
    parser: httptools.HttpRequestParser | httptools.HttpResponseParser | None = None

    def on_url(self, part: bytes) -> None:
        self.url += part

    def on_status(self, part: bytes) -> None:
        self.reason += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.items.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.head_done = True
        self.kept = bool(self.parser and self.parser.should_keep_alive())

    def on_body(self, part: bytes) -> None:
        self.body += part

    def on_message_complete(self) -> None:
        self.done = True


def accept(data: bytes) -> tuple[RequestLine, Fields, int] | None:
    """What is read here from a request head, and where it ends; None if it is refused or incomplete."""
    try:
        end = find_head(data, 0, 100_000)
        if end < 0:
            return None
        start_line, block = split_head(data, 0, end)
        line = parse_request_line(start_line, 10_000)
        fields = parse_fields(block, 100)
        check_request(line, fields)
    except Malformed:
        return None
    return line, fields, end


def read_by_llhttp(head: bytes, body: bytes) -> tuple[Seen, httptools.HttpRequestParser]:
    seen = Seen()
    parser = seen.parser = httptools.HttpRequestParser(seen)
    try:
        parser.feed_data(head)
        parser.feed_data(body)
    except httptools.HttpParserUpgrade:
        pass  # it would stop here for another protocol; the head has been read
    return seen, parser


def assert_llhttp_agrees(data: bytes) -> bool:
    """Whether the request was accepted here; if so, llhttp has been seen to agree in every respect."""
    accepted = accept(data)
    if accepted is None:
        return False
    line, fields, end = accepted
    if line.method not in SPOKEN_BY_LLHTTP:
        return True  # it has a fixed list of methods
    length = fields.content_length or 0
    body, payload = (
        (b"2\r\nhi\r\n0\r\n\r\n", b"hi") if fields.chunked else (b"x" * min(length, 50), b"x" * min(length, 50))
    )
    seen, parser = read_by_llhttp(data[:end], body)
    assert parser.get_method() == line.method
    assert parser.get_http_version() == f"1.{line.minor}"
    assert seen.url == line.target
    assert seen.items == [(name, value) for name, value, _ in fields.items]
    assert seen.head_done
    assert seen.body == payload
    assert seen.done is (length <= 50)
    if not parser.should_upgrade():
        assert seen.kept is keeps_alive(line.minor, fields)
    return True


@examples
@given(requests())
def test_any_request_of_the_grammar_that_is_accepted(data: bytes) -> None:
    assert_llhttp_agrees(data)


@examples
@given(damaged(requests()))
def test_any_damaged_request_that_is_still_accepted(data: bytes) -> None:
    assert_llhttp_agrees(data)


@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"\r\nGET /a?b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 003\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999999999\r\n\r\n",
    b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: CHUNKED \r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"GET /%7e?%zz[]|^{}`\\ HTTP/1.1\r\nHost: a\r\nX: \x80\xff\t!\r\nY:\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
])  # fmt: skip
def test_requests_that_both_accept(data: bytes) -> None:
    assert assert_llhttp_agrees(data)


def test_the_comparison_can_fail() -> None:
    seen, _ = read_by_llhttp(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n", b"")
    assert (seen.url, seen.items, seen.done) == (b"/a", [(b"host", b"a")], True)
    with pytest.raises(httptools.HttpParserError):
        read_by_llhttp(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", b"")


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """The head of a response to a GET."""
    status = draw(st.sampled_from((200, 201, 404, 500, 599, 204, 304, 100)))
    parts = [
        name + b":" + before + value + after + b"\r\n"
        for name, before, value, after in draw(st.lists(lines, max_size=4))
    ]
    parts += [draw(framings), draw(connections)]
    reason = draw(text(b"abc \t\xe9", max_size=5))
    return b"HTTP/1.1 %d %b\r\n" % (status, reason) + b"".join(draw(st.permutations(parts))) + b"\r\n"


@examples
@given(responses() | damaged(responses()))
def test_any_response_that_is_accepted(data: bytes) -> None:
    try:
        end = find_head(data, 0, 100_000)
        if end < 0:
            return
        start_line, block = split_head(data, 0, end)
        minor, status, reason = parse_status_line(start_line)
        fields = parse_fields(block, 100)
    except Malformed:
        return
    seen = Seen()
    parser = httptools.HttpResponseParser(seen)
    framing = body_framing(b"GET", status, fields)
    length = fields.content_length or 0
    bodies = {CHUNKED: b"2\r\nhi\r\n0\r\n\r\n", LENGTH: b"x" * min(length, 50), UNTIL_CLOSE: b"until the end"}
    parser.feed_data(data[:end])
    parser.feed_data(bodies.get(framing, b""))
    assert parser.get_status_code() == status
    assert parser.get_http_version() == f"1.{minor}"
    assert seen.reason.strip() == reason.strip()
    assert seen.items == [(name, value) for name, value, _ in fields.items]
    assert seen.head_done
    if framing == CHUNKED:
        assert (seen.body, seen.done) == (b"hi", True)
    elif framing == LENGTH:
        assert (seen.body, seen.done) == (b"x" * min(length, 50), length <= 50)
    elif framing == UNTIL_CLOSE:
        assert (seen.body, seen.done) == (b"until the end", False)
    else:
        assert (seen.body, seen.done) == (b"", True)
