"""JSON documents to look into, and ways to cut bytes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from gateway.metering.findings import Wanted

examples = settings(max_examples=150, deadline=None, database=None, derandomize=True)

POINTERS = (("usage", "total_tokens"), ("a",), ("a", "b"), ("b", "0", "a"), ("é",), ('q"\\', "1"))
WANTED = [Wanted(POINTERS, usage=usage) for usage in (False, True)]

_names = st.sampled_from(
    ["usage", "a", "b", "total_tokens", "prompt_tokens", "0", "é", 'q"\\', "response", "message", ""]
)
_texts = st.sampled_from(["", 'a"b\\', "é\u2028", "\\", "{[", "usage", '"usage":{', "x" * 3_000])
documents: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**53) | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=24,
)


def cut(data: bytes, edges: list[int]) -> list[bytes]:
    """`data` in pieces, cut at these places."""
    places = sorted({0, len(data), *(edge % (len(data) + 1) for edge in edges)})
    return [data[start:stop] for start, stop in pairwise(places)]


def singly(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]
