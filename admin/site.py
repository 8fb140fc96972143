"""The outside of the pages: where they are, what their cookies are called, where a request comes from. Pure.

Nothing here is ever taken from a request's Host: links in mail and redirects would then go where a stranger says.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from config.settings import AdminSettings

LOOPBACK: Final = ("127.0.0.1", "::1")
UNSAFE: Final = frozenset(("POST", "PUT", "PATCH", "DELETE"))


@dataclass(frozen=True, slots=True)
class Site:
    """Settings that requests are read by."""

    origin: str
    trusts_forwarded: bool
    shows_mail: bool

    @property
    def is_secure(self) -> bool:
        """True if people come by https: cookies are then Secure, and browsers are told to stay with it."""
        return self.origin.startswith("https:")

    @property
    def session_cookie(self) -> str:
        """The cookie of a session. With its prefix no other host and no page without TLS can set it."""
        return "__Host-tollgate_session" if self.is_secure else "tollgate_session"

    @property
    def form_cookie(self) -> str:
        """The cookie that forms are bound to before there is a session."""
        return "__Host-tollgate_form" if self.is_secure else "tollgate_form"

    @property
    def flash_cookie(self) -> str:
        """What the next page shall say."""
        return "__Host-tollgate_flash" if self.is_secure else "tollgate_flash"

    def address_of(self, request: web.Request) -> str:
        """The client's address. Behind a gateway it is the first of the gateway's list, which has no claim of a client."""
        address = request.remote or "unknown"
        if self.trusts_forwarded:
            address = request.headers.get("X-Forwarded-For", address).partition(",")[0].strip()
        try:
            return str(ip_address(address))
        except ValueError:
            return "unknown"

    def is_own_page(self, request: web.Request) -> bool:
        """False if a browser says that the request comes from a page of another origin."""
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = request.headers.get("Origin")
        if origin is None:
            return True
        return origin == self.origin or urlsplit(origin).netloc == request.headers.get("Host")


def site_of(settings: AdminSettings) -> Site:
    """The site of a control plane with these settings."""
    return Site(settings.origin.rstrip("/"), settings.trust_forwarded, settings.show_mail)
