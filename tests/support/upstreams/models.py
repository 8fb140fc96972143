"""A language model's API as an upstream script: OpenAI's chat completions and responses, Anthropic's messages.

It answers as the real ones do in what matters to a gateway: JSON, or one event at a time while it "thinks", with usage
where each API has it, and a usage chunk only for who asked for it. What it said is in `answers`.
"""

from __future__ import annotations

import asyncio
import gzip
import zlib
from typing import Any

import brotli
import orjson
import zstandard

from tests.gateway.wire import payload, read_request
from tests.support.raw import Peer

WORDS = ("Once", " upon", " a", " time", ", é", "")
PROMPT, CACHED, COMPLETION = 40, 32, 6
OPENAI_USAGE = {
    "prompt_tokens": PROMPT,
    "completion_tokens": COMPLETION,
    "total_tokens": PROMPT + COMPLETION,
    "prompt_tokens_details": {"cached_tokens": CACHED, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
RESPONSES_USAGE = {
    "input_tokens": PROMPT,
    "input_tokens_details": {"cached_tokens": CACHED},
    "output_tokens": COMPLETION,
    "total_tokens": PROMPT + COMPLETION,
}
MESSAGE_START_USAGE = {
    "input_tokens": PROMPT - CACHED - 1,
    "cache_creation_input_tokens": 1,
    "cache_read_input_tokens": CACHED,
    "output_tokens": 1,
}
READ = {
    "input": PROMPT,
    "cached": CACHED,
    "uncached": PROMPT - CACHED,
    "output": COMPLETION,
    "total": PROMPT + COMPLETION,
}
"""What the parts of the usage block are, whichever API was asked."""


def event(data: Any, name: str = "") -> bytes:
    """One event of a stream."""
    text = data if isinstance(data, bytes) else orjson.dumps(data)
    return (b"event: %b\n" % name.encode() if name else b"") + b"data: %b\n\n" % text


def chat_chunks(*, include_usage: bool) -> list[bytes]:
    """A chat completion as it is streamed."""
    base = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "system_fingerprint": "f",
    }
    null = {"usage": None} if include_usage else {}
    chunks = [
        {**base, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}], **null} for word in WORDS
    ]
    chunks[-1]["choices"] = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    if include_usage:
        chunks.append({**base, "choices": [], "usage": OPENAI_USAGE})
    return [*(event(chunk) for chunk in chunks), event(b"[DONE]")]


def responses_events() -> list[bytes]:
    """A response of OpenAI's responses API as it is streamed."""
    whole = {"id": "resp_1", "object": "response", "status": "completed", "usage": RESPONSES_USAGE}
    return [
        event({"type": "response.created", "response": {**whole, "status": "in_progress", "usage": None}}),
        *(event({"type": "response.output_text.delta", "delta": word}) for word in WORDS),
        event({"type": "response.completed", "response": whole}, "response.completed"),
    ]


def message_events() -> list[bytes]:
    """A message of Anthropic's as it is streamed."""
    start = {"id": "msg_1", "type": "message", "content": [], "usage": MESSAGE_START_USAGE}
    return [
        event({"type": "message_start", "message": start}, "message_start"),
        event({"type": "ping"}, "ping"),
        *(event({"type": "content_block_delta", "index": 0, "delta": {"text": word}}) for word in WORDS),
        event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": COMPLETION}}),
        event({"type": "message_stop"}, "message_stop"),
    ]


def encoded(data: bytes, coding: str) -> bytes:
    """A body in a content coding."""
    if coding == "gzip":
        return gzip.compress(data)
    if coding == "deflate":
        return zlib.compress(data)
    if coding == "raw deflate":
        compressor = zlib.compressobj(wbits=-15)
        return compressor.compress(data) + compressor.flush()
    if coding == "br":
        compressed: bytes = brotli.compress(data)
        return compressed
    if coding == "zstd":
        return zstandard.compress(data)
    return data


class Model:
    """`await model(peer)` is the script. `asked` are the requests' documents, `heads` their heads.

    `hold_after` events it waits until `go_on` is set; `coding` is the answers' Content-Encoding.
    """

    def __init__(self, *, hold_after: int | None = None, coding: str = "") -> None:
        self.asked: list[dict[str, Any]] = []
        self.heads: list[bytes] = []
        self.sent: list[bytes] = []
        self.go_on = asyncio.Event()
        self._hold_after = hold_after
        self._coding = coding

    async def __call__(self, peer: Peer) -> None:
        try:
            while True:
                request = await read_request(peer)
                head, _, body = request.partition(b"\r\n\r\n")
                self.heads.append(head)
                if b"transfer-encoding: chunked" in head.lower():
                    body = payload(body)
                document = orjson.loads(body)
                self.asked.append(document)
                path = head.split(b" ")[1]
                if document.get("stream"):
                    await self._stream(peer, self._events(path, document))
                else:
                    await self._answer(peer, self._document(path))
        except (EOFError, ConnectionError, TimeoutError):
            pass

    def _events(self, path: bytes, document: dict[str, Any]) -> list[bytes]:
        if path.endswith(b"/responses"):
            return responses_events()
        if path.endswith(b"/messages"):
            return message_events()
        options = document.get("stream_options") or {}
        return chat_chunks(include_usage=options.get("include_usage") is True)

    def _document(self, path: bytes) -> bytes:
        if path.endswith(b"/responses"):
            return orjson.dumps({"object": "response", "output": [], "usage": RESPONSES_USAGE})
        if path.endswith(b"/messages"):
            return orjson.dumps({"type": "message", "usage": MESSAGE_START_USAGE | {"output_tokens": COMPLETION}})
        return orjson.dumps({"object": "chat.completion", "choices": [], "usage": OPENAI_USAGE})

    def _coding_line(self) -> bytes:
        return b"Content-Encoding: %b\r\n" % self._coding.split()[-1].encode() if self._coding else b""

    async def _answer(self, peer: Peer, body: bytes) -> None:
        body = encoded(body, self._coding)
        self.sent.append(body)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n%bContent-Length: %d\r\n\r\n"
        await peer.send(head % (self._coding_line(), len(body)) + body)

    async def _stream(self, peer: Peer, events: list[bytes]) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%bTransfer-Encoding: chunked\r\n\r\n"
        await peer.send(head % self._coding_line())
        pieces = [encoded(b"".join(events), self._coding)] if self._coding else events
        self.sent.append(b"".join(pieces))
        for number, piece in enumerate(pieces):
            if number == self._hold_after:
                await self.go_on.wait()
            await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0)
        await peer.send(b"0\r\n\r\n")
