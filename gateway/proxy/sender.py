"""Who sent a request: the peer, or, where the peer is a trusted proxy, whom it speaks for. Pure.

Each proxy adds the address it saw to the right, so the list is read from the right: the peer is certain; what it added is
as certain as it is trusted; and so on until an address that is not a trusted proxy's. That is the client. What stands
further left is anybody's claim and goes no further. The same holds for the scheme and host that are claimed.

Only one of the two notations is read, the one that the setting names: a proxy that writes one passes the other on as a
client wrote it.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Final, NamedTuple

from gateway.http1.errors import Malformed
from gateway.http1.fields import parse_host
from ledger.forwarded import MOST_HOPS, address_in
from ledger.restrictions import is_address_allowed

if TYPE_CHECKING:
    from gateway.http1.fields import Fields

_MAPPED: Final = "::ffff:"
_SCHEMES: Final = (b"http", b"https")
_is_forwarded: Final = re.compile(
    rb'(?:[ \t]*(?:[\w!#$%&\'*+.^`|~-]+=(?:[\w!#$%&\'*+.^`|~-]+|"(?:[^"\\]|\\.)*")[ \t]*)?(?:[;,]|$))*'
).fullmatch
_pairs: Final = re.compile(rb'([\w!#$%&\'*+.^`|~-]+)=(?:([\w!#$%&\'*+.^`|~-]+)|"((?:[^"\\]|\\.)*)")|(,)').finditer


class Trust(NamedTuple):
    """The proxies whose word about clients is believed, and the field they write: `x-forwarded-for` or `forwarded`."""

    proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    field: str = "x-forwarded-for"


NOBODY: Final = Trust()


class Sender(NamedTuple):
    """`address` is the client's; `via` are the trusted proxies between, nearest last; `host` as the client wrote it."""

    address: str
    via: tuple[str, ...]
    scheme: bytes
    host: bytes | None

    def lines(self) -> bytes:
        """What an upstream is told: Via, X-Forwarded-For, -Proto and -Host."""
        hops = ", ".join((self.address, *self.via)).encode()
        lines = b"Via: 1.1 tollgate\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (hops, self.scheme)
        return lines + b"X-Forwarded-Host: %b\r\n" % self.host if self.host else lines


class _Claim(NamedTuple):
    """What one proxy says: the address it saw, and the scheme and host, if it says so."""

    address: str
    scheme: bytes | None = None
    host: bytes | None = None


def sender_of(fields: Fields, peer_ip: str, scheme: bytes, trust: Trust) -> Sender:
    """Who sent a request that came from `peer_ip` by `scheme`."""
    address = peer_ip.removeprefix(_MAPPED) if peer_ip.startswith(_MAPPED) and "." in peer_ip else peer_ip
    if not trust.proxies or not is_address_allowed(address, trust.proxies):
        return Sender(address, (), scheme, fields.host)
    via: list[str] = []
    host = fields.host
    if trust.field == "forwarded":
        claims = _forwarded(b",".join(fields.values(b"forwarded")))
    else:  # scheme and host have no place in the list: the last proxy is believed, where it is unambiguous
        scheme = _scheme(_single(fields.values(b"x-forwarded-proto"))) or scheme
        host = _host(_single(fields.values(b"x-forwarded-host"))) or host
        hops = b",".join(fields.values(b"x-forwarded-for")).decode("latin-1").split(",")
        claims = [_Claim(hop.strip()) for hop in reversed(hops)]
    for claim in claims[:MOST_HOPS]:
        found = address_in(claim.address)
        if found is None:  # "unknown", or a name made up for it: who it was is not said
            break
        via.insert(0, address)
        address, scheme, host = found, claim.scheme or scheme, claim.host or host
        if not is_address_allowed(address, trust.proxies):
            break
    return Sender(address, tuple(via), scheme, host)


def _single(values: list[bytes]) -> bytes | None:
    return values[0] if len(values) == 1 else None


def _forwarded(value: bytes) -> list[_Claim]:
    """The elements of a Forwarded field (RFC 7239 §4), nearest first; none if it is not well-formed."""
    if not _is_forwarded(value):
        return []
    elements: list[dict[bytes, bytes]] = [{}]
    for match in _pairs(value):
        name, token, quoted, comma = match.groups()
        if comma:
            elements.append({})
        else:
            elements[-1][name.lower()] = token if token is not None else re.sub(rb"\\(.)", rb"\1", quoted)
    return [
        _Claim(element.get(b"for", b"").decode("latin-1"), _scheme(element.get(b"proto")), _host(element.get(b"host")))
        for element in reversed(elements)
    ]


def _scheme(value: bytes | None) -> bytes | None:
    return value.lower() if value is not None and value.lower() in _SCHEMES else None


def _host(value: bytes | None) -> bytes | None:
    try:
        return parse_host(value) if value else None
    except Malformed:
        return None
