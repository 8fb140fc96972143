"""Permissions for pages of other origins, as lines."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.http1.fields import Fields, parse_fields
from gateway.proxy.cors import permission, preflight
from ledger.cors import CorsSpec
from ledger.specs import RouteSpec

APP = "https://app.example.com"


def cors(*origins: str, **more: Any) -> CorsSpec:
    return CorsSpec.model_validate({"allowed_origins": origins, "exposed_headers": (), **more})


def fields(origin: str | None, *lines: str) -> Fields:
    given = [*([] if origin is None else [f"Origin: {origin}"]), *lines]
    return parse_fields("".join(f"{line}\r\n" for line in [*given, ""]).encode(), 100)


def lines(data: bytes) -> list[str]:
    return data.decode().split("\r\n")[:-1]


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (("*",), APP, "*"),
        (("*",), None, "*"),
        ((APP,), APP, APP),
        (("*.example.com",), APP, APP),
        (("*.example.com",), "https://example.com", None),
        (("*.example.com",), "https://evilexample.com", None),
        (("*.example.com",), "https://evil.test/.example.com", None),
        ((APP,), "http://app.example.com", None),
        ((APP,), "null", None),
        ((APP,), None, None),
    ],
)
def test_who_is_let_in(origins: tuple[str, ...], origin: str | None, allowed: str | None) -> None:
    found = lines(permission(cors(*origins), fields(origin)))
    assert found == [
        *([f"Access-Control-Allow-Origin: {allowed}"] if allowed else []),
        *([] if allowed == "*" else ["Vary: Origin"]),
    ]


def test_credentials_and_what_a_page_may_read() -> None:
    spec = cors(APP, allow_credentials=True, exposed_headers=["X-A", "X-B"])
    assert lines(permission(spec, fields(APP))) == [
        f"Access-Control-Allow-Origin: {APP}",
        "Access-Control-Allow-Credentials: true",
        "Access-Control-Expose-Headers: X-A, X-B",
        "Vary: Origin",
    ]


def test_credentials_are_not_for_everybody() -> None:
    with pytest.raises(ValidationError, match="allow_credentials needs origins by name"):
        cors("*", allow_credentials=True)


@pytest.mark.parametrize(
    ("spec", "methods", "asked", "told_methods", "told_headers"),
    [
        ({}, (), "X-A", "PUT", "Authorization, Content-Type, X-API-Key"),
        ({}, ("GET", "PUT"), "X-A", "GET, PUT", "Authorization, Content-Type, X-API-Key"),
        ({"allowed_methods": ["GET"]}, (), "X-A", "GET", "Authorization, Content-Type, X-API-Key"),
        ({"allowed_headers": ["*"]}, (), "x-a, x-b", "PUT", "x-a, x-b"),
        ({"allowed_headers": ["*"]}, (), None, "PUT", None),
        ({"allowed_headers": []}, (), "x-a", "PUT", None),
    ],
)
def test_what_a_preflight_is_told(
    spec: dict[str, Any], methods: tuple[str, ...], asked: str | None, told_methods: str, told_headers: str | None
) -> None:
    route = RouteSpec(name="r", path="/r", upstream="u", methods=methods)
    more = [] if asked is None else [f"Access-Control-Request-Headers: {asked}"]
    found = lines(preflight(route, cors(APP, **spec), b"PUT", fields(APP, *more)))
    assert found == [
        f"Access-Control-Allow-Origin: {APP}",
        f"Access-Control-Allow-Methods: {told_methods}",
        *([f"Access-Control-Allow-Headers: {told_headers}"] if told_headers else []),
        "Access-Control-Max-Age: 600",
        "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    ]


def test_a_strangers_preflight_gets_no_permission() -> None:
    route = RouteSpec(name="r", path="/r", upstream="u")
    found = lines(preflight(route, cors(APP), b"PUT", fields("https://other.test")))
    assert found == ["Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers"]
