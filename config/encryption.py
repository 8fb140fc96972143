"""Keys that seal secrets at rest, as text: base64 of 32 bytes each, separated by commas or white space, newest first."""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Final

KEY_BYTES: Final = 32
WANTED: Final = (
    "expected keys of 32 bytes in base64, newest first, separated by commas; `tollgate secrets new-key` makes one"
)


def decode_keys(text: str) -> tuple[bytes, ...]:
    """The keys in a text, newest first; none of an empty one. Raises ValueError, which repeats nothing of the text."""
    keys = []
    for word in text.replace(",", " ").split():
        try:
            key = base64.b64decode(word, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(WANTED) from None
        if len(key) != KEY_BYTES:
            raise ValueError(WANTED)
        keys.append(key)
    return tuple(keys)


def new_key() -> str:
    """A fresh key as text."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
