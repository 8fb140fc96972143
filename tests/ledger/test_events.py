"""Reading events off the stream: what is right comes through unchanged, everything else is InvalidEvent."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.events import MAX_QUANTITY, InvalidEvent, decode
from tests.ledger.facts import NOW_MS, examples, fact, without

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
quantities = st.integers(0, MAX_QUANTITY)
events = st.fixed_dictionaries(
    {
        "id": st.uuids().map(lambda value: value.hex),
        "at": quantities,
        "project": texts,
        "mode": st.sampled_from(["live", "test"]),
        "method": texts,
        "status": st.integers(0, 999),
        "outcome": texts,
        "meters": st.dictionaries(texts, quantities, max_size=8),
        "duration_us": quantities,
        "upstream_us": quantities,
    },
    optional={name: st.none() | texts for name in ("customer", "external", "key", "route", "idem")}
    | {"notes": st.none() | st.dictionaries(texts, st.lists(texts, max_size=3), max_size=3)},
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@examples
@given(event=events)
def test_a_right_event_comes_through_unchanged(event: dict[str, Any]) -> None:
    read = asdict(decode(orjson.dumps(event)))

    expected = {name: event.get(name) for name in ("customer", "external", "key", "route", "idem", "notes")} | event
    expected["id"] = uuid.UUID(expected["id"])
    expected["at_ms"] = expected.pop("at")
    assert read == expected


@examples
@given(event=events, name=st.sampled_from(sorted(fact())), value=json_values)
def test_any_field_replaced_by_anything_is_an_event_or_an_invalid_event(
    event: dict[str, Any], name: str, value: Any
) -> None:
    try:
        raw = orjson.dumps(event | {name: value})
    except TypeError:  # an integer that JSON has no place for
        return
    complaint = name
    try:
        decode(raw)
    except InvalidEvent as error:
        complaint = str(error)
    assert complaint.startswith(name)


@examples
@given(event=events, cut=st.integers(0, 200), noise=st.binary(max_size=60))
def test_bytes_that_are_no_event_raise_invalid_event_and_nothing_else(
    event: dict[str, Any], cut: int, noise: bytes
) -> None:
    whole = orjson.dumps(event)
    for raw in (noise, whole[: min(cut, len(whole) - 1)], whole[:cut] + noise + whole[cut:]):
        try:
            decode(raw)
        except InvalidEvent:
            pass


@pytest.mark.parametrize(
    "name", ["id", "at", "project", "mode", "method", "status", "outcome", "meters", "duration_us", "upstream_us"]
)
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(InvalidEvent, match=f"^{name}: "):
        decode(orjson.dumps(without(name)))


@pytest.mark.parametrize("name", ["customer", "external", "key", "route", "idem"])
def test_what_may_be_missing_is_none(name: str) -> None:
    assert getattr(decode(orjson.dumps(fact() | {name: None})), name) is None


@pytest.mark.parametrize(
    ("different", "reason"),
    [
        ({"id": "not hexadecimal"}, "id: "),
        ({"id": 7}, "id: expected 1 to 256 characters"),
        ({"at": -1}, "at: expected an integer from 0"),
        ({"at": float(NOW_MS)}, "at: expected an integer"),
        ({"at": True}, "at: expected an integer"),
        ({"mode": "prod"}, "mode: expected live or test"),
        ({"project": ""}, "project: expected 1 to 256"),
        ({"project": "p" * 257}, "project: expected 1 to 256"),
        ({"project": "nul\0"}, "project: expected 1 to 256"),
        ({"customer": ["cus"]}, "customer: expected 1 to 256"),
        ({"status": 1000}, "status: expected an integer from 0 to 999"),
        ({"meters": []}, "meters: expected an object"),
        ({"meters": {f"m{n}": 1 for n in range(65)}}, "meters: expected an object of at most 64"),
        ({"meters": {"": 1}}, "meters: a meter's name"),
        ({"meters": {"m" * 65: 1}}, "meters: a meter's name"),
        ({"meters": {"nul\0": 1}}, "meters: a meter's name"),
        ({"meters": {"requests": -1}}, "requests: expected an integer from 0"),
        ({"meters": {"requests": 1.5}}, "requests: expected an integer"),
        ({"meters": {"requests": MAX_QUANTITY + 1}}, "requests: expected an integer"),
    ],
)
def test_what_is_wrong_is_said_with_the_field(different: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidEvent) as raised:
        decode(orjson.dumps(fact() | different))

    assert str(raised.value).startswith(reason)


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{", b'"e"', b"\xff", b'{"project":"\\ud800"}'])
def test_not_an_object_is_invalid(raw: bytes) -> None:
    with pytest.raises(InvalidEvent, match="not"):
        decode(raw)


def test_a_message_quotes_no_more_than_a_little_of_the_value() -> None:
    with pytest.raises(InvalidEvent) as raised:
        decode(orjson.dumps(fact(project="p" * 10_000)))

    assert len(str(raised.value)) < 120
