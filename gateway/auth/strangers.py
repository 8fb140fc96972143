"""Who presents keys that nobody knows: counted by address, so that a flood of them does not become a flood of look-ups.

Each key that is well-formed and not in memory costs a look-up in PostgreSQL. An address may have so many a minute come
to nothing; beyond that its keys are only looked for in memory until the minute is over, and refused with 429. Keys in
memory are served all the while, whoever comes from that address.

Counted in this process, in fixed minutes by the monotonic clock. IPv6 counts by /64, which is what one customer of a network
has. Memory: MOST addresses; when there are more, the oldest are forgotten.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

MOST: Final = 65_536
MINUTE_S: Final = 60.0


@lru_cache(8_192)
def network_of(address: str) -> str:
    """The address that counts for a client's: itself, or the /64 it is in; an IPv4 address in IPv6 clothes is that."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return f"{IPv6Address(int(found) >> 64 << 64)}/64"
    return str(found)


class Strangers:
    """Failed look-ups by address. `per_minute` 0: no limit."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._failed: dict[str, tuple[float, int]] = {}  # began at, how many
        self.refused = 0

    def wait_s(self, address: str, now: float) -> int:
        """Seconds for which this address gets no look-up; 0 if it may have one. `now` is monotonic seconds."""
        if not self._per_minute:
            return 0
        began, failed = self._failed.get(network_of(address), (now, 0))
        left = began + MINUTE_S - now
        if failed < self._per_minute or left <= 0:
            return 0
        self.refused += 1
        return int(left) + 1

    def failed(self, address: str, now: float) -> None:
        """A look-up for this address found nothing."""
        if not self._per_minute:
            return
        network = network_of(address)
        began, failed = self._failed.get(network, (now, 0))
        if now - began >= MINUTE_S:
            del self._failed[network]  # it moves to the young end
            began, failed = now, 0
        elif not failed and len(self._failed) >= MOST:
            del self._failed[next(iter(self._failed))]
        self._failed[network] = (began, failed + 1)
