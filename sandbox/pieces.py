"""Large values a piece at a time, with the event loop in between.

A run may write ten megabytes. Made to text in one call, bytes that are not UTF-8 take ten milliseconds each megabyte, and a
thread does not help, because such calls hold the interpreter. In pieces of `PIECE` nothing waits more than a millisecond.
What fits into one piece is done at once. Fails with nothing of its own.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
from typing import Any, Final

import orjson

PIECE: Final = 96 * 1024  # a multiple of 3, so that pieces of base64 join


async def text(data: bytes) -> str:
    """UTF-8 as text; what is not, replaced."""
    if len(data) <= PIECE:
        return data.decode("utf-8", "replace")
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    parts = []
    for at in range(0, len(data), PIECE):
        parts.append(decoder.decode(data[at : at + PIECE], final=at + PIECE >= len(data)))
        await asyncio.sleep(0)
    return "".join(parts)


async def base64_of(data: bytes) -> str:
    """Base64 as text."""
    parts = []
    for at in range(0, len(data), PIECE):
        parts.append(base64.b64encode(data[at : at + PIECE]).decode())
        if len(data) > PIECE:
            await asyncio.sleep(0)
    return "".join(parts)


async def json(document: Any) -> bytes:
    """A document of any depth as JSON; long texts in it a piece at a time."""
    return orjson.dumps(await _lightened(document) if _is_long(document) else document)


def _is_long(value: Any) -> bool:
    """True if there is a text in it that takes more than one piece."""
    if isinstance(value, str):
        return len(value) > PIECE
    if isinstance(value, dict):
        return any(map(_is_long, value.values()))
    return isinstance(value, list) and any(map(_is_long, value))


async def _lightened(value: Any) -> Any:
    """The same, with long texts as JSON already."""
    match value:
        case dict():
            return {name: await _lightened(inner) for name, inner in value.items()}
        case list():
            return [await _lightened(inner) for inner in value]
        case str() if len(value) > PIECE:
            parts = [b'"']
            for at in range(0, len(value), PIECE):
                parts.append(orjson.dumps(value[at : at + PIECE])[1:-1])
                await asyncio.sleep(0)
            return orjson.Fragment(b"".join([*parts, b'"']))
        case _:
            return value
