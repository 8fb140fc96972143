"""The texts that say where a meter's quantity comes from."""

from __future__ import annotations

import pytest

from ledger.meters import MEASURES, USAGE_PARTS, Origin, Source, parse_source


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ("$.usage.total_tokens", ("usage", "total_tokens")),
        ("$.a[0].b-c[12]", ("a", "0", "b-c", "12")),
        ("$[007]", ("7",)),
        ("/usage/total_tokens", ("usage", "total_tokens")),
        ("/a~1b/m~0n/~01", ("a/b", "m~n", "~1")),
        ("/", ("",)),
        ("/é/ /$.x", ("é", " ", "$.x")),
    ],
)
def test_places_in_a_body(text: str, pointer: tuple[str, ...]) -> None:
    assert parse_source(text) == Source(Origin.BODY, pointer=pointer)


def test_headers_usage_and_measures() -> None:
    assert parse_source("header:X-Tokens") == Source(Origin.HEADER, "x-tokens")
    assert [parse_source(f"usage:{part}").name for part in USAGE_PARTS] == list(USAGE_PARTS)
    assert [parse_source(name) for name in MEASURES] == [Source(Origin.MEASURE, name) for name in MEASURES]


@pytest.mark.parametrize(
    "text",
    ["", "$", "$.", "$usage", "$..a", "$.a b", "$.*", "$[-1]", "$[*]", "usage", "/a~2", "/a~", "header:", "header:a b"],
)
def test_everything_else_is_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a source such as \$\.usage\.total_tokens"):
        parse_source(text)


@pytest.mark.parametrize(
    "text",
    ["header:é", "usage:", "usage:prompt", "bytes", "Bytes_in", "/a" * 17, "$" + ".a" * 17, "/\0", "/\ud800"],
)
def test_and_so_is_what_comes_near(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a source such as \$\.usage\.total_tokens"):
        parse_source(text)
