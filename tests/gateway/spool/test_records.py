"""Spool segments as bytes: what was written is read, and of what was torn or tampered with only the good part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.spool.records import HEADER_BYTES, MAX_PAYLOAD, header, read, records

SPOOL = "0123456789abcdef" * 2
payloads = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


@given(first=st.integers(1, 2**63), written=payloads)
def test_what_was_written_is_read(first: int, written: list[bytes]) -> None:
    data = header(SPOOL, first) + records(first, written)
    assert read(data) == (SPOOL, first, written, len(data))


@given(written=payloads, data=st.data())
def test_cut_anywhere_every_whole_record_before_the_cut_is_read_and_nothing_else(
    written: list[bytes], data: st.DataObject
) -> None:
    whole = header(SPOOL, 1) + records(1, written)
    cut = data.draw(st.integers(0, len(whole)))
    segment = read(whole[:cut])
    if cut < HEADER_BYTES:
        assert segment is None
        return
    assert segment is not None
    assert segment.payloads == written[: len(segment.payloads)]
    ends = [HEADER_BYTES + len(records(1, written[:n])) for n in range(len(written) + 1)]
    assert segment.good_bytes == max(end for end in ends if end <= cut)


@given(written=st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4), data=st.data())
def test_a_flipped_bit_is_never_read_as_a_record(written: list[bytes], data: st.DataObject) -> None:
    whole = bytearray(header(SPOOL, 1) + records(1, written))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    segment = read(bytes(whole))
    assert segment is None or (
        segment.payloads == written[: len(segment.payloads)] and len(segment.payloads) < len(written)
    )


def test_a_record_in_another_place_is_no_record() -> None:
    one, two = records(1, [b"one"]), records(2, [b"two"])
    for wrong in (two + one, one + one, header(SPOOL, 1) + two):
        segment = read(header(SPOOL, 1) + wrong)
        assert segment is not None
        assert segment.payloads in ([], [b"one"])


@pytest.mark.parametrize("payload", [b"", b"x" * (MAX_PAYLOAD + 1)])
def test_what_could_not_be_read_back_is_not_written(payload: bytes) -> None:
    with pytest.raises(ValueError, match="bytes"):
        records(1, [payload])
