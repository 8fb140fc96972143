"""Whose address counts, behind a gateway and not."""

from __future__ import annotations

import pytest
from aiohttp.test_utils import make_mocked_request

from admin.site import site_of
from config.settings import AdminSettings


@pytest.mark.parametrize(
    ("trusts", "forwarded", "address"),
    [
        (False, "1.2.3.4", "unknown"),
        (True, "1.2.3.4", "1.2.3.4"),
        (True, "1.2.3.4, 10.0.0.2, 10.0.0.1", "1.2.3.4"),  # what a gateway behind two proxies says
        (True, "2001:db8::1", "2001:db8::1"),
        (True, "nonsense", "unknown"),
        (True, None, "unknown"),
    ],
)
def test_the_clients_address(trusts: bool, forwarded: str | None, address: str) -> None:
    site = site_of(AdminSettings(trust_forwarded=trusts))
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    assert site.address_of(make_mocked_request("GET", "/", headers=headers)) == address
