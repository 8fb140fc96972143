"""Content codings undone on a copy: the same bytes, in bounded steps, and never a bomb's worth."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib

import brotli
import pytest
import zstandard

from gateway.metering.codings import STEP, Undecodable, decoder_of
from tests.support.upstreams.models import encoded

CODINGS = ["gzip", "deflate", "raw deflate", "br", "zstd"]
_random = random.Random(7)
TEXT = bytes(_random.getrandbits(8) & 0x3F for _ in range(200_000)) + b"the end" * 500


def decoded(coding: str, data: bytes, step: int) -> bytes:
    out = bytearray()
    decoder = decoder_of(coding.split()[-1].encode(), out.extend)
    assert decoder is not None
    for at in range(0, len(data), step):
        decoder.feed(data[at : at + step])
    return bytes(out)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("step", [1, 1_000, 10**9])
def test_what_was_encoded_comes_back(coding: str, step: int) -> None:
    text = TEXT if step > 1 else TEXT[-5_000:]
    assert decoded(coding, encoded(text, coding), step) == text


def test_members_frames_padding_and_names() -> None:
    parts = TEXT[:500], TEXT[500:1_000]
    assert decoded("gzip", b"".join(map(gzip.compress, parts)) + b"\0" * 9, 3) == TEXT[:1_000]
    assert decoded("zstd", b"".join(map(zstandard.compress, parts)), 3) == TEXT[:1_000]
    assert decoded("X-GZip", gzip.compress(TEXT), 10**9) == TEXT
    assert decoder_of(b"gzip, br", print) is None
    assert decoder_of(b"compress", print) is None


@pytest.mark.parametrize("coding", CODINGS)
def test_garbage(coding: str) -> None:
    with pytest.raises(Undecodable):
        decoded(coding, b"\x07certainly not compressed" * 10, 10)


@pytest.mark.parametrize(("coding", "at"), [("gzip", -8), ("deflate", -4), ("br", 100_000), ("zstd", 100_000)])
def test_a_stream_that_turns_bad(coding: str, at: int) -> None:
    data = bytearray(encoded(TEXT, coding))
    data[at:] = bytes(byte ^ 0xFF for byte in data[at:])
    with pytest.raises(Undecodable):
        decoded(coding, bytes(data), 1_000)


@pytest.mark.parametrize(
    ("coding", "bomb"),
    [
        ("gzip", gzip.compress(bytes(100_000_000))),
        ("deflate", zlib.compress(bytes(100_000_000))),
        ("br", brotli.compress(bytes(100_000_000), quality=1)),
        ("zstd", zstandard.compress(bytes(100_000_000))),
    ],
    ids=["gzip", "deflate", "br", "zstd"],
)
def test_a_bomb_is_given_up_early(coding: str, bomb: bytes) -> None:
    largest = total = 0

    def sink(step: bytes) -> None:
        nonlocal largest, total
        largest, total = max(largest, len(step)), total + len(step)

    decoder = decoder_of(coding.encode(), sink)
    assert decoder is not None
    pieces = [bomb[at : at + 65_536] for at in range(0, len(bomb), 65_536)]
    tracemalloc.start()
    with pytest.raises(Undecodable, match="expands too much"):
        any(map(decoder.feed, pieces))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert largest <= 2 * STEP
    assert total < 10_000_000
    assert most < 4_000_000


def test_a_zstandard_window_is_bounded() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    data = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(Undecodable):
        decoded("zstd", data.compress(TEXT) + data.flush(), 10**9)
