"""Asking for usage and hiding it: what is changed in a request, what is taken out of a stream, and nothing else."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http1.fields import parse_fields
from gateway.http1.request import parse_request_line
from gateway.metering.ask import UsageHider, is_usage_chunk, may_ask, with_usage
from tests.gateway.metering.documents import cut, examples, singly
from tests.support.upstreams.models import chat_chunks, event, message_events, responses_events

ASKED = {"include_usage": True}


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{"stream":true,"seed":1.0}', b'{"stream_options":{"include_usage":true},"stream":true,"seed":1.0}'),
        (b' \n{ "stream" : true }\n', b' \n{"stream_options":{"include_usage":true}, "stream" : true }\n'),
        (b'{"n":123456789012345678901234567890,"stream":true}', None),
    ],
)
def test_the_rest_of_a_request_stays_as_it_is(body: bytes, changed: bytes | None) -> None:
    asked = with_usage(body)
    assert asked is not None
    assert changed is None or asked == changed
    assert asked.endswith(body.lstrip()[1:])
    assert orjson.loads(asked) == orjson.loads(body) | {"stream_options": ASKED}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (None, ASKED),
        ({}, ASKED),
        ({"include_usage": False}, ASKED),
        ({"include_usage": None, "other": [1]}, {"include_usage": True, "other": [1]}),
    ],
)
def test_stream_options_are_completed(options: Any, expected: Any) -> None:
    asked = with_usage(orjson.dumps({"a": "é", "stream_options": options, "stream": True, "t": 0.7}))
    assert asked is not None
    assert orjson.loads(asked) == {"a": "é", "stream_options": expected, "stream": True, "t": 0.7}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"true",
        b'{"messages":[]}',
        b'{"stream":false}',
        b'{"stream":1}',
        b'{"stream":"true"}',
        b'{"stream":true,"stream_options":{"include_usage":true}}',
        b'{"stream":true,"stream_options":[1]}',
        b'{"stream":true,"stream_options":"x"}',
        b'{"stream":true,"stream_options":{},"n":123456789012345678901234567890}',
        b'\xef\xbb\xbf{"stream":true}',
        b'{"stream":true,"a":"\xff"}',
    ],
)
def test_what_is_no_such_request_or_asks_already_is_left_alone(body: bytes) -> None:
    assert with_usage(body) is None


@pytest.mark.parametrize(
    ("line", "fields", "expected"),
    [
        (b"POST /v1/chat/completions HTTP/1.1", b"Content-Type: application/json; charset=utf-8\r\n", True),
        (b"POST /openai/deployments/x/completions?api-version=1 HTTP/1.1", b"", True),
        (b"GET /v1/chat/completions HTTP/1.1", b"", False),
        (b"POST /v1/responses HTTP/1.1", b"", False),
        (b"POST /v1/messages HTTP/1.1", b"", False),
        (b"POST /v1/completions HTTP/1.1", b"Content-Type: text/plain\r\n", False),
        (b"POST /v1/completions HTTP/1.1", b"Content-Encoding: gzip\r\n", False),
    ],
)
def test_which_requests_may_be_asked_for(line: bytes, fields: bytes, expected: bool) -> None:
    assert may_ask(parse_request_line(line, 200), parse_fields(fields + b"\r\n", 9)) is expected


def hidden(pieces: list[bytes]) -> bytes:
    hider = UsageHider()
    return b"".join([*(hider.feed(piece) for piece in pieces), hider.finish()])


@examples
@given(edges=st.lists(st.integers(0, 2**20), max_size=8), line_end=st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_the_usage_chunk_is_taken_out_and_nothing_else(edges: list[int], line_end: bytes) -> None:
    *chunks, usage, done = chat_chunks(include_usage=True)
    assert is_usage_chunk(usage)
    stream, expected = (
        b"".join(events).replace(b"\n", line_end) for events in ((*chunks, usage, done), (*chunks, done))
    )
    assert hidden(cut(stream, edges)) == expected
    assert hidden(singly(stream)) == expected
    assert hidden([stream.removesuffix(done.replace(b"\n", line_end)).removesuffix(line_end)]) == b"".join(
        chunks
    ).replace(b"\n", line_end)


@pytest.mark.parametrize(
    "stream",
    [
        b"".join(chat_chunks(include_usage=False)),
        b"".join(message_events()),
        b"".join(responses_events()),
        event({"choices": [], "usage": None, "prompt_filter_results": []}),
        event({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"total_tokens": 5}}),
        event({"usage": {"total_tokens": 5}}),
        event(b'{"choices":[],"usage":{"total_tokens":5}'),
        b': "usage" "choices"\n\ndata: x\r\n\r\ndata',
        b"\n\r\n\r\r\n",
        b"",
    ],
)
def test_everything_else_passes_byte_for_byte(stream: bytes) -> None:
    assert hidden([stream]) == hidden(singly(stream)) == stream
