"""From text to a Declaration, or to every fault with its place."""

from __future__ import annotations

import time

import pytest

from admin.declare import DeclarationError, load

BROKEN = """\
version: 2
projects:
  - name: acme
    kind: shop
    tires: []
    tiers:
      - name: Free
        price_minor: -1
        currency: dollar
        quotas: {requests: abc, x: {limt: 5}}
        features: {a: [1]}
        requests_per_minute: 1.5
      - nope
      - {default: true}
    customers:
      - external_id: true
        email: nobody
    upstreams:
      - {name: none, targets: []}
      - {name: some, targets: ["http://user:hunter2@host", {url: "ftp://x"}]}
    routes:
      - {name: r, path: v1, upstream: c, methods: [get], auth: jws, read_timeout_ms: 0}
"""

FAULTS = """\
f.yaml:1:1: version: expected 1, got 2
f.yaml:4:5: projects[0].kind: expected 'saas' or 'store', got 'shop'
f.yaml:5:5: projects[0].tires: unknown field; did you mean 'tiers'?
f.yaml:7:9: projects[0].tiers[0].name: expected a name of lower-case letters, digits, '.', '_' or '-' \
(at most 63), got 'Free'
f.yaml:8:9: projects[0].tiers[0].price_minor: expected a value greater than or equal to 0, got -1
f.yaml:9:9: projects[0].tiers[0].currency: expected a currency code in lower case, such as usd, got 'dollar'
f.yaml:10:18: projects[0].tiers[0].quotas.requests: expected a mapping of fields \
(known: limit, hard, overage_price), got 'abc'
f.yaml:10:37: projects[0].tiers[0].quotas.x.limt: unknown field; did you mean 'limit'?
f.yaml:11:20: projects[0].tiers[0].features.a: expected true or false, or a whole number, or text, got a list
f.yaml:12:9: projects[0].tiers[0].requests_per_minute: expected a whole number, got 1.5
f.yaml:13:9: projects[0].tiers[1]: expected a mapping of fields (known: name, title, price_minor, currency, \
billing_interval, requests_per_minute, burst, shadow, \
concurrent_requests, quotas, spend_cap_minor, trial_days, features, default, popular, upgrade_url, modes), got 'nope'
f.yaml:14:9: projects[0].tiers[2].name: is missing
f.yaml:16:9: projects[0].customers[0].external_id: expected text, got true; put it in quotes
f.yaml:17:9: projects[0].customers[0].email: expected an e-mail address of at most 254 characters, got 'nobody'
f.yaml:19:22: projects[0].upstreams[0].targets: expected at least 1, got 0
f.yaml:20:32: projects[0].upstreams[1].targets[0]: expected http(s)://host[:port][/base-path]; \
credentials do not belong in a URL
f.yaml:20:61: projects[0].upstreams[1].targets[1].url: expected http(s)://host[:port][/base-path] without a query, \
got 'ftp://x'
f.yaml:22:19: projects[0].routes[0].path: expected a path such as /v1/status (exact)
f.yaml:22:52: projects[0].routes[0].methods[0]: expected an HTTP method in capitals, got 'get'
f.yaml:22:58: projects[0].routes[0].auth: expected 'key'
f.yaml:22:69: projects[0].routes[0].read_timeout_ms: expected a value greater than or equal to 1, got 0"""


def test_every_fault_is_told_at_once_with_its_place() -> None:
    with pytest.raises(DeclarationError) as caught:
        load(BROKEN, "f.yaml")
    told = str(caught.value).splitlines()
    assert [line[: len(fault)] for line, fault in zip(told, FAULTS.splitlines(), strict=True)] == FAULTS.splitlines()
    assert "hunter2" not in str(caught.value)


def test_faults_between_the_parts_have_places_too() -> None:
    text = """\
projects:
  - name: a
    tiers: [{name: t, default: true}, {name: t}, {name: u, default: true}]
    customers: [{external_id: x, tier: gone}, {external_id: x}, {external_id: y, email: A@b}, {external_id: z, email: a@B}]
    upstreams: [{name: u, targets: ["http://a"]}]
    routes: [{name: r, path: /a/*, upstream: gone}, {name: s, path: /a/*, upstream: u}]
  - name: b
    upstreams: [{name: u, targets: ["http://a"]}, {name: u, targets: ["http://b"]}]
"""
    with pytest.raises(DeclarationError) as caught:
        load(text, "f.yaml")
    assert str(caught.value).splitlines() == [
        "f.yaml:3:40: projects[0].tiers[1].name: test tier 't' is declared more than once",
        "f.yaml:3:60: projects[0].tiers[2].default: a default test tier is declared more than once",
        "f.yaml:4:48: projects[0].customers[1].external_id: live customer 'x' is declared more than once",
        "f.yaml:4:112: projects[0].customers[3].email: live customer with email a@b is declared more than once",
        "f.yaml:6:36: projects[0].routes[0].upstream: no upstream is called 'gone'; declared are: u",
        "f.yaml:6:63: projects[0].routes[1].path: a route for any method any host/a/* is declared more than once",
        "f.yaml:8:52: projects[1].upstreams[1].name: upstream 'u' is declared more than once",
    ]


def test_projects_are_unique_and_no_two_serve_the_same_requests() -> None:
    one = '  - {name: a, upstreams: [{name: u, targets: ["http://a"]}], routes: [{name: r, path: /a, upstream: u}]}\n'
    with pytest.raises(DeclarationError) as caught:
        load(f"projects:\n{one}{one}", "f.yaml")
    assert [fault.path for fault in caught.value.faults] == ["projects[1].name", "projects[1].routes[0].path"]


@pytest.mark.parametrize("text", ["[]", "x", "5", "projects: 5", "projects: {a: b}", "version: 1", "projects: [5]"])
def test_a_wrong_shape_is_a_fault_and_no_traceback(text: str) -> None:
    with pytest.raises(DeclarationError, match=r"f\.yaml:1:\d+"):
        load(text, "f.yaml")


def test_many_faults_are_cut_short() -> None:
    with pytest.raises(DeclarationError) as caught:
        load("projects: [" + "{}, " * 200 + "]", "f.yaml")
    assert len(caught.value.faults) == 200
    assert str(caught.value).splitlines()[-1] == "f.yaml: and 150 more"


def test_a_large_file_is_quick() -> None:
    text = "projects:\n- name: a\n  customers:\n" + "".join(f"  - external_id: c{i}\n" for i in range(20_000))
    began = time.perf_counter()
    assert len(load(text, "f.yaml").projects[0].customers) == 20_000
    assert time.perf_counter() - began < 10  # 0.4 s; what it must not be is quadratic


@pytest.mark.parametrize(
    ("meters", "said"),
    [
        ("{a: usage}", "meters.a: expected a source such as $.usage.total_tokens"),
        ('{a: {source: "$.a", estimat: 5}}', "meters.a.estimat: unknown field; did you mean 'estimate'?"),
        ("{a: {estimate: 5}}", "meters.a.source: is missing"),
        ("{a: 1.5}", "meters.a: expected a whole number, got 1.5"),
        ("{bytes_out: 5}", "meters: bytes_out is what the gateway measures under that name"),
    ],
)
def test_a_meter_that_is_not_one_is_told_where_it_is_written(meters: str, said: str) -> None:
    text = (
        "projects: [{name: x, upstreams: [{name: u, targets: ['http://a']}], routes: [{name: r, path: /*, upstream: u, "
    )
    with pytest.raises(DeclarationError) as caught:
        load(f"{text}meters: {meters}}}]}}]", "f.yaml")
    assert f"projects[0].routes[0].{said}" in str(caught.value)
