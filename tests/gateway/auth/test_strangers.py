"""Failed look-ups by address: how many a minute, whose they are, and that memory is bounded."""

from __future__ import annotations

import pytest

from gateway.auth import strangers
from gateway.auth.strangers import Strangers, network_of


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("not an address", "not an address"),
    ],
)
def test_whose_failures_they_are(address: str, network: str) -> None:
    assert network_of(address) == network


def test_after_so_many_failures_there_is_no_look_up_until_the_minute_is_over() -> None:
    known = Strangers(3)
    for now in (10.0, 11.0, 12.0):
        assert known.wait_s("203.0.113.9", now) == 0
        known.failed("203.0.113.9", now)
    assert known.wait_s("203.0.113.9", 13.0) == 58
    assert known.wait_s("203.0.113.8", 13.0) == 0
    assert known.wait_s("203.0.113.9", 70.1) == 0
    known.failed("203.0.113.9", 70.1)
    assert known.wait_s("203.0.113.9", 70.2) == 0
    assert known.refused == 1


def test_without_a_limit_nothing_is_remembered() -> None:
    unlimited = Strangers(0)
    for _ in range(1_000):
        unlimited.failed("203.0.113.9", 1.0)
    assert unlimited.wait_s("203.0.113.9", 1.0) == 0
    assert not unlimited._failed


def test_the_oldest_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strangers, "MOST", 2)
    few = Strangers(1)
    for address in ("198.51.100.1", "198.51.100.2", "198.51.100.3"):
        few.failed(address, 1.0)
    assert [few.wait_s(f"198.51.100.{n}", 1.0) > 0 for n in (1, 2, 3)] == [False, True, True]
