"""What a key may do: expiry, revocation, project, scope, kind, origin, address."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from gateway.auth.access import refusal
from gateway.http1.fields import parse_fields
from gateway.store.nouns import Principal
from ledger import problems
from ledger.problems import Problem
from tests.gateway.nouns import principal, route

NOW = 1_000_000.0


def refused(
    key: Principal,
    *lines: str,
    method: bytes = b"GET",
    ip: str = "10.0.0.1",
    scopes: tuple[str, ...] = (),
    **other: Any,
) -> Problem | None:
    fields = parse_fields("".join(line + "\r\n" for line in (*lines, "")).encode(), 20)
    return refusal(key, other.get("on", route(scopes=scopes)), method, fields, ip, NOW)


def test_a_plain_key_may() -> None:
    assert refused(principal()) is None
    assert refused(principal(), on=None, method=b"POST") is None


def test_a_revoked_key_may_nothing() -> None:
    assert refused(principal(is_revoked=True, expires_at=NOW - 1)) is problems.KEY_REVOKED


@pytest.mark.parametrize(
    ("expires_in", "expected"), [(0.001, None), (0.0, problems.KEY_EXPIRED), (-9, problems.KEY_EXPIRED)]
)
def test_a_key_expires_at_its_moment(expires_in: float, expected: Problem | None) -> None:
    assert refused(principal(expires_at=NOW + expires_in)) is expected


def test_a_key_of_another_project_is_refused() -> None:
    assert refused(principal(project_id="prj_other")) is problems.WRONG_PROJECT


@pytest.mark.parametrize(
    ("has", "needs", "expected"),
    [
        ((), ("read",), None),
        (("read",), (), None),
        (("read", "run"), ("read",), None),
        (("run",), ("read",), problems.SCOPE_MISSING),
        (("run",), ("read", "run"), problems.SCOPE_MISSING),
    ],
)
def test_a_key_with_scopes_needs_all_that_the_route_asks_for(
    has: tuple[str, ...], needs: tuple[str, ...], expected: Problem | None
) -> None:
    assert refused(principal(scopes=frozenset(has)), scopes=needs) is expected


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS", b"POST", b"PUT", b"PATCH", b"DELETE", b"PROPFIND"])
def test_a_publishable_key_only_reads(method: bytes) -> None:
    expected = None if method in (b"GET", b"HEAD", b"OPTIONS") else problems.FORBIDDEN
    assert refused(principal(kind="pk"), method=method) is expected
    assert refused(principal(kind="sk"), method=method) is None


@pytest.mark.parametrize(
    ("allowed", "origin", "may"),
    [
        ("https://app.example.com", "https://app.example.com", True),
        ("https://app.example.com", "HTTPS://App.Example.COM", True),
        ("https://app.example.com", "http://app.example.com", False),
        ("https://app.example.com", "https://app.example.com:8443", False),
        ("https://app.example.com:8443", "https://app.example.com:8443", True),
        ("https://app.example.com", "https://app.example.com.evil.test", False),
        ("app.example.com", "https://app.example.com", True),
        ("app.example.com", "http://app.example.com", True),
        ("app.example.com", "https://xapp.example.com", False),
        ("*.example.com", "https://app.example.com", True),
        ("*.example.com", "https://a.b.example.com", True),
        ("*.example.com", "https://example.com", False),
        ("*.example.com", "https://badexample.com", False),
        ("*.example.com", "https://evil.test/.example.com", False),
        ("*.example.com", "https://evil.test#.example.com", False),
        ("*.example.com", "https://evil.test?.example.com", False),
        ("https://*.example.com", "https://app.example.com", True),
        ("https://*.example.com", "http://app.example.com", False),
        ("*", "https://anything.test", True),
        ("*", "null", True),
        ("*.example.com", "null", False),
        ("*.example.com", "", False),
        ("*.example.com", "http://[", False),
        ("*.example.com", "http://[::1].example.com", False),
        ("*", "http://[", True),
    ],
)
def test_an_origin_is_matched_whole(allowed: str, origin: str, may: bool) -> None:
    key = principal(allowed_origins=("https://other.test", allowed))
    assert refused(key, f"Origin: {origin}") is (None if may else problems.ORIGIN_NOT_ALLOWED)


def test_a_key_with_origins_needs_one() -> None:
    assert refused(principal(allowed_origins=("*.example.com",))) is problems.ORIGIN_NOT_ALLOWED


@pytest.mark.parametrize(
    ("ip", "may"),
    [
        ("10.1.2.3", True),
        ("10.2.0.0", False),
        ("192.0.2.7", True),
        ("192.0.2.8", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("::ffff:10.1.2.3", True),  # how a socket that listens on :: sees an IPv4 client
        ("::ffff:10.2.0.0", False),
        ("fe80::1%eth0", True),
    ],
)
def test_an_address_must_be_in_one_of_the_networks(ip: str, may: bool) -> None:
    networks = tuple(map(ip_network, ("10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32", "fe80::/10")))
    assert refused(principal(allowed_ips=networks), ip=ip) is (None if may else problems.IP_NOT_ALLOWED)
