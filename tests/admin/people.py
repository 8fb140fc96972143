"""Signing people in, in tests: the link is taken from the mail that the post would have sent."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import asyncpg
from yarl import URL

from config.settings import MailSettings
from ledger.mail.post import deliver_due
from ledger.mail.transports import transport
from tests.admin.api.conftest import Answer

_LINK = re.compile(r"https?://\S+/auth/verify\?token=(\S+)")


async def post_mail(pg: asyncpg.Connection, origin: str = "http://admin.test") -> list[dict[str, Any]]:
    """Send what is due, to the console; returns all mail so far, oldest first."""
    while await deliver_due(pg, transport(MailSettings()), origin):
        pass
    return [dict(row) for row in await pg.fetch("SELECT recipient, subject, body FROM dev_mails ORDER BY id")]


def token_in(mail: dict[str, Any]) -> str:
    """The token of the sign-in link in a mail."""
    found = _LINK.search(mail["body"])
    assert found, mail
    return found[1]


@dataclass
class Browser:
    """A cookie jar and a CSRF token. `open` asks for JSON unless told otherwise."""

    url: str
    session: aiohttp.ClientSession
    cookies: dict[str, str] = field(default_factory=dict)
    csrf: str = ""

    async def __call__(
        self, method: str, path: str, body: Any = None, *, follow: bool = False, **headers: str
    ) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        sent.setdefault("Accept", "application/json")
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if self.csrf and method != "GET":
            sent.setdefault("X-CSRF-Token", self.csrf)
        given: dict[str, Any] = {"json": body} if isinstance(body, dict) else {"data": body}
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, headers=sent, allow_redirects=follow, **given) as response:
            answer = Answer(response.status, response.headers, await response.text())
            for name, morsel in response.cookies.items():
                if morsel.value and morsel["max-age"] != "0":
                    self.cookies[name] = morsel.value
                else:
                    self.cookies.pop(name, None)
        assert answer.status < 500 or answer.status == 503, answer.text
        return answer

    async def get(self, path: str, **headers: str) -> Answer:
        return await self("GET", path, **headers)

    async def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return await self("POST", path, body, **headers)


async def signed_in(pg: asyncpg.Connection, url: str, session: aiohttp.ClientSession, email: str) -> Browser:
    """A browser in which this person has signed in."""
    browser = Browser(url, session)
    assert (await browser.post("/auth/magic-link", {"email": email})).status == 202
    mail = (await post_mail(pg))[-1]
    assert mail["recipient"] == email.lower()
    answer = await browser.get(f"/auth/verify?token={token_in(mail)}")
    assert answer.status == 200, answer.text
    browser.csrf = answer.json["csrfToken"]
    return browser
