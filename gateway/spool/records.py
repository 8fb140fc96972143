"""The form of a spool segment: a header, then records, each with its length and checksum. Pure.

    header   "TGSPOOL1", 16 bytes spool id, number of the first record (u64), CRC-32 of these
    record   length (u32), CRC-32 (u32) of number and payload, payload; numbers follow one another

Everything is little-endian. The checksum covers the record's number, so a record that was moved, doubled or left over from
an earlier file is no record. A writer that was killed leaves at most one torn record at the end: whatever does not check
out ends the segment.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple
from zlib import crc32

MAX_PAYLOAD: Final = 1 << 20
_MAGIC: Final = b"TGSPOOL1"
_HEADER: Final = struct.Struct("<8s16sQ")
_CHECK: Final = struct.Struct("<I")
_RECORD: Final = struct.Struct("<II")
_NUMBER: Final = struct.Struct("<Q")
HEADER_BYTES: Final = _HEADER.size + _CHECK.size


class Segment(NamedTuple):
    """A segment as read: whose it is, the number of its first record, the payloads, and how many bytes of it are good."""

    spool: str
    first: int
    payloads: list[bytes]
    good_bytes: int


def header(spool: str, first: int) -> bytes:
    """The beginning of a segment; `spool` is 32 hexadecimal digits."""
    fixed = _HEADER.pack(_MAGIC, bytes.fromhex(spool), first)
    return fixed + _CHECK.pack(crc32(fixed))


def records(first: int, payloads: Iterable[bytes]) -> bytes:
    """Records ready to be appended. Raises ValueError for a payload that is empty or too long to be read back."""
    out = []
    for number, payload in enumerate(payloads, first):
        if not 0 < len(payload) <= MAX_PAYLOAD:
            raise ValueError(f"a record has 1 to {MAX_PAYLOAD} bytes, not {len(payload)}")
        out.append(_RECORD.pack(len(payload), _checksum(number, payload)) + payload)
    return b"".join(out)


def read(data: bytes) -> Segment | None:
    """A segment's good part; None if not even its header is whole."""
    if len(data) < HEADER_BYTES:
        return None
    magic, spool, first = _HEADER.unpack_from(data)
    if magic != _MAGIC or _CHECK.unpack_from(data, _HEADER.size)[0] != crc32(data[: _HEADER.size]):
        return None
    payloads: list[bytes] = []
    at = HEADER_BYTES
    while at + _RECORD.size <= len(data):
        length, checksum = _RECORD.unpack_from(data, at)
        payload = data[at + _RECORD.size : at + _RECORD.size + length]
        if not 0 < length <= MAX_PAYLOAD or len(payload) < length:
            break
        if checksum != _checksum(first + len(payloads), payload):
            break
        payloads.append(payload)
        at += _RECORD.size + length
    return Segment(spool.hex(), first, payloads, at)


def _checksum(number: int, payload: bytes) -> int:
    return crc32(payload, crc32(_NUMBER.pack(number & 0xFFFF_FFFF_FFFF_FFFF)))
