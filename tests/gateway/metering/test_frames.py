"""Counting WebSocket messages in a byte stream, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering.frames import MessageCounter
from tests.gateway.http1.grammar import cut, examples


def frame(opcode: int, size: int, *, is_final: bool = True, is_masked: bool = False) -> bytes:
    """One frame with `size` bytes of payload, in the shortest form that RFC 6455 §5.2 asks for."""
    mask = 0x80 if is_masked else 0
    if size < 126:
        length = bytes((mask | size,))
    elif size < 65_536:
        length = bytes((mask | 126,)) + size.to_bytes(2)
    else:
        length = bytes((mask | 127,)) + size.to_bytes(8)
    key = b"\x81\x82\x83\x84" if is_masked else b""
    return bytes(((0x80 if is_final else 0) | opcode,)) + length + key + b"\x81" * size


frames = st.builds(
    frame,
    st.sampled_from((0x0, 0x1, 0x2, 0x8, 0x9, 0xA)),
    st.sampled_from((0, 1, 5, 125, 126, 127, 300)) | st.integers(0, 200),
    is_final=st.booleans(),
    is_masked=st.booleans(),
)


def messages_in(*pieces: bytes) -> int:
    counter = MessageCounter()
    for piece in pieces:
        counter.feed(piece)
    return counter.messages


@pytest.mark.parametrize(
    ("stream", "count"),
    [
        (b"", 0),
        (frame(1, 5), 1),
        (frame(2, 0) + frame(1, 70_000), 2),
        (frame(1, 5, is_final=False) + frame(9, 3) + frame(0, 5, is_final=False) + frame(0, 5), 1),
        (frame(9, 3) + frame(10, 3) + frame(8, 2), 0),
        (frame(1, 126, is_masked=True) * 3, 3),
    ],
    ids=["nothing", "one", "two", "fragments around a ping", "control", "masked"],
)
def test_a_message_counts_with_its_final_frame(stream: bytes, count: int) -> None:
    assert messages_in(stream) == count
    assert messages_in(*(stream[n : n + 1] for n in range(min(len(stream), 2_000))), stream[2_000:]) == count


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 3_000), max_size=8))
@examples
def test_however_the_stream_is_cut_the_count_is_the_same(parts: list[bytes], places: list[int]) -> None:
    stream = b"".join(parts)
    expected = sum(1 for part in parts if part[0] & 0x80 and part[0] & 0x0F < 8)
    assert messages_in(*cut(stream, places)) == expected


@given(st.lists(st.binary(max_size=40), max_size=30))
@examples
def test_nonsense_neither_fails_nor_fills_the_memory(pieces: list[bytes]) -> None:
    counter = MessageCounter()
    for piece in pieces:
        counter.feed(piece)
        assert len(counter._partial) <= 13
