"""The chunked coding: what it decodes to however it is cut, and all that is refused."""

from __future__ import annotations

import re

import httptools
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.http1.chunked import (
    LAST_CHUNK,
    MAX_LINE_BYTES,
    MAX_TRAILER_BYTES,
    NOT_IN_TRAILERS,
    ChunkedDecoder,
    encode_chunk,
)
from gateway.http1.errors import Malformed
from ledger.problems import BAD_REQUEST, HEADERS_TOO_LARGE
from tests.gateway.http1.grammar import cut, damaged, examples, tokens, words


def decode(*pieces: bytes) -> tuple[bytes, ChunkedDecoder]:
    decoder = ChunkedDecoder()
    payload = b""
    for piece in pieces:
        out = decoder.feed(piece)
        assert all(out), "an empty piece"
        payload += b"".join(out)
    return payload, decoder


def byte_by_byte(data: bytes) -> list[bytes]:
    return [bytes((byte,)) for byte in data]


@pytest.mark.parametrize(("body", "payload"), [
    (b"0\r\n\r\n", b""),
    (b"000\r\n\r\n", b""),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
    (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
    (b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789"),
    (b"0000000000000001\r\nx\r\n0\r\n\r\n", b"x"),
    (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
    (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
    (b"1;a\r\nx\r\n0;last=1\r\n\r\n", b"x"),
    (b'1;a=b;c="d;\\"\r\nx\r\n0\r\n\r\n'.replace(b'\\"', b'\\"e"'), b"x"),
    (b'1 ; a = b\t;c ="\xe9 \t"\r\nx\r\n0\r\n\r\n', b"x"),
    (b"1;" + b"a" * (MAX_LINE_BYTES - 2) + b"\r\nx\r\n0\r\n\r\n", b"x"),
])  # fmt: skip
def test_bodies(body: bytes, payload: bytes) -> None:
    for pieces in ([body], byte_by_byte(body)):
        decoded, decoder = decode(*pieces)
        assert decoded == payload
        assert decoder.done
        assert decoder.trailers is None
        assert decoder.leftover == b""


def test_the_payload_of_a_chunk_leaves_with_the_bytes_that_bring_it() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"") == []
    assert decoder.feed(b"5\r\nhe") == [b"he"]
    assert decoder.feed(b"l") == [b"l"]
    assert decoder.feed(b"lo") == [b"lo"]
    assert decoder.feed(b"\r") == []
    assert decoder.feed(b"\n3\r\nabc\r\n2\r\nde\r\n4\r\nf") == [b"abc", b"de", b"f"]
    assert decoder.feed(b"ghi\r\n0\r\n") == [b"ghi"]
    assert not decoder.done
    assert decoder.feed(b"\r\n") == []
    assert decoder.done


def test_what_follows_the_body_is_left_over() -> None:
    _, decoder = decode(b"1\r\nx\r\n0\r\n\r\nGET / HT")
    assert (decoder.done, decoder.leftover) == (True, b"GET / HT")
    assert decoder.feed(b"TP/1.1\r\n") == []
    assert decoder.leftover == b"GET / HTTP/1.1\r\n"
    _, decoder = decode(*byte_by_byte(b"0\r\nA: b\r\n\r\nrest"))
    assert decoder.leftover == b"rest"


@pytest.mark.parametrize("body", [
    b"\n", b"\r\n", b"\r\n0\r\n\r\n", b"g\r\n", b" 5\r\n", b"\t5\r\n", b"5 \r\nhello\r\n", b"0x5\r\nhello\r\n",
    b"0X5\r\n", b"+5\r\n", b"-5\r\n",
    b"-0\r\n\r\n", b"1_0\r\n", b"5.0\r\n", b"5h\r\n", b"5,5\r\n", b"5\nhello\r\n", b"5\rhello\r\n", b"5\r\r\n",
    b"5\n\r\n", b"5\r hello",
    b"5\r\nhello0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello\r0\r\n\r\n", b"5\r\nhello \r\n",
    b"5\r\nhello\n\r", b"5\r\nhello\r\r\n",
    b"5\r\nhello\r\n\r\n", b"5\r\nhello\r\n\n", b"\0", b"5\0\r\n", b"\xb2\r\n", b"00000000000000005\r\n",
    b"fffffffffffffffff\r\n",
    b"5;\r\nhello\r\n", b"5;;a\r\n", b"5; \r\n", b"5;a=\r\n", b"5;=b\r\n", b'5;a="b\r\n', b'5;a="b"c\r\n',
    b"5;a b\r\n", b"5;a=b c\r\n", b"5 a\r\n",
    b"5;a=(\r\n", b"5;a\0\r\n", b"5;a\x7f\r\n", b'5;a="\x01"\r\n', b"5;a\n", b"5;a\rb", b"5;a\n\r\n",
    b'5;a="\n"\r\n', b"5;\xe9\r\n",
    b"0\r\n\n", b"0\r\n\r\r\n", b"0\r\nA: b\n\r\n", b"0\r\nA: b\n\n", b"0\r\nA: b\rc\r\n\r\n", b"0\r\nA : b\r\n\r\n",
    b"0\r\n: b\r\n\r\n",
    b"0\r\nA\r\n\r\n", b"0\r\nA: b\r\n c\r\n\r\n", b"0\r\n A: b\r\n\r\n", b"0\r\nA: \0\r\n\r\n",
    b"0\r\nHost : a\r\n\r\n", b"0 \r\n\r\n",
    b"0\n\r\n", b"0\n\n", b"GET / HTTP/1.1\r\n",
])  # fmt: skip
def test_malformed_bodies(body: bytes) -> None:
    for pieces in ([body], byte_by_byte(body), [body[:-1], body[-1:]]):
        with pytest.raises(Malformed) as caught:
            decode(*pieces)
        assert caught.value.problem is BAD_REQUEST


def test_a_size_line_is_limited_before_it_is_whole() -> None:
    with pytest.raises(Malformed):
        decode(b"1;" + b"a" * (MAX_LINE_BYTES - 1) + b"\r\nx\r\n")
    with pytest.raises(Malformed):
        decode(b"1;" + b"a" * 10_000)
    with pytest.raises(Malformed):
        decode(b"1;", *[b"a"] * (MAX_LINE_BYTES + 1))


def test_trailers() -> None:
    body = b"1\r\nx\r\n0\r\nX-Sum:  1\r\nX-sum: 2\r\nEmpty:\r\n\r\nrest"
    for pieces in ([body], byte_by_byte(body)):
        payload, decoder = decode(*pieces)
        assert payload == b"x"
        assert decoder.trailers is not None
        assert decoder.trailers.items == [
            (b"x-sum", b"1", b"X-Sum:  1\r\n"),
            (b"x-sum", b"2", b"X-sum: 2\r\n"),
            (b"empty", b"", b"Empty:\r\n"),
        ]
        assert decoder.trailers.raw == b"X-Sum:  1\r\nX-sum: 2\r\nEmpty:\r\n\r\n"
        assert decoder.leftover == b"rest"


def test_trailers_that_would_change_the_message_are_dropped() -> None:
    for name in NOT_IN_TRAILERS:
        _, decoder = decode(b"0\r\n" + name.title() + b": 5\r\n\r\n")
        assert decoder.done
        assert decoder.trailers is None
    _, decoder = decode(b"0\r\nHost: x\r\nContent-Length: 5, 6\r\nKept: y\r\nHost: !/\r\n\r\n")
    assert decoder.trailers is not None
    assert decoder.trailers.items == [(b"kept", b"y", b"Kept: y\r\n")]
    for name in (
        b"content-length",
        b"transfer-encoding",
        b"host",
        b"authorization",
        b"connection",
        b"trailer",
        b"te",
        b"cookie",
    ):
        assert name in NOT_IN_TRAILERS


def test_the_trailer_section_is_limited() -> None:
    line = b"A: " + b"a" * 95 + b"\r\n"
    _, decoder = decode(b"0\r\n" + line * 64 + b"\r\n")
    assert decoder.done
    with pytest.raises(Malformed) as caught:
        decode(b"0\r\n" + line * 65 + b"\r\n")
    assert caught.value.problem is HEADERS_TOO_LARGE
    for pieces in ([b"0\r\nA: " + b"a" * MAX_TRAILER_BYTES], [b"0\r\nA: ", *[b"a" * 100] * 82]):
        with pytest.raises(Malformed) as caught:
            decode(*pieces)
        assert caught.value.problem is HEADERS_TOO_LARGE


def test_a_chunk_may_be_huge() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"FFFFFFFFFFFFFFFF\r\nab") == [b"ab"]
    assert decoder.feed(b"c" * 1000) == [b"c" * 1000]
    assert not decoder.done


def test_encoding() -> None:
    assert encode_chunk(b"hello") == b"5\r\nhello\r\n"
    assert encode_chunk(b"x" * 255) == b"ff\r\n" + b"x" * 255 + b"\r\n"
    assert encode_chunk(b"") == b""


chunks = st.lists(st.binary(max_size=40), max_size=6)
places = st.lists(st.integers(0, 500), max_size=8)
extensions = st.sampled_from((b"", b"", b";a", b';a=b;c="d e"', b" ; q"))


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A chunked body with everything the grammar allows."""
    parts = [
        b"%b%x%b\r\n%b\r\n" % (draw(st.sampled_from((b"", b"00"))), len(data), draw(extensions), data)
        for data in draw(chunks)
        if data
    ]
    trailers = [b"X-%b: %b\r\n" % pair for pair in draw(st.lists(st.tuples(tokens, words), max_size=2))]
    return b"".join(parts) + b"0" + draw(extensions) + b"\r\n" + b"".join(trailers) + b"\r\n"


@examples
@given(chunks, places)
def test_what_is_encoded_is_decoded_however_it_is_cut(pieces: list[bytes], where: list[int]) -> None:
    body = b"".join(map(encode_chunk, pieces)) + LAST_CHUNK
    payload, decoder = decode(*cut(body + b"next", where))
    assert payload == b"".join(pieces)
    assert decoder.done
    assert decoder.leftover == b"next"


@examples
@given(damaged(bodies()) | bodies(), places)
def test_a_damaged_body_ends_alike_however_it_is_cut(body: bytes, where: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        try:
            payload, decoder = decode(*pieces)
        except Malformed:
            return Malformed
        return payload, decoder.done, decoder.leftover, decoder.trailers and decoder.trailers.raw

    whole = outcome([body])
    assert outcome(cut(body, where)) == outcome(byte_by_byte(body)) == whole


class Llhttp:
    """What llhttp makes of a chunked body."""

    def __init__(self, body: bytes) -> None:
        self.payload = b""
        self.done = False
        parser = httptools.HttpRequestParser(self)
        parser.feed_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        parser.feed_data(body)

    def on_body(self, data: bytes) -> None:
        self.payload += data

    def on_message_complete(self) -> None:
        self.done = True


@examples
@given(damaged(bodies()) | bodies())
def test_what_is_decoded_here_llhttp_decodes_alike(body: bytes) -> None:
    try:
        payload, decoder = decode(body)
    except Malformed:
        return
    if not decoder.done:
        return
    body = body.removesuffix(decoder.leftover)
    # RFC 9112 §7.1.1 has recipients take blanks around `;` and `=`, and §7.1.2 lets them drop trailers; llhttp refuses.
    assume(not re.search(rb"[ \t][;=]|[;=][ \t]|Content-Length:|Transfer-Encoding:", body))
    other = Llhttp(body)
    assert (other.payload, other.done) == (payload, True)
