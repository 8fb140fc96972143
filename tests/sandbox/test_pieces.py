"""In pieces comes to the same as at once, wherever the cuts fall."""

from __future__ import annotations

import base64
import json
import os

import pytest

from sandbox import pieces
from sandbox.pieces import PIECE


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 2])
async def test_the_same_as_at_once(size: int) -> None:
    for data in (os.urandom(size), ("aé漢😀" * (size // 10 + 1)).encode()[:size], b"\xff" * size):
        text = data.decode("utf-8", "replace")
        assert await pieces.text(data) == text
        assert await pieces.base64_of(data) == base64.b64encode(data).decode()
        document = {"stdout": text, "list": [{"content": text, "size": size}], "none": None, "quoted": '"\\\n' * size}
        assert json.loads(await pieces.json(document)) == document
