"""Who sent a request, by the word of trusted proxies alone."""

from __future__ import annotations

import time
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http1.fields import parse_fields
from gateway.proxy.sender import NOBODY, Sender, Trust, sender_of

PROXIES = tuple(map(ip_network, ("10.0.0.0/8", "2001:db8:ffff::/48")))
LISTED = Trust(PROXIES)
FORWARDED = Trust(PROXIES, "forwarded")


def sender(*lines: str, peer: str = "10.0.0.1", trust: Trust = LISTED) -> Sender:
    block = "".join(f"{line}\r\n" for line in ("Host: shop.test", *lines)) + "\r\n"
    return sender_of(parse_fields(block.encode("latin-1"), 100), peer, b"http", trust)


@pytest.mark.parametrize(
    ("lists", "address", "via"),
    [
        ((), "10.0.0.1", ""),
        (("1.2.3.4",), "1.2.3.4", "10.0.0.1"),
        (("6.6.6.6, 1.2.3.4",), "1.2.3.4", "10.0.0.1"),  # the left one is the client's own claim
        (("6.6.6.6", "1.2.3.4"), "1.2.3.4", "10.0.0.1"),
        (("6.6.6.6, 1.2.3.4, 10.9.9.9",), "1.2.3.4", "10.9.9.9, 10.0.0.1"),
        (("10.1.1.1, 10.2.2.2",), "10.1.1.1", "10.2.2.2, 10.0.0.1"),  # trusted throughout: the first
        (("1.2.3.4, unknown",), "10.0.0.1", ""),
        (("1.2.3.4, ",), "10.0.0.1", ""),
        (("1.2.3.4, _hidden, 10.9.9.9",), "10.9.9.9", "10.0.0.1"),
        (("1.2.3.4:5678",), "1.2.3.4", "10.0.0.1"),
        (("[2001:db8::7]:443",), "2001:db8::7", "10.0.0.1"),
        (("2001:DB8::7",), "2001:db8::7", "10.0.0.1"),
        (("::ffff:1.2.3.4",), "1.2.3.4", "10.0.0.1"),
        (("1.2.3.4, ::ffff:10.9.9.9",), "1.2.3.4", "10.9.9.9, 10.0.0.1"),
        (("1.2.3",), "10.0.0.1", ""),
        (("1.2.3.4\\r\\nX: y",), "10.0.0.1", ""),
    ],
)
def test_the_list_is_read_from_the_right(lists: tuple[str, ...], address: str, via: str) -> None:
    found = sender(*(f"X-Forwarded-For: {text}" for text in lists))
    assert (found.address, ", ".join(found.via)) == (address, via)


