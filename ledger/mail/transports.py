"""Where messages go: the console (and /dev/mail), an SMTP server, or Resend.

A transport raises `NotTaken` with a reason that names no credential; `is_final` says that trying again is of no use.
Deadline: 20 s for a message.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from typing import Final

import aiohttp
import aiosmtplib
import asyncpg

from config.settings import MailSettings
from ledger import sql
from ledger.mail.letters import Message

TIMEOUT_S: Final = 20.0

_SQL = sql.load("ledger.mail", "mail.sql")

Transport = Callable[[asyncpg.Connection, Message], Awaitable[None]]


class NotTaken(Exception):
    """The message did not leave."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


def transport(settings: MailSettings) -> Transport:
    """The transport that the settings ask for."""
    if settings.transport == "smtp":
        return _Smtp(settings)
    if settings.transport == "resend":
        return _Resend(settings)
    return _console


async def _console(connection: asyncpg.Connection, message: Message) -> None:
    await connection.execute(_SQL["show"], message.to, message.subject, message.text)
    lines = [f"To: {message.to}", f"Subject: {message.subject}", "", *message.text.splitlines()]
    print("\n".join(["mail", *(f"  | {line}" for line in lines)]), file=sys.stdout, flush=True)


class _Smtp:
    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings

    async def __call__(self, _: asyncpg.Connection, message: Message) -> None:
        settings = self._settings
        password = settings.smtp_password
        try:
            await aiosmtplib.send(
                email_of(message, settings.sender),
                hostname=settings.smtp_host,
                port=settings.smtp_port,
                username=settings.smtp_username,
                password=None if password is None else password.get_secret_value(),
                use_tls=settings.smtp_security == "tls",
                start_tls=settings.smtp_security == "starttls",
                timeout=TIMEOUT_S,
            )
        except aiosmtplib.SMTPRecipientsRefused as error:
            codes = [refused.code for refused in error.recipients]
            raise NotTaken(
                f"the recipient was refused ({codes})", is_final=all(code >= 550 for code in codes)
            ) from None
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise NotTaken(f"SMTP: {type(error).__name__}") from None


class _Resend:
    def __init__(self, settings: MailSettings) -> None:
        self._settings = settings

    async def __call__(self, _: asyncpg.Connection, message: Message) -> None:
        settings = self._settings
        assert settings.resend_api_key is not None  # MailSettings sees to that
        body = {
            "from": settings.sender,
            "to": [message.to],
            "subject": message.subject,
            "text": message.text,
            "html": message.html,
        }
        headers = {"Authorization": f"Bearer {settings.resend_api_key.get_secret_value()}"}
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as session,
                session.post(settings.resend_url, json=body, headers=headers, allow_redirects=False) as response,
            ):
                if response.status >= 300:
                    raise NotTaken(f"Resend answered {response.status}", is_final=response.status == 422)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NotTaken(f"Resend: {type(error).__name__}") from None


def email_of(message: Message, sender: str) -> EmailMessage:
    """The message as e-mail. Raises NotTaken, for good, if an address or the subject would break a header."""
    email = EmailMessage(policy=SMTP)
    try:
        if not message.to.isprintable():
            raise ValueError("a control character")
        email["From"] = sender
        email["To"] = message.to
        email["Subject"] = message.subject.replace("=?", "= ?")  # an encoded word may hold a line break (CVE-2024-6923)
        if [one.addr_spec for one in email["To"].addresses] != [message.to]:
            raise ValueError("not one address, or one that reads as another")
    except (ValueError, IndexError) as error:
        raise NotTaken(f"not a header's value: {type(error).__name__}", is_final=True) from None
    email["Date"] = formatdate(usegmt=True)
    email["Message-ID"] = make_msgid(domain=sender.rpartition("@")[2].rstrip("> ") or "localhost")
    email.set_content(message.text)
    email.add_alternative(message.html, subtype="html")
    return email
