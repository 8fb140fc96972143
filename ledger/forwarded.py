"""Whose address it is that proxies tell of. Pure.

Each proxy adds the address it saw to the right of X-Forwarded-For, so the list is read from the right: the peer is certain,
what it added is as certain as it is trusted, and so on until an address that is not a trusted proxy's. What stands further
left is anybody's claim.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from ledger.restrictions import is_address_allowed

MOST_HOPS: Final = 32
"""Proxies in a row that are looked at; no real chain is longer, and a client could write thousands."""
_with_port: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9A-Za-z._-]+)?").fullmatch


def address_in(text: str) -> str | None:
    """An address without its port; IPv4 in IPv6 as IPv4. None for anything else."""
    matched = _with_port(text)
    try:
        address = ip_address((matched[1] or matched[2]) if matched else text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return str(mapped or address)


def client_of(peer: str, fields: Iterable[str], proxies: tuple[IPv4Network | IPv6Network, ...]) -> str | None:
    """The client behind a peer, by its X-Forwarded-For fields; None if that cannot be told."""
    address = address_in(peer)
    hops = [hop.strip() for hop in ",".join(fields).split(",")]
    for hop in hops[: -MOST_HOPS - 1 : -1]:
        if address is None or not is_address_allowed(address, proxies):
            break
        if hop:
            address = address_in(hop)
    return address
