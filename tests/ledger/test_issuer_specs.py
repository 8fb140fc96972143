"""Who may be declared to sign tokens, and which routes need somebody declared."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ledger.keys import Mode
from ledger.specs import IssuerSpec, ProjectSpec, SigningAlgorithm

LEAST = {"name": "idp", "issuer": "https://idp.test/", "jwks_url": "https://idp.test/keys"}
UPSTREAM = {"name": "api", "targets": ["http://localhost:1"]}


def _places(model: type[IssuerSpec | ProjectSpec], fields: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Where something is wrong."""
    try:
        model.model_validate(fields)
    except ValidationError as error:
        return [detail["loc"] for detail in error.errors()]
    return []


def test_an_issuer_is_a_name_an_iss_and_where_its_keys_are() -> None:
    spec = IssuerSpec.model_validate(LEAST)
    assert (spec.audiences, spec.leeway_s, spec.mode) == ((), 30, Mode.LIVE)
    assert spec.algorithms == tuple(SigningAlgorithm)
    assert (spec.claims.customer, spec.claims.tier, spec.claims.scopes) == ("sub", None, "scope")
    assert IssuerSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (
            "jwks_url",
            [
                "https://idp.test:8443/keys?p=b2c_1",
                "https://[2001:db8::1]/keys",
                "http://localhost:8080/keys",
                "http://127.0.0.1/keys",
                "http://127.9.9.9/keys",
                "http://[::1]:9/keys",
            ],
        ),
        ("issuer", ["x", "https://idp.test/realms/a?b#c", "x" * 300]),
        ("audiences", [[], ["api"], ["https://api.test/", "urn:a:b"], ["a"] * 32]),
        ("leeway_s", [0, 300]),
        ("algorithms", [["RS256"], ["EdDSA", "ES384"]]),
        ("mode", ["live", "test"]),
        ("claims", [{"customer": "/user/id"}, {"scopes": None}, {"tier": "https://idp.test/plan"}]),
    ],
)
def test_what_an_issuer_may_say(field: str, values: list[Any]) -> None:
    for value in values:
        assert _places(IssuerSpec, {**LEAST, field: value}) == [], value


@pytest.mark.parametrize(
    ("field", "values"),
    [
        (
            "jwks_url",
            [
                "http://idp.test/keys",
                "http://127.0.0.1.idp.test/keys",
                "http://localhost.idp.test/keys",
                "http://169.254.169.254/keys",
                "ftp://idp.test/keys",
                "file:///etc/passwd",
                "https:///keys",
                "https://idp.test:0/keys",
                "https://idp.test:99999/keys",
                "https://user:password@idp.test/keys",
                "https://idp.test/a b",
                "https://idp.test/keys\n",
                "https://idp.test/#keys",
                "https://é.test/",
                "idp.test/keys",
                "",
                None,
            ],
        ),
        ("issuer", ["", "a b", "x" * 301, "é", None]),
        ("audiences", [[""], "api", ["a"] * 33, [None]]),
        ("leeway_s", [-1, 301, None, 1.5]),
        ("algorithms", [[], ["HS256"], ["none"], ["rs256"], ["ES256K"], "RS256", None]),
        ("mode", ["both", None]),
        ("claims", [{"customer": None}, {"customer": ""}, {"tier": "a..b"}, {"plan": "x"}, None]),
        ("secret", ["s"]),
    ],
)
def test_what_an_issuer_may_not_say(field: str, values: list[Any]) -> None:
    for value in values:
        places = _places(IssuerSpec, {**LEAST, field: value})
        assert places, value
        assert {place[0] for place in places} == {field}, value


def test_a_url_with_a_password_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        IssuerSpec.model_validate({**LEAST, "jwks_url": "https://user:hunter2@idp.test/"})
    assert "hunter2" not in "".join(detail["msg"] for detail in caught.value.errors())


def test_names_and_iss_are_unique_in_a_project() -> None:
    second = {**LEAST, "name": "second", "issuer": "https://second.test/"}
    assert _places(ProjectSpec, {"name": "P", "issuers": [LEAST, second]}) == []
    assert _places(ProjectSpec, {"name": "P", "issuers": [LEAST, {**second, "name": "idp"}]}) == [
        ("issuers", 1, "name")
    ]
    taken = {**second, "issuer": LEAST["issuer"], "mode": "test"}
    assert _places(ProjectSpec, {"name": "P", "issuers": [LEAST, taken]}) == [("issuers", 1, "issuer")]


@pytest.mark.parametrize("auth", ["jwt", "key-or-jwt"])
def test_a_route_for_tokens_needs_an_issuer(auth: str) -> None:
    route = {"name": "all", "path": "/*", "upstream": "api", "auth": auth}
    project = {"name": "P", "upstreams": [UPSTREAM], "routes": [route]}
    assert _places(ProjectSpec, {**project, "issuers": [LEAST]}) == []
    assert _places(ProjectSpec, project) == [("routes", 0, "auth")]
