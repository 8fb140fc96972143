"""Taking an event stream apart: every byte once, in order, whatever the line ends and wherever it is cut."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from gateway.metering.events import MAX_EVENT, EventSplitter, data_of
from tests.gateway.metering.documents import cut, examples, singly

streams = st.lists(st.sampled_from([b"data: a", b"data", b":", b"x", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n"])).map(
    b"".join
)


def split(pieces: list[bytes]) -> tuple[list[bytes], bytes]:
    """The whole events, and what is left at the end."""
    splitter = EventSplitter()
    events = [event for piece in pieces for event, is_whole in splitter.feed(piece) if is_whole]
    return events, splitter.finish()[0]


def lines_of(stream: bytes) -> list[list[bytes]]:
    """The non-empty events of a stream as lists of lines, read as the standard says."""
    events: list[list[bytes]] = [[]]
    for line in re.split(rb"\r\n|\n|\r", stream):
        if line:
            events[-1].append(line)
        else:
            events.append([])
    return [event for event in events if event]


@examples
@given(stream=streams, edges=st.lists(st.integers(0, 2**16), max_size=6))
def test_events_are_those_of_the_standard_and_no_byte_is_lost(stream: bytes, edges: list[int]) -> None:
    for pieces in (cut(stream, edges), singly(stream), [stream]):
        events, rest = split(pieces)
        assert b"".join(events) + rest == stream
        found = [lines for event in (*events, rest) if (lines := [li for li in event.splitlines() if li])]
        assert found == lines_of(stream)


def test_an_event_that_is_too_large_passes_in_parts() -> None:
    splitter = EventSplitter()
    large = b"data: " + b"x" * (2 * MAX_EVENT) + b"\n\n"
    stream = b"data: 1\n\n" + large + b"data: 2\n\n"
    passed, held = [], 0
    for at in range(0, len(stream), 100_000):
        passed += splitter.feed(stream[at : at + 100_000])
        held = max(held, len(splitter._held))
    assert b"".join(part for part, _ in passed) == stream
    assert [part for part, is_whole in passed if is_whole] == [b"data: 1\n\n", b"data: 2\n\n"]
    assert held <= MAX_EVENT + 100_000
    assert splitter.is_between_events


def test_the_data_of_an_event() -> None:
    assert data_of(b"\xef\xbb\xbfdata: a\ndata:b\r\nid: 7\rdata:  c\n: data: x\ndatax: y\ndata\n\n") == b"a\nb\n c\n"
    assert data_of(b": ping\n\n") == b""
