"""Reading an answer as it passes: the same findings wherever its bytes are cut, whatever its coding, in little memory."""

from __future__ import annotations

from collections.abc import Iterable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http1.fields import parse_fields
from gateway.metering.findings import Findings, Wanted
from gateway.metering.reader import KEPT, AnswerReader, JsonBody
from tests.gateway.metering.documents import cut, examples, singly
from tests.support.upstreams.models import chat_chunks, encoded, message_events, responses_events

WANTED = Wanted((("usage", "total_tokens"), ("id",)), usage=True)


def read(body: Iterable[bytes], kind: bytes = b"text/event-stream", coding: str = "") -> AnswerReader:
    lines = b"Content-Type: %b\r\n" % kind + (b"Content-Encoding: %b\r\n" % coding.encode() if coding else b"")
    reader = AnswerReader(WANTED, 200, parse_fields(lines + b"\r\n", 9), has_body=True)
    for piece in body:
        reader.feed(piece)
    reader.finish()
    return reader


def found(reader: AnswerReader) -> tuple[object, ...]:
    assert reader.findings is not None
    return reader.findings.values, reader.findings.usage, reader.events


STREAMS = [b"".join(events) for events in (chat_chunks(include_usage=True), responses_events(), message_events())]


@pytest.mark.parametrize("stream", STREAMS, ids=["chat", "responses", "messages"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_a_stream_cut_at_every_byte(stream: bytes, line_end: bytes) -> None:
    whole = found(read([stream]))
    assert whole[1]
    stream = stream.replace(b"\n", line_end)
    assert found(read(singly(stream))) == whole
    for at in range(len(stream)):
        assert found(read([stream[:at], stream[at:]])) == whole


@examples
@given(
    stream=st.sampled_from(STREAMS),
    edges=st.lists(st.integers(0, 2**20), max_size=8),
    coding=st.sampled_from(["", "gzip", "deflate", "br", "zstd"]),
)
def test_and_anywhere_else_in_every_coding(stream: bytes, edges: list[int], coding: str) -> None:
    assert found(read(cut(encoded(stream, coding), edges), coding=coding)) == found(read([stream]))


DOCUMENT = orjson.dumps({"id": "x", "choices": [{"text": '"usage":{"total_tokens":1}'}], "usage": {"total_tokens": 5}})


@examples
@given(padding=st.sampled_from([0, KEPT]), edges=st.lists(st.integers(0, 2**20), max_size=8))
def test_a_document_small_or_large(padding: int, edges: list[int]) -> None:
    body = DOCUMENT + b" " * padding
    values, usage, _ = found(read(cut(body, edges), b"application/vnd.api+json; v=1"))
    assert values == {("usage", "total_tokens"): 5, ("id",): "x"}
    assert usage == {"total_tokens": 5}


@pytest.mark.parametrize("padding", [0, KEPT], ids=["small", "large"])
def test_a_document_that_is_not_whole_says_nothing(padding: int) -> None:
    body = DOCUMENT[:-1] + b" " * padding
    assert found(read([body], b"application/json")) == ({}, None, 0)


def test_a_large_document_is_not_kept() -> None:
    body = JsonBody(WANTED, Findings(WANTED))
    for _ in range(100):
        body.feed(b" " * 10_000)
    assert sum(map(len, body._kept)) <= KEPT


def test_an_expanding_answer_says_nothing() -> None:
    bomb = encoded(DOCUMENT[:-1] + b" " * 50_000_000 + b"}", "gzip")
    assert found(read([bomb], b"application/json", "gzip")) == ({}, None, 0)
