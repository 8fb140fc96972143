"""What is queued, and what it reads like. `write` is pure; `queue` writes one row in the caller's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from html import escape
from typing import Any, Final

import asyncpg
import orjson

from ledger import sql

LINK_LIFE: Final = timedelta(minutes=15)
"""How long a sign-in link works."""
_WITHOUT_MINOR: Final = frozenset(("jpy", "krw", "vnd", "clp", "isk"))
_USEFUL: Final = timedelta(days=3)

_SQL = sql.load("ledger.mail", "mail.sql")


class Kind(StrEnum):
    """What a letter is about."""

    SIGN_IN = "sign_in"
    """Facts: none. The link is made when it is sent."""
    INVITATION = "invitation"
    """Facts: project, role, invited_by."""
    ALERT = "alert"
    """Facts: project, mode, customer, meter, percent, used, limit, currency (None for a quota), period_end."""


@dataclass(frozen=True, slots=True)
class Letter:
    """Something to tell one person."""

    kind: Kind
    to: str
    facts: dict[str, Any]

    def useful_until(self, queued_at: datetime) -> datetime:
        """After this nobody needs it any more."""
        return queued_at + (LINK_LIFE if self.kind is Kind.SIGN_IN else _USEFUL)


@dataclass(frozen=True, slots=True)
class Message:
    """A letter as it is sent. `text` and `html` say the same."""

    to: str
    subject: str
    text: str
    html: str


async def queue(connection: asyncpg.Connection, project_id: str, letter: Letter, dedup_key: str) -> None:
    """Have a letter sent, once per `dedup_key`."""
    payload = {"kind": letter.kind, "to": letter.to, "facts": letter.facts}
    await connection.execute(_SQL["queue"], project_id, dedup_key, orjson.dumps(payload).decode())


def read(payload: str) -> Letter:
    """The letter in a row of the outbox. Raises ValueError for one that this release cannot read."""
    found = orjson.loads(payload)
    return Letter(Kind(found["kind"]), found["to"], found["facts"])


def write(letter: Letter, origin: str, link: str | None) -> Message:
    """What the letter reads like. `origin` is where the pages are, `link` the sign-in link of a letter of that kind."""
    facts = letter.facts
    if letter.kind is Kind.SIGN_IN:
        return _message(
            letter.to,
            "Sign in to Tollgate",
            ["Open this link and confirm, and you are signed in. It works once, for 15 minutes."],
            ("Sign in", link or origin),
            "If you did not ask for it, ignore this mail: nobody can sign in without it.",
        )
    if letter.kind is Kind.INVITATION:
        return _message(
            letter.to,
            f"{facts['invited_by']} invited you to {facts['project']}",
            [
                f"{facts['invited_by']} invited you to the project {facts['project']} on Tollgate, as {facts['role']}.",
                f"Sign in with this address ({letter.to}) to accept or decline. The invitation stands for 7 days.",
            ],
            ("Sign in", f"{origin}/login"),
            "If you do not know what this is, ignore it.",
        )
    currency = facts.get("currency")
    limit, used = (_amount(facts[name], currency) for name in ("limit", "used"))
    of = facts["meter"] if currency is None else "overage"
    mode = "" if facts["mode"] == "live" else f" ({facts['mode']} mode)"
    return _message(
        letter.to,
        f"{facts['customer']} has used {facts['percent']} % of {facts['meter']} in {facts['project']}{mode}",
        [
            f"Customer {facts['customer']} of {facts['project']}{mode} has used {used} of {limit} {of}.",
            f"The period ends at {facts['period_end']}.",
        ],
        ("See the usage", f"{origin}/dashboard/usage"),
        "Alerts are set on the alerts page of the project.",
    )


def _amount(value: int, currency: str | None) -> str:
    """A quantity, or minor units as money."""
    if currency is None:
        return f"{value:,}"
    return f"{value:,} {currency.upper()}" if currency in _WITHOUT_MINOR else f"{value / 100:,.2f} {currency.upper()}"


def _message(to: str, subject: str, lines: list[str], action: tuple[str, str], small: str) -> Message:
    label, url = action
    subject = " ".join(subject.split())[:200]  # one line, whatever names hold
    text = "\n\n".join([*lines, f"{label}: {url}", small]) + "\n"
    paragraph = '<p style="margin:0 0 16px;font:16px/1.5 sans-serif;color:#1c2024">'
    button = (
        "display:inline-block;padding:10px 18px;border-radius:8px;background:#3b5bdb;color:#fff;text-decoration:none"
    )
    html = "".join(
        [
            '<div style="max-width:560px;margin:0 auto;padding:24px">',
            *(f"{paragraph}{escape(line)}</p>" for line in lines),
            f'{paragraph}<a href="{escape(url)}" style="{button}">{escape(label)}</a></p>',
            f'<p style="margin:0;font:13px/1.5 sans-serif;color:#60646c">{escape(small)}</p></div>',
        ]
    )
    return Message(to, subject, text, html)
