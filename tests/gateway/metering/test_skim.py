"""Reading values out of JSON of any size: the same as a parser finds, wherever the bytes are cut."""

from __future__ import annotations

import json
import sys
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.metering.findings import Findings, Wanted
from gateway.metering.skim import MAX_VALUE, Skimmer
from tests.gateway.metering.documents import WANTED, cut, documents, examples, singly


def skimmed(wanted: Wanted, pieces: list[bytes]) -> tuple[Findings, bool]:
    findings = Findings(wanted)
    skimmer = Skimmer(wanted, findings)
    for piece in pieces:
        skimmer.feed(piece)
    return findings, skimmer.is_whole


def comparable(value: Any) -> Any:
    """A text too long to be anything that counts is found as an empty one."""
    return "" if isinstance(value, str) and len(value) > 1_000 else value


@examples
@given(document=documents, edges=st.lists(st.integers(0, 2**20), max_size=6), indent=st.sampled_from([None, 1]))
def test_it_finds_what_a_parser_finds(document: Any, edges: list[int], indent: int | None) -> None:
    text = json.dumps(document, ensure_ascii=indent is None, indent=indent).encode() + b"\n"
    assume(len(text) < MAX_VALUE)
    for wanted in WANTED:
        expected = Findings(wanted)
        expected.see(document)
        found, is_whole = skimmed(wanted, cut(text, edges))
        assert is_whole
        assert {p: comparable(v) for p, v in found.values.items()} == {
            p: comparable(v) for p, v in expected.values.items()
        }
        assert found.usage == expected.usage


DOCUMENT = orjson.dumps(
    {"x": ["\\", 'a"', "}{"], "usage": {"total_tokens": 12, "s": '\\"}'}, "b": [{"a": 7}], "é": [1], 'q"\\': [0, 5]}
)


def test_cut_at_every_byte() -> None:
    for wanted in WANTED:
        whole, _ = skimmed(wanted, [DOCUMENT])
        assert whole.values[("usage", "total_tokens")] == 12
        assert whole.values[('q"\\', "1")] == 5
        for pieces in (singly(DOCUMENT), *([DOCUMENT[:at], DOCUMENT[at:]] for at in range(len(DOCUMENT)))):
            found, is_whole = skimmed(wanted, pieces)
            assert is_whole
            assert (found.values, found.usage) == (whole.values, whole.usage)


@pytest.mark.parametrize("end", range(1, len(DOCUMENT)))
def test_a_part_is_not_whole(end: int) -> None:
    assert not skimmed(WANTED[1], [DOCUMENT[:end]])[1]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"{}{}",
        b'{"a":1}]',
        b'{"a" 1}',
        b'{"a":1 "b":2}',
        b'{"a":}x',
        b"[1}",
        b'{"a":[1}}',
        b"{,",
        b"}",
        b":1",
    ],
)
def test_what_is_not_balanced_is_not_whole_and_never_an_exception(text: bytes) -> None:
    for pieces in ([text], singly(text)):
        assert not skimmed(WANTED[1], pieces)[1]


@pytest.mark.parametrize("text", [b'"abc', b'{"a":{"b":' * 80, b"1" * 2_000, b"{1:2}", b'{"a"}', b'["\\'])
def test_nor_what_does_not_end(text: bytes) -> None:
    for pieces in ([text], singly(text)):
        assert not skimmed(WANTED[1], pieces)[1]


@examples
@given(text=st.binary(max_size=80) | st.text('{}[]",:\\au1 \n', max_size=80).map(str.encode))
def test_any_bytes_at_all(text: bytes) -> None:
    assert skimmed(WANTED[1], [text])[1] == skimmed(WANTED[1], singly(text))[1]


def test_it_keeps_next_to_nothing_of_a_large_document() -> None:
    wanted = WANTED[1]
    findings = Findings(wanted)
    skimmer = Skimmer(wanted, findings)
    vectors = orjson.dumps([[0.25, -1e-9]] * 20_000)
    text = b'{"data":%b,"text":"%b","a":{"big":"%b"},"usage":{"total_tokens":5}}' % (
        vectors,
        b"\\n\\\\x" * 100_000,
        b"y" * 2 * MAX_VALUE,
    )
    most = 0
    for at in range(0, len(text), 1_500):
        skimmer.feed(text[at : at + 1_500])
        most = max(most, sum(sys.getsizeof(getattr(skimmer, slot)) for slot in Skimmer.__slots__))
    assert skimmer.is_whole
    assert findings.usage == {"total_tokens": 5}
    assert ("a",) not in findings.values  # too large to be looked at
    assert most < 3 * MAX_VALUE
