"""What may be called from inside: everything public, nothing else, however it is spelt."""

from __future__ import annotations

import socket

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from ledger.webhooks.public import NotPublic, PublicOnly, is_allowed_url, is_public

INSIDE = [
    *("127.0.0.1", "10.0.0.1", "172.16.5.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "fd12::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1", "fe80::1%eth0", "nonsense", "", "127.1", "2130706433"),
]


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_inside(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:8.8.8.8"]
)
def test_addresses_outside(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://example.com/x",
            "ftp://example.com",
            "https://localhost/x",
            "https://a.localhost",
            "https://db.internal",
        ),
        *("https://127.0.0.1", "https://[::1]/", "https://10.0.0.1:8443/", "https://169.254.169.254/latest/meta-data"),
        *(
            "https://user@example.com",
            "https://user:pw@example.com",
            "https://example.com#x",
            "https://",
            "https://a b",
        ),
        *(
            "https://2130706433/",
            "https://0x7f000001/",
            "https://127.1/",
            "https://[::ffff:127.0.0.1]/",
            "javascript:x",
        ),
        *("https://exämple.com", "https://example.com:99999/", "https://example.com/\r\nX: y", "//example.com", ""),
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    assert not is_allowed_url(url)


def test_urls_that_are_allowed() -> None:
    for url in ("https://example.com/hooks?x=1", "https://8.8.8.8/", "https://example.com:8443/"):
        assert is_allowed_url(url)
    assert is_allowed_url("http://127.0.0.1:9/x", allow_private=True)


class Answers(AbstractResolver):
    """A resolver that says what it was told to."""

    def __init__(self, *hosts: str) -> None:
        self.hosts = hosts

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=one, port=port, family=family, proto=0, flags=0) for one in self.hosts
        ]

    async def close(self) -> None: ...


async def test_names_that_lead_inside_lead_nowhere() -> None:
    found = await PublicOnly(Answers("10.0.0.1", "8.8.8.8", "::1")).resolve("x.example", 443)
    assert [one["host"] for one in found] == ["8.8.8.8"]
    with pytest.raises(NotPublic, match="leads to no public address"):
        await PublicOnly(Answers("127.0.0.1")).resolve("x.example", 443)
