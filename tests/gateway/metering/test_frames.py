"""Counting WebSocket messages in a byte stream, however it is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering.frames import MessageCounter, MessageGate, close_frame
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


# -- the gate


def gate(permits: int) -> MessageGate:
    """One that lets this many messages through."""
    left = [True] * permits
    return MessageGate(lambda: bool(left) and left.pop())


def begins_message(piece: bytes) -> bool:
    return 0 < piece[0] & 0x0F < 8


@examples
@given(
    stream=st.lists(frames, max_size=12), permits=st.integers(0, 6), edges=st.lists(st.integers(0, 2**16), max_size=8)
)
def test_a_gate_lets_so_many_messages_through_and_not_a_byte_of_the_next(
    stream: list[bytes], permits: int, edges: list[int]
) -> None:
    begins = [number for number, piece in enumerate(stream) if begins_message(piece)]
    expected = b"".join(stream[: begins[permits]] if len(begins) > permits else stream)
    data = b"".join(stream)
    for pieces in (cut(data, edges), [data[at : at + 1] for at in range(len(data))]):
        closed, passed = gate(permits), b""
        for piece in pieces:
            admitted = closed.admit(piece)
            passed += piece[:admitted]
            if admitted < len(piece):
                break
        assert passed == expected
        assert closed.messages == min(permits, len(begins))
        assert closed.is_between_frames


@examples
@given(stream=st.lists(frames, max_size=6), edge=st.integers(0, 2**16))
def test_a_frame_can_be_finished_without_beginning_another(stream: list[bytes], edge: int) -> None:
    data = b"".join(stream)
    at = edge % (len(data) + 1)
    open_gate = gate(99)
    assert open_gate.admit(data[:at]) == at
    messages = open_gate.messages
    ends = [sum(map(len, stream[: number + 1])) for number in range(len(stream))]
    boundary = at if at == 0 or at in ends else next(end for end in ends if end > at)
    assert open_gate.to_boundary(data[at:]) == boundary - at
    assert open_gate.is_between_frames
    assert open_gate.messages == messages


def test_a_close_frame() -> None:
    assert close_frame(1008, b"no") == b"\x88\x04\x03\xf0no"
    masked = close_frame(1008, b"no", mask=b"\x01\x02\x03\x04")
    assert masked == b"\x88\x84\x01\x02\x03\x04" + bytes(
        a ^ b for a, b in zip(b"\x03\xf0no", b"\x01\x02\x03\x04", strict=True)
    )
    assert len(close_frame(1008, b"x" * 200)) == 2 + 125
