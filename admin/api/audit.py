"""/api/v1/audit: every change to the caller's project, in both modes."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from admin.api import pages
from admin.api.call import Call, Endpoint, Reply
from admin.changes import Recorded, recorded
from admin.permissions import Permission


def _represent(entry: Recorded) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": entry.at,
        "actor": entry.actor,
        "action": entry.action,
        "noun": entry.noun,
        "object_id": entry.object_id,
        "before": entry.before,
        "after": entry.after,
    }


async def list_(call: Call) -> Reply:
    """Every change: who, what, before, after; the newest first."""
    return await pages.paged(call.query, partial(recorded, call.connection, call.caller.project_id), _represent)


ENDPOINTS: Final = (Endpoint("GET", "/api/v1/audit", list_, Permission.AUDIT_READ, query=pages.QUERY),)
