"""Declaring header rules and rewrites: what is out of a declaration's reach."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ledger.specs import RouteSpec


def route(**fields: Any) -> RouteSpec:
    return RouteSpec.model_validate({"name": "r", "path": "/r/*", "upstream": "u", **fields})


@pytest.mark.parametrize("rule", ["set", "add"])
@pytest.mark.parametrize("direction", ["request_headers", "response_headers"])
@pytest.mark.parametrize(
    "name",
    ["Connection", "TRANSFER-ENCODING", "Content-Length", "Host", "te", "Upgrade", "Expect", "Keep-Alive", "Trailer",
     "Proxy-Authorization", "X-User-Id", "X-User-Plan", "X-Forwarded-For", "Forwarded", "X-Request-Id", "RateLimit",
     "X-Real-IP", "Via", "A B", "A:", "", "A_B", "Ä"],
)  # fmt: skip
def test_fields_that_cannot_be_set(rule: str, direction: str, name: str) -> None:
    with pytest.raises(ValidationError):
        route(**{direction: {rule: {name: "x"}}})


@pytest.mark.parametrize("name", ["Connection", "Content-Length", "Transfer-Encoding", "Host", "X-Request-Id"])
def test_fields_that_cannot_be_removed(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be removed"):
        route(request_headers={"remove": [name]})


def test_what_is_said_about_the_client_can_be_left_out_not_made_up() -> None:
    assert route(request_headers={"remove": ["X-User-Id", "X-Forwarded-For"]}).request_headers.replaced == {
        "x-user-id",
        "x-forwarded-for",
    }


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "", " a", "a ", "é", "a\0", "x" * 1025])
def test_values_that_cannot_stand_in_a_line(value: str) -> None:
    with pytest.raises(ValidationError):
        route(response_headers={"set": {"A": value}})


@pytest.mark.parametrize(
    "rules",
    [{"set": {"A": "1", "a": "2"}}, {"set": {"A": "1"}, "add": {"a": "2"}}, {"remove": ["A"], "set": {"a": "1"}}],
)
def test_a_name_is_in_one_rule_only(rules: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="a is named more than once"):
        route(request_headers=rules)


def test_a_secret_is_a_credential_not_a_rule() -> None:
    with pytest.raises(ValidationError, match="declared as the credential"):
        route(request_headers={"set": {"authorization": "Bearer x"}})
    route(response_headers={"set": {"Authorization": "odd, but theirs"}})


@pytest.mark.parametrize(
    ("path", "rewrite", "missing"),
    [("/r/*", "/v/{id}", "{id}"), ("/r/{id}", "/v/*", "*"), ("/r/{id}", "/v/{ID}", None), ("/r", "/../x", None)],
)
def test_a_rewrite_takes_what_the_path_has(path: str, rewrite: str, missing: str | None) -> None:
    with pytest.raises(ValidationError) as refused:
        route(path=path, rewrite=rewrite)
    if missing is not None:
        assert f"{missing} is not in the route's path {path}" in str(refused.value)


@pytest.mark.parametrize("field", ["allow_ips", "deny_ips"])
@pytest.mark.parametrize("network", ["::ffff:192.0.2.0/120", "::ffff:c000:201", "192.0.2.1/8", "anywhere"])
def test_networks_that_would_never_match(field: str, network: str) -> None:
    with pytest.raises(ValidationError):
        route(**{field: [network]})
