"""The wire to a guest, cut in every place."""

from __future__ import annotations

import pytest

from sandbox.frames import ErrorStream
from sandbox.nouns import Artifact, Limits

NONCE = bytes(range(16))
LIMITS = Limits(artifact_bytes=10, artifact_count=2)


def trailer(*items: bytes) -> bytes:
    data = b"".join(len(item).to_bytes(4, "big") + item for item in items)
    return NONCE + len(data).to_bytes(4, "big") + data


def test_found_however_it_is_cut() -> None:
    whole = b"some \0\1\2 text" + NONCE[:9] + trailer(b"exit 3", b"1", b"2", b"a", b"A")
    for cut in range(len(whole)):
        stream = ErrorStream(NONCE, LIMITS)
        text = stream.feed(whole[:cut]) + stream.feed(whole[cut:]) + stream.rest()
        assert text == b"some \0\1\2 text" + NONCE[:9]
        found = stream.trailer()
        assert found is not None
        assert (found.exit_code, found.signal, found.is_disk_full, found.omitted) == (3, None, True, 2)
        assert found.artifacts == (Artifact("a", b"A"),)


def test_without_a_trailer_everything_is_text() -> None:
    stream = ErrorStream(NONCE, LIMITS)
    text = b"".join(stream.feed(bytes([byte])) for byte in b"text" + NONCE[:15]) + stream.rest()
    assert text == b"text" + NONCE[:15]
    assert stream.trailer() is None


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\5abcd",
        b"\xff\xff\xff\xff",
        b"\0\0\0\4\0\0\0\1",
        trailer(b"exit", b"0", b"0")[16:],
        trailer(b"exit 256", b"0", b"0")[16:],
        trailer(b"exit -1", b"0", b"0")[16:],
        trailer(b"exit x", b"0", b"0")[16:],
        trailer(b"became 1", b"0", b"0")[16:],
        trailer(b"exit 0", b"0")[16:],
        trailer(b"exit 0", b"0", b"0", b"path without content")[16:],
        trailer(b"exit 0", b"0", b"0", b"too large", b"x" * 11)[16:],
        trailer(b"exit 0", b"0", b"0", *[b"too many", b""] * 3)[16:],
        b"x" * 10_000_000,
    ],
)
def test_what_cannot_be_understood_is_nothing(tail: bytes) -> None:
    stream = ErrorStream(NONCE, LIMITS)
    for at in range(0, len(tail) + 1, 65_536):
        stream.feed((NONCE if at == 0 else b"") + tail[at : at + 65_536])
    assert stream.trailer() is None
    assert len(stream._tail) < 200_000
