"""What is found in documents: places, and the usage blocks of the usual APIs."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given

from gateway.metering.findings import Findings, Wanted, resolve, usage_part
from ledger.meters import USAGE_PARTS
from tests.gateway.metering.documents import POINTERS, WANTED, documents, examples
from tests.support.upstreams.models import MESSAGE_START_USAGE, OPENAI_USAGE, READ, RESPONSES_USAGE


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        (("a", "b"), 1),
        (("a", "list", "1"), 20),
        (("a", "list", "0", "0"), None),
        (("a", "list", "01"), None),
        (("a", "list", "-1"), None),
        (("a", "list", "2"), None),
        (("a", "list", "²"), None),
        (("", ""), 3),
        (("a", "null"), None),
        (("nothing",), None),
    ],
)
def test_a_pointer_leads_to_a_value_or_nowhere(pointer: tuple[str, ...], value: Any) -> None:
    assert resolve({"a": {"b": 1, "list": [10, 20], "null": None}, "": {"": 3}}, pointer) == value


@pytest.mark.parametrize(
    "block",
    [OPENAI_USAGE, RESPONSES_USAGE, MESSAGE_START_USAGE | {"output_tokens": 6}],
    ids=["chat", "responses", "messages"],
)
def test_the_parts_of_a_usage_block_mean_the_same_for_every_api(block: dict[str, Any]) -> None:
    assert {part: usage_part(block, part) for part in USAGE_PARTS} == READ


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ({"prompt_tokens": 8, "total_tokens": 8}, (8, 8, 0, None, 8)),  # embeddings
        ({"prompt_tokens": 8}, (8, 8, 0, None, 8)),
        ({"output_tokens": 3}, (None, None, 0, 3, None)),
        ({}, (None, None, 0, None, None)),
        ({"prompt_tokens": 8, "prompt_tokens_details": None, "completion_tokens": 1}, (8, 8, 0, 1, 9)),
        ({"prompt_tokens": 8, "prompt_tokens_details": {"cached_tokens": None}}, (8, 8, 0, None, 8)),
    ],
)
def test_blocks_that_do_not_say_everything(block: dict[str, Any], expected: tuple[int | None, ...]) -> None:
    assert tuple(usage_part(block, part) for part in USAGE_PARTS) == expected


@pytest.mark.parametrize("bad", ["8", 1.5, True, [], {}, -1])
def test_what_is_no_quantity_stays_recognisable(bad: Any) -> None:
    block = {"prompt_tokens": bad, "completion_tokens": 1}
    for part in ("input", "uncached", "total"):
        found = usage_part(block, part)
        assert type(found) is not int or found < 1


def test_later_blocks_replace_what_they_name_and_nothing_else() -> None:
    findings = Findings(WANTED[1])
    for document in (
        {"usage": {"prompt_tokens": 1, "completion_tokens": 1}},
        {"message": {"usage": {"completion_tokens": 2, "prompt_tokens": None}}},
        {"usage": None},
        {"usage": 5},
        {"response": {"usage": {"total_tokens": 9}}},
    ):
        findings.see(document)
    assert findings.usage == {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 9}
    findings.forget()
    assert (findings.usage, findings.values) == (None, {})


@examples
@given(document=documents)
def test_no_document_that_holds_something_is_passed_by(document: Any) -> None:
    for wanted in WANTED:
        findings = Findings(wanted)
        findings.see(document)
        if findings.values or findings.usage:
            for text in (
                orjson.dumps(document),
                json.dumps(document).encode(),
                json.dumps(document, indent=1).encode(),
            ):
                assert wanted.may_hold(text)


def test_hopeless_bytes_are_known_at_sight() -> None:
    wanted = Wanted((("usage", "total_tokens"),), usage=True)
    for text in (b'{"choices":[],"usage":null}', b'{"usage": null}', b'{"usages" : 1}', b'{"a":"usage "}', b"[DONE]"):
        assert not wanted.may_hold(text)
    for text in (b'{"usage":{', b'{"usage" :\n{', b'"total_tokens": 5', b'{"us\\u0061ge":{}}'):
        assert wanted.may_hold(text)
    assert Wanted((("0", "1"),), usage=False).may_hold(b"[[1]]")
    assert POINTERS
