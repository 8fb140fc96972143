"""Request lines, canonical paths, and the rules between a request line and its fields."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.http1.errors import Malformed
from gateway.http1.fields import Fields, parse_fields
from gateway.http1.request import RequestLine, canonical_path, check_request, keeps_alive, parse_request_line
from ledger.problems import (
    BAD_REQUEST,
    BAD_TARGET,
    EXPECTATION_FAILED,
    METHOD_NOT_ALLOWED,
    NOT_IMPLEMENTED,
    URI_TOO_LONG,
    VERSION_NOT_SUPPORTED,
    Problem,
)
from tests.gateway.http1.grammar import TCHARS, examples, paths, queries, text


def problem_of(line: bytes) -> Problem:
    with pytest.raises(Malformed) as caught:
        parse_request_line(line, 1000)
    return caught.value.problem


def fields(*lines: bytes) -> Fields:
    return parse_fields(b"".join(line + b"\r\n" for line in lines) + b"\r\n", 100)


@pytest.mark.parametrize(("line", "read"), [
    (b"GET / HTTP/1.1", (b"GET", b"/", b"/", None, 1)),
    (b"GET / HTTP/1.0", (b"GET", b"/", b"/", None, 0)),
    (b"POST /a/b.c?x=1&y HTTP/1.1", (b"POST", b"/a/b.c?x=1&y", b"/a/b.c", b"x=1&y", 1)),
    (b"GET /? HTTP/1.1", (b"GET", b"/?", b"/", b"", 1)),
    (b"GET /??/../a HTTP/1.1", (b"GET", b"/??/../a", b"/", b"?/../a", 1)),
    (b"GET /a%7eb?%7e%zz% HTTP/1.1", (b"GET", b"/a%7eb?%7e%zz%", b"/a~b", b"%7e%zz%", 1)),
    (b"GET /a//b? HTTP/1.0", (b"GET", b"/a//b?", b"/a/b", b"", 0)),
    (b"GET /?[|]^{}`\\ HTTP/1.1", (b"GET", b"/?[|]^{}`\\", b"/", b"[|]^{}`\\", 1)),
    (b"get / HTTP/1.1", (b"get", b"/", b"/", None, 1)),
    (b"OPTIONS * HTTP/1.1", (b"OPTIONS", b"*", b"*", None, 1)),
    (b"TRACER /a HTTP/1.1", (b"TRACER", b"/a", b"/a", None, 1)),
    (b"X-!#$%&'*+.^_`|~ /a HTTP/1.1", (b"X-!#$%&'*+.^_`|~", b"/a", b"/a", None, 1)),
    (b"A" * 32 + b" / HTTP/1.1", (b"A" * 32, b"/", b"/", None, 1)),
])  # fmt: skip
def test_request_lines(line: bytes, read: tuple[object, ...]) -> None:
    assert parse_request_line(line, 1000) == RequestLine(*read)  # type: ignore[arg-type]
    assert isinstance(parse_request_line(line, 1000), RequestLine)


@pytest.mark.parametrize("line", [
    b"", b" ", b"GET", b"GET /", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b" GET / HTTP/1.1", b"GET / HTTP/1.1 ",
    b"GET\t/ HTTP/1.1",
    b"GET /\tHTTP/1.1", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\0", b"GET /a b HTTP/1.1",
    b"GET / a HTTP/1.1", b"/ HTTP/1.1",
    b"G(T / HTTP/1.1", b"G\xc9T / HTTP/1.1", b"G:T / HTTP/1.1", b'"GET" / HTTP/1.1', b"GET@ / HTTP/1.1",
    b"A" * 33 + b" / HTTP/1.1",
    b"GET / http/1.1", b"GET / HTTP/1", b"GET / HTTP/11", b"GET / HTTP/1.10", b"GET / HTTP/01.1", b"GET / HTTP/1.x",
    b"GET / HTTP", b"GET / FTP/1.1",
    b"GET / HTTP /1.1", b"GET / HTTP/1,1", b"GET / HTTP/-1.1", b"GET / HTTPS/1.1", b"GET / HTTP/1.\xb9",
    b"GET / ICY", b"HTTP/1.1 200 OK",
    b"GET\0/ HTTP/1.1", b"GET\xa0/ HTTP/1.1", b"GET\x0b/ HTTP/1.1",
])  # fmt: skip
def test_what_is_no_request_line(line: bytes) -> None:
    assert problem_of(line) is BAD_REQUEST


@pytest.mark.parametrize("version", [b"HTTP/0.9", b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.9"])
def test_other_versions(version: bytes) -> None:
    assert problem_of(b"GET / " + version) is VERSION_NOT_SUPPORTED


def test_refused_methods() -> None:
    assert problem_of(b"TRACE / HTTP/1.1") is METHOD_NOT_ALLOWED
    assert problem_of(b"TRACE /a%41 HTTP/1.1") is METHOD_NOT_ALLOWED
    assert problem_of(b"CONNECT a:443 HTTP/1.1") is NOT_IMPLEMENTED
    assert problem_of(b"CONNECT / HTTP/1.1") is NOT_IMPLEMENTED


@pytest.mark.parametrize("target", [
    b"http://a/", b"HTTPS://a/b?c", b"http:/a", b"a:443", b"a", b"?a", b"*", b"*a", b"//a b"[:3] + b"\\", b"\\a",
    b"%2F", b"#", b"@",
])  # fmt: skip
def test_only_the_origin_form_is_taken(target: bytes) -> None:
    assert problem_of(b"GET " + target + b" HTTP/1.1") is BAD_TARGET


def test_an_absolute_target_is_explained() -> None:
    with pytest.raises(Malformed) as caught:
        parse_request_line(b"GET http://user:secret@a/ HTTP/1.1", 1000)
    assert "forward proxy" in caught.value.detail
    assert "secret" not in caught.value.detail


def test_an_asterisk_is_for_options_only() -> None:
    assert problem_of(b"POST * HTTP/1.1") is BAD_TARGET
    assert problem_of(b"OPTIONS *?a HTTP/1.1") is BAD_TARGET


@pytest.mark.parametrize("target", [b"/" + b"a" * 20, b"/%41" + b"a" * 20, b"/?" + b"a" * 20, b"http://" + b"a" * 20])
def test_the_target_is_limited(target: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        parse_request_line(b"GET " + target + b" HTTP/1.1", 20)
    assert caught.value.problem is URI_TOO_LONG


@pytest.mark.parametrize("byte", [*range(0x21), 0x22, 0x23, 0x3C, 0x3E, *range(0x7F, 0x100)])
def test_bytes_that_no_query_may_hold(byte: int) -> None:
    line = b"GET /?a" + bytes((byte,)) + b"b HTTP/1.1"
    assert problem_of(line) is (BAD_REQUEST if byte == 0x20 else BAD_TARGET)


@pytest.mark.parametrize("byte", [*range(0x21), 0x22, 0x23, 0x3C, 0x3E, 0x5C, *range(0x7F, 0x100)])
def test_bytes_that_no_path_may_hold(byte: int) -> None:
    line = b"GET /a" + bytes((byte,)) + b"b HTTP/1.1"
    assert problem_of(line) is (BAD_REQUEST if byte == 0x20 else BAD_TARGET)


@pytest.mark.parametrize("path", [
    b"/", b"/a", b"/a/", b"/a/b", b"/a.b/c..d/e.", b"/a...", b"/~a/-_.!$&'()*+,;=:@", b"/%2F", b"/a%2Fb", b"/%5C",
    b"/%25", b"/%252e%252e/a",
    b"/%C3%A9", b"/%20", b"/.well-known/acme", b"/...", b"/.../a", b"/.a", b"/..a", b"/a/.git/", b"/;",
    b"/a;v=1/..b", b"/%0A",
])  # fmt: skip
def test_canonical_paths_stay(path: bytes) -> None:
    assert canonical_path(path) == path
    assert parse_request_line(b"GET " + path + b" HTTP/1.1", 1000).path == path


@pytest.mark.parametrize(("path", "canonical"), [
    (b"//", b"/"),
    (b"///a////b//", b"/a/b/"),
    (b"/%61", b"/a"),
    (b"/%41%5a%30%2d%2e%5f%7e", b"/AZ0-._~"),
    (b"/%c3%a9", b"/%C3%A9"),
    (b"/a%2fb%5cc", b"/a%2Fb%5Cc"),
    (b"/%3f%23%2B", b"/%3F%23%2B"),
    (b"/a/%2ewell", b"/a/.well"),
    (b"/%2e%2e%2e", b"/..."),
    (b"/%2541", b"/%2541"),
    (b"/[a]{b}|^`", b"/%5Ba%5D%7Bb%7D%7C%5E%60"),
    (b"/a%2f//b", b"/a%2F/b"),
])  # fmt: skip
def test_other_spellings_become_canonical(path: bytes, canonical: bytes) -> None:
    assert canonical_path(path) == canonical
    assert canonical_path(canonical) == canonical


@pytest.mark.parametrize("path", [
    b"/.", b"/..", b"/./", b"/../", b"/a/..", b"/a/../b", b"/a/./b", b"/a/.", b"//..", b"/..//", b"/a//../b",
    b"/%2e", b"/%2E%2e", b"/.%2e/a", b"/%2e./a", b"/a/%2e%2E", b"/%2e/", b"/a/%2e/b",
    b"/..%2f", b"/..%2Fa", b"/a%2f..", b"/a%2F%2e%2e%2fb", b"/a%2f.", b"/%2f..%2f", b"/a/..%5ca", b"/a%5C..%5cb",
    b"/%5c%2e%2e", b"/.%5C",
    b"/..;", b"/..;/a", b"/a/..;x=1/b", b"/.;/a", b"/%2e%2e;/a", b"/..%3ba/b", b"/a%2f..;",
])  # fmt: skip
def test_dot_segments_are_refused_in_any_spelling(path: bytes) -> None:
    with pytest.raises(Malformed, match="dot segment") as caught:
        canonical_path(path)
    assert caught.value.problem is BAD_TARGET
    assert problem_of(b"GET " + path + b"?a HTTP/1.1") is BAD_TARGET


@pytest.mark.parametrize("path", [
    b"/%", b"/%a", b"/%4", b"/%zz", b"/%4g", b"/%u002e", b"/a%/b", b"/%%41", b"/%-1", b"/% 1", b"/%00", b"/a%00.txt",
    b"/%\xb2\xb2",
    b"\\", b"/..\\", b"", b"a", b"*", b"/a\n", b"/\n",
])  # fmt: skip
def test_other_paths_that_are_refused(path: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        canonical_path(path)
    assert caught.value.problem is BAD_TARGET


@examples
@given(paths)
def test_a_path_is_canonical_once_and_for_all_and_never_climbs(path: bytes) -> None:
    try:
        canonical = canonical_path(path)
    except Malformed:
        assert re.search(rb"(^|[/\\])\.\.?([/\\;]|$)|\0", unquote_to_bytes(path))
        return
    assert canonical_path(canonical) == canonical
    assert parse_request_line(b"GET " + canonical + b" HTTP/1.1", 10_000).path == canonical
    decoded = unquote_to_bytes(canonical)
    assert decoded == unquote_to_bytes(re.sub(rb"/+", b"/", path))
    assert not {b".", b".."} & set(re.split(rb"[/\\]", decoded))
    assert b"//" not in canonical
    assert b"\0" not in decoded


@examples
@given(text(TCHARS, 1, 32), paths, queries, st.sampled_from((0, 1)))
def test_any_request_line_of_the_grammar_is_read_as_it_was_written(
    method: bytes, path: bytes, query: bytes | None, minor: int
) -> None:
    assume(method not in (b"TRACE", b"CONNECT"))
    target = path if query is None else path + b"?" + query
    try:
        canonical = canonical_path(path)
    except Malformed:
        assert problem_of(b"%b %b HTTP/1.%d" % (method, target, minor)) is BAD_TARGET
        return
    line = parse_request_line(b"%b %b HTTP/1.%d" % (method, target, minor), 10_000)
    assert line == (method, target, canonical, query, minor)


def test_host_is_required_in_http_1_1() -> None:
    line = parse_request_line(b"GET / HTTP/1.1", 10)
    check_request(line, fields(b"Host: a"))
    for bad in (fields(), fields(b"A: b"), fields(b"Host:")):
        with pytest.raises(Malformed) as caught:
            check_request(line, bad)
        assert caught.value.problem is BAD_REQUEST
    check_request(parse_request_line(b"GET / HTTP/1.0", 10), fields())


def test_chunked_is_for_http_1_1() -> None:
    chunked = fields(b"Host: a", b"Transfer-Encoding: chunked")
    check_request(parse_request_line(b"POST / HTTP/1.1", 10), chunked)
    with pytest.raises(Malformed) as caught:
        check_request(parse_request_line(b"POST / HTTP/1.0", 10), chunked)
    assert caught.value.problem is BAD_REQUEST


def test_only_100_continue_can_be_expected() -> None:
    line = parse_request_line(b"POST / HTTP/1.1", 10)
    check_request(line, fields(b"Host: a", b"Expect: 100-Continue"))
    for expected in ([b"Expect: 200-ok"], [b"Expect:"], [b"Expect: 100-continue, x"], [b"Expect: 100-continue"] * 2):
        with pytest.raises(Malformed) as caught:
            check_request(line, fields(b"Host: a", *expected))
        assert caught.value.problem is EXPECTATION_FAILED
    check_request(parse_request_line(b"POST / HTTP/1.0", 10), fields(b"Expect: whatever"))


@pytest.mark.parametrize(("minor", "lines", "kept"), [
    (1, [], True),
    (1, [b"Connection: keep-alive"], True),
    (1, [b"Connection: Close"], False),
    (1, [b"Connection: x, close"], False),
    (1, [b"Connection: keep-alive", b"Connection: close"], False),
    (0, [], False),
    (0, [b"Connection: Keep-Alive"], True),
    (0, [b"Connection: keep-alive, close"], False),
    (0, [b"Connection: keep-alive", b"Transfer-Encoding: chunked"], False),
])  # fmt: skip
def test_whether_a_connection_is_kept(minor: int, lines: list[bytes], kept: bool) -> None:
    assert keeps_alive(minor, fields(*lines)) is kept
