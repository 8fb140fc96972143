"""Where runs may go: tables of addresses, names and spellings."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from sandbox.egress.policy import as_address, is_named, is_open, may_reach


@pytest.mark.parametrize("text", ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001::1"])
def test_public_addresses(text: str) -> None:
    assert may_reach(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "127.0.0.1",
            "127.255.255.255",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
        ),
        *(
            "169.254.169.254",
            "169.254.170.2",
            "100.64.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "198.18.0.1",
            "224.0.0.1",
        ),
        *("255.255.255.255", "240.0.0.1", "192.0.2.1", "203.0.113.9", "168.63.129.16"),
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "fe80::1", "fc00::1", "fd00:ec2::254"),
        *("ff02::1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:1::1", "2001:db8::1", "fec0::1"),
    ],
)
def test_addresses_that_are_not(text: str) -> None:
    assert not may_reach(ip_address(text))


def test_what_the_operator_opens() -> None:
    opened = (ip_network("10.1.0.0/16"), ip_network("fd00::/64"))
    assert may_reach(ip_address("10.1.2.3"), opened)
    assert may_reach(ip_address("fd00::5"), opened)
    assert not may_reach(ip_address("10.2.0.1"), opened)


@pytest.mark.parametrize(
    "host", ["example.com", "a-b.example", "xn--bcher-kva.example", "_dmarc.example.com", "localhost"]
)
def test_names(host: str) -> None:
    assert as_address(host) is None


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "[::1]", "1.2.3.4"])
def test_addresses(host: str) -> None:
    assert as_address(host) is not None


@pytest.mark.parametrize(
    "host",
    [
        *("", ".", "..", "127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "127.0.0.1.", "1.2.3", "fe80::1%eth0"),
        *("a..b", "-a.example", "a b", "exa\nmple.com", "a/b", "user@host", "é.example", "a" * 64 + ".example", "x:80"),
    ],
)
def test_what_is_neither_a_name_nor_an_address(host: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        as_address(host)


def test_patterns() -> None:
    allowed = ("example.com", "*.example.org")
    assert [
        is_named(h, allowed)
        for h in (
            "example.com",
            "a.example.org",
            "a.b.example.org",
            "example.org",
            "evilexample.org",
            "www.example.com",
        )
    ] == [True, True, True, False, False, False]
    assert is_named("anything", None)
    assert not is_named("anything", ())


def test_ports() -> None:
    assert [is_open(port) for port in (80, 443, 8080, 0, 25, 65_536, -1)] == [True] * 3 + [False] * 4
