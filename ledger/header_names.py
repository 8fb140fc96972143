"""Which header fields a declaration may touch. Names are in lower case.

A proxy's own work is out of reach: what frames a message or belongs to one connection (RFC 9110 §7.6.1), and what the
gateway says about who asks. Were these settable, a declaration could split a message or forge an identity.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AfterValidator

from ledger.spec_types import HeaderName

HOP_BY_HOP: Final = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
FRAMING: Final = frozenset(("content-length", "expect", "host"))
ABOUT_THE_CLIENT: Final = frozenset(
    (
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
        "x-user-id",
        "x-user-plan",
        "via",
        "x-tollgate-secret",
        "x-tollgate-project",
        "x-tollgate-mode",
        "x-tollgate-customer",
        "x-tollgate-key-kind",
    )
)
"""What the gateway tells an upstream about who asks; x-tollgate-… only to the sandbox. It can be left out, not made up."""
REQUEST_ID: Final = "x-request-id"
ABOUT_LIMITS: Final = frozenset(
    (
        "ratelimit",
        "ratelimit-policy",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
    )
)


def _not_ours(name: str) -> str:
    lower = name.lower()
    if lower in HOP_BY_HOP or lower in FRAMING:
        raise ValueError(f"{name} frames the message or belongs to one connection; it cannot be declared")
    if lower in ABOUT_THE_CLIENT or lower in ABOUT_LIMITS or lower == REQUEST_ID:
        raise ValueError(f"{name} is the gateway's own and cannot be declared")
    return name


def _not_framing(name: str) -> str:
    lower = name.lower()
    if lower in HOP_BY_HOP or lower in FRAMING or lower == REQUEST_ID:
        raise ValueError(f"{name} frames or names the message, or belongs to one connection; it cannot be removed")
    return name


SettableHeader = Annotated[HeaderName, AfterValidator(_not_ours)]
RemovableHeader = Annotated[HeaderName, AfterValidator(_not_framing)]
