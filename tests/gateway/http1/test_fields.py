"""Field sections: what is read from them, what they say about the message, and all that is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http1.errors import Malformed
from gateway.http1.fields import CACHED_BLOCK_BYTES, Fields, parse_fields, parse_host
from ledger.problems import BAD_REQUEST, HEADERS_TOO_LARGE, NOT_IMPLEMENTED
from tests.gateway.http1.grammar import examples, lines


def read(*each: bytes) -> Fields:
    return parse_fields(b"".join(line + b"\r\n" for line in each) + b"\r\n", 100)


def refusal(*each: bytes) -> Malformed:
    with pytest.raises(Malformed) as caught:
        read(*each)
    return caught.value


def test_no_fields_at_all() -> None:
    fields = parse_fields(b"\r\n", 0)
    assert fields.items == []
    assert fields.index == {}
    assert (fields.content_length, fields.chunked, fields.host) == (None, False, None)
    assert fields.connection == fields.repeated == frozenset()


def test_fields_keep_their_order_their_spelling_and_their_line() -> None:
    block = b"Host: a\r\nX-One:1\r\nx-TWO: \t two words\t \r\nEmpty:\r\nBlank:  \r\n\r\n"
    fields = parse_fields(block, 5)
    assert fields.raw == block
    assert fields.items == [
        (b"host", b"a", b"Host: a\r\n"),
        (b"x-one", b"1", b"X-One:1\r\n"),
        (b"x-two", b"two words", b"x-TWO: \t two words\t \r\n"),
        (b"empty", b"", b"Empty:\r\n"),
        (b"blank", b"", b"Blank:  \r\n"),
    ]
    assert fields.index == {b"host": b"a", b"x-one": b"1", b"x-two": b"two words", b"empty": b"", b"blank": b""}


def test_repeated_fields_are_known_and_the_first_value_counts() -> None:
    fields = read(b"A: 1", b"B: 2", b"a: 3", b"A:")
    assert fields.repeated == {b"a"}
    assert fields.index == {b"a": b"1", b"b": b"2"}
    assert fields.values(b"a") == [b"1", b"3", b""]


def test_the_number_of_fields_is_limited() -> None:
    assert len(parse_fields(b"A: 1\r\nB: 2\r\n\r\n", 2).items) == 2
    with pytest.raises(Malformed) as caught:
        parse_fields(b"A: 1\r\nB: 2\r\n\r\n", 1)
    assert caught.value.problem is HEADERS_TOO_LARGE


@pytest.mark.parametrize("line", [
    b"A: \t!~ \x80\xff",
    b"!#$%&'*+-.^_`|~09azAZ: token characters",
    b"A: a:b: c",
    b"A::",
    b'A: "unfinished',
    b"0: 1",
])  # fmt: skip
def test_acceptable_lines(line: bytes) -> None:
    assert read(line).items[0][2] == line + b"\r\n"


BAD_LINES = [
    b": nameless",
    b"nothing",
    b"",
    b"A : 1",
    b"A\t: 1",
    b" A: 1",
    b"A: 1\r\n folded",
    b"A: 1\r\n\tfolded",
    b"A: 1\r\n ",
    b"A: a\nB: b",
    b"A: a\n",
    b"A: a\r",
    b"A: a\rB: b",
    b"A: a\r\r\nB: b",
    b"A: a\n\r",
    b"A: \0",
    b"A\0: 1",
    b"A: \x01",
    b"A: \x08",
    b"A: \x0b",
    b"A: \x0c",
    b"A: \x1f",
    b"A: \x1b[0m",
    b"A: \x7f",
    *(b"A" + bytes((byte,)) + b"B: 1" for byte in b'"(),/;<=>?@[\\]{}\x80\xff'),
    b"\xc3\xa9: 1",
    b"A: 1\r\n\r\nB: 2",
]


@pytest.mark.parametrize("line", BAD_LINES)
@pytest.mark.parametrize("filler", [b"", b"X: " + b"x" * CACHED_BLOCK_BYTES + b"\r\n"], ids=["small", "large"])
def test_unacceptable_lines(line: bytes, filler: bytes) -> None:
    for block in (line + b"\r\n\r\n", filler + b"B: 1\r\n" + line + b"\r\n\r\n", filler + line + b"\r\nB: 1\r\n\r\n"):
        with pytest.raises(Malformed) as caught:
            parse_fields(block, 100)
        assert caught.value.problem is BAD_REQUEST


@pytest.mark.parametrize("block", [b"", b"\r", b"\n", b"A: 1", b"A: 1\r\n", b"A: 1\r\n\n", b"A: 1\n\n", b"\r\n\r\n"])
def test_a_section_ends_with_one_empty_line(block: bytes) -> None:
    with pytest.raises(Malformed):
        parse_fields(block, 100)


def test_what_is_said_about_a_bad_line_names_the_rule_and_never_the_value() -> None:
    said = {line: refusal(line).detail for line in BAD_LINES if line}
    assert "folded" in said[b"A: 1\r\n folded"]
    assert "NUL" in said[b"A: \0"]
    assert "bare" in said[b"A: a\nB: b"]
    assert "colon" in said[b"nothing"]
    assert "colon" in said[b"A : 1"]
    assert "token" in said[b": nameless"]
    assert "control" in said[b"A: \x7f"]
    assert "secret" not in refusal(b"Authorization: Bearer sk_live_secret\x01").detail
    assert "secret" not in refusal(b"Content-Length: secret").detail
    assert "secret" not in refusal(b"Host: secret!/").detail


@pytest.mark.parametrize(("value", "length"), [(b"0", 0), (b"42", 42), (b"007", 7), (b"9" * 18, 10**18 - 1)])
def test_content_length(value: bytes, length: int) -> None:
    assert read(b"Content-Length: " + value).content_length == length
    assert read(b"content-LENGTH:" + value + b" ").content_length == length


@pytest.mark.parametrize("value", [
    b"", b"+1", b"-1", b"1 2", b"5, 5", b"5,5", b"5,", b"0x10", b"1_0", b"1e3", b"1.0", b"9" * 19, b"\xb2", b"five",
    b"1;a=b", b"\t5\xa0",
    "\u0661".encode(),
])  # fmt: skip
def test_bad_content_length(value: bytes) -> None:
    assert refusal(b"Content-Length: " + value).problem is BAD_REQUEST


def test_two_content_lengths_are_refused_even_when_equal() -> None:
    assert refusal(b"Content-Length: 5", b"Content-Length: 5").problem is BAD_REQUEST
    assert refusal(b"Content-Length: 5", b"content-length: 6").problem is BAD_REQUEST


@pytest.mark.parametrize("value", [b"chunked", b"Chunked", b"CHUNKED", b"chunked \t"])
def test_chunked(value: bytes) -> None:
    fields = read(b"Transfer-Encoding: " + value)
    assert fields.chunked is True
    assert fields.content_length is None


@pytest.mark.parametrize(
    "value", [b"gzip, chunked", b"x-custom;a=b , Chunked", b'x;a="q,;\\"",chunked', b"identity, chunked"]
)
def test_other_codings_are_not_implemented(value: bytes) -> None:
    assert refusal(b"Transfer-Encoding: " + value).problem is NOT_IMPLEMENTED


@pytest.mark.parametrize("value", [
    b"", b"gzip", b"identity", b"chunked, gzip", b"chunked, chunked", b"chunked,", b",chunked", b"chunked;a=b",
    b"chunked chunked", b"xchunked",
    b"chunkedx", b"\x85chunked", b"chunked\xa0", b'"chunked"', b"chunked;", b"'chunked'", b"chun ked",
    b"gzip;q, chunked",
])  # fmt: skip
def test_garbled_or_endless_codings_are_bad_requests(value: bytes) -> None:
    assert refusal(b"Transfer-Encoding: " + value).problem is BAD_REQUEST


@pytest.mark.parametrize("others", [
    (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    (b"Transfer-Encoding: chunked", b"Content-Length: 0"),
    (b"Content-Length: 5", b"Transfer-Encoding: identity"),
    (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    (b"Transfer-Encoding: chunked", b"transfer-encoding:"),
    (b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked"),
])  # fmt: skip
def test_conflicting_framing_is_a_bad_request(others: tuple[bytes, ...]) -> None:
    assert refusal(*others).problem is BAD_REQUEST


@pytest.mark.parametrize("value", [
    b"a", b"A.Example.COM", b"a:80", b"a:", b"", b":80", b"10.0.0.1:8080", b"[::1]", b"[FE80::1]:443",
    b"[::ffff:10.0.0.1]", b"[v1.a:b]",
    b"x_y.example", b"a%2Fb", b"xn--bcher-kva.example", b"a.example.", b"a~b!$&'()*+,;=",
])  # fmt: skip
def test_host(value: bytes) -> None:
    assert read(b"Host: " + value).host == parse_host(value) == value.lower()


@pytest.mark.parametrize("value", [
    b"a b", b"a/b", b"a@b", b"user:pw@b", b"http://a", b"a:b", b"a:80:80", b"a:123456", b"a:-1", b"a:+80", b"[::1",
    b"::1", b"[::1]x", b"[::1]:x",
    b"[]", b"[1]", b"[:::]", b"[1::2::3]", b"[fe80::1%25eth0]", b"[v1.]", b"a?b", b"a#b", b"a\\b", b"a%", b"a%2",
    b"a%zz", b'"a"', b"a<b",
    b"a, b", b"\xe9", b"a\tb", b"{a}", b"a|b", b"[a", b"a]",
])  # fmt: skip
def test_bad_host(value: bytes) -> None:
    assert refusal(b"Host: " + value).problem is BAD_REQUEST


def test_two_hosts_are_refused_even_when_equal() -> None:
    assert refusal(b"Host: a", b"Host: a").problem is BAD_REQUEST
    assert refusal(b"Host: a", b"host:").problem is BAD_REQUEST


@pytest.mark.parametrize(("values", "options"), [
    ((b"close",), {b"close"}),
    ((b"Close",), {b"close"}),
    ((b"keep-alive",), {b"keep-alive"}),
    ((b"KEEP-ALIVE",), {b"keep-alive"}),
    ((b"Upgrade, HTTP2-Settings",), {b"upgrade", b"http2-settings"}),
    ((b"keep-alive,\tTE ,,x",), {b"keep-alive", b"te", b"x"}),
    ((b"keep-alive", b"close"), {b"keep-alive", b"close"}),
    ((b"close", b""), {b"close"}),
    ((b"",), set()),
    ((b" , ,",), set()),
])  # fmt: skip
def test_connection(values: tuple[bytes, ...], options: set[bytes]) -> None:
    assert read(*(b"Connection: " + value for value in values)).connection == options


@pytest.mark.parametrize("value", [b"a b", b'"close"', b"close;", b"clo\x80se", b"a=b", b"close, a/b"])
def test_bad_connection(value: bytes) -> None:
    assert refusal(b"Connection: " + value).problem is BAD_REQUEST


def test_the_result_depends_on_the_block_alone() -> None:
    block = b"Host: a\r\nContent-Length: 5\r\n\r\n"
    first, second = parse_fields(block, 10), parse_fields(bytes(bytearray(block)), 10)
    assert first is not second
    assert [getattr(first, name) for name in Fields.__slots__] == [getattr(second, name) for name in Fields.__slots__]
    assert "host" in repr(first)
    assert "5" not in repr(first)


@examples
@given(st.lists(lines, max_size=8), st.sampled_from((0, CACHED_BLOCK_BYTES)))
def test_any_section_of_the_grammar_is_read_as_it_was_written(
    written: list[tuple[bytes, bytes, bytes, bytes]], padding: int
) -> None:
    whole = [name + b":" + before + value + after + b"\r\n" for name, before, value, after in written]
    block = b"Pad: " + b"x" * padding + b"\r\n" + b"".join(whole) + b"\r\n"
    fields = parse_fields(block, 9)
    assert fields.items[1:] == [
        (name.lower(), value, line) for (name, _, value, _), line in zip(written, whole, strict=True)
    ]
    names = [name for name, _, _ in fields.items]
    assert fields.repeated == {name for name in names if names.count(name) > 1}
    assert fields.index == {name: fields.values(name)[0] for name in names}
