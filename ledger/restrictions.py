"""Where a key may be used from: the one reading of `allowed_origins` and `allowed_ips`, for every plane that checks keys.

Pure. An empty list means anywhere and is for the caller to skip; here it allows nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

_is_origin: Final = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+(?::\d+)?|\[[0-9a-f:.]+\](?::\d+)?)").fullmatch
"""A serialised origin in lower case (RFC 6454 §6.2), and its host with the port."""


def is_origin_allowed(origin: str | None, allowed: Iterable[str]) -> bool:
    """`https://app.example.com` matches itself, `app.example.com` and `*.example.com`; `*` matches any origin."""
    if origin is None:
        return False
    text = origin.lower()
    matched = _is_origin(text)
    host = matched[1] if matched else ""
    for pattern in allowed:
        wanted = pattern.lower()
        if wanted in ("*", text, host):
            return True
        if "://" in wanted:
            scheme, _, wanted = wanted.partition("://")
            if not text.startswith(scheme + "://"):
                continue
        if wanted.startswith("*.") and host.endswith(wanted[1:]):
            return True
    return False


def is_address_allowed(address: str, allowed: Iterable[IPv4Network | IPv6Network]) -> bool:
    """True if the address is in one of the networks.

    A socket that listens on :: sees an IPv4 client as ::ffff:192.0.2.1; that is the same client.
    """
    peer = ip_address(address)
    if peer.version == 6 and peer.ipv4_mapped is not None:
        peer = peer.ipv4_mapped
    return any(peer in network for network in allowed)
