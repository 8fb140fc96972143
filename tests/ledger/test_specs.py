"""What can be declared, and what cannot: each field's form and bounds, and what must agree between fields."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ledger.keys import KeyKind, Mode
from ledger.specs import (
    CustomerSpec,
    Declaration,
    KeySpec,
    ProjectSpec,
    QuotaSpec,
    RouteSpec,
    TierSpec,
    UpstreamSpec,
)

LEAST: dict[type[BaseModel], dict[str, Any]] = {
    TierSpec: {"name": "free"},
    CustomerSpec: {"external_id": "ada"},
    KeySpec: {"name": "ci"},
    UpstreamSpec: {"name": "api", "targets": ["http://localhost:1"]},
    RouteSpec: {"name": "all", "path": "/*", "upstream": "api"},
    ProjectSpec: {"name": "Shop"},
    Declaration: {"projects": []},
}


def errors(model: type[BaseModel], **fields: Any) -> dict[tuple[Any, ...], str]:
    """Place → message of all that is wrong when these fields are put on the least that is valid."""
    try:
        model.model_validate({**LEAST[model], **fields})
    except ValidationError as error:
        return {detail["loc"]: detail["msg"] for detail in error.errors()}
    return {}


@pytest.mark.parametrize("model", LEAST)
def test_the_least_is_valid_and_strangers_are_not(model: type[BaseModel]) -> None:
    assert errors(model) == {}
    assert list(errors(model, colour="red")) == [("colour",)]
    assert model.model_validate(LEAST[model]).model_config["frozen"]


GOOD: list[tuple[type[BaseModel], str, list[Any]]] = [
    (TierSpec, "name", ["a", "0", "a.b_c-d", "x" * 63]),
    (TierSpec, "title", ["A", "日本 🎈", "x" * 200, None]),
    (TierSpec, "price_minor", [0, 2**53]),
    (TierSpec, "trial_days", [0, 730]),
    (TierSpec, "requests_per_minute", [1, 1_000_000, None]),
    (TierSpec, "features", [{"sso": True, "seats": 5, "region": "", "é": -(2**53)}]),
    (TierSpec, "modes", [["test"], ["live"], ["live", "test"]]),
    (CustomerSpec, "external_id", ["!", "~", "user:1/2?3#4", "x" * 200]),
    (CustomerSpec, "email", ["a@b", "a+b@c.example", None]),
    (KeySpec, "requests_per_minute", [1, 10_000]),
    (KeySpec, "allowed_origins", [["*"], ["https://a.example"], ["*.example.com:8443"], ["http://*.a"]]),
    (KeySpec, "allowed_ips", [["10.0.0.0/8"], ["::/0"], ["192.0.2.1"]]),
    (KeySpec, "expires_at", ["2030-01-31T00:00:00Z", "2030-01-31T00:00:00+14:00"]),
    (UpstreamSpec, "targets", [["https://a"], [{"url": "http://[::1]:80/b/c", "weight": 1000}], ["http://a"] * 64]),
    (RouteSpec, "path", ["/", "/*", "/a", "/a/", "/a/*", "/a.b~c!$&'()+,;=:@-/*"]),
    (RouteSpec, "host", ["localhost", "a.example.com:8443", "*.example.com"]),
    (RouteSpec, "methods", [["GET"], ["PROPFIND", "M-SEARCH"]]),
    (RouteSpec, "key_header", ["X-Key"]),
    (RouteSpec, "key_query", ["api_key", "a.b-c"]),
    (RouteSpec, "meters", [{}, {"tokens": 0}, {"a": 1_000_000_000}, {"tokens": "$.usage.total_tokens", "n": 1}]),
    (
        RouteSpec,
        "meters",
        [{"a": {"source": "header:X-A", "estimate": 9}}, {"bytes_out": "bytes_out"}, {"b": "bytes_in"}],
    ),
    (RouteSpec, "on_upstream_failure", ["charge", "free"]),
    (RouteSpec, "include_usage", [False]),
    (RouteSpec, "retries", [0, 5]),
    (ProjectSpec, "name", ["x", "Ünïcode & Söhne", "x" * 200]),
]

BAD: list[tuple[type[BaseModel], str, list[Any]]] = [
    (TierSpec, "name", ["", "A", "-a", "a b", "é", "x" * 64, "a\n", 5, None, True]),
    (TierSpec, "title", ["", "a\nb", "a\0b", "\x7f", "\ud800", "x" * 201]),
    (TierSpec, "price_minor", [-1, 2**53 + 1, 1.5, "x", None]),
    (TierSpec, "spend_cap_minor", [-1, 2**53 + 1]),
    (TierSpec, "currency", ["USD", "us", "usd ", ""]),
    (TierSpec, "billing_interval", ["week"]),
    (TierSpec, "requests_per_minute", [0, -1, 1_000_001]),
    (TierSpec, "trial_days", [-1, 731]),
    (
        TierSpec,
        "features",
        [{"": 1}, {"a\0": 1}, {"a": "b\0"}, {"a": 2**53 + 1}, {"a": None}, {"a": [1]}, {"a": 1.5}, []],
    ),
    (TierSpec, "quotas", [{"A": 1}, {"a": -1}, {"a": 2**53 + 1}, {"a": True}, {"a": "x"}, {"a": {"limit": 1, "x": 1}}]),
    (TierSpec, "modes", [[], ["prod"], ["test", "test", "live"], "test"]),
    (CustomerSpec, "external_id", ["", "a b", "é", "a\0", "x" * 201]),
    (CustomerSpec, "email", ["", "a", "a@", "@b", "a@b@c", "a b@c", "a@b\n", "a@" + "b" * 253]),
    (CustomerSpec, "tier", ["Free"]),
    (KeySpec, "kind", ["zz"]),
    (KeySpec, "scopes", [["A"], ["a b"]]),
    (KeySpec, "requests_per_minute", [0, 10_001]),
    (KeySpec, "allowed_origins", [["ftp://a"], ["https://a/path"], ["a b"], ["A.example"], ["*.*.a"]]),
    (KeySpec, "allowed_ips", [["10.0.0.1/8"], ["x"], ["1.2.3.4.5"], ["::1/129"]]),
    (KeySpec, "expires_at", ["2030-01-31T00:00:00", "x", "9999-12-31T23:59:59-14:00", "1999-01-01T00:00:00Z"]),
    (
        UpstreamSpec,
        "targets",
        [
            [],
            ["http://a"] * 65,
            ["ftp://a"],
            ["http://"],
            ["http://a:0"],
            ["http://a:99999"],
            ["http://a:x"],
            ["http://[::1"],
            ["http://user:pw@a"],
            ["http://user@a"],
            ["http://a?q"],
            ["http://a#f"],
            ["http://a b"],
            ["http://a\r\nX: y"],
            ["http://a\0"],
            ["http://é"],
            [{"url": "http://a", "weight": 0}],
            [{"url": "http://a", "weight": 1001}],
            [5],
        ],
    ),
    (UpstreamSpec, "connect_timeout_ms", [0, 600_001]),
    (UpstreamSpec, "max_connections", [0, 100_001]),
    (
        RouteSpec,
        "path",
        [
            "",
            "a",
            "//",
            "/a//b",
            "/a/../b",
            "/./a",
            "/a*",
            "/*/a",
            "/a?b",
            "/a#b",
            "/a b",
            "/%41",
            "/é",
            "/a\0",
            "/a\n",
        ],
    ),
    (RouteSpec, "host", ["", "A.example", "http://a", "a/b", "*", "*.", "a b", "-a", "a.", "a:123456"]),
    (RouteSpec, "methods", [["get"], [""], ["GET "], ["GÉT"]]),
    (RouteSpec, "auth", ["maybe"]),
    (RouteSpec, "key_header", ["X Key", "X:Key", "", "1X"]),
    (RouteSpec, "key_query", ["a=b", "a&b", "", "x" * 65]),
    (RouteSpec, "meters", [{"A": 1}, {"a": -1}, {"a": 1_000_000_001}, {"a": None}]),
    (RouteSpec, "max_body_bytes", [-1, 2**53 + 1]),
    (RouteSpec, "retries", [-1, 6]),
    (RouteSpec, "read_timeout_ms", [0, 3_600_001]),
    (RouteSpec, "on_store_failure", ["fail"]),
    (RouteSpec, "on_upstream_failure", ["refund", None]),
    (RouteSpec, "include_usage", [True, "x"]),  # there is no meter that would read it
    (RouteSpec, "meters", [{"a": "usage"}, {"a": {"source": "$.a", "estimate": 0}}, {"a": {"estimate": 1}}, {"a": []}]),
    (RouteSpec, "meters", [{"bytes_out": 1}, {"duration_ms": "bytes_in"}, {f"m{n}": 1 for n in range(33)}]),
    (ProjectSpec, "name", ["", "a\nb", "x" * 201]),
    (ProjectSpec, "kind", ["zoo"]),
    (Declaration, "version", [0, 2, "1"]),
    (Declaration, "projects", [None, {}, "x"]),
]


def _cases(table: list[tuple[type[BaseModel], str, list[Any]]]) -> list[Any]:
    return [
        pytest.param(model, field, value, id=f"{model.__name__}-{field}-{index}")
        for model, field, values in table
        for index, value in enumerate(values)
    ]


@pytest.mark.parametrize(("model", "field", "value"), _cases(GOOD))
def test_values_that_are_fine(model: type[BaseModel], field: str, value: Any) -> None:
    assert errors(model, **{field: value}) == {}


@pytest.mark.parametrize(("model", "field", "value"), _cases(BAD))
def test_values_that_are_not(model: type[BaseModel], field: str, value: Any) -> None:
    found = errors(model, **{field: value})
    assert found
    assert all(place[:1] in ((field,), ()) for place in found)
    assert all("pw" not in message for message in found.values())


def test_a_bare_number_is_a_hard_quota_and_null_is_unlimited() -> None:
    tier = TierSpec.model_validate({"name": "a", "quotas": {"x": 5, "y": None, "z": {"limit": 7, "hard": False}}})
    assert tier.quotas == {"x": QuotaSpec(limit=5), "y": QuotaSpec(limit=None), "z": QuotaSpec(limit=7, hard=False)}


def test_an_overage_has_a_price_only_where_there_is_one() -> None:
    assert QuotaSpec(limit=1, hard=False, overage_price=Decimal("0.0000000001")).overage_price == Decimal("1e-10")
    for wrong in (
        {"overage_price": "1"},
        {"hard": False, "overage_price": "-1"},
        {"hard": False, "overage_price": "1e-11"},
    ):
        assert errors(TierSpec, quotas={"a": {"limit": 1, **wrong}})
    assert errors(TierSpec, quotas={"a": {"hard": False, "overage_price": "10000000000"}})  # numeric(20, 10)


def test_true_stays_true_and_one_stays_one() -> None:
    features = TierSpec.model_validate({"name": "a", "features": {"a": True, "b": 1, "c": "1"}}).features
    assert [type(value) for value in features.values()] == [bool, int, str]


def test_a_bare_url_is_a_target_and_its_slash_does_not_matter() -> None:
    upstream = UpstreamSpec.model_validate({"name": "a", "targets": ["http://b/c/", {"url": "http://d", "weight": 2}]})
    assert [(target.url, target.weight) for target in upstream.targets] == [("http://b/c", 1), ("http://d", 2)]


@pytest.mark.parametrize(
    ("kind", "customer", "is_valid"),
    [("sk", None, True), ("pk", None, True), ("ck", "ada", True), ("ck", None, False), ("sk", "ada", False)],
)
def test_customer_keys_have_a_customer(kind: str, customer: str | None, is_valid: bool) -> None:
    assert (errors(KeySpec, kind=kind, customer=customer) == {}) is is_valid


def test_defaults_are_the_careful_ones() -> None:
    key = KeySpec(name="x")
    assert (key.kind, key.mode) == (KeyKind.SECRET, Mode.TEST)
    route = RouteSpec(name="a", path="/*", upstream="b")
    assert (route.auth, route.on_store_failure, route.meters) == ("key", "closed", {"requests": 1})
    assert QuotaSpec(limit=1).hard


def test_what_a_route_serves_does_not_depend_on_how_it_is_written() -> None:
    one = RouteSpec(name="a", path="/x", upstream="u", methods=("PUT", "GET", "PUT"))
    other = RouteSpec(name="b", path="/x", upstream="v", methods=("GET", "PUT"))
    assert one.serves == other.serves == "GET,PUT any host/x"
    assert RouteSpec(name="c", path="/x", upstream="u", host="a.b").serves == "any method a.b/x"
    of_id, of_name = (RouteSpec(name="d", path=f"/u/{{{name}}}/x", upstream="u") for name in ("id", "name"))
    assert of_id.serves == of_name.serves == "any method any host/u/{}/x"


def project(**fields: Any) -> dict[tuple[Any, ...], str]:
    return errors(ProjectSpec, **fields)


def test_names_are_unique_in_their_mode() -> None:
    tiers = [{"name": "a", "modes": ["test"]}, {"name": "a", "modes": ["live"]}]
    assert project(tiers=tiers) == {}
    assert project(tiers=[*tiers, {"name": "a", "modes": ["live"]}]) == {
        ("tiers", 2, "name"): "live tier 'a' is declared more than once"
    }
    assert project(customers=[{"external_id": "x"}, {"external_id": "x", "modes": ["test"]}]) == {
        ("customers", 1, "external_id"): "test customer 'x' is declared more than once"
    }


def test_one_default_tier_a_mode() -> None:
    one, other = {"name": "a", "default": True}, {"name": "b", "default": True}
    assert project(tiers=[{**one, "modes": ["test"]}, {**other, "modes": ["live"]}]) == {}
    assert list(project(tiers=[one, other])) == [("tiers", 1, "default")]


def test_a_customers_tier_is_there_in_all_of_its_modes() -> None:
    tiers = [{"name": "a"}, {"name": "b", "modes": ["test"]}]
    assert project(tiers=tiers, customers=[{"external_id": "x", "tier": "b", "modes": ["test"]}]) == {}
    assert project(tiers=tiers, customers=[{"external_id": "x", "tier": "b"}]) == {
        ("customers", 0, "tier"): "no live tier is called 'b'; declared are: a"
    }


def test_a_routes_upstream_is_there() -> None:
    route = {"name": "r", "path": "/x", "upstream": "gone"}
    assert project(routes=[route]) == {("routes", 0, "upstream"): "no upstream is called 'gone'; declared are: none"}


def test_no_two_routes_of_a_project_serve_the_same() -> None:
    upstreams = [LEAST[UpstreamSpec]]
    routes = [{"name": name, "path": "/x", "upstream": "api", "methods": ["GET"]} for name in "ab"]
    assert list(project(upstreams=upstreams, routes=routes)) == [("routes", 1, "path")]
    routes[1]["methods"] = ["PUT"]
    assert project(upstreams=upstreams, routes=routes) == {}


def test_no_two_projects_serve_the_same() -> None:
    one = {"name": "A", "upstreams": [LEAST[UpstreamSpec]], "routes": [LEAST[RouteSpec]]}
    assert errors(Declaration, projects=[one, {**one, "name": "B"}]) == {
        ("projects", 1, "routes", 0, "path"): "another project has a route for any method any host/*"
    }


def test_faults_of_one_list_do_not_hide_those_of_another() -> None:
    found = project(
        tiers=[{"name": "A"}],
        customers=[{"external_id": "x", "tier": "gone"}, {"external_id": "x"}],
        upstreams=[LEAST[UpstreamSpec], LEAST[UpstreamSpec]],
        routes=[{"name": "r", "path": "/x", "upstream": "gone"}, {"name": "r", "path": "/y", "upstream": "api"}],
    )
    assert set(found) == {
        ("tiers", 0, "name"),
        ("customers", 1, "external_id"),
        ("upstreams", 1, "name"),
        ("routes", 1, "name"),
    }


def test_a_limit_by_address_is_for_routes_without_authentication() -> None:
    route = {"name": "r", "path": "/r", "upstream": "u", "requests_per_minute_per_ip": 5}
    assert RouteSpec.model_validate({**route, "auth": "none"}).requests_per_minute_per_ip == 5
    with pytest.raises(ValidationError, match="auth: none"):
        RouteSpec.model_validate(route)


@pytest.mark.parametrize(
    "url",
    ["https://example.com/plans", "http://localhost:8080/dashboard/billing", "https://[::1]/p?tier=pro#top"],
)
def test_an_upgrade_page(url: str) -> None:
    assert TierSpec(name="free", upgrade_url=url).upgrade_url == url


@pytest.mark.parametrize(
    "url",
    [
        *(
            "example.com",
            "javascript:alert(1)",
            "https://",
            "https://u:p@example.com/",
            "https://a/\r\nX: y",
            'https://a/"',
        ),
        *("https://[::1/", "https://a/" + "b" * 500),
    ],
)
def test_what_is_no_page(url: str) -> None:
    with pytest.raises(ValidationError, match="expected the http"):
        TierSpec(name="free", upgrade_url=url)
