"""Finding the end of a head in a buffer that fills up, and giving up early on what can never be one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http1.errors import Malformed
from gateway.http1.fields import parse_fields
from gateway.http1.head import find_head, split_head
from gateway.http1.request import parse_request_line
from ledger.problems import BAD_REQUEST, HEADERS_TOO_LARGE, URI_TOO_LONG
from tests.gateway.http1.grammar import damaged, examples, requests

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_the_head_ends_past_its_empty_line() -> None:
    assert find_head(HEAD, 0, 100) == len(HEAD)
    assert find_head(HEAD + b"body\r\n\r\n", 0, 100) == len(HEAD)
    assert find_head(bytearray(b"before" + HEAD), 6, 100) == 6 + len(HEAD)


def test_every_beginning_of_a_head_is_waited_for() -> None:
    for size in range(len(HEAD)):
        assert find_head(HEAD[:size], 0, 100) == -1
        assert find_head(b"\r\n" + HEAD[:size], 0, 100) == -1


def test_it_is_split_into_start_line_and_field_section() -> None:
    assert split_head(HEAD, 0, len(HEAD)) == (b"GET / HTTP/1.1", b"Host: a\r\n\r\n")
    assert split_head(b"GET / HTTP/1.1\r\n\r\nrest", 0, 18) == (b"GET / HTTP/1.1", b"\r\n")
    line, block = split_head(bytearray(b"xx" + HEAD + b"rest"), 2, 2 + len(HEAD))
    assert (line, block) == (b"GET / HTTP/1.1", b"Host: a\r\n\r\n")
    assert type(line) is type(block) is bytes


def test_one_empty_line_before_the_start_line_is_tolerated() -> None:
    assert find_head(b"\r\n" + HEAD, 0, 100) == 2 + len(HEAD)
    assert split_head(b"\r\n" + HEAD, 0, 2 + len(HEAD)) == (b"GET / HTTP/1.1", b"Host: a\r\n\r\n")


@pytest.mark.parametrize("hopeless", [
    b"\r\n\r\n",
    b"\r\n\r",
    b"\n",
    b"\rG",
    b"\r\n\n",
    b"GET / HTTP/1.1\n",
    b"GET / HTTP/1.1\r\r",
    b"GET / HTTP/1.1\r\nHost: a\nX",
    b"GET / HTTP/1.1\r\nHost: a\n\n",
    b"GET / HTTP/1.1\r\nHost: a\rX",
    b"GET / HTTP/1.1\r\nHost: \0",
    b"GET / HTTP/1.1\r\nHost: a\r\n b",
    b"GET / HTTP/1.1\r\n\tHost: a",
    b"GET /\r\n",
    b"\r\nGET /\r\n",
    b"G\r\n",
    b" GET",
    b"\x16\x03\x01\x02",
    b"{",
    b"\r\n\xff",
])  # fmt: skip
def test_what_can_never_become_a_head_is_refused_at_once(hopeless: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        find_head(hopeless, 0, 100)
    assert caught.value.problem is BAD_REQUEST
    with pytest.raises(Malformed):
        find_head(bytearray(b"12345" + hopeless), 5, 100)


def test_the_limit_counts_the_whole_head() -> None:
    assert find_head(HEAD, 0, len(HEAD)) == len(HEAD)
    with pytest.raises(Malformed) as caught:
        find_head(HEAD, 0, len(HEAD) - 1)
    assert caught.value.problem is HEADERS_TOO_LARGE


@pytest.mark.parametrize(("data", "problem"), [
    (b"GET /" + b"a" * 100, URI_TOO_LONG),
    (b"GET /" + b"a" * 100 + b" HTTP/1.1\r\nHost: a", URI_TOO_LONG),
    (b"GET /" + b"a" * 100 + b" HTTP/1.1\r\nHost: a\r\n\r\n", URI_TOO_LONG),
    (b"GET / HTTP/1.1\r\nHost: " + b"a" * 100, HEADERS_TOO_LARGE),
    (b"\r\nGET / HTTP/1.1\r\nHost: " + b"a" * 100, HEADERS_TOO_LARGE),
])  # fmt: skip
def test_an_excess_is_blamed_on_the_part_that_has_it(data: bytes, problem: object) -> None:
    with pytest.raises(Malformed) as caught:
        find_head(data, 0, 100)
    assert caught.value.problem is problem


@examples
@given(damaged(requests()), st.integers(0, 400))
def test_giving_up_early_never_refuses_a_beginning_of_what_would_be_accepted(data: bytes, size: int) -> None:
    try:
        end = find_head(data, 0, 10_000)
        if end < 0:
            return
        line, block = split_head(data, 0, end)
        parse_request_line(line, 10_000)
        parse_fields(block, 100)
    except Malformed:
        return
    assert find_head(data[: min(size, end - 1)], 0, 10_000) == -1