@pytest.mark.parametrize("peer", ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"])
@pytest.mark.parametrize("trust", [LISTED, FORWARDED, NOBODY])
def test_who_is_not_trusted_speaks_for_nobody(peer: str, trust: Trust) -> None:
    lines = [
        "X-Forwarded-For: 1.2.3.4",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.test",
        "Forwarded: for=1.2.3.4",
    ]
    found = sender(*lines, peer=peer, trust=trust)
    assert found == Sender(peer.removeprefix("::ffff:"), (), b"http", b"shop.test")
    assert b"1.2.3.4" not in found.lines()


def test_a_trusted_peer_as_an_ipv6_socket_sees_it() -> None:
    assert sender("X-Forwarded-For: 1.2.3.4", peer="::ffff:10.0.0.1").via == ("10.0.0.1",)
    assert sender("X-Forwarded-For: 1.2.3.4", peer="2001:db8:ffff::1").address == "1.2.3.4"


@pytest.mark.parametrize(
    ("lines", "scheme", "host"),
    [
        (["X-Forwarded-Proto: HTTPS", "X-Forwarded-Host: Shop.Example:8443"], b"https", b"shop.example:8443"),
        (["X-Forwarded-Proto: https"], b"https", b"shop.test"),
        (["X-Forwarded-Proto: ftp", "X-Forwarded-Host: a b"], b"http", b"shop.test"),
        (["X-Forwarded-Proto: https, http", "X-Forwarded-Host: a, b"], b"http", b"shop.test"),
        (["X-Forwarded-Proto: https", "X-Forwarded-Proto: http"], b"http", b"shop.test"),
    ],
)
def test_scheme_and_host_are_believed_where_they_are_unambiguous(lines: list[str], scheme: bytes, host: bytes) -> None:
    found = sender("X-Forwarded-For: 1.2.3.4", *lines)
    assert (found.scheme, found.host) == (scheme, host)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=1.2.3.4", ("1.2.3.4", ("10.0.0.1",), b"http", b"shop.test")),
        ("For=1.2.3.4;Proto=https;Host=shop.example", ("1.2.3.4", ("10.0.0.1",), b"https", b"shop.example")),
        ('for="[2001:db8::7]:4711";proto="https"', ("2001:db8::7", ("10.0.0.1",), b"https", b"shop.test")),
        ("for=6.6.6.6;proto=https, for=1.2.3.4", ("1.2.3.4", ("10.0.0.1",), b"http", b"shop.test")),
        (
            "for=6.6.6.6, for=1.2.3.4;host=a.test;proto=https, for=10.9.9.9;host=b.test",
            ("1.2.3.4", ("10.9.9.9", "10.0.0.1"), b"https", b"a.test"),
        ),
        ("for=unknown;proto=https", ("10.0.0.1", (), b"http", b"shop.test")),
        ("for=_abc", ("10.0.0.1", (), b"http", b"shop.test")),
        ("proto=https", ("10.0.0.1", (), b"http", b"shop.test")),
        ('for="1.2.3.4', ("10.0.0.1", (), b"http", b"shop.test")),
        ('for=1.2.3.4, for="6.6.6.6, for=7.7.7.7', ("10.0.0.1", (), b"http", b"shop.test")),
        ('secret="a,for=6.6.6.6", for=1.2.3.4', ("1.2.3.4", ("10.0.0.1",), b"http", b"shop.test")),
        ("", ("10.0.0.1", (), b"http", b"shop.test")),
    ],
)
def test_the_standard_notation(value: str, expected: tuple[str, tuple[str, ...], bytes, bytes]) -> None:
    assert sender(f"Forwarded: {value}", "X-Forwarded-For: 6.6.6.6", trust=FORWARDED) == Sender(*expected)


def test_only_the_notation_of_the_setting_is_read() -> None:
    assert sender("Forwarded: for=6.6.6.6").address == "10.0.0.1"
    assert sender("X-Forwarded-For: 6.6.6.6", trust=FORWARDED).address == "10.0.0.1"


def test_what_an_upstream_is_told() -> None:
    told = sender("X-Forwarded-For: 6.6.6.6, 1.2.3.4", "X-Forwarded-Proto: https").lines()
    assert told == (
        b"Via: 1.1 tollgate\r\nX-Forwarded-For: 1.2.3.4, 10.0.0.1\r\nX-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: shop.test\r\n"
    )


@pytest.mark.parametrize("filling", [" ", "10.0.0.1,", "for=10.0.0.1,", 'for="', "for=;", 'a="\\\\', ", ", "a"])
def test_a_long_claim_costs_little(filling: str) -> None:
    text = filling * (30_000 // len(filling)) + "\x80"
    spent = []
    for _ in range(5):  # the least of them is the code's; the rest is who else was on the machine
        began = time.process_time()
        sender(f"X-Forwarded-For: {text}")
        sender(f"Forwarded: {text}", trust=FORWARDED)
        spent.append(time.process_time() - began)
    assert min(spent) < 0.1


@given(st.text(alphabet='for=;," \\1.2:[]proto_hst', max_size=60))
def test_no_claim_breaks_it_or_gets_into_a_head(text: str) -> None:
    for trust, name in ((LISTED, "X-Forwarded-For"), (FORWARDED, "Forwarded")):
        told = sender(f"{name}: {text}", f"X-Forwarded-Host: {text}", trust=trust).lines()
        assert told.count(b"\r\n") == 4
