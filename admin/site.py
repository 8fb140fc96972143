"""The outside of the pages: where they are, what their cookies are called, where a request comes from. Pure.

Nothing here is ever taken from a request's Host: links in mail and redirects would then go where a stranger says.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from config.settings import AdminSettings
from ledger.forwarded import client_of

LOOPBACK: Final = ("127.0.0.1", "::1")
UNSAFE: Final = frozenset(("POST", "PUT", "PATCH", "DELETE"))


@dataclass(frozen=True, slots=True)
class Site:
    """Settings that requests are read by."""

    origin: str
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
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
        """The client's address, over trusted proxies (the gateway is one) and no further; "unknown" if it is not said."""
        listed = request.headers.getall("X-Forwarded-For", ())
        return client_of(request.remote or "", listed, self.trusted_proxies) or "unknown"

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
    return Site(settings.origin.rstrip("/"), settings.trusted_proxies, settings.show_mail)
