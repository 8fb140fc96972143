"""What the values of a declaration look like as text: names, hosts, paths, addresses, and what is said where they do not."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from ledger.keys import Mode
from ledger.spec_types import matching

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)
_HOST = re.compile(r"(?:\*\.)?[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::\d{1,5})?", re.ASCII)
_SEGMENT = r"(?:[A-Za-z0-9._~!$&'()+,;=:@-]+|\{[a-z][a-z0-9_]{0,31}\})"
_PATH = re.compile(rf"/(?:{_SEGMENT}/)*(?:\*|{_SEGMENT})?", re.ASCII)
_URL = re.compile(r"https?://[\x21\x24-\x3e\x41-\x7e]+")  # printable ASCII without space, '"', '#', '?' and '@'
_EXTERNAL_ID = re.compile(r"[\x21-\x7e]{1,200}")
_TITLE = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,200}")  # what PostgreSQL stores and a log shows in one line
_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{0,1000}")
_EMAIL = re.compile(r"(?=.{3,254}$)[^@\s\x00-\x1f\x7f\ud800-\udfff]+@[^@\s\x00-\x1f\x7f\ud800-\udfff]+")
_ATOM = r"[^@\s.()<>,;:\\\"\[\]\x00-\x1f\x7f-\x9f\ud800-\udfff]+"  # of RFC 5322: nothing that reads as another address
_MAILBOX = re.compile(rf"(?=.{{3,254}}$){_ATOM}(?:\.{_ATOM})*@{_ATOM}(?:\.{_ATOM})*")
_CURRENCY = re.compile(r"[a-z]{3}")
_ISSUER = re.compile(r"[\x21-\x7e]{1,300}")
_NAMES = r"[\x21-\x2d\x2f-\x7e]+"
_CLAIM = re.compile(
    rf"(?=.{{1,200}}$)(?:/(?:[\x21-\x7d]|~[01])*|(?!/)(?:[\x21-\x7e]*://[\x21-\x7e]*|{_NAMES}(?:\.{_NAMES})*))"
)


def _no_dot_segments(value: str) -> str:
    if any(part in (".", "..") for part in value.split("/")):
        raise ValueError("a path may not contain '.' or '..'")
    return value


def _origin_url(value: str) -> str:
    if "@" in value:
        raise ValueError("expected http(s)://host[:port][/base-path]; credentials do not belong in a URL")
    try:
        parts = urlsplit(value) if _URL.fullmatch(value) else None
        is_origin = parts is not None and parts.hostname is not None and parts.port != 0
    except ValueError:  # the host is not an IPv6 address, or the port not a number from 0 to 65535
        is_origin = False
    if not is_origin:
        raise ValueError(f"expected http(s)://host[:port][/base-path] without a query, got {value!r:.120}")
    return value.rstrip("/")


def _page_url(value: str) -> str:
    try:
        parts = urlsplit(value) if value.isascii() and value.isprintable() and not set(value) & set(' "<>\\') else None
        is_url = (
            parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        )
    except ValueError:  # the host is not an IPv6 address
        is_url = False
    if not is_url or len(value) > 500:
        raise ValueError(f"expected the http(s):// address of a page, at most 500 characters, got {value!r:.120}")
    return value


def _key_set_url(value: str) -> str:
    if "@" in value:
        raise ValueError("expected https://host/path; credentials do not belong in a URL")
    try:
        parts = urlsplit(value) if _ISSUER.fullmatch(value) and "#" not in value else None
        is_url = parts is not None and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the host is not an IPv6 address, or the port not a number from 0 to 65535
        is_url = False
    if parts is None or not is_url:
        raise ValueError(f"expected https://host/path, got {value!r:.120}")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("expected https://…: whoever can change this answer can sign tokens (http only to loopback)")
    return value


def is_loopback(host: str) -> bool:
    """True for localhost and the addresses of this machine's loopback."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


Name = Annotated[str, matching(_NAME, "a name of lower-case letters, digits, '.', '_' or '-' (at most 63)")]
EventName = Annotated[str, matching(re.compile(r"[\x21-\x7e]{1,100}"), "1 to 100 visible ASCII characters")]
MeterName = Annotated[str, matching(_NAME, "a meter's name: lower-case letters, digits, '.', '_' or '-' (at most 63)")]
Host = Annotated[str, matching(_HOST, "a host such as api.example.com, *.example.com or localhost:8080")]
Path = Annotated[
    str,
    matching(_PATH, "a path such as /v1/status (exact), /v1/users/{id} (any id) or /v1/* (prefix)"),
    AfterValidator(_no_dot_segments),
]
OriginUrl = Annotated[str, AfterValidator(_origin_url)]
ExternalId = Annotated[str, matching(_EXTERNAL_ID, "1 to 200 printable ASCII characters without spaces")]
Title = Annotated[str, matching(_TITLE, "1 to 200 characters on one line")]
Text = Annotated[str, matching(_TEXT, "at most 1000 characters on one line")]
Email = Annotated[str, matching(_EMAIL, "an e-mail address of at most 254 characters")]
Mailbox = Annotated[str, matching(_MAILBOX, "one e-mail address such as ada@example.com, of at most 254 characters")]
"""An address that proves who somebody is: without comments, quotes and lists, which lead to somebody else's mail."""
Currency = Annotated[str, matching(_CURRENCY, "a currency code in lower case, such as usd")]
IssuerText = Annotated[str, matching(_ISSUER, "1 to 300 printable ASCII characters without spaces")]
PageUrl = Annotated[str, AfterValidator(_page_url)]
KeySetUrl = Annotated[str, AfterValidator(_key_set_url)]
ClaimPath = Annotated[
    str, matching(_CLAIM, "a claim such as sub, public_metadata.plan, /any/pointer or https://example.com/plan")
]
Money = Annotated[int, Field(ge=0, le=2**53)]
"""Minor units of a currency."""
Modes = Annotated[tuple[Mode, ...], Field(min_length=1, max_length=2)]
AtOnce = Annotated[int, Field(ge=1, le=1_000_000)]
PerMinute = Annotated[int, Field(ge=1, le=1_000_000)]


def is_meter_name(text: str) -> bool:
    """True if a meter may be called so."""
    return _NAME.fullmatch(text) is not None
