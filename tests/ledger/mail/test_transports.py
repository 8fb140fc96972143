"""Mail on its way out: to a real SMTP conversation and a Resend of our own; nothing in it can break a header."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.policy import default
from typing import Any

import asyncpg
import pytest
from aiohttp import web
from pydantic import SecretStr

from config.settings import MailSettings
from ledger.mail.letters import Kind, Letter, Message, write
from ledger.mail.transports import NotTaken, email_of, transport

MESSAGE = Message("ada@example.com", "Grüße", "Hello\n.\nBye\n", "<p>Hello</p>")
NOBODY: Any = None


@dataclass
class Smtp:
    """As much of an SMTP server as a client needs. `refuse` is the answer to RCPT, if not 250."""

    port: int = 0
    refuse: str = ""
    lines: list[str] = field(default_factory=list)
    mails: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(text: str) -> None:
            writer.write(f"{text}\r\n".encode())

        say("220 here")
        while line := (await reader.readline()).decode().strip():
            self.lines.append(line)
            command = line.partition(" ")[0].upper()
            if command == "EHLO":
                say("250-here")
                say("250 AUTH PLAIN")
            elif command == "AUTH":
                say("235 ok")
            elif command == "RCPT" and self.refuse:
                say(self.refuse)
            elif command == "DATA":
                say("354 go on")
                data = await reader.readuntil(b"\r\n.\r\n")
                self.mails.append(data.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n."))
                say("250 taken")
            elif command == "QUIT":
                say("221 bye")
                break
            else:
                say("250 ok")
        writer.close()


@pytest.fixture
async def smtp() -> AsyncIterator[Smtp]:
    found = Smtp()
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = server.sockets[0].getsockname()[1]
    yield found
    server.close()
    await server.wait_closed()


def settings(port: int, **more: Any) -> MailSettings:
    return MailSettings(transport="smtp", smtp_host="127.0.0.1", smtp_port=port, smtp_security="none", **more)


async def test_by_smtp(smtp: Smtp) -> None:
    await transport(settings(smtp.port))(NOBODY, MESSAGE)
    mail = message_from_bytes(smtp.mails[0], policy=default)
    assert (mail["To"], mail["Subject"]) == ("ada@example.com", "Grüße")
    body = mail.get_body(("plain",))
    assert body is not None
    assert body.get_content().replace("\r\n", "\n") == MESSAGE.text  # the line of a single dot, too


async def test_with_a_password(smtp: Smtp) -> None:
    await transport(settings(smtp.port, smtp_username="tollgate", smtp_password=SecretStr("hunter2")))(NOBODY, MESSAGE)
    assert any(line.startswith("AUTH") for line in smtp.lines)


@pytest.mark.parametrize(("answer", "is_final"), [("550 no such user", True), ("450 busy", False)])
async def test_who_is_refused_for_good_is_not_tried_again(smtp: Smtp, answer: str, is_final: bool) -> None:
    smtp.refuse = answer
    with pytest.raises(NotTaken) as caught:
        await transport(settings(smtp.port))(NOBODY, MESSAGE)
    assert caught.value.is_final is is_final


async def test_nobody_there_is_tried_again() -> None:
    with pytest.raises(NotTaken, match="SMTP") as caught:
        await transport(settings(1, smtp_password=SecretStr("hunter2"), smtp_username="x"))(NOBODY, MESSAGE)
    assert (caught.value.is_final, "hunter2" in str(caught.value)) == (False, False)


@pytest.mark.parametrize(("status", "outcome"), [(200, None), (422, True), (429, False), (500, False)])
async def test_by_resend(status: int, outcome: bool | None) -> None:
    seen: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        seen.append((request.headers["Authorization"], await request.json()))
        return web.json_response({}, status=status)

    app = web.Application()
    app.router.add_post("/emails", take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/emails"
    made = MailSettings(transport="resend", resend_api_key=SecretStr("re_1"), resend_url=url)
    try:
        if outcome is None:
            await transport(made)(NOBODY, MESSAGE)
        else:
            with pytest.raises(NotTaken) as caught:
                await transport(made)(NOBODY, MESSAGE)
            assert caught.value.is_final is outcome
    finally:
        await runner.cleanup()
    ((authorization, body),) = seen
    assert (authorization, body["to"], body["subject"]) == ("Bearer re_1", ["ada@example.com"], "Grüße")


@pytest.mark.parametrize(
    "to", ["a@b\r\nBcc: eve@example.com", "a@b, eve@example.com", "a@b\n", "", "Ada <a@b>, Eve <e@f>", "a@b\0"]
)
def test_no_address_adds_another(to: str) -> None:
    with pytest.raises(NotTaken) as caught:
        email_of(Message(to, "x", "x", "x"), "Tollgate <t@example.com>")
    assert caught.value.is_final


async def test_no_name_breaks_a_subject(pg: asyncpg.Connection) -> None:
    facts = {"project": "Shop\r\nBcc: eve@example.com\r\n\r\n<script>", "role": "viewer", "invited_by": "x\ny"}
    message = write(Letter(Kind.INVITATION, "ada@example.com", facts), "https://gate.example", None)
    email = email_of(message, "Tollgate <t@example.com>")
    assert email["Bcc"] is None
    assert "\n" not in str(email["Subject"])
    assert "<script>" not in message.html
