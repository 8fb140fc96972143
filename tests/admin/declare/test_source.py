"""YAML with places: what is read, and every way to break it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from admin.declare import DeclarationError
from admin.declare.source import MAX_BYTES, read


def plain(text: str | bytes) -> object:
    return read(text, "f.yaml").value


def test_values_are_what_they_look_like() -> None:
    text = "a: 1\nb: -2\nc: 0.0020\nd: true\ne:\nf: ~\ng: [x, 'y', \"z\"]\nh: {i: '1'}\n"
    assert plain(text) == {
        "a": 1,
        "b": -2,
        "c": Decimal("0.0020"),
        "d": True,
        "e": None,
        "f": None,
        "g": ["x", "y", "z"],
        "h": {"i": "1"},
    }


@pytest.mark.parametrize("text", ["no", "on", "yes", "12:30", "2027-01-31", "1e3", "0x10", "1_000", ".5", "=", ".inf"])
def test_what_yaml_1_1_would_guess_at_is_text(text: str) -> None:
    assert plain(f"a: {text}") == {"a": text}


def test_keys_are_always_text() -> None:
    assert plain("1: a\ntrue: b\n~: c") == {"1": "a", "true": "b", "~": "c"}


def test_json_is_yaml() -> None:
    assert plain('{"a": [1, {"b": null}], "c": "\\u00e9"}') == {"a": [1, {"b": None}], "c": "é"}


def test_aliases_are_filled_in() -> None:
    assert plain("a: &x {n: 1}\nb: *x\nc: [*x]") == {"a": {"n": 1}, "b": {"n": 1}, "c": [{"n": 1}]}


def test_a_byte_order_mark_is_no_content() -> None:
    assert plain(b"\xef\xbb\xbfa: 1") == {"a": 1}


GALLERY = {
    "nothing": ("", "f.yaml:1:1: the file is empty; expected a mapping with `projects`"),
    "a comment": ("# todo\n", "f.yaml:1:1: the file is empty"),
    "a tab": ("projects:\n\t- name: x\n", "f.yaml:2:1: a tab in the indentation; indent with spaces"),
    "a colon too many": ("a: b: c", "f.yaml:1:5: not YAML: mapping values are not allowed in this context"),
    "an open list": ("a: [1,2\nb: 3", "f.yaml:2:2: not YAML: did not find expected ',' or ']'"),
    "an open quote": (
        "a: 1\nb: 'x\nc: 2\n",
        "found unexpected end of stream (while scanning a quoted scalar from line 2)",
    ),
    "a latin-1 byte": (b"a: 1\nb: caf\xe9\n", "f.yaml:2:7: not UTF-8: byte 0xe9 cannot stand here"),
    "utf-16": ("a: 1".encode("utf-16"), "f.yaml:1:1: not UTF-8: byte 0xff"),
    "half a surrogate pair": ("a: \ud800", "f.yaml:1:4: not UTF-8"),
    "a NUL": ("a: 1\nb: \0", "f.yaml:2:4: a control character (0) is not allowed"),
    "a key twice": ("a: 1\nb: {c: 1, c: 2}\n", "f.yaml:2:11: b.c: is given twice; the first is on line 2"),
    "a merge key": ("a: &x {n: 1}\nb:\n  <<: *x\n", "f.yaml:3:3: b.<<: merge keys (<<) are not allowed"),
    "a tag": ("a:\n  - !!python/object/apply:os.system [ls]\n", "f.yaml:2:5: a[0]: tags such as"),
    "two documents": ("a: 1\n---\nb: 2\n", "f.yaml:2:1: a second document begins here"),
    "an unknown alias": ("a: *x", "f.yaml:1:4: no value is marked &x before this"),
    "a loop": ("a: &x [*x]", "f.yaml:1:8: no value is marked &x before this"),
    "a list for a key": ("? [a]\n: b\n", "f.yaml:1:3: expected a field's name before the ':'"),
    "a tower": ("[" * 100_000, "f.yaml:1:34: nested deeper than 32 levels"),
    "another version": ("%YAML 3.0\n---\na: 1", "f.yaml:1:1: not YAML: found incompatible YAML document"),
    "too much": ("#" * (MAX_BYTES + 1), "f.yaml:longer than 4194304 bytes"),
}


@pytest.mark.parametrize("case", GALLERY, ids=str)
def test_the_gallery_of_broken_files(case: str) -> None:
    text, message = GALLERY[case]
    with pytest.raises(DeclarationError) as caught:
        read(text, "f.yaml")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_billion_laughs_are_not_laughed() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in zip("abcdefgh", "bcdefghi", strict=True)]
    with pytest.raises(DeclarationError, match="aliases make this file too large"):
        read("\n".join(lines), "f.yaml")


def test_aliases_cannot_build_a_tower() -> None:
    lines = ["a: &a x"] + [f"b{i}: &b{i} [{f'*b{i - 1}' if i else '*a'}]" for i in range(40)]
    with pytest.raises(DeclarationError, match="aliases make this file too large"):
        read("\n".join(lines), "f.yaml")


def test_all_keys_given_twice_are_told_at_once() -> None:
    with pytest.raises(DeclarationError) as caught:
        read("a: 1\na: 2\nb: {c: 1, c: 1}\n", "f.yaml")
    assert [(fault.line, fault.path) for fault in caught.value.faults] == [(2, "a"), (3, "b.c")]


def test_places_of_fields_and_items() -> None:
    tree = read("a:\n  - b: 1\n    c: 2\n  - d\n", "f.yaml").tree
    assert tree.find(("a", 0, "c")) == (("a", 0, "c"), (3, 5))
    assert tree.find(("a", 1)) == (("a", 1), (4, 5))
    assert tree.find(("a", 0, "missing")) == (("a", 0), (2, 5))
    assert tree.find(("a", 7)) == (("a",), (1, 1))
    assert tree.find(()) == ((), (1, 1))
