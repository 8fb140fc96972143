"""Which credential a request carries: exactly one, wherever it may stand."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.auth.extract import Absent, Credential, extract, query_values, without_parameter
from gateway.http1.fields import parse_fields


def extracted(*lines: str, query: bytes | None = None, **names: Any) -> Credential | Absent:
    block = "".join(line + "\r\n" for line in lines) + "\r\n"
    return extract(parse_fields(block.encode("latin-1"), 20), query, **names)


NAMED: dict[str, Any] = {"key_header": b"x-token", "key_query": b"key"}


@pytest.mark.parametrize(
    ("lines", "query", "text", "field"),
    [
        (["Authorization: Bearer k1"], None, b"k1", b"authorization"),
        (["authorization:bEaReR   k1  "], None, b"k1", b"authorization"),
        (["X-API-Key: k1"], None, b"k1", b"x-api-key"),
        (["X-Token: k1"], None, b"k1", b"x-token"),
        ([], b"a=1&key=k1&b", b"k1", b""),
        (["Authorization: Basic dTpw", "X-API-Key: k1"], None, b"k1", b"x-api-key"),
        (["Authorization: Bearer"], None, b"", b"authorization"),
        (["Authorization: Bearer k1 k2"], None, b"k1 k2", b"authorization"),
    ],
)
def test_a_key_is_found_wherever_it_may_stand(lines: list[str], query: bytes | None, text: bytes, field: bytes) -> None:
    assert extracted(*lines, query=query, **NAMED) == Credential(text, field)


@pytest.mark.parametrize(
    ("lines", "query"),
    [
        ([], None),
        ([], b"keys=k1&xkey=k1&key2=k1"),
        (["Authorization: Basic dTpw"], None),
        (["Authorization: Digest Bearer"], None),
        (["Authorization: Bearerk1"], None),
        (["Proxy-Authorization: Bearer k1", "Cookie: key=k1"], b""),
    ],
)
def test_what_is_no_key_of_ours_is_none(lines: list[str], query: bytes | None) -> None:
    assert extracted(*lines, query=query, **NAMED) is Absent.NONE


@pytest.mark.parametrize(
    ("lines", "query"),
    [
        (["Authorization: Bearer k1", "X-API-Key: k1"], None),
        (["Authorization: Bearer k1", "X-Token: k2"], None),
        (["X-API-Key: k1", "X-Token: k1"], None),
        (["X-API-Key: k1"], b"key=k1"),
        (["Authorization: Bearer k1", "Authorization: Bearer k1"], None),
        (["Authorization: Basic dTpw", "Authorization: Bearer k1"], None),
        (["Authorization: Bearer k1", "Authorization: Basic dTpw"], None),
        (["X-API-Key: k1", "x-api-key: k1"], None),
        (["X-Token: k1", "X-TOKEN: k2"], None),
        ([], b"key=k1&key=k1"),
        (["Authorization: Bearer k1"], b"key="),
    ],
)
def test_two_are_one_too_many_even_if_they_are_equal(lines: list[str], query: bytes | None) -> None:
    assert extracted(*lines, query=query, **NAMED) is Absent.CONFLICT


def test_a_header_or_parameter_that_the_route_does_not_name_is_none_of_our_business() -> None:
    assert extracted("X-Token: k1", query=b"key=k2") is Absent.NONE
    assert extracted("X-Token: k1", "X-API-Key: k3", query=b"key=k2") == Credential(b"k3", b"x-api-key")


@pytest.mark.parametrize("name", [b"x-api-key", b"authorization"])
def test_a_route_may_name_a_header_that_is_looked_at_anyway(name: bytes) -> None:
    assert extracted("X-API-Key: k1", key_header=name) == Credential(b"k1", b"x-api-key")
    assert extracted("Authorization: Bearer k1", key_header=name) == Credential(b"k1", b"authorization")
    assert extracted("Authorization: Bearer k1", "X-API-Key: k1", key_header=name) is Absent.CONFLICT


@pytest.mark.parametrize(
    ("query", "values", "rest"),
    [
        (b"key=a", [b"a"], None),
        (b"key=a&b=1", [b"a"], b"b=1"),
        (b"b=1&key=a&c", [b"a"], b"b=1&c"),
        (b"key", [b""], None),
        (b"key=a=b&key=", [b"a=b", b""], None),
        (b"b&&c", [], b"b&&c"),
        (b"KEY=a&k%65y=a", [], b"KEY=a&k%65y=a"),
    ],
)
def test_a_parameter_is_taken_out_of_the_query(query: bytes, values: list[bytes], rest: bytes | None) -> None:
    assert query_values(query, b"key") == values
    assert without_parameter(query, b"key") == rest
