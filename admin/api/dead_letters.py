"""/api/v1/dead-letters: what was put aside, for the platform's secret keys: it may be of any project."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Final

from admin.api import pages
from admin.api.call import Body, Call, Endpoint, Reply, invalid
from admin.permissions import Permission
from ledger import dead_letters

_PATH: Final = "/api/v1/dead-letters"
_MOST: Final = 1_000


async def list_(call: Call) -> Reply:
    """The newest, of one kind or both."""
    kind = call.query.get("kind")
    if kind not in (None, "stream", "billing"):
        raise invalid("kind", "expected stream or billing")
    limit, offset = pages.limit_of(call.query.get("limit")), pages.offset_of(call.query.get("cursor"))
    found = await dead_letters.dead_letters(call.connection, kind, limit + 1, offset=offset)  # type: ignore[arg-type]
    cursor = pages.cursor_after(offset + limit) if len(found) > limit else None
    return Reply({"data": [asdict(letter) for letter in found[:limit]], "next_cursor": cursor})


async def replay(call: Call) -> Reply:
    """{ids, force?}: try them again."""
    if unknown := sorted(call.body.keys() - {"ids", "force"}):
        raise invalid(unknown[0], "unknown field (known: force, ids)")
    ids, force = call.body.get("ids"), call.body.get("force", False)
    if not isinstance(ids, list) or not 1 <= len(ids) <= _MOST:
        raise invalid("ids", f"expected a list of 1 to {_MOST} ids")
    for number, one in enumerate(ids):
        if not isinstance(one, str) or dead_letters.parsed(one) is None:
            raise invalid(f"ids[{number}]", "expected an id such as stream-12 or billing-7")
    if not isinstance(force, bool):
        raise invalid("force", "expected true or false")
    done = await dead_letters.replay(call.connection, ids, time.time_ns() // 1_000_000, force=force)
    return Reply({"data": [asdict(one) for one in done]})


ENDPOINTS: Final = (
    Endpoint("GET", _PATH, list_, Permission.PLATFORM, query=pages.QUERY | {"kind"}, platform_only=True),
    Endpoint(
        "POST",
        f"{_PATH}/replay",
        replay,
        Permission.PLATFORM,
        body=Body.JSON,
        writes=True,
        creates=True,
        platform_only=True,
    ),
)
