"""Signing in below HTTP: what counts as one address, and that nobody learns who has an account."""

from __future__ import annotations

import re
from typing import Any

import asyncpg
import pytest

from admin.accounts import sign_in
from admin.accounts.sign_in import Limited, ask_for_link, ensure_account, network_of


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("unknown", "unknown"),
    ],
)
def test_what_counts_as_one_address(address: str, counted_as: str) -> None:
    assert network_of(address) == counted_as


async def test_a_network_of_ipv6_is_one_address(pg: asyncpg.Connection) -> None:
    for n in range(5):
        await ask_for_link(pg, f"u{n}@example.com", f"2001:db8::{n + 1}")
    with pytest.raises(Limited):
        await ask_for_link(pg, "u6@example.com", "2001:db8::ffff")
    await ask_for_link(pg, "u6@example.com", "2001:db8:0:1::1")  # the network next to it
    for n in range(20):
        assert await sign_in.sign_in(pg, f"guess {n}", f"2001:db8:5::{n + 1}", "", None) is None
    with pytest.raises(Limited):
        await sign_in.sign_in(pg, "guess", "2001:db8:5::99", "", None)


async def test_known_and_unknown_addresses_take_the_same_steps(
    pg: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By time: the same statements with values of the same size, each finding as many rows, whoever is asked about."""
    await ensure_account(pg, "known@example.com")
    steps: list[tuple[str, str, int]] = []
    for name in ("fetch", "fetchrow", "fetchval", "execute"):
        original = getattr(asyncpg.Connection, name)

        async def noting(self: Any, query: str, *args: Any, _original: Any = original, **more: Any) -> Any:
            found = await _original(self, query, *args, **more)
            shape = re.sub(r"[0-9a-f]{8,}|known|stray", "_", str(args))
            steps.append((query, shape, len(str(found)) if isinstance(found, list) else 1))
            return found

        monkeypatch.setattr(asyncpg.Connection, name, noting)

    async def taken(email: str) -> list[tuple[str, str, int]]:
        steps.clear()
        await ask_for_link(pg, email, "192.0.2.7")
        return [(query, re.sub(r"sign_in:[^']+", "_", shape), rows) for query, shape, rows in steps]

    known, unknown = await taken("known@example.com"), await taken("stray@example.com")
    assert len(known) >= 4
    assert known == unknown
    assert not any("accounts" in query for query, _, _ in known)
