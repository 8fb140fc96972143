"""Identifiers: UUIDv7 for what happens (usage events), `prefix_` + the same in base 32 for what exists.

UUIDv7 (RFC 9562 §5.7): 48 bits of Unix milliseconds, then version, variant and 74 random bits. Ids made later sort
later, which keeps the ledger's indexes dense.
"""

from __future__ import annotations

import os
import random
import time
import uuid
from hashlib import sha256
from typing import Final

PREFIXES: Final = {
    "project": "prj",
    "account": "acc",
    "customer": "cus",
    "tier": "tier",
    "subscription": "sub",
    "key": "key",
    "route": "rte",
    "upstream": "ups",
    "issuer": "iss",
    "session": "ses",
    "invitation": "inv",
    "endpoint": "whk",
    "alert": "alr",
    "message": "msg",
}

_CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"

PLATFORM_PROJECT_ID: Final = "prj_platform"
"""The built-in project, the operator's own."""


# Unique, not secret: a generator seeded by the system (and again after a fork) does, at a tenth of urandom's cost. One of
# our own: were it the global one, any library that calls random.seed() would make ids, and so usage, repeat.
_random: Final = random.Random()  # noqa: S311
os.register_at_fork(after_in_child=_random.seed)


def uuid7_digits(unix_ms: int) -> bytes:
    """A fresh UUIDv7 for the given moment as 32 hexadecimal digits, in ASCII bytes (the form gateways use)."""
    tail = _random.getrandbits(80) & 0x0FFF_3FFF_FFFF_FFFF_FFFF | 0x7000_8000_0000_0000_0000
    return b"%012x%020x" % (unix_ms, tail)


def part_id(event_id: bytes, number: int, unix_ms: int) -> bytes:
    """The id of the `number`-th part of a long request or connection, begun at `unix_ms`: a UUIDv7 as 32 digits.

    It follows from the three values, so whoever settles the part, and however often, makes the same event.
    """
    tail = int.from_bytes(sha256(b"%b:%d" % (event_id, number)).digest()[:10])
    return b"%012x%020x" % (unix_ms, tail & 0x0FFF_3FFF_FFFF_FFFF_FFFF | 0x7000_8000_0000_0000_0000)


def uuid7_hex(unix_ms: int) -> str:
    """The same as text."""
    return uuid7_digits(unix_ms).decode()


def uuid7(unix_ms: int | None = None) -> uuid.UUID:
    """A fresh UUIDv7, for now or for the given moment (Unix milliseconds)."""
    return uuid.UUID(hex=uuid7_hex(time.time_ns() // 1_000_000 if unix_ms is None else unix_ms))


def unix_ms_of(event_id: uuid.UUID) -> int:
    """The Unix milliseconds a UUIDv7 was made at."""
    return event_id.int >> 80


def _base32(value: int) -> str:
    digits = []
    for _ in range(26):
        value, digit = divmod(value, 32)
        digits.append(_CROCKFORD[digit])
    return "".join(reversed(digits))


def new_id(noun: str) -> str:
    """A fresh id for one of the nouns in PREFIXES, such as `prj_06f0…` (26 base-32 characters, sortable by age)."""
    return f"{PREFIXES[noun]}_{_base32(uuid7().int)}"


def customer_id_for(project_id: str, mode: str, external_id: str) -> str:
    """The id of the customer a project calls `external_id`.

    It follows from the three values, so a gateway that sees a new end user for the first time (X-User-Id) can count and
    limit at once, on any number of machines, while the row is written later by whoever ingests the first event.
    """
    digest = sha256(f"{project_id}\0{mode}\0{external_id}".encode()).digest()
    return f"cus_{_base32(int.from_bytes(digest[:16]))}"
