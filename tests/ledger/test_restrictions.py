"""Where a key may be used from, read the same way by every plane."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from ledger.restrictions import is_address_allowed, is_origin_allowed


@pytest.mark.parametrize(
    ("origin", "pattern", "is_allowed"),
    [
        ("https://app.example.com", "https://app.example.com", True),
        ("https://APP.example.com", "app.example.com", True),
        ("https://app.example.com", "*.example.com", True),
        ("https://app.example.com", "https://*.example.com", True),
        ("http://app.example.com", "https://*.example.com", False),
        ("https://example.com", "*.example.com", False),
        ("https://notexample.com", "*.example.com", False),
        ("https://evil.test/.example.com", "*.example.com", False),
        ("https://evil.test#.example.com", "*.example.com", False),
        ("https://app.example.com:8443", "app.example.com", False),
        ("null", "*.example.com", False),
        ("https://anything.test", "*", True),
        (None, "*", False),
    ],
)
def test_origins(origin: str | None, pattern: str, is_allowed: bool) -> None:
    assert is_origin_allowed(origin, (pattern,)) is is_allowed


@pytest.mark.parametrize(
    ("address", "network", "is_allowed"),
    [
        ("192.0.2.7", "192.0.2.0/24", True),
        ("198.51.100.7", "192.0.2.0/24", False),
        ("::ffff:192.0.2.7", "192.0.2.0/24", True),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db9::1", "2001:db8::/32", False),
    ],
)
def test_addresses(address: str, network: str, is_allowed: bool) -> None:
    assert is_address_allowed(address, (ip_network(network),)) is is_allowed
