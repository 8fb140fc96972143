"""Which addresses the outside may name: public ones. What a stranger's URL or DNS says must not lead inside (SSRF).

`PublicOnly` resolves as aiohttp asks and drops everything that is not public, and the connection is made to exactly what
it let through; a name that resolves otherwise a moment later changes nothing. Literal addresses never reach a resolver,
so URLs are looked at by `is_allowed_url` as well.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

_WRAPPED: Final = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"), ip_network("2002::/16"))
"""IPv6 that stands for IPv4: NAT64 and 6to4."""


class NotPublic(OSError):
    """The name leads to no public address."""


def is_public(address: str) -> bool:
    """True if an address is one of the public Internet."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return _is_public(found.ipv4_mapped)
        if any(found in network for network in _WRAPPED):
            return False
    return _is_public(found)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not address.is_multicast


def is_allowed_url(url: str, *, allow_private: bool = False) -> bool:
    """True for https to anything that is not a literal address inside; with `allow_private` for http and those too."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if parts.scheme not in ("https", "http") or not host or "@" in parts.netloc or not url.isascii():
        return False
    if not url.isprintable() or " " in url or parts.fragment:
        return False
    if allow_private:
        return True
    host = host.rstrip(".")
    if parts.scheme != "https" or host == "localhost" or host.endswith((".localhost", ".internal", ".local")):
        return False
    is_literal = ":" in host or host.replace(".", "").isdigit() or host.startswith("0x")
    return is_public(host) if is_literal else True


class PublicOnly(AbstractResolver):
    """A resolver that knows public addresses alone. Raises NotPublic."""

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        self._inner = inner or ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = [one for one in await self._inner.resolve(host, port, family) if is_public(one["host"])]
        if not found:
            raise NotPublic(f"{host} leads to no public address")
        return found

    async def close(self) -> None:
        await self._inner.close()
