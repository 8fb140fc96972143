"""Asking a language model's API for the usage of a stream, for clients that did not, and hiding that it was asked. Pure.

OpenAI-style chat completions (and completions) tell their usage at the end of a stream only to who sent
`"stream_options": {"include_usage": true}`; then a last chunk has it, with an empty list of choices. Clients that did not
ask for that chunk often break on it (`chunk.choices[0]`), so it is taken out again, and nothing else: the other chunks
keep the `"usage": null` that the API adds to them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import orjson

from gateway.metering.events import EventSplitter, data_of
from gateway.metering.reader import EVENT_STREAM, media_type

if TYPE_CHECKING:
    from gateway.http1.fields import Fields
    from gateway.http1.request import RequestLine

MAX_BODY: Final = 4_194_304
"""A request that is larger is sent on as it comes."""

_ABOUT_THE_BODY: Final = frozenset((b"content-length", b"content-md5", b"digest", b"content-digest", b"repr-digest"))
REQUEST_FIELDS: Final = _ABOUT_THE_BODY | {b"accept-encoding"}
"""Fields of a request that are not true of one that was changed, or would keep its answer from being changed."""
ANSWER_FIELDS: Final = _ABOUT_THE_BODY | {b"etag", b"accept-ranges"}
"""Fields of an answer that are not true of what is left of it."""

_no_exact_number: Final = re.compile(rb"\d{19}").search


def may_ask(line: RequestLine, fields: Fields) -> bool:
    """True for requests that may be for a stream of completions, as far as the head tells."""
    return (
        line.method == b"POST"
        and line.path.endswith(b"/completions")
        and media_type(fields) in (b"application/json", b"")
        and b"content-encoding" not in fields.index
    )


def with_usage(body: bytes) -> bytes | None:
    """The same request, asking for usage; None if it is for no stream, asks already, or is not understood.

    Where the request says nothing about stream options, the rest of it stays as it is to the byte.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if type(document) is not dict or document.get("stream") is not True:
        return None
    if "stream_options" not in document:
        start = body.index(b"{") + 1
        return b'%b"stream_options":{"include_usage":true},%b' % (body[:start], body[start:])
    options: Any = document["stream_options"] or {}
    if type(options) is not dict or options.get("include_usage") is True or _no_exact_number(body):
        return None
    return orjson.dumps({**document, "stream_options": {**options, "include_usage": True}})


def is_usage_chunk(event: bytes) -> bool:
    """True for the event that is there only because usage was asked for."""
    if b'"usage"' not in event or b'"choices"' not in event:
        return False
    try:
        document = orjson.loads(data_of(event))
    except orjson.JSONDecodeError:
        return False
    return type(document) is dict and document.get("choices") == [] and type(document.get("usage")) is dict


def can_hide_usage(fields: Fields) -> bool:
    """True for an answer that is an event stream, and one that can be read as it is."""
    return (
        media_type(fields) == EVENT_STREAM and fields.index.get(b"content-encoding", b"identity").lower() == b"identity"
    )


class UsageHider:
    """Takes the usage chunk out of an event stream. Keeps the event that is under way."""

    __slots__ = ("_splitter",)

    def __init__(self) -> None:
        self._splitter = EventSplitter()

    def feed(self, data: bytes) -> bytes:
        """What passes of the next bytes, and of those that were held."""
        events = self._splitter.feed(data)
        return b"".join([event for event, is_whole in events if not (is_whole and is_usage_chunk(event))])

    def finish(self) -> bytes:
        """What passes of the bytes that were still held."""
        event, is_whole = self._splitter.finish()
        return b"" if is_whole and is_usage_chunk(event) else event
