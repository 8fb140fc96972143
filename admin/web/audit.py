"""/dashboard/audit: every change, by whom, with what was before and after."""

from __future__ import annotations

import re
from typing import Any, Final

import asyncpg
import orjson

from admin.permissions import Permission
from admin.web.page import Answer, Html, Page, View
from ledger import sql

SHOWN: Final = 50
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)

_SQL = sql.load("admin.web", "audit.sql")


async def list_(view: View) -> Answer:
    before = view.request.query.get("before", "")
    noun = view.request.query.get("noun", "")
    nouns = ["key", "tier", "route", "upstream", "issuer", "customer", "member", "invitation", "endpoint", "project"]
    rows = await view.connection.fetch(
        _SQL["page"],
        view.here.id,
        int(before) if _NUMBER.fullmatch(before) else None,
        noun if noun in nouns else None,
        SHOWN + 1,
    )
    older = rows[SHOWN - 1]["id"] if len(rows) > SHOWN else None
    entries = [_entry(row) for row in rows[:SHOWN]]
    return Html(
        "audit.html", {"entries": entries, "older": older, "nouns": nouns, "noun": noun, "is_first": not before}
    )


def _entry(row: asyncpg.Record) -> dict[str, Any]:
    before = orjson.loads(row["before"]) if row["before"] else {}
    after = orjson.loads(row["after"]) if row["after"] else {}
    named = after or before
    names = [name for name in {**before, **after} if name != "mode" and before.get(name) != after.get(name)]
    return {
        "at": row["at"],
        "actor": _actor(row),
        "action": row["action"],
        "noun": row["noun"],
        "object_id": row["object_id"],
        "name": named.get("name")
        or named.get("external_id")
        or named.get("email")
        or named.get("url")
        or row["object_id"],
        "mode": named.get("mode"),
        "fields": [(name, before.get(name), after.get(name)) for name in names],
    }


def _actor(row: asyncpg.Record) -> str:
    """Who did it, as people call them."""
    if row["email"]:
        return str(row["email"])
    if row["key_prefix"]:
        return f"{row['key_name']} ({row['key_prefix']}…)"
    return "Command line" if row["actor"] == "cli" else str(row["actor"])


PAGES: Final = (Page("/dashboard/audit", list_, Permission.AUDIT_READ),)
