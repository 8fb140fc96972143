"""Whose address counts, behind a gateway and not."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from admin.site import site_of
from config.settings import AdminSettings

GATEWAYS = ("10.0.0.0/8", "fd00::/8")


def address(peer: str, *forwarded: str, trusted: tuple[str, ...] = GATEWAYS) -> str:
    site = site_of(AdminSettings(trusted_proxies=trusted))  # type: ignore[arg-type]
    headers = CIMultiDict([("X-Forwarded-For", value) for value in forwarded])
    transport = Mock()
    transport.get_extra_info.return_value = (peer, 1)
    return site.address_of(make_mocked_request("GET", "/", headers=headers, transport=transport))


@pytest.mark.parametrize(
    ("forwarded", "is_it"),
    [
        ((), "10.0.0.1"),
        (("1.2.3.4",), "1.2.3.4"),
        (("1.2.3.4, 10.0.0.3, 10.0.0.2",), "1.2.3.4"),  # what a gateway behind two proxies says
        (("6.6.6.6, 1.2.3.4",), "1.2.3.4"),  # the left one anybody could have written
        (("6.6.6.6", "1.2.3.4"), "1.2.3.4"),
        (("1.2.3.4, 6.6.6.6, 10.0.0.2",), "6.6.6.6"),
        (("10.0.0.3, 10.0.0.2",), "10.0.0.3"),
        (("2001:db8::1",), "2001:db8::1"),
        (("::ffff:1.2.3.4",), "1.2.3.4"),
        (("[2001:db8::1]:443",), "2001:db8::1"),
        (("nonsense",), "unknown"),
        (("1.2.3.4, nonsense",), "unknown"),
        (("nonsense, 1.2.3.4",), "1.2.3.4"),
        (("6.6.6.6" + ", 10.0.0.2" * 1_000,), "10.0.0.2"),
    ],
)
def test_the_list_is_read_from_the_right(forwarded: tuple[str, ...], is_it: str) -> None:
    assert address("10.0.0.1", *forwarded) == is_it


@pytest.mark.parametrize("peer", ["192.0.2.7", "2001:db8::7", "::ffff:192.0.2.7"])
def test_who_is_no_gateway_is_not_believed(peer: str) -> None:
    assert address(peer, "1.2.3.4") == peer.removeprefix("::ffff:")
    assert address(peer, "1.2.3.4", trusted=()) == peer.removeprefix("::ffff:")


def test_a_gateway_by_ipv6_is_one_too() -> None:
    assert address("fd00::1", "6.6.6.6, 1.2.3.4") == "1.2.3.4"
    assert address("::ffff:10.0.0.1", "6.6.6.6, 1.2.3.4") == "1.2.3.4"


def test_somebody_without_an_address_is_unknown() -> None:
    assert address("", "1.2.3.4") == "unknown"
