"""The wire to a guest, seen from outside: a job as bytes, and its end found in its standard error. Pure.

What comes out of a guest is parsed as bytes with caps, whatever it is: the submitted code has the same rights as the
guest and can write what the guest would write. It can only ever lie about its own exit code and files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sandbox.nouns import Artifact, Job, Limits

READY: Final = b"\x06"
NONCE_BYTES: Final = 16
_MARGIN: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Trailer:
    """What a guest says of the end: exit code or signal, whether its disk was full, files and how many were left out."""

    exit_code: int
    signal: int | None
    is_disk_full: bool
    artifacts: tuple[Artifact, ...]
    omitted: int


def frame(job: Job, nonce: bytes) -> bytes:
    """A job as a guest reads it, without its standard input."""
    flags = [name for name, is_set in (("streamed", job.is_streamed), ("egress", job.egress is not None)) if is_set]
    limits = job.limits
    items: list[bytes] = [nonce, " ".join(flags).encode(), job.entrypoint.encode()]
    items.append(b"%d %d" % (limits.artifact_count, limits.artifact_bytes))
    items.append(b"%d" % len(job.args))
    items += [arg.encode() for arg in job.args]
    items.append(b"%d" % len(job.env))
    for name, value in job.env:
        items += [name.encode(), value.encode()]
    items.append(b"%d" % len(job.files))
    for file in job.files:
        items += [file.path.encode(), file.content]
    size = sum(map(len, items)) + 4 * len(items)
    parts = [size.to_bytes(4, "big")]
    for item in items:
        parts += [len(item).to_bytes(4, "big"), item]
    return b"".join(parts)


class ErrorStream:
    """A guest's standard error, cut in any way: first READY, then what the code wrote, then the trailer.

    `feed` returns what the code wrote. Of the trailer no more is kept than it may be long; `trailer` is then None.
    """

    def __init__(self, nonce: bytes, limits: Limits) -> None:
        self.is_ready = False
        self.is_ended = False
        self._nonce = nonce
        self._held = b""
        self._tail = bytearray()
        self._limits = limits
        self._most = limits.artifact_bytes + limits.artifact_count * 8 * 1024 + _MARGIN

    def feed(self, data: bytes) -> bytes:
        """Take what came; returns the code's own part of it."""
        if self.is_ended:
            if len(self._tail) <= self._most:
                self._tail += data
            return b""
        data = self._held + data
        at = data.find(self._nonce)
        if at >= 0:
            self.is_ended = True
            self._tail += data[at + NONCE_BYTES :]
            self._held = b""
            return data[:at]
        keep = 0  # bytes at the end that may be the beginning of the nonce
        for length in range(min(NONCE_BYTES - 1, len(data)), 0, -1):
            if self._nonce.startswith(data[-length:]):
                keep = length
                break
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def rest(self) -> bytes:
        """At the end of the stream: what was held back and turned out to be the code's."""
        held, self._held = self._held, b""
        return held

    def trailer(self) -> Trailer | None:
        """What the guest said, or None if it said nothing that can be understood."""
        data = bytes(self._tail)
        if not self.is_ended or len(data) > self._most or len(data) < 4:
            return None
        items, at, end = [], 4, 4 + int.from_bytes(data[:4], "big")
        if end != len(data):
            return None
        while at < end:
            start = at + 4
            at = start + int.from_bytes(data[at:start], "big")
            if at > end:
                return None
            items.append(data[start:at])
        return _understood(items, self._limits)


def _understood(items: list[bytes], limits: Limits) -> Trailer | None:
    if len(items) < 3 or len(items) % 2 == 0:
        return None
    words = items[0].split()
    try:
        number, omitted = int(words[1]), int(items[2])
    except (ValueError, IndexError):
        return None
    if words[0] not in (b"exit", b"signal") or not 0 <= number <= 255 or not 0 <= omitted < 2**31:
        return None
    artifacts: list[Artifact] = []
    room = limits.artifact_bytes
    for path, content in zip(items[3::2], items[4::2], strict=True):
        room -= len(content)
        if room < 0 or len(artifacts) >= limits.artifact_count:
            return None
        artifacts.append(Artifact(path.decode("utf-8", "replace"), content))
    signal = number if words[0] == b"signal" else None
    code = 128 + number if signal is not None else number
    return Trailer(code, signal, items[1] == b"1", tuple(artifacts), omitted)
