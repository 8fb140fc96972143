"""Where a run may connect to. Pure.

A destination is a name or an address, and a port. Names are compared with the run's `allowedHosts`; then every address that
a name resolves to must be public. Whatever is not a public unicast address is refused: private, link-local (cloud metadata),
loopback, shared, multicast, reserved, and the forms of IPv6 that carry an IPv4 address to somewhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAME = re.compile(r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_CLOSED_PORTS: Final = frozenset((0, 25))
"""25: whoever can run code here shall not be able to send mail from here."""

_NOT_PUBLIC: Final = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24"),
        *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
        *("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32"),
        *("2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    )
)


def is_public(address: Address) -> bool:
    """True for an address on the public Internet."""
    return not any(address in network for network in _NOT_PUBLIC if network.version == address.version)


def may_reach(address: Address, also: Iterable[Network] = ()) -> bool:
    """True if a run may connect to an address; `also` are private networks that the operator has opened."""
    return is_public(address) or any(address in network for network in also if network.version == address.version)


def as_address(host: str) -> Address | None:
    """The address that a host is written as, or None for a name. Raises ValueError for what is neither.

    Only the canonical spelling is an address: 0x7f.1, 127.1 and 2130706433 are refused, whatever a resolver makes of them.
    """
    try:
        return ip_address(host.strip("[]")) if "%" not in host else _no_zone(host)
    except ValueError:
        if re.fullmatch(r"[0-9a-fx.:\[\]]*[0-9.:\[\]]", host) and not re.search(r"[g-wyz-]", host):
            raise ValueError(f"{host!r} is not an address") from None
        if _NAME.fullmatch(host) is None:
            raise ValueError(f"{host!r} is not a host name") from None
        return None


def _no_zone(host: str) -> Address:
    raise ValueError(f"{host!r} has a zone")


def is_named(host: str, allowed: tuple[str, ...] | None) -> bool:
    """True if a host (lower case, without a trailing dot) is one of those allowed: a name, or *.domain for what is below."""
    if allowed is None:
        return True
    return any(
        host.endswith(pattern[1:]) and len(host) > len(pattern) - 1 if pattern.startswith("*.") else host == pattern
        for pattern in allowed
    )


def is_open(port: int) -> bool:
    """True for a port that a run may connect to."""
    return 0 < port < 65_536 and port not in _CLOSED_PORTS
