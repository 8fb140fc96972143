"""API keys: one text form, checked without I/O, stored only as a hash.

    {sk|pk|ck}_{live|test}_{32 base62 characters}{6 base62 characters}

The 32 random characters carry 190 bits. The last 6 are the CRC-32 of everything before them, so a mistyped or made-up
key is refused without a look-up, and a secret scanner can tell a real key from noise with the regex alone.
Postgres keeps the SHA-256 and the first 12 characters for display; the text itself is shown once and never stored.
"""

from __future__ import annotations

import re
import secrets
import zlib
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Final

BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRET_LENGTH: Final = 32
CHECKSUM_LENGTH: Final = 6
PREFIX_LENGTH: Final = 12
KEY_LENGTH: Final = 8 + SECRET_LENGTH + CHECKSUM_LENGTH

KEY_REGEX: Final = r"(?:sk|pk|ck)_(?:live|test)_[0-9A-Za-z]{38}"
"""For secret scanners; a match whose checksum is right (`is_well_formed`) is a Tollgate key."""

_FULL = re.compile(KEY_REGEX.encode(), re.ASCII)

_PAIRS: Final = tuple((a + b).encode() for a in BASE62 for b in BASE62)
"""Two base62 digits for each number below 62²."""


class KeyKind(StrEnum):
    """What a key may be used for."""

    SECRET = "sk"  # noqa: S105 - a kind, not a password
    """Acts for the whole project; may act for an end user with X-User-Id."""
    PUBLISHABLE = "pk"
    """Safe in a browser: reads only."""
    CUSTOMER = "ck"
    """Bound to one customer, who is metered."""


class Mode(StrEnum):
    """A project's two halves, never mixed."""

    LIVE = "live"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment its text exists. `hash` is 32 bytes, `prefix` the first 12 characters."""

    text: str
    hash: bytes
    prefix: str

    def __repr__(self) -> str:
        return f"NewKey(prefix={self.prefix!r})"


def checksum(body: bytes) -> bytes:
    """The 6 base62 characters that must follow `body` (everything before them)."""
    value, low = divmod(zlib.crc32(body), 3844)
    high, middle = divmod(value, 3844)
    return _PAIRS[high] + _PAIRS[middle] + _PAIRS[low]


def is_well_formed(text: bytes) -> bool:
    """True if `text` has the form of a key and its checksum is right. Costs no I/O and says nothing about existence."""
    return (
        len(text) == KEY_LENGTH
        and _FULL.fullmatch(text) is not None
        and checksum(text[:-CHECKSUM_LENGTH]) == text[-CHECKSUM_LENGTH:]
    )


def hash_key(text: bytes) -> bytes:
    """SHA-256 of the key's text: 32 bytes, the only form that is stored or looked up."""
    return sha256(text).digest()


def generate(kind: KeyKind, mode: Mode) -> NewKey:
    """A new key from the system's random source."""
    body = f"{kind}_{mode}_" + "".join(secrets.choice(BASE62) for _ in range(SECRET_LENGTH))
    text = body + checksum(body.encode()).decode()
    return NewKey(text=text, hash=hash_key(text.encode()), prefix=text[:PREFIX_LENGTH])
