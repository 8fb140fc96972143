"""What declarations are made of: the base of their models, and text that is checked when it is read."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}", re.ASCII)
_METHOD = re.compile(r"[A-Z][A-Z-]{0,31}", re.ASCII)
_QUERY_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ORIGIN = re.compile(r"(?:https?://)?(?:\*\.)?[a-z0-9][a-z0-9.-]*(?::\d{1,5})?|\*", re.ASCII)
_MAPPED = IPv6Network("::ffff:0:0/96")


class Spec(BaseModel):
    """The base of every declared model: frozen, and a field it does not know is a fault."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


def matching(pattern: re.Pattern[str], wanted: str) -> AfterValidator:
    """Checks that a text matches as a whole; the fault says what is wanted and what there is."""

    def check(value: str) -> str:
        if pattern.fullmatch(value) is None:
            raise ValueError(f"expected {wanted}, got {value!r:.80}")
        return value

    return AfterValidator(check)


def _not_mapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if isinstance(network, IPv6Network) and network.overlaps(_MAPPED) and network.prefixlen >= _MAPPED.prefixlen:
        raise ValueError("write IPv4 networks as such, 192.0.2.0/24; they hold for mapped addresses too")
    return network


Network = Annotated[IPv4Network | IPv6Network, AfterValidator(_not_mapped)]
Method = Annotated[str, matching(_METHOD, "an HTTP method in capitals")]
HeaderName = Annotated[str, matching(_HEADER, "a header's name")]
Origin = Annotated[str, matching(_ORIGIN, "an origin such as https://app.example.com or *.example.com")]
QueryName = Annotated[str, matching(_QUERY_NAME, "the name of a query parameter (letters, digits, '.', '_', '-')")]
